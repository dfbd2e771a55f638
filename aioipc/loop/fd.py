"""Descriptors registered with an event loop: the one room that knows add_reader and add_writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioipc.errors import from_os_error

__all__ = ["FdWatch"]

_Callback = Callable[[], object]


class FdWatch:
    """The readiness of one stream's descriptors, in the one loop that they belong to.

    The loop is the one that runs at the first watch. A descriptor that epoll refuses, such
    as that of a regular file (epoll_ctl(2), EPERM), counts as always ready.

    Attributes:
        reading: Whether a descriptor is registered for reading.
        writing: Whether one is registered for writing.
        abandoned: Whether this is the copy in a forked child, which must leave the parent's
            epoll alone.
    """

    __slots__ = ("_loop", "_read_fd", "_write_fd", "abandoned", "reading", "writing")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_fd = -1
        self._write_fd = -1
        self.reading = False
        self.writing = False
        self.abandoned = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to ``loop`` from now on, before anything is watched.

        Raises:
            RuntimeError: It belongs to another loop already.
        """
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this object belongs to another event loop")

    def watch_reading(self, fd: int, callback: _Callback) -> None:
        """Call ``callback`` while ``fd`` is readable, until `unwatch_reading`.

        Raises:
            ResourceExhausted: The kernel has no memory or no room for it: epoll_ctl(2).
        """
        loop = self._running_loop()
        try:
            loop.add_reader(fd, callback)
        except PermissionError:
            loop.call_soon(callback)
            return
        except OSError as error:
            raise from_os_error(error, "watch a descriptor") from error
        self._read_fd = fd
        self.reading = True

    def watch_writing(self, fd: int, callback: _Callback) -> None:
        """Call ``callback`` while ``fd`` is writable, until `unwatch_writing`.

        Raises:
            ResourceExhausted: The kernel has no memory or no room for it: epoll_ctl(2).
        """
        loop = self._running_loop()
        try:
            loop.add_writer(fd, callback)
        except PermissionError:
            loop.call_soon(callback)
            return
        except OSError as error:
            raise from_os_error(error, "watch a descriptor") from error
        self._write_fd = fd
        self.writing = True

    def unwatch_reading(self) -> None:
        """Stop calling. Idempotent."""
        if self.reading:
            self.reading = False
            if self._loop is not None and not self._loop.is_closed() and not self.abandoned:
                self._loop.remove_reader(self._read_fd)

    def unwatch_writing(self) -> None:
        """Stop calling. Idempotent."""
        if self.writing:
            self.writing = False
            if self._loop is not None and not self._loop.is_closed() and not self.abandoned:
                self._loop.remove_writer(self._write_fd)

    def close(self) -> None:
        """Stop calling for good; the descriptors may be closed afterwards. Idempotent."""
        self.unwatch_reading()
        self.unwatch_writing()

    def abandon(self) -> None:
        """Forget everything without touching the loop, in a forked child."""
        self.abandoned = True
        self.reading = self.writing = False

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        self.bind(loop)
        return loop
