"""The callbacks of a message transport over one descriptor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioipc.loop.fd import OnceWatch

__all__ = ["Readiness"]

_Callback = Callable[[], object]


class Readiness:
    """Calls back when one descriptor is readable or writable: inherit from it."""

    def __init__(self) -> None:
        self.watch = OnceWatch()
        self._closed = False

    def fileno(self) -> int:
        """The descriptor."""
        raise NotImplementedError

    @property
    def poll_source(self) -> int | None:
        return None if self._closed else self.fileno()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to a loop, before anything is waited for."""
        self.watch.bind(loop)

    def on_readable(self, callback: _Callback | None, /) -> None:
        if not self._closed:
            self.watch.on_readable(self.fileno(), callback)

    def on_writable(self, callback: _Callback | None, /) -> None:
        if not self._closed:
            self.watch.on_writable(self.fileno(), callback)

    def take_fds(self) -> list[int]:
        return []

    def try_flush(self) -> bool:
        return True

    def _end_watch(self) -> bool:
        """Call nobody any more; False if that is done already."""
        if self._closed:
            return False
        self._closed = True
        if not self.watch.abandoned:
            self.watch.close()
        return True
