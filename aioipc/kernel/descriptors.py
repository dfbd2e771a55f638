"""Descriptors that somebody else opened, prepared for an event loop."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
from dataclasses import dataclass

from aioipc.kernel.owned import OwnedFd, above_stdio

__all__ = [
    "Descriptor",
    "Facts",
    "Kind",
    "SocketFacts",
    "above_stdio",
    "adopt",
    "file_name",
    "find_facts",
    "find_socket_facts",
    "is_hung_up",
    "is_listening",
    "keep_from_children",
    "open_null",
    "plug_holes",
    "redirect_to_stderr",
    "replace_with_null",
    "unread_bytes",
]


class Kind(enum.Enum):
    """What a descriptor stands for."""

    PIPE = "pipe"
    """A pipe or a FIFO: pipe(7), fifo(7)."""
    SOCKET = "socket"
    TERMINAL = "terminal"
    DEVICE = "device"
    """A character device that is no terminal: null(4)."""
    FILE = "file"
    """A regular file."""
    OTHER = "other"
    """A directory, a block device, an anonymous inode such as an eventfd."""


_PTMX = os.makedev(5, 2)  # each opening of a pseudoterminal's outer end makes another: pts(4)
_POLLABLE = frozenset({Kind.PIPE, Kind.SOCKET, Kind.TERMINAL})


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be said of a descriptor.

    Attributes:
        kind: What it stands for.
        readable: Whether it was opened for reading.
        writable: Whether it was opened for writing.
        pollable: Whether epoll accepts it; else it counts as always ready: epoll_ctl(2), EPERM.
    """

    kind: Kind
    readable: bool
    writable: bool
    pollable: bool


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """What else can be said of a socket.

    Attributes:
        type: ``SOCK_STREAM``, ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        send_buffer_bytes: SO_SNDBUF of socket(7).
    """

    type: int
    send_buffer_bytes: int


class Descriptor(OwnedFd):
    """A descriptor that does not block, and that leaves no trace of us when it is closed.

    Attributes:
        facts: What can be said of it.
        own: Whether its open file description is ours alone, so that no other process can
            change its flags, nor we theirs.
    """

    __slots__ = ("_restore", "facts", "own")

    def __init__(self, fd: int, facts: Facts, *, own: bool) -> None:
        super().__init__(fd)
        self.facts = facts
        self.own = own
        self._restore = False

    def stop_blocking(self) -> None:
        """Set O_NONBLOCK, which everybody who shares the description sees until `close`."""
        if self.facts.pollable and os.get_blocking(self._fd):
            os.set_blocking(self._fd, False)
            self._restore = not self.own

    def close(self) -> None:
        """Give back O_NONBLOCK as it was, and close. Idempotent."""
        if self._restore and self._fd >= 0:
            os.set_blocking(self._fd, True)
        super().close()


def file_name(fd: int) -> str:
    """What /proc calls the file behind a descriptor, in every process alike: proc_pid_fd(5).

    ``pipe:[inode]`` for both ends of an anonymous pipe, ``socket:[inode]`` for one of a pair;
    nothing where there is no /proc.
    """
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def is_hung_up(fd: int) -> bool:
    """Whether the other end of a socket is gone, whatever lies unread in it: poll(2), POLLRDHUP."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def unread_bytes(fd: int) -> int:
    """How many bytes lie in a pipe or a socket, to be read: pipe(7), ``FIONREAD``."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


