"""How long the running task may still take, as far as it can be known."""

from __future__ import annotations

import asyncio
import math
import sys
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

import anyio

__all__ = ["ANYIO", "innermost", "remaining_s", "timeout"]

ANYIO = "anyio._backends._asyncio"  # loaded once anybody uses anyio's scopes or tasks

innermost: ContextVar[timeout | None] = ContextVar("aioipc_timeout", default=None)


class timeout:  # noqa: N801 - it is used like asyncio.timeout
    """``asyncio.timeout`` whose deadline also travels with calls to other processes.

    ``async with aioipc.timeout(1.5): await store.get("a")`` raises TimeoutError in here after a
    second and a half, and tells the handler of the call how long it may take. Tasks that are
    started inside see the same deadline for as long as the block lasts.

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
        self._token: Token[timeout | None] | None = None
        self.when = math.inf
        """The deadline by the loop's clock, ``inf`` if there is none."""
        self.outer: timeout | None = None
        """What this block stands in."""
        self.is_left = False
        """Whether the block has ended."""

    async def __aenter__(self) -> Self:
        if self._seconds is not None:
            self.when = asyncio.get_running_loop().time() + self._seconds
        self.outer = innermost.get()
        self._token = innermost.set(self)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None, "entered before it is left"
        self.is_left = True
        innermost.reset(self._token)
        await self._timeout.__aexit__(kind, error, trace)

    def expired(self) -> bool:
        """Whether the time ran out."""
        return self._timeout.expired()


def remaining_s(loop: asyncio.AbstractEventLoop) -> float:
    """Seconds until the nearest deadline of the running task, ``inf`` if there is none.

    The deadlines of `timeout`, ``anyio.fail_after`` and ``anyio.move_on_after`` are seen, that of
    ``asyncio.timeout`` cannot be. Negative when it has passed.
    """
    block = innermost.get()
    if block is None and ANYIO not in sys.modules:
        return math.inf
    nearest = math.inf
    while block is not None:
        if not block.is_left:
            nearest = min(nearest, block.when)
        block = block.outer
    if _is_scoped():
        nearest = min(nearest, anyio.current_effective_deadline())
    return nearest if nearest == math.inf else nearest - loop.time()


def _is_scoped() -> bool:
    """Whether the running task may be inside a cancel scope of anyio's.

    anyio's own function, which knows exactly, takes longer than a whole call. So look first whether
    anyio has anything on this task.
    """
    backend = sys.modules.get(ANYIO)
    if backend is None:
        return False
    task = asyncio.current_task()
    states = getattr(backend, "_task_states", None)
    return states is None or task in states
