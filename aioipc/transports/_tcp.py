"""Meeting over TCP, for the transports that are made of it: tcp(7)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable

from aioipc.abc import Capability
from aioipc.address import Address
from aioipc.errors import ConnectError, from_os_error
from aioipc.kernel.owned import OwnedSocket, abandon_in_child, socket_above_stdio
from aioipc.kernel.tcp import keep_alive, undelivered_bytes
from aioipc.limits import Limits
from aioipc.loop.fd import FdWatch
from aioipc.loop.waiting import wait_readable
from aioipc.native._fd import FdStream
from aioipc.transports._heartbeat import Heartbeat
from aioipc.transports._internet import check_loopback, is_loopback, resolve
from aioipc.transports._sockets import Accepted, SocketAcceptor, connect_socket
from aioipc.transports._stream import STREAM

__all__ = ["CAPABILITIES", "TCPStream", "accept_tcp", "connect_tcp", "listen_tcp"]

CAPABILITIES = STREAM | Capability.REMOTE

_FIRST_LOOK_S = 0.001
_LONGEST_LOOK_S = 0.020
_END_BYTES = 1
"""As what the end of a direction counts; whether that arrives does not matter any more."""


async def connect_tcp(address: Address, limits: Limits) -> TCPStream:
    """Connect to the first of the host's addresses that answers.

    Raises:
        ConnectError: Nobody listens there, or the host has no address.

    Cancellation:
        Undoes: nothing stays open.
    """
    failure: Exception | None = None
    for family, target in await resolve(address):
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
    met: Callable[[TCPStream], Accepted],
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
    family, target = (await resolve(address))[0]
    if not anywhere:
        check_loopback(address, target)
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
    check_loopback(Address.parse(text), (host, port))
    return _acceptor(sock, text, limits, lambda stream: stream)


def _acceptor(
    sock: OwnedSocket,
    text: str,
    limits: Limits,
    met: Callable[[TCPStream], Accepted],
    *,
    speaks_first: bool = False,
) -> SocketAcceptor:
    def accepted(connection: socket.socket) -> Accepted:
        return met(_stream(connection, text, limits))

    return SocketAcceptor(sock, text, accepted, sock.close, speaks_first=speaks_first)


def _stream(sock: socket.socket, address: str, limits: Limits) -> TCPStream:
    sock = socket_above_stdio(sock)  # now, for the number must not change any more
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keep_alive(sock, idle_s=limits.heartbeat_s, silence_s=limits.silence_s)
    return TCPStream(sock, address, limits, local=is_loopback(sock.getpeername()[0]))


class TCPStream(FdStream):
    """A connected, non-blocking socket, which it takes over."""

    def __init__(self, sock: socket.socket, address: str, limits: Limits, *, local: bool) -> None:
        fd = sock.detach()
        super().__init__(
            fd,
            fd,
            FdWatch(),
            is_socket=True,
            address=address,
            capabilities=CAPABILITIES & ~Capability.REMOTE if local else CAPABILITIES,
            on_close=lambda: _read_off(fd),
        )
        self._local = local
        self.heartbeat = functools.partial(Heartbeat, fd, address, limits)
        abandon_in_child(self)

    async def wait_delivered(self) -> None:
        """End this direction, and wait until the peer has all that was written.

        To what comes after close(2) the kernel answers with a reset, and what did not leave yet
        is lost: RFC 1122, 4.2.2.13. So what comes until then is read, and dropped.

        Cancellation:
            Abandons the wait.
        """
        self.close_write()
        look_s = _FIRST_LOOK_S
        while not self._is_delivered():
            with contextlib.suppress(TimeoutError):  # no event tells that something was sent
                async with asyncio.timeout(look_s):
                    await wait_readable(self)
            look_s = min(2 * look_s, _LONGEST_LOOK_S)

    def _is_delivered(self) -> bool:
        if not self.fds or _read_off(self.fileno()):  # or nothing comes that could be answered
            return True
        return undelivered_bytes(self.fileno(), local=self._local) <= _END_BYTES


def _read_off(fd: int) -> bool:
    """Read what is left, else close(2) sends a reset that overtakes what we wrote.

    RFC 1122, 4.2.2.13.

    Returns:
        Whether nothing else will come.
    """
    view = socket.socket(fileno=fd)
    try:
        for _ in range(64):
            if not view.recv(16 * 1024, socket.MSG_DONTWAIT):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        view.detach()
    return False
