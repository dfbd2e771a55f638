"""``vsock:`` sockets between a virtual machine and its host: vsock(7).

The hypervisor vouches for the number (cid) of a machine, and nobody for a user in it.
"""

from __future__ import annotations

import socket

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.errors import ConnectError, from_os_error
from aioipc.kernel.credentials import refuse_allow
from aioipc.kernel.owned import OwnedSocket
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._sockets import Accepted, SocketAcceptor, connect_socket
from aioipc.transports._stream import STREAM, socket_stream

__all__ = ["CAPABILITIES", "connect", "listen"]

CAPABILITIES = STREAM | Capability.REMOTE


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Connect to a machine: 1 is this one, 2 the host.

    Raises:
        ConnectError: The kernel has no such sockets, or nobody listens there.
        ValueError: ``allow`` was given; the sockets know machines, not users.
    """
    refuse_allow(address, allow)
    sock = _socket(address)
    try:
        await connect_socket(sock, (address.cid, address.port), str(address))
    except BaseException:
        sock.close()
        raise
    return _stream(sock, str(address))


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Listen on the number of this machine, 1 for itself alone; port 0 lets the kernel choose.

    Raises:
        ConnectError: The kernel has no such sockets, or this machine not that number.
        ResourceExhausted: The port is in use.
        ValueError: ``allow`` was given.
    """
    refuse_allow(address, allow)
    sock = _socket(address)
    try:
        sock.bind((address.cid, address.port or socket.VMADDR_PORT_ANY))
        sock.listen(socket.SOMAXCONN)
    except OSError as error:
        sock.close()
        raise from_os_error(error, f"listen on {address}", connecting=True) from error
    text = str(address.with_port(sock.getsockname()[1]))

    def accepted(connection: socket.socket) -> Accepted:
        return _stream(connection, text)

    return SocketAcceptor(sock, text, accepted, sock.close)


def _socket(address: Address) -> OwnedSocket:
    try:
        return OwnedSocket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(f"{address}: this kernel has no vsock(7) sockets: {error}") from error


def _stream(sock: socket.socket, address: str) -> FdStream:
    return socket_stream(sock, address=address, capabilities=CAPABILITIES)
