"""Notifications that outlive the connection on which they were first made."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aioipc.errors import ClosedError, IPCError
from aioipc.rpc._interface import Method

__all__ = ["Repeats"]

log = logging.getLogger("aioipc.rpc")


Notify = Callable[[Method, tuple[Any, ...]], Awaitable[None]]
"""Makes a notification, where there is somebody to take it."""


class Repeats:
    """Makes notifications again that came to nothing before the far side began them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def of(
        self, notify: Notify, method: Method, args: tuple[Any, ...]
    ) -> Callable[[], object] | None:
        """What to do if a notification never ran; None if it cannot be made again."""
        if method.upload is not None:
            return None  # what was taken out of a stream is not there for a second time
        return functools.partial(self._begin, notify, method, args)

    def _begin(self, notify: Notify, method: Method, args: tuple[Any, ...]) -> None:
        task = asyncio.get_running_loop().create_task(_make(notify, method, args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_over(self) -> None:
        """Wait for those that are under way, where nothing can take them any more."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _make(notify: Notify, method: Method, args: tuple[Any, ...]) -> None:
    try:
        await notify(method, args)
    except ClosedError:
        pass  # by this side, which knows
    except IPCError as error:
        log.warning("a notification came to nothing: %s", error)
