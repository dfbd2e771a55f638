"""Meeting over a Unix socket: by path, by name in the runtime directory, or abstract."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from aioipc.abc import Allow, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.errors import AccessDenied, AddressError, ConnectError
from aioipc.kernel.ancillary import let_fds_pass
from aioipc.kernel.credentials import peer_credentials, same_user, same_user_or_root
from aioipc.kernel.owned import OwnedSocket
from aioipc.kernel.rendezvous import bind_unix, check_path
from aioipc.native._fd import FdStream
from aioipc.transports._names import generated_name
from aioipc.transports._sockets import Accepted, SocketAcceptor, check_allowed, connect_socket
from aioipc.transports._stream import STREAM, socket_stream

__all__ = ["UNIX", "Met", "accept_unix", "connect_unix", "listen_unix", "unix_stream"]

UNIX = STREAM | Capability.CREDENTIALS | Capability.FDS
"""What a byte stream over a Unix socket can do."""

Met = Callable[[socket.socket, PeerCredentials | None, str], Accepted]
"""Makes a transport of a connected socket, who is at its other end, and the address."""


async def connect_unix(
    address: Address, allow: Allow | None, *, folder: str, kind: int = socket.SOCK_STREAM
) -> tuple[OwnedSocket, PeerCredentials | None]:
    """Connect to a server that a trusted user runs.

    Args:
        address: With a path, a name or an abstract name.
        allow: Decides by the server's credentials; by default this user and root are trusted.
        folder: The subdirectory of the runtime directory that names are for.
        kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.

    Returns:
        The socket, which belongs to the caller, and the server's credentials.

    Raises:
        ConnectError: Nobody listens there.
        AccessDenied: The path or the server's user is not trusted.

    Cancellation:
        Undoes: nothing stays open.
    """
    try:
        file = check_path(_target(address), any_owner=allow is not None, folder=folder)
    except FileNotFoundError:
        raise ConnectError(f"connect to {address}: nobody listens there (no such socket)") from None
    with file:
        sock = OwnedSocket(socket.AF_UNIX, kind)
        try:
            await connect_socket(sock, file.address, str(address))
            peer = peer_credentials(sock.fileno())
            check_allowed(peer, allow or same_user_or_root, str(address))
        except BaseException:
            sock.close()
            raise
    return sock, peer


def listen_unix(
    address: Address,
    allow: Allow | None,
    met: Met,
    *,
    folder: str,
    kind: int = socket.SOCK_STREAM,
    speaks_first: bool = False,
) -> SocketAcceptor:
    """Take the name and listen.

    Args:
        address: With a path, a name or an abstract name; one is made up if there is none.
        allow: With it a path is open to all users (mode 0666), and it decides.
        met: Makes the transport of a connection.
        folder: The subdirectory of the runtime directory that names are for.
        kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
        speaks_first: Whether who connects can do nothing before it is accepted.

    Raises:
        AccessDenied: The directory is not to be trusted, or any user could reach an abstract
            name.
        ResourceExhausted: Somebody serves this name.
        AddressError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    if address.abstract is not None and allow is None:
        raise AccessDenied(
            errno.EACCES,
            f"listen on {address}: any user can reach an abstract socket; say allow=",
        )
    if not address.rest:
        address = Address.parse(f"{address.scheme}:{generated_name()}")
    others = allow is not None and allow is not same_user and address.path is not None
    if allow not in (None, same_user) and address.name is not None:
        raise AddressError(
            f"listen on {address}: other users cannot reach a name in the private runtime "
            "directory; give a path"
        )
    bound = bind_unix(_target(address), kind, others=others, folder=folder)
    return _acceptor(bound.socket, str(address), met, bound.close, speaks_first=speaks_first)


def accept_unix(sock: OwnedSocket) -> SocketAcceptor:
    """Accept byte streams on a socket that somebody else has bound, which it takes over."""
    name = sock.getsockname()
    text = f"unix:{name}" if isinstance(name, str) else f"unix:@{name[1:].decode()}"
    return _acceptor(sock, text, unix_stream, sock.close)


def unix_stream(sock: socket.socket, peer: PeerCredentials | None, address: str) -> FdStream:
    """The byte stream of a connection."""
    let_fds_pass(sock.fileno(), False)  # unless messages are put on it: see PeerPort
    return socket_stream(sock, address=address, capabilities=UNIX, peer=peer)


def _acceptor(
    sock: socket.socket,
    text: str,
    met: Met,
    on_close: Callable[[], object],
    *,
    speaks_first: bool = False,
) -> SocketAcceptor:
    def accepted(connection: socket.socket) -> Accepted:
        return met(connection, peer_credentials(connection.fileno()), text)

    return SocketAcceptor(sock, text, accepted, on_close, speaks_first=speaks_first)


def _target(address: Address) -> str:
    if address.abstract is not None:
        return f"@{address.abstract}"
    target = address.path or address.name
    if target is None:
        raise AddressError(f"{address}: the path or the name is missing")
    return target
