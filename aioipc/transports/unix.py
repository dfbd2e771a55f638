"""``unix:`` stream sockets by path, by name in the runtime directory, or abstract: unix(7)."""

from __future__ import annotations

import socket

from aioipc.abc import Allow, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.kernel.ancillary import let_fds_pass
from aioipc.kernel.credentials import peer_credentials
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._meeting import connect_unix, listen_unix
from aioipc.transports._sockets import SocketAcceptor
from aioipc.transports._stream import STREAM, socket_stream

__all__ = ["CAPABILITIES", "connect", "listen", "pair"]

CAPABILITIES = STREAM | Capability.CREDENTIALS | Capability.FDS
FOLDER = "socket"


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Connect to a server that a trusted user runs.

    Raises:
        ConnectError: Nobody listens there.
        AccessDenied: The path or the server's user is not trusted.
    """
    sock, peer = await connect_unix(address, allow, folder=FOLDER)
    return _stream(sock, peer, str(address))


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Take the name and listen.

    With ``allow`` a path is open to all users (mode 0666) and ``allow`` decides.

    Raises:
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: Somebody serves this name.
        AddressError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    return listen_unix(address, allow, _stream, folder=FOLDER)


def pair(*, limits: Limits) -> tuple[FdStream, FdStream]:
    """Two connected ends: socketpair(2)."""
    left, right = socket.socketpair()
    with left, right:
        return _end_of_pair(left), _end_of_pair(right)


def _end_of_pair(end: socket.socket) -> FdStream:
    end.setblocking(False)
    return _stream(end, peer_credentials(end.fileno()), "unix:pair")


def _stream(sock: socket.socket, peer: PeerCredentials | None, address: str) -> FdStream:
    let_fds_pass(sock.fileno(), False)  # unless messages are put on it: see PeerPort
    return socket_stream(sock, address=address, capabilities=CAPABILITIES, peer=peer)
