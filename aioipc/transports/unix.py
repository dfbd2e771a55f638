"""``unix:`` stream sockets by path, by name in the runtime directory, or abstract: unix(7)."""

from __future__ import annotations

import errno
import socket

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.errors import AccessDenied, AddressError, ConnectError
from aioipc.kernel.credentials import peer_credentials, same_user, same_user_or_root
from aioipc.kernel.owned import OwnedSocket
from aioipc.kernel.rendezvous import bind_unix, check_path
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._names import generated_name
from aioipc.transports._sockets import SocketAcceptor, check_allowed, connect_socket
from aioipc.transports._stream import STREAM, socket_stream

__all__ = ["CAPABILITIES", "connect", "listen", "pair"]

CAPABILITIES = STREAM | Capability.CREDENTIALS


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Connect to a server that a trusted user runs.

    Raises:
        ConnectError: Nobody listens there.
        AccessDenied: The path or the server's user is not trusted.
    """
    target = _target(address)
    try:
        file = check_path(target, any_owner=allow is not None)
    except FileNotFoundError:
        raise ConnectError(f"connect to {address}: nobody listens there (no such socket)") from None
    with file:
        sock = OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await connect_socket(sock, file.address, str(address))
            peer = peer_credentials(sock.fileno())
            check_allowed(peer, allow or same_user_or_root, str(address))
            return socket_stream(sock, address=str(address), capabilities=CAPABILITIES, peer=peer)
        except BaseException:
            sock.close()
            raise


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Take the name and listen.

    With ``allow`` a path is open to all users (mode 0666) and ``allow`` decides.

    Raises:
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: Somebody serves this name.
        ValueError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    if address.abstract is not None and allow is None:
        raise AccessDenied(
            errno.EACCES,
            f"listen on {address}: any user can reach an abstract socket; say allow=",
        )
    if address == Address.parse("unix:"):
        address = Address.parse(f"unix:{generated_name()}")
    others = allow is not None and allow is not same_user and address.path is not None
    if allow not in (None, same_user) and address.name is not None:
        raise AddressError(
            f"listen on {address}: other users cannot reach a name in the private runtime "
            "directory; give a path"
        )
    bound = bind_unix(_target(address), others=others)
    text = str(address)

    def accepted(sock: socket.socket) -> FdStream:
        peer = peer_credentials(sock.fileno())
        return socket_stream(sock, address=text, capabilities=CAPABILITIES, peer=peer)

    return SocketAcceptor(bound.socket, text, accepted, bound.close)


def pair() -> tuple[FdStream, FdStream]:
    """Two connected ends: socketpair(2)."""
    left, right = socket.socketpair()
    with left, right:
        return _end_of_pair(left), _end_of_pair(right)


def _end_of_pair(end: socket.socket) -> FdStream:
    end.setblocking(False)
    peer = peer_credentials(end.fileno())
    return socket_stream(end, address="unix:pair", capabilities=CAPABILITIES, peer=peer)


def _target(address: Address) -> str:
    if address.abstract is not None:
        return f"@{address.abstract}"
    target = address.path or address.name
    if target is None:
        raise AddressError(f"{address}: the path or the name is missing")
    return target
