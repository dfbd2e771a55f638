"""Transports over the connections of other libraries."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

from aioipc.abc import ByteTransport
from aioipc.address import Address
from aioipc.errors import AddressError
from aioipc.native._fd import FdStream
from aioipc.transports._adopted import adopted_stream
from aioipc.transports._loop_stream import LoopStream

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from typing_extensions import TypeIs

    Foreign = (
        socket.socket
        | int
        | tuple[int, int]
        | Connection[Any, Any]
        | tuple[asyncio.StreamReader, asyncio.StreamWriter]
    )
else:
    Foreign = object

__all__ = ["Foreign", "foreign_transport", "is_connection"]


def foreign_transport(obj: Foreign, *, only_bytes: bool = False) -> ByteTransport:
    """Take a connection over.

    Args:
        obj: What `aioipc.wrap` takes.
        only_bytes: Whether sockets of packets are refused.

    Raises:
        TypeError: It is nothing that can be taken over.
        AddressError: It is not open, or not connected. It is as it was.
    """
    match obj:
        case ssl.SSLSocket():
            raise TypeError("an SSLSocket cannot be taken over; connect to tls: instead")
        case socket.socket():
            transport = _of_socket(obj, only_bytes)
            obj.detach()
        case bool():
            raise TypeError(_CANNOT.format(obj))
        case int():
            transport = _of_fds((obj,), only_bytes)
        case (int(), int()):
            transport = _of_fds(obj, only_bytes)
        case (asyncio.StreamReader() as reader, asyncio.StreamWriter() as writer):
            return LoopStream(reader, writer)
        case _ if is_connection(obj):
            return _of_connection(obj)
        case _:
            raise TypeError(_CANNOT.format(obj))
    return transport


_CANNOT = (
    "wrap takes a socket, a descriptor or two, a multiprocessing Connection, "
    "or a StreamReader and its StreamWriter, not {!r}"
)


def is_connection(obj: object) -> TypeIs[Connection[Any, Any]]:
    """Whether it is one of multiprocessing, which nobody has who has not imported that."""
    module = sys.modules.get("multiprocessing.connection")
    return module is not None and isinstance(obj, module.Connection)


def _of_socket(sock: socket.socket, only_bytes: bool) -> FdStream:
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EBADF, errno.EINVAL):
            raise
        raise AddressError(f"{sock!r} is not connected") from None
    return _of_fds((sock.fileno(),), only_bytes)


def _of_fds(fds: tuple[int, ...], only_bytes: bool) -> FdStream:
    address = Address.parse(f"fd:{','.join(map(str, fds))}")
    return adopted_stream(address, fds, allow=None, only_bytes=only_bytes)


def _of_connection(connection: Connection[Any, Any]) -> FdStream:
    """The Connection closes its own number, so that is not taken from it."""
    try:
        copy = os.dup(connection.fileno())
    except OSError as error:  # closed: "handle is closed" has no number
        raise AddressError(f"{connection!r}: {error}") from None
    try:
        stream = _of_fds((copy,), only_bytes=False)
    except BaseException:
        os.close(copy)
        raise
    connection.close()
    return stream
