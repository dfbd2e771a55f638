"""Callbacks that stay registered: for loops that silently stop watching a descriptor."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable

__all__ = ["LastingWatch"]

_Callback = Callable[[], object]
_Ear = functools.partial[object]


class LastingWatch:
    """``add_reader`` and the like for one descriptor each, on a loop such as uvloop's.

    libuv calls once when a descriptor has an error (EPOLLERR in epoll_ctl(2)), and never again.
    Yet there may be more to read, and the error may be over: that of a datagram which nobody
    took. uvloop tells nobody, and refuses to watch the descriptor again until it is removed; but
    it lets go of the callback. So here each callback is an object that only the loop holds, and
    when that is gone the descriptor is registered anew.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader = _Side(loop.add_reader, loop.remove_reader, self._lost)
        self._writer = _Side(loop.add_writer, loop.remove_writer, self._lost)
        self.remove_reader = self._reader.stop
        self.remove_writer = self._writer.stop

    def add_reader(self, fd: int, callback: _Callback) -> None:
        """As the loop's, and lasting."""
        self._mend()
        self._reader.start(fd, callback)

    def add_writer(self, fd: int, callback: _Callback) -> None:
        """As the loop's, and lasting."""
        self._mend()
        self._writer.start(fd, callback)

    def forget(self) -> None:
        """Leave the loop alone, in a forked child."""
        self._reader.forget()
        self._writer.forget()

    def _lost(self, _: object) -> None:
        if self._loop.is_closed():
            self.forget()  # and let go of the callbacks, and of whom they belong to
        else:
            self._loop.call_soon(self._mend)  # the loop is in the middle of it

    def _mend(self) -> None:
        # Both are lost together, so neither is added before both are removed.
        sides = (self._reader, self._writer)
        lost = [(side, *side.what) for side in sides if side.is_lost and side.what is not None]
        for side, fd, _ in lost:
            side.stop(fd)
        for side, fd, callback in lost:
            side.start(fd, callback)


class _Side:
    """One direction of a descriptor.

    Attributes:
        what: The descriptor and whom to call, while it is watched.
    """

    def __init__(
        self,
        add: Callable[[int, _Callback], object],
        remove: Callable[[int], object],
        lost: Callable[[object], object],
    ) -> None:
        self._add = add
        self._remove = remove
        self._tell_lost = lost
        self._ear: weakref.ref[_Ear] | None = None
        self.what: tuple[int, _Callback] | None = None

    def forget(self) -> None:
        self._ear = self.what = None

    @property
    def is_lost(self) -> bool:
        """Whether the loop stopped watching without being told to."""
        return self._ear is not None and self._ear() is None

    def start(self, fd: int, callback: _Callback) -> None:
        ear = functools.partial(callback)
        self._add(fd, ear)
        self.what = fd, callback
        self._ear = weakref.ref(ear, self._tell_lost)

    def stop(self, fd: int) -> None:
        self.forget()
        self._remove(fd)
