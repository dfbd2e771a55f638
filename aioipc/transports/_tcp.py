"""Meeting over TCP, for the transports that are made of it: tcp(7)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import socket
from collections.abc import Callable

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.errors import AccessDenied, ConnectError, from_os_error
from aioipc.kernel.owned import OwnedSocket, socket_above_stdio
from aioipc.kernel.tcp import keep_alive
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._heartbeat import Heartbeat
from aioipc.transports._sockets import Accepted, SocketAcceptor, connect_socket
from aioipc.transports._stream import STREAM, socket_stream

__all__ = ["CAPABILITIES", "accept_tcp", "connect_tcp", "listen_tcp", "refuse_allow"]

CAPABILITIES = STREAM | Capability.REMOTE

_Resolved = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


async def connect_tcp(address: Address, limits: Limits) -> FdStream:
    """Connect to the first of the host's addresses that answers.

    Raises:
        ConnectError: Nobody listens there, or the host has no address.

    Cancellation:
        Undoes: nothing stays open.
    """
    failure: Exception | None = None
    for family, target in await _resolve(address):
        sock = OwnedSocket(family, socket.SOCK_STREAM)
        try:
            await connect_socket(sock, target, str(address))
            return _stream(sock, str(address), limits)
        except ConnectError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    assert failure is not None, "getaddrinfo(3) returns at least one address"
    raise failure


async def listen_tcp(
    address: Address,
    limits: Limits,
    met: Callable[[FdStream], Accepted],
    *,
    anywhere: bool = False,
    speaks_first: bool = False,
) -> SocketAcceptor:
    """Listen; port 0 lets the kernel choose.

    Args:
        address: Where.
        limits: Deadlines of the connections.
        met: Makes the transport of a connection.
        anywhere: Whether other machines may reach it.
        speaks_first: Whether who connects can do nothing before it is accepted.

    Raises:
        AccessDenied: The address is reachable from other machines, and may not be.
        ResourceExhausted: The port is in use.
        ConnectError: The host has no address.
    """
    family, target = (await _resolve(address))[0]
    if not anywhere and not _is_loopback(target[0]):
        raise AccessDenied(
            errno.EACCES,
            f"listen on {address}: tcp: authenticates nobody, so it binds loopback only, "
            f"and {target[0]} is not",
        )
    sock = OwnedSocket(family, socket.SOCK_STREAM)
    try:
        # Without it a restart has to wait for TIME_WAIT; it does not let two processes listen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        sock.listen(socket.SOMAXCONN)
    except OSError as error:
        sock.close()
        raise from_os_error(error, f"listen on {address}", connecting=True) from error
    text = str(address.with_port(sock.getsockname()[1]))
    return _acceptor(sock, text, limits, met, speaks_first=speaks_first)


def accept_tcp(sock: OwnedSocket, limits: Limits) -> SocketAcceptor:
    """Accept on a socket that somebody else has bound, which it takes over.

    Raises:
        AccessDenied: Other machines can reach it. It is still the caller's.
    """
    host, port, *_ = sock.getsockname()
    text = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    if not _is_loopback(host):
        raise AccessDenied(
            errno.EACCES,
            f"listen on {text}: nobody is authenticated there, so it has to be loopback",
        )
    return _acceptor(sock, text, limits, lambda stream: stream)


def _acceptor(
    sock: OwnedSocket,
    text: str,
    limits: Limits,
    met: Callable[[FdStream], Accepted],
    *,
    speaks_first: bool = False,
) -> SocketAcceptor:
    def accepted(connection: socket.socket) -> Accepted:
        return met(_stream(connection, text, limits))

    return SocketAcceptor(sock, text, accepted, sock.close, speaks_first=speaks_first)


def refuse_allow(address: Address, allow: Allow | None) -> None:
    """Say that TCP knows no users.

    Raises:
        ValueError: ``allow`` was given.
    """
    if allow is not None:
        raise ValueError(f"{address}: TCP does not know the peer's user, so allow= cannot be asked")


def _stream(sock: socket.socket, address: str, limits: Limits) -> FdStream:
    sock = socket_above_stdio(sock)  # now, for the number must not change any more
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(sock, idle_s=limits.heartbeat_s, silence_s=limits.silence_s)
    local = _is_loopback(sock.getpeername()[0])
    capabilities = CAPABILITIES & ~Capability.REMOTE if local else CAPABILITIES
    fd = sock.fileno()
    stream = socket_stream(
        sock, address=address, capabilities=capabilities, on_close=lambda: _read_off(fd)
    )
    stream.heartbeat = functools.partial(Heartbeat, fd, address, limits)
    return stream


def _read_off(fd: int) -> None:
    """Read what is left, else close(2) sends a reset that overtakes what we wrote.

    RFC 1122, 4.2.2.13.
    """
    view = socket.socket(fileno=fd)
    with contextlib.suppress(OSError):
        for _ in range(64):
            if not view.recv(16 * 1024, socket.MSG_DONTWAIT):
                break
    view.detach()


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


async def _resolve(address: Address) -> list[_Resolved]:
    assert address.host is not None
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(f"{address}: {address.host!r} has no address: {error}") from error
    return [(family, target) for family, _, _, _, target in found]  # type: ignore[misc]
