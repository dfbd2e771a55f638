"""How long the running task may still take, as far as it can be known."""

from __future__ import annotations

import asyncio
import math
import sys
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

import anyio

__all__ = ["remaining_s", "timeout"]

_nearest: ContextVar[float] = ContextVar("aioipc_deadline", default=math.inf)


class timeout:  # noqa: N801 - it is used like asyncio.timeout
    """``asyncio.timeout`` whose deadline also travels with calls to other processes.

    ``async with aioipc.timeout(1.5): await store.get("a")`` raises TimeoutError in here after a
    second and a half, and tells the handler of the call how long it may take.

    Args:
        seconds: How long the block may take; None for ever.

    Raises:
        TimeoutError: On leaving, when the time ran out.

    Cancellation:
        As ``asyncio.timeout``: what is awaited inside is cancelled when the time runs out.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        self._token: Token[float] | None = None

    async def __aenter__(self) -> Self:
        when = math.inf
        if self._seconds is not None:
            when = asyncio.get_running_loop().time() + self._seconds
        self._token = _nearest.set(min(when, _nearest.get()))
        self._timeout = asyncio.timeout_at(None if when == math.inf else when)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None, "entered before it is left"
        _nearest.reset(self._token)
        await self._timeout.__aexit__(kind, error, trace)

    def expired(self) -> bool:
        """Whether the time ran out."""
        return self._timeout.expired()


def remaining_s(loop: asyncio.AbstractEventLoop) -> float:
    """Seconds until the nearest deadline of the running task, ``inf`` if there is none.

    The deadlines of `timeout`, ``anyio.fail_after`` and ``anyio.move_on_after`` are seen, that of
    ``asyncio.timeout`` cannot be. Negative when it has passed.
    """
    nearest = _nearest.get()
    if _is_scoped():
        nearest = min(nearest, anyio.current_effective_deadline())
    return nearest if nearest == math.inf else nearest - loop.time()


def _is_scoped() -> bool:
    """Whether the running task may be inside a cancel scope of anyio's.

    anyio's own function, which knows exactly, takes longer than a whole call. So look first whether
    anyio has anything on this task.
    """
    backend = sys.modules.get("anyio._backends._asyncio")
    if backend is None:
        return False
    task = asyncio.current_task()
    states = getattr(backend, "_task_states", None)
    return states is None or task in states
