"""Fork servers, seen from the process that has one: what to ask for, and the child that comes.

A request is one packet with descriptors over a pair of ``SOCK_SEQPACKET`` sockets: a line of its
own, a leash, an `aioipc.kernel.memory.keep` of what is to be done, a working directory, the three
standard streams, and what else is handed down. The answer comes over the line: a number, with a
pidfd where that is a pid. The server reaps its child once the line is closed, and kills it then
if it still runs.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aioipc.kernel.ancillary import receive_with_fds, send_with_fds
from aioipc.kernel.descriptors import open_null
from aioipc.kernel.owned import OwnedFd, OwnedSocket
from aioipc.kernel.pidfd import Child, exit_status, is_alive, send_signal

__all__ = [
    "ANSWER",
    "UNFIT",
    "ForkedChild",
    "Line",
    "Unfit",
    "open_directory",
    "open_standard",
    "requests_pair",
]

ANSWER: Final = struct.Struct("=i")
"""A pid; or minus the number of an error; or `UNFIT`."""

UNFIT: Final = 0


class Unfit(Exception):
    """The server has other threads, of which a fork would leave only their locks."""


def requests_pair() -> tuple[OwnedSocket, OwnedSocket]:
    """The end for requests, and the one to hand down to a server."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return tuple(  # type: ignore[return-value]
        OwnedSocket(socket.AF_UNIX, socket.SOCK_SEQPACKET, end.detach()) for end in (ours, theirs)
    )


def open_directory() -> OwnedFd:
    """The working directory of this process: chdir(2)."""
    return OwnedFd(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def open_standard(fds: Sequence[int | None]) -> list[int | OwnedFd]:
    """What is to become 0, 1 and 2 of a child: ours where None is given, if that is open."""
    return [_ours(number) if fd is None else fd for number, fd in enumerate(fds)]


def _ours(fd: int) -> int | OwnedFd:
    try:
        return fd if os.get_inheritable(fd) else open_null()
    except OSError:
        return open_null()


class Line(OwnedSocket):
    """What a server says about one request. Closed, it is also what ends the child."""

    __slots__ = ()

    @classmethod
    def request(cls, server: OwnedSocket, fds: Sequence[int]) -> Line | None:
        """Ask for a fork.

        Args:
            server: The end for requests.
            fds: The descriptors of the request, all but the line.

        Returns:
            The line to expect the answer on; None if the server has no room for a request now.

        Raises:
            OSError: There are no descriptors left, or the server is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            line = cls(socket.AF_UNIX, socket.SOCK_SEQPACKET, ours.detach())
            try:
                send_with_fds(server, b"fork", [theirs.fileno(), *fds])
            except BlockingIOError:
                line.close()
                return None
            except BaseException:
                line.close()
                raise
        return line

    def answer(self) -> ForkedChild | None:
        """The child, which takes the line over; None as long as there is no answer.

        Raises:
            Unfit: The server cannot fork any more.
            EOFError: The server is gone.
            OSError: It could not fork.
        """
        try:
            data, fds, _ = receive_with_fds(self, ANSWER.size, 1)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if len(data) != ANSWER.size:
            raise EOFError
        (number,) = ANSWER.unpack(data)
        if number == UNFIT:
            raise Unfit
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        if not fds:  # there was none left for it: recv(2) on MSG_CTRUNC
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        (pidfd,) = fds
        return ForkedChild(number, pidfd.detach(), self)


class ForkedChild(Child):
    """A process that a fork server of ours has forked: the server's child, and ours to command.

    It is not reaped before this is closed, so that its number stays its own; unless the server
    is gone, and somebody else reaps it.
    """

    __slots__ = ("_line",)

    def __init__(self, pid: int, pidfd: int, line: Line) -> None:
        super().__init__(pid, pidfd)
        self._line = line

    def status(self) -> int | None:
        """Say how it ended, None while it runs and where nobody knows: proc_pid_stat(5)."""
        if self._status is None and self._fd >= 0 and not is_alive(self._fd):
            self._status = exit_status(self._fd)  # the server is gone, and the kernel tells
            if self._status is None:
                self._status = _status_of_zombie(self.pid, self._fd)
            if self._status is None:  # somebody has reaped it in between
                self._status = exit_status(self._fd)
        return self._status

    def signal_group(self, number: int) -> bool:
        """Send a signal to its process group; whether somebody was there to receive it."""
        there = self._fd >= 0 and send_signal(self._fd, 0)  # or the number may be another one's
        return there and super().signal_group(number)

    def close(self) -> None:
        """Let go of it, which ends it. Idempotent."""
        OwnedFd.close(self)
        self._line.close()


def _status_of_zombie(pid: int, pidfd: int) -> int | None:
    try:
        facts = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return None
    try:
        if facts[0] != b"Z" or not send_signal(pidfd, 0):  # reaped, and the number may be reused
            return None
    except PermissionError:  # it became another user, to whom alone its status is shown
        return None
    return os.waitstatus_to_exitcode(int(facts[49]))
