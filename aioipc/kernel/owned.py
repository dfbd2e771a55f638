"""One owner per file descriptor, and what happens to it in a forked child.

An owner that is dropped open closes its descriptor without a word: it is part of something
that its users know, and that warns them once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import weakref
from typing import Protocol, Self

from aioipc.abc import HasFileno

__all__ = [
    "Closing",
    "OwnedFd",
    "OwnedSocket",
    "abandon_in_child",
    "above_stdio",
    "duplicate",
    "outlive",
    "owned_pipe",
    "pipe_from_child",
    "pipe_to_child",
    "socket_above_stdio",
]


class _Owner(Protocol):
    def abandon(self) -> None: ...


_owners: weakref.WeakSet[_Owner] = weakref.WeakSet()
_outliving: dict[weakref.ref[object], tuple[object, ...]] = {}


def abandon_in_child(owner: _Owner) -> None:
    """Have ``owner.abandon()`` called in every forked child, for as long as it lives.

    A child gets copies of all descriptors. Kept open, they would hold the parent's locks
    (fcntl_locking(2): an open file description lives until its last descriptor is closed) and
    hide its end from its peers.
    """
    _owners.add(owner)


def outlive(owner: object, *parts: object) -> None:
    """Keep what ``owner`` closes in its finalizer open until that has run.

    The garbage collector finalizes the objects of a reference cycle in any order, and all that
    hangs on them; these parts hang on something else as well.
    """
    _outliving[weakref.ref(owner, _outliving.pop)] = parts


def _abandon_all() -> None:
    for owner in list(_owners):
        with contextlib.suppress(OSError):  # somebody else closed the number
            owner.abandon()
    _owners.clear()


os.register_at_fork(after_in_child=_abandon_all)


def above_stdio(fd: int) -> int:
    """Move a descriptor of ours that came out as 0, 1 or 2.

    That happens where these were closed before the start; ``print`` of this process, or a
    child, would then write into it.

    Returns:
        A close-on-exec descriptor of at least 3. A lower ``fd`` is closed.
    """
    if not 0 <= fd <= 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def socket_above_stdio(sock: socket.socket) -> socket.socket:
    """Do the same for a socket: return it, or another object in its place."""
    if sock.fileno() > 2:
        return sock
    family, kind, protocol, timeout = sock.family, sock.type, sock.proto, sock.gettimeout()
    moved = socket.socket(family, kind, protocol, fileno=above_stdio(sock.detach()))
    moved.settimeout(timeout)
    return moved


class Closing:
    """What is entered with ``with`` and closed when that is left: inherit from it."""

    __slots__ = ()

    def close(self) -> None:
        """Close it. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


class OwnedFd(Closing):
    """A file descriptor that belongs to this object and is closed exactly once.

    It is at least 3, whatever number it came with.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd if fd > 2 else above_stdio(fd)
        _owners.add(self)

    def fileno(self) -> int:
        """The number of the descriptor, -1 once it is closed."""
        return self._fd

    def detach(self) -> int:
        """Give the descriptor away: the caller closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def abandon(self) -> None:
        """Close the bare number and change nothing that others can see."""
        OwnedFd.close(self)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd}>"


def duplicate(file: int | HasFileno) -> OwnedFd:
    """Make another descriptor for the same open file: fcntl(2), ``F_DUPFD_CLOEXEC``.

    Raises:
        OSError: It was closed, or this process may have no more.
    """
    fd = file if isinstance(file, int) else file.fileno()
    if fd < 0:  # to fcntl that is no OSError
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return OwnedFd(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))


def owned_pipe(flags: int = 0) -> tuple[OwnedFd, OwnedFd]:
    """Make a pipe and return the end to read and the end to write: pipe(2).

    Args:
        flags: ``O_NONBLOCK`` or nothing; both ends are close-on-exec anyway.
    """
    read_fd, write_fd = os.pipe2(flags | os.O_CLOEXEC)
    try:
        reader = OwnedFd(read_fd)
    except BaseException:
        os.close(write_fd)
        raise
    return reader, OwnedFd(write_fd)


def pipe_from_child() -> tuple[OwnedFd, OwnedFd]:
    """Make a pipe and return our end, to read without blocking, and the child's, which blocks."""
    reader, writer = owned_pipe()
    os.set_blocking(reader.fileno(), False)
    return reader, writer


def pipe_to_child() -> tuple[OwnedFd, OwnedFd]:
    """Make a pipe and return our end, to write without blocking, and the child's, which blocks."""
    reader, writer = owned_pipe()
    os.set_blocking(writer.fileno(), False)
    return writer, reader


class OwnedSocket(socket.socket):
    """A non-blocking socket with the same manners: at least 3, and closed in forked children."""

    __slots__ = ()

    def __init__(self, family: int, kind: int, fd: int = -1) -> None:
        """Make one, or take over ``fd``, which is one of that family and kind."""
        if fd < 0:
            fd = socket.socket(family, kind).detach()
        super().__init__(family, kind, 0, fileno=above_stdio(fd))
        self.set_inheritable(False)
        self.setblocking(False)
        abandon_in_child(self)

    def abandon(self) -> None:
        """Close the bare number and change nothing that others can see."""
        self.close()

    def __del__(self) -> None:
        # In the place of the finalizer that warns. Without the slot there never was a socket.
        if hasattr(self, "_closed"):
            self.close()
