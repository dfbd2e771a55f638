"""The callbacks of a message transport over one descriptor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioipc.loop.fd import FdWatch

__all__ = ["Readiness"]

_Callback = Callable[[], object]


class Readiness:
    """Calls back when one descriptor is readable or writable: inherit from it.

    The descriptor stays registered after a call, and is unregistered by the first one that finds
    nobody waiting.
    """

    def __init__(self) -> None:
        self.watch = FdWatch()
        self._closed = False
        self._on_readable: _Callback | None = None
        self._on_writable: _Callback | None = None

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
        self._on_readable = callback
        if callback is not None and not self.watch.reading and not self._closed:
            self.watch.watch_reading(self.fileno(), self._readable)

    def on_writable(self, callback: _Callback | None, /) -> None:
        self._on_writable = callback
        if callback is not None and not self.watch.writing and not self._closed:
            self.watch.watch_writing(self.fileno(), self._writable)

    def take_fds(self) -> list[int]:
        return []

    def try_flush(self) -> bool:
        return True

    def _readable(self) -> None:
        callback, self._on_readable = self._on_readable, None
        if callback is None:
            self.watch.unwatch_reading()
        else:
            callback()

    def _writable(self) -> None:
        callback, self._on_writable = self._on_writable, None
        if callback is None:
            self.watch.unwatch_writing()
        else:
            callback()

    def _end_watch(self) -> bool:
        """Call nobody any more; False if that is done already."""
        if self._closed:
            return False
        self._closed = True
        self._on_readable = self._on_writable = None
        if not self.watch.abandoned:
            self.watch.close()
        return True
