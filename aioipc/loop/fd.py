"""Descriptors registered with an event loop: the one room that knows add_reader and add_writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aioipc.errors import from_os_error
from aioipc.loop._lasting import LastingWatch

__all__ = ["FdWatch", "OnceWatch"]

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

    __slots__ = (
        "_add_reader",
        "_add_writer",
        "_call_soon",
        "_is_claimed",
        "_lasting",
        "_loop",
        "_read_fd",
        "_remove_reader",
        "_remove_writer",
        "_write_fd",
        "abandoned",
        "reading",
        "writing",
    )

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_claimed = False
        self._lasting: LastingWatch | None = None
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
            if isinstance(loop, asyncio.BaseEventLoop):
                watch: asyncio.AbstractEventLoop | LastingWatch = loop
            else:  # uvloop's, or another one over libuv
                watch = self._lasting = LastingWatch(loop)
            self._add_reader = watch.add_reader
            self._add_writer = watch.add_writer
            self._call_soon = loop.call_soon
            self._remove_reader = watch.remove_reader
            self._remove_writer = watch.remove_writer
        elif self._loop is not loop:
            raise RuntimeError("this object belongs to another event loop")

    def claim(self, loop: asyncio.AbstractEventLoop, fds: Iterable[int], owner: object) -> None:
        """Belong to ``loop``, and let nobody else watch or use the descriptors there.

        asyncio's loop then refuses ``loop.add_reader`` and ``loop.sock_recv`` on them, as on those
        of its own transports, which it keeps in a weak dictionary; uvloop has no such door.

        Args:
            loop: The loop.
            fds: The descriptors.
            owner: Whom the loop names; it has the method ``is_closing``.

        Raises:
            RuntimeError: It belongs to another loop already.
        """
        self.bind(loop)
        self._is_claimed = True
        transports = getattr(loop, "_transports", None)
        add_reader = getattr(loop, "_add_reader", None)
        add_writer = getattr(loop, "_add_writer", None)
        if transports is not None and add_reader is not None and add_writer is not None:
            for fd in fds:
                transports[fd] = owner
            self._add_reader = add_reader
            self._add_writer = add_writer
            self._remove_reader = loop._remove_reader  # type: ignore[attr-defined]
            self._remove_writer = loop._remove_writer  # type: ignore[attr-defined]

    def disclaim(self, fds: Iterable[int], owner: object) -> None:
        """Let others use descriptors again, which ``owner`` has closed."""
        transports = getattr(self._loop, "_transports", {})
        for fd in fds:
            if transports.get(fd) is owner:
                del transports[fd]

    def watch_reading(self, fd: int, callback: _Callback) -> None:
        """Call ``callback`` while ``fd`` is readable, until `unwatch_reading`.

        Raises:
            ResourceExhausted: The kernel has no memory or no room for it: epoll_ctl(2).
        """
        self._check_loop()
        try:
            self._add_reader(fd, callback)
        except PermissionError:
            self._call_soon(callback)
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
        self._check_loop()
        try:
            self._add_writer(fd, callback)
        except PermissionError:
            self._call_soon(callback)
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
                self._remove_reader(self._read_fd)

    def unwatch_writing(self) -> None:
        """Stop calling. Idempotent."""
        if self.writing:
            self.writing = False
            if self._loop is not None and not self._loop.is_closed() and not self.abandoned:
                self._remove_writer(self._write_fd)

    def close(self) -> None:
        """Stop calling for good; the descriptors may be closed afterwards. Idempotent."""
        self.unwatch_reading()
        self.unwatch_writing()

    def abandon(self) -> None:
        """Forget everything without touching the loop, in a forked child."""
        self.abandoned = True
        self.reading = self.writing = False
        if self._lasting is not None:
            self._lasting.forget()

    def _check_loop(self) -> None:
        # Who claimed it says itself in which loop it is, also while that does not run.
        if not self._is_claimed:
            self.bind(asyncio.get_running_loop())


class OnceWatch(FdWatch):
    """The same for who wants to be called once each time that it asks.

    A descriptor stays registered until it is ready and nobody asks: who asks again at once, as
    most do, costs no system call.
    """

    __slots__ = ("_on_readable", "_on_writable")

    def __init__(self) -> None:
        super().__init__()
        self._on_readable: _Callback | None = None
        self._on_writable: _Callback | None = None

    def on_readable(self, fd: int, callback: _Callback | None) -> None:
        """Call ``callback`` once ``fd`` is readable; None calls nobody.

        Raises:
            ResourceExhausted: As `watch_reading`.
        """
        self._on_readable = callback
        if callback is not None and not self.reading:
            self.watch_reading(fd, self._readable)

    def on_writable(self, fd: int, callback: _Callback | None) -> None:
        """Call ``callback`` once ``fd`` is writable; None calls nobody.

        Raises:
            ResourceExhausted: As `watch_writing`.
        """
        self._on_writable = callback
        if callback is not None and not self.writing:
            self.watch_writing(fd, self._writable)

    def close(self) -> None:
        """Call nobody any more; the descriptors may be closed afterwards. Idempotent."""
        self._on_readable = self._on_writable = None
        super().close()

    def abandon(self) -> None:
        """Forget everything without touching the loop, in a forked child."""
        self._on_readable = self._on_writable = None
        super().abandon()

    def _readable(self) -> None:
        callback, self._on_readable = self._on_readable, None
        if callback is None:
            self.unwatch_reading()
        else:
            callback()

    def _writable(self) -> None:
        callback, self._on_writable = self._on_writable, None
        if callback is None:
            self.unwatch_writing()
        else:
            callback()
