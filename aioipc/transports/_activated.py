"""Listening sockets that somebody else has opened and this process inherited."""

from __future__ import annotations

import errno
import socket

from aioipc.address import Address
from aioipc.errors import AddressError, from_os_error
from aioipc.kernel.descriptors import is_listening
from aioipc.kernel.owned import OwnedSocket
from aioipc.limits import Limits
from aioipc.transports._meeting import accept_unix
from aioipc.transports._sockets import SocketAcceptor
from aioipc.transports._tcp import accept_tcp

__all__ = ["activated"]


def activated(address: Address, limits: Limits) -> SocketAcceptor | None:
    """Accept on an inherited socket, and take it over; None if it is no listening one.

    Raises:
        AddressError: Such sockets cannot be served.
        AccessDenied: Other machines can reach it.
    """
    fd = address.fds[0]
    try:
        if not is_listening(fd):
            return None
        with socket.socket(fileno=fd) as view:
            family, kind = view.family, view.type
            view.detach()
    except OSError as error:
        if error.errno == errno.EBADF:  # as who takes it for a connection will say
            return None
        raise from_os_error(error, f"listen on {address}", connecting=True) from error
    if kind != socket.SOCK_STREAM or family not in _FAMILIES:
        raise AddressError(
            f"{address}: descriptor {fd} listens for {kind.name} of {family.name}; "
            "a Unix or TCP socket of streams can be served"
        )
    sock = OwnedSocket(family, kind, fd)
    try:
        return accept_unix(sock) if family == socket.AF_UNIX else accept_tcp(sock, limits)
    except BaseException:
        sock.detach()
        raise


_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
