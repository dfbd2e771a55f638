"""A lifeline: a FIFO whose lock says who has something, and whose end says that he let go.

Who holds it has the FIFO open for writing and a lock on that same open file description
(fcntl_locking(2), ``F_OFD_SETLK``). Who waits has it open for reading. When the holder closes
it, or dies however it dies, the kernel first drops the lock and then hangs up on the readers
(``__fput`` in the kernel's fs/file_table.c: locks first, then the file's own release), so a
reader that hears it finds the lock free. No timer, no polling, no message that could be lost.

Every hold and every wait opens the FIFO anew. So a lock excludes tasks, threads and processes
alike, and a file that somebody removed or replaced is noticed: what was locked has to have its
name still.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Iterable
from typing import TypeVar

from aioipc.errors import AccessDenied
from aioipc.kernel.directory import Directory, denied
from aioipc.kernel.lockfile import find_lock, try_lock
from aioipc.kernel.owned import OwnedFd
from aioipc.native._locks import FOREIGN, GONE, LOCKED, hold_fifo, let_go

__all__ = ["Hold", "Lifeline", "Watch", "listen_and_watch", "watch_all"]

T = TypeVar("T")

_HOLD_BYTE = 0
_FIRST_SEAT = 1


class Hold(OwnedFd):
    """A lifeline that is held, until `close` or until the process dies."""

    __slots__ = ()

    def close(self) -> None:
        """Let go, also of the lock that a child just forked has a copy of. Idempotent."""
        fd = self.detach()
        if fd >= 0:
            let_go(fd)

    def let_go(self, *, is_consistent: bool = True) -> None:
        """The same: nobody noted anything of it."""
        self.close()

    def take_seat(self) -> int:
        """Take the lowest number from 0 that no other holder has; for holders who share."""
        seat = 0
        while not try_lock(self._fd, start=_FIRST_SEAT + seat, length=1):
            seat += 1
        return seat


class Watch(OwnedFd):
    """Readable once a lifeline was let go of by all who had it when the watch began."""

    __slots__ = ()


class Lifeline:
    """A name for the FIFO, which is made when it is first needed.

    Attributes:
        name: Its name in the directory.
    """

    __slots__ = ("_directory", "_make", "_path", "name")

    def __init__(self, directory: Directory, name: str, *, make: bool = True) -> None:
        """Know the name.

        Args:
            directory: Where it is.
            name: Its name there.
            make: Whether to make it; else who uses it gets FileNotFoundError if it is gone.
        """
        self._directory = directory
        self.name = name
        self._path = os.fsencode(name)
        self._make = make

    def try_hold(self, *, shared: bool = False) -> Hold | None:
        """Take hold of it.

        Args:
            shared: Whether others may hold it at the same time, if they also say so.

        Returns:
            The hold, None if somebody else has it.

        Raises:
            AccessDenied: What is there is no FIFO, or somebody else's.
            OSError: It cannot be opened or made.
        """
        found = self.take(hold_fifo, shared)
        return None if found is None else Hold(found)

    def take(self, attempt: Callable[..., T], *arguments: object) -> T | None:
        """Attempt to hold it; it is made before that if it is not there.

        Args:
            attempt: `hold_fifo`, or one that does more. It is given the directory and the name.
            arguments: What it is given besides.

        Returns:
            What it returned; None if somebody else has it.

        Raises:
            AccessDenied: What is there is no FIFO, or somebody else's.
            OSError: It cannot be opened or made.
        """
        while True:
            try:
                found = attempt(self._directory.fileno(), self._path, *arguments)
            except FileNotFoundError:
                self._make_it()
                continue
            except OSError as error:
                raise self._directory.explained(error, self.name) from None
            if found == LOCKED:
                return None
            if found == FOREIGN:
                raise self._foreign()
            if found != GONE:
                return found
            # Else somebody removed or renamed it while this was being taken.

    def watch(self) -> Watch:
        """Begin to watch. Look after this, not before, whether waiting is needed at all."""
        # A reader is told of the end of those writers only that came after it, or that were
        # there when it opened (pipe_poll in the kernel's fs/pipe.c): so one is there.
        with self.pull():
            return Watch(self._open(os.O_RDONLY))

    def listen(self) -> Watch:
        """Begin to watch one that nobody holds: readable once somebody has pulled and let go."""
        return Watch(self._open(os.O_RDONLY))

    def pull(self) -> OwnedFd:
        """Have it open like a holder, without a lock: closing this tells all who listen."""
        line = OwnedFd(self._open(os.O_RDWR))
        try:
            self._check(line)
        except BaseException:
            line.close()
            raise
        return line

    def is_held(self, *, shared: bool = False) -> bool:
        """Whether somebody holds it; if ``shared``, in a way that excludes sharing."""
        return self._is_locked(_HOLD_BYTE, shared=shared)

    def is_taken(self, seat: int) -> bool:
        """Whether somebody has this seat."""
        return self._is_locked(_FIRST_SEAT + seat)

    def is_occupied(self) -> bool:
        """Whether any seat is taken."""
        return self._is_locked(_FIRST_SEAT, length=0)

    def remove(self) -> None:
        """Remove the name, if it is there. Only for who knows that nobody wants it."""
        self._directory.unlink(self.name)

    def remove_unused(self) -> bool:
        """Remove the name if it is there, and nobody holds it; return whether that was so."""
        try:
            hold = Lifeline(self._directory, self.name, make=False).try_hold()
        except FileNotFoundError:
            return False
        if hold is None:
            return False
        with hold:
            self.remove()
        return True

    def _is_locked(self, start: int, *, length: int = 1, shared: bool = False) -> bool:
        try:
            fd = self._directory.open(self.name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        with OwnedFd(fd) as line:
            return find_lock(line.fileno(), shared=shared, start=start, length=length) is not None

    def _open(self, access: int) -> int:
        while True:
            try:
                return self._directory.open(self.name, access | os.O_NONBLOCK)
            except FileNotFoundError:
                self._make_it()

    def _make_it(self) -> None:
        """Make the FIFO, which was not there a moment ago."""
        if not self._make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.name, 0o600, dir_fd=self._directory.fileno())

    def _check(self, line: OwnedFd) -> None:
        status = os.fstat(line.fileno())
        if not stat.S_ISFIFO(status.st_mode) or status.st_uid != os.geteuid():
            raise self._foreign()

    def _foreign(self) -> AccessDenied:
        return denied(f"{self._directory.join(self.name)} is no FIFO of uid {os.geteuid()}")


class _Watches(Watch):
    """Readable once one of several watches is: epoll(7) can be polled itself."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[Watch]) -> None:
        epoll = select.epoll()
        super().__init__(os.dup(epoll.fileno()))
        self._parts = parts
        with epoll:
            for part in parts:
                epoll.register(part.fileno(), select.EPOLLIN)

    def close(self) -> None:
        super().close()
        for part in self._parts:
            part.close()


def watch_all(lifelines: Iterable[Lifeline]) -> Watch:
    """Watch several at once: readable once one of them was let go of.

    Args:
        lifelines: One or more. Those that are gone and are not to be made are left out.
    """
    with contextlib.ExitStack() as undo:
        return _watch_together([], lifelines, undo)


def listen_and_watch(bell: Lifeline, whom: Callable[[], Iterable[Lifeline]]) -> Watch:
    """Listen to a bell, and watch those whom it may be about.

    Who becomes one of them rings the bell when it is done. So they are asked for once this process
    listens: whoever is not yet among them is heard.

    Args:
        bell: What to listen to.
        whom: Says whom to watch besides, as in `watch_all`; maybe nobody.
    """
    with contextlib.ExitStack() as undo:
        heard = undo.enter_context(bell.listen())
        return _watch_together([heard], whom(), undo)


def _watch_together(
    parts: list[Watch], lifelines: Iterable[Lifeline], undo: contextlib.ExitStack
) -> Watch:
    for lifeline in lifelines:
        with contextlib.suppress(FileNotFoundError):
            parts.append(undo.enter_context(lifeline.watch()))
    watch = parts[0] if len(parts) == 1 else _Watches(parts)
    undo.pop_all()
    return watch
