"""``unix:`` stream sockets by path, by name in the runtime directory, or abstract: unix(7)."""

from __future__ import annotations

import socket

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.kernel.credentials import peer_credentials
from aioipc.kernel.descriptors import file_name
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._meeting import UNIX, connect_unix, listen_unix, unix_stream
from aioipc.transports._sockets import SocketAcceptor

__all__ = ["CAPABILITIES", "connect", "listen", "pair"]

CAPABILITIES = UNIX
FOLDER = "socket"


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Connect to a server that a trusted user runs.

    Raises:
        ConnectError: Nobody listens there.
        AccessDenied: The path or the server's user is not trusted.
    """
    sock, peer = await connect_unix(address, allow, folder=FOLDER)
    return unix_stream(sock, peer, str(address))


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Take the name and listen.

    With ``allow`` a path is open to all users (mode 0666) and ``allow`` decides.

    Raises:
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: Somebody serves this name.
        AddressError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    return listen_unix(address, allow, unix_stream, folder=FOLDER)


def pair(*, limits: Limits) -> tuple[FdStream, FdStream]:
    """Two connected ends: socketpair(2)."""
    left, right = socket.socketpair()
    with left, right:
        names = file_name(left.fileno()), file_name(right.fileno())
        return _end_of_pair(left, names[1]), _end_of_pair(right, names[0])


def _end_of_pair(end: socket.socket, other: str) -> FdStream:
    end.setblocking(False)
    stream = unix_stream(end, peer_credentials(end.fileno()), "unix:pair")
    stream.counterpart = other
    return stream
