"""Descriptors that travel over Unix sockets: ``SCM_RIGHTS`` in unix(7)."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Sequence

from aioipc.kernel.owned import OwnedFd

__all__ = ["let_fds_pass", "receive_with_fds", "send_with_fds"]

_INT = array.array("i").itemsize
_SO_PASSRIGHTS = 83  # since Linux 6.16; Python has no name for it


def let_fds_pass(fd: int, allowed: bool) -> None:
    """Say whether a Unix socket takes descriptors; who sends some to one that does not gets EPERM.

    On an older kernel it takes them, and a plain recv(2) drops them.

    Args:
        fd: The socket.
        allowed: Whether it does.
    """
    view = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        with contextlib.suppress(OSError):
            view.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, int(allowed))
    finally:
        view.detach()


def send_with_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Send bytes, and descriptors that go with the first of them.

    Returns:
        How many bytes left; the descriptors went if that is not 0.

    Raises:
        OSError: As sendmsg(2); EAGAIN where there is no room.
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
    return sock.sendmsg([data], ancillary if fds else [], socket.MSG_NOSIGNAL)


def receive_with_fds(
    sock: socket.socket, size: int, most_fds: int
) -> tuple[bytes, list[OwnedFd], bool]:
    """Receive bytes and the descriptors that came with them, close-on-exec.

    Args:
        sock: The socket.
        size: The most bytes to take.
        most_fds: The most descriptors to take; what is beyond is closed by the kernel.

    Returns:
        The bytes, empty at the end of the stream; the descriptors, which belong to the caller;
        and whether there were more of them.

    Raises:
        OSError: As recvmsg(2); EAGAIN where there is nothing.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        size, socket.CMSG_SPACE(most_fds * _INT), socket.MSG_CMSG_CLOEXEC
    )
    numbers = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(payload[: len(payload) // _INT * _INT])
    owners: list[OwnedFd] = []
    try:
        owners += map(OwnedFd, numbers)
    except BaseException:
        for number in numbers[len(owners) :]:
            os.close(number)
        raise
    return data, owners, bool(flags & socket.MSG_CTRUNC)