def adopt(fd: int, *, keep: bool = False) -> Descriptor:
    """Take a descriptor over and make it ready for an event loop.

    Pipes, FIFOs and terminals are opened anew through /proc/self/fd (proc_pid_fd(5)): that
    gives an open file description of our own, whose O_NONBLOCK no other process sees. For
    sockets, and where the kernel refuses, O_NONBLOCK is set and taken back at close. Regular
    files are never opened anew, because that would part their offset from that of others.

    Args:
        fd: The number of an open descriptor.
        keep: Whether ``fd`` itself stays open and as it is, for 0, 1 and 2. Else it belongs to
            the result, or is closed in exchange for it.

    Returns:
        The result: close-on-exec, at least 3, and closed by the caller.

    Raises:
        OSError: ``fd`` is not open (EBADF), or there are too many. It is as it was.
    """
    facts = find_facts(fd)
    reopened = _reopen(fd, facts)
    copy = _duplicate(fd) if reopened is None and (keep or fd < 3) else reopened
    if copy is None:
        os.set_inheritable(fd, False)
        copy = fd
    elif not keep:
        os.close(fd)
    descriptor = Descriptor(copy, facts, own=reopened is not None)
    descriptor.stop_blocking()
    return descriptor


def find_facts(fd: int) -> Facts:
    """Ask the kernel what a descriptor is."""
    kind = _kind(fd)
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return Facts(
        kind=kind,
        readable=access in (os.O_RDONLY, os.O_RDWR),
        writable=access in (os.O_WRONLY, os.O_RDWR),
        pollable=kind in _POLLABLE or (kind is not Kind.FILE and _is_pollable(fd)),
    )


def find_socket_facts(fd: int) -> SocketFacts:
    """Ask the kernel what kind of socket a descriptor is."""
    view = socket.socket(fileno=fd)
    try:
        return SocketFacts(view.type, view.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
    finally:
        view.detach()


def is_listening(fd: int) -> bool:
    """Whether a descriptor is a socket on which connections are awaited: listen(2)."""
    try:
        view = socket.socket(fileno=fd)
    except OSError as error:
        if error.errno == errno.ENOTSOCK:
            return False
        raise
    try:
        return bool(view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        view.detach()


def open_null() -> OwnedFd:
    """Open /dev/null for reading and writing: null(4)."""
    return OwnedFd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))


def keep_from_children(fd: int) -> None:
    """Have an inherited descriptor closed in whatever this process starts: FD_CLOEXEC, fcntl(2)."""
    os.set_inheritable(fd, False)


def replace_with_null(fd: int) -> None:
    """Put /dev/null in the place of 0, 1 or 2: null(4).

    For a process that talks over its standard streams, after `adopt` with ``keep``: what
    ``print`` writes then no longer mixes with messages, and the peer sees the end of the
    stream when the adopted descriptor is closed. Children inherit the replacement.
    """
    with open_null() as null:
        os.dup2(null.fileno(), fd)


def redirect_to_stderr(fd: int) -> None:
    """Put standard error in the place of 1, or /dev/null where that is closed: stderr(3)."""
    try:
        os.dup2(2, fd)
    except OSError:
        replace_with_null(fd)


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _reopen(fd: int, facts: Facts) -> int | None:
    """Open what ``fd`` stands for once more; None where that is impossible or would change it."""
    if facts.kind not in (Kind.PIPE, Kind.TERMINAL) or os.fstat(fd).st_rdev == _PTMX:
        return None
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # another user's pipe, no /proc, nobody reads (ENXIO)
        return above_stdio(os.open(f"/proc/self/fd/{fd}", flags))
    return None


def _kind(fd: int) -> Kind:
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return Kind.PIPE
    if stat.S_ISSOCK(mode):
        return Kind.SOCKET
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISCHR(mode):
        return Kind.TERMINAL if os.isatty(fd) else Kind.DEVICE
    return Kind.OTHER


def _is_pollable(fd: int) -> bool:
    with select.epoll() as poller:
        try:
            poller.register(fd, select.EPOLLIN)
        except OSError as error:
            if error.errno == errno.EPERM:
                return False
            raise
    return True


def plug_holes() -> None:
    """Have something behind each of 0, 1 and 2, which may be closed at the start or later.

    What is opened next would get a free number, and then ``print`` writes into it; uvloop even
    ends the process when it closes such a number (``uv__close`` of libuv).
    """
    for fd, plug in enumerate((replace_with_null, redirect_to_stderr, replace_with_null)):
        try:
            os.fstat(fd)
        except OSError:
            plug(fd)
