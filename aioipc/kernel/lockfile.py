"""A guard: a lock on a file that says "somebody serves this name", for as long as he lives.

The lock is one of the open file description (fcntl_locking(2), ``F_OFD_SETLK``): the kernel
releases it when the holder dies, however it dies, and closing some other descriptor of the
same file does not. It is only ever tried, never waited for.

The guard file may be unlinked by one process only: the one that holds the lock on the inode
which the name now stands for. Everybody else who locked something compares the inode of what
was locked with the inode at the name, and tries again if they differ. So a name and its lock
never part while somebody holds the lock, and a clean close leaves no file behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from typing import NamedTuple

from aioipc.kernel.directory import Directory, Identity, denied, identity_of
from aioipc.kernel.owned import OwnedFd

__all__ = ["FoundLock", "Guard", "find_lock", "try_guard", "try_lock", "unlock"]

# struct flock: type, whence, start, length (0: to the end), pid (0 for OFD locks)
_FLOCK = struct.Struct("hhqqi")


class FoundLock(NamedTuple):
    """A lock of somebody else.

    Attributes:
        start: First byte of what is locked.
        length: Number of bytes; 0 for all there can be.
        shared: Whether others may have shared locks there too.
    """

    start: int
    length: int
    shared: bool


class Guard(OwnedFd):
    """A lock that is held until `close`, or until the process dies."""

    __slots__ = ("_name",)

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd)
        self._name = name

    @property
    def identity(self) -> Identity:
        """The file that is locked."""
        return identity_of(os.fstat(self.fileno()))

    def close(self) -> None:
        """Release the lock, also from a child just forked that has not closed its copy yet."""
        if self._fd >= 0:
            unlock(self._fd)
        super().close()

    def remove(self, directory: Directory) -> None:
        """Unlink the guard file and release the lock, in this order. Idempotent.

        Args:
            directory: The one that the guard was taken in.
        """
        if self._fd >= 0:
            directory.unlink_if(self._name, self.identity)
        self.close()


def try_guard(directory: Directory, name: str) -> Guard | None:
    """Take the lock on a file, which is created if need be.

    Args:
        directory: Where the file is.
        name: The file's name.

    Returns:
        The guard, or None if somebody else holds it.

    Raises:
        AccessDenied: The file is a symlink or no regular file, or somebody else owns it.
        OSError: It cannot be opened.
    """
    while True:
        with contextlib.ExitStack() as undo:
            guard = undo.enter_context(_open_guard(directory, name))
            _check(os.fstat(guard.fileno()), directory.join(name))
            if not try_lock(guard.fileno()):
                return None
            if directory.identity(name) == guard.identity:
                undo.pop_all()
                return guard
            # Else the last holder removed the file while this was being taken.


def try_lock(fd: int, *, shared: bool = False, start: int = 0, length: int = 0) -> bool:
    """Lock a file, or a region of it, for its open file description.

    What the description had locked there before is exchanged in one step.

    Args:
        fd: Opened for writing; for reading suffices if ``shared``.
        shared: Whether others may have shared locks there too.
        start: First byte.
        length: Number of bytes; 0 for all there can be.

    Returns:
        False if another description holds a lock there that excludes this one.
    """
    try:
        _set_lock(fd, _kind(shared), start, length)
    except (BlockingIOError, PermissionError):  # fcntl_locking(2): EAGAIN or EACCES
        return False
    return True


def unlock(fd: int, *, start: int = 0, length: int = 0) -> None:
    """Release the locks of an open file description, whoever has descriptors of it."""
    _set_lock(fd, fcntl.F_UNLCK, start, length)


def find_lock(
    fd: int, *, shared: bool = False, start: int = 0, length: int = 0
) -> FoundLock | None:
    """Find a lock of somebody else that excludes one: ``F_OFD_GETLK``.

    The kernel does not tell whose it is.
    """
    wanted = _FLOCK.pack(_kind(shared), os.SEEK_SET, start, length, 0)
    kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))
    if kind == fcntl.F_UNLCK:
        return None
    return FoundLock(start, length, kind == fcntl.F_RDLCK)


def _kind(shared: bool) -> int:
    return fcntl.F_RDLCK if shared else fcntl.F_WRLCK


def _set_lock(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _open_guard(directory: Directory, name: str) -> Guard:
    return Guard(directory.open(name, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK), name)


def _check(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise denied(f"{path} is not a file of uid {os.geteuid()}")
