"""``udp:`` datagrams over the Internet protocols: udp(7).

They may be lost, doubled, reordered and forged. What the network says about one of them is
counted, and ends nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from aioipc.abc import Allow, Capability, Sender
from aioipc.address import Address
from aioipc.errors import AddressError, from_os_error
from aioipc.kernel.credentials import refuse_allow
from aioipc.kernel.owned import OwnedSocket
from aioipc.limits import Limits
from aioipc.transports._datagrams import DatagramTransport
from aioipc.transports._internet import Target, check_loopback, in_numbers, resolve
from aioipc.transports._single import SingleAcceptor

__all__ = ["CAPABILITIES", "UdpDatagrams", "connect", "listen"]

CAPABILITIES = Capability.MESSAGE | Capability.REMOTE

_MOST_BYTES = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}
"""What a packet of 65,535 bytes has room for: RFC 768, RFC 8200."""
_MOST_RECEIVED_BYTES = 65_535
_ABOUT_ONE_DATAGRAM = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENONET,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
    }
)
"""What ICMP says, as the kernel hands it on: icmp(7), ip(7) under "Error handling"."""


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> UdpDatagrams:
    """Send to the first of the host's addresses that there is a way to, and receive its answers.

    Raises:
        ConnectError: The host has no address, or there is no way to it.
        ValueError: ``allow`` was given; UDP knows no users.
    """
    refuse_allow(address, allow)
    failure: OSError | None = None
    for family, target in await resolve(address, socket.SOCK_DGRAM):
        sock = OwnedSocket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(target)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return UdpDatagrams(sock, str(address), limits)
    assert failure is not None, "getaddrinfo(3) returns at least one address"
    raise from_os_error(failure, f"connect to {address}", connecting=True)


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """Receive from everybody who sends there, in loopback; port 0 lets the kernel choose.

    Raises:
        AccessDenied: The address is reachable from other machines.
        ResourceExhausted: The port is in use.
        ConnectError: The host has no address.
        ValueError: ``allow`` was given.
    """
    refuse_allow(address, allow)
    family, target = (await resolve(address, socket.SOCK_DGRAM))[0]
    check_loopback(address, target)
    sock = OwnedSocket(family, socket.SOCK_DGRAM)
    try:
        sock.bind(target)
    except OSError as error:
        sock.close()
        raise from_os_error(error, f"listen on {address}", connecting=True) from error
    text = str(address.with_port(sock.getsockname()[1]))
    return SingleAcceptor(UdpDatagrams(sock, text, limits, is_bound=True))


class UdpDatagrams(DatagramTransport):
    """Datagrams over UDP.

    Args:
        sock: The socket.
        address: What it was opened as.
        limits: How long messages may be.
        options: Further arguments of `DatagramTransport`.
    """

    def __init__(self, sock: socket.socket, address: str, limits: Limits, **options: Any) -> None:
        duplex = not options.get("is_bound") and options.get("target") is None
        super().__init__(
            sock,
            address,
            capabilities=CAPABILITIES | Capability.DUPLEX if duplex else CAPABILITIES,
            max_send_bytes=min(limits.max_message_bytes, _MOST_BYTES[sock.family]),
            max_receive_bytes=min(limits.max_message_bytes, _MOST_RECEIVED_BYTES),
            close=sock.close,
            **options,
        )
        self._limits = limits

    def sent_by(self, where: Any, ancillary: list[tuple[int, int, bytes]]) -> Sender | None:
        return Sender(_text(where))

    def explain(self, error: OSError) -> BaseException | None:
        if error.errno in _ABOUT_ONE_DATAGRAM:
            return None
        return from_os_error(error, f"send or receive over {self.address}")

    def towards(self, address: str) -> UdpDatagrams:
        """A transport that sends from this socket to another one.

        Raises:
            AddressError: The address is not one of numbers, or this is not a socket for many.
        """
        where = Address.parse(address)
        if where.scheme != "udp" or not self._is_bound:
            raise AddressError(f"{self.address} cannot send to {address}")
        sock = OwnedSocket(self.socket.family, socket.SOCK_DGRAM, os.dup(self.socket.fileno()))
        try:
            target = _numeric(where, sock.family)
        except BaseException:
            sock.close()
            raise
        return UdpDatagrams(sock, str(where), self._limits, target=target)


def _numeric(address: Address, family: int) -> Target:
    try:
        found = in_numbers(address, socket.SOCK_DGRAM, family)
    except OSError as error:
        raise AddressError(f"{address} has no numbers that this socket can send to") from error
    return found[0][1]


def _text(where: Target) -> str:
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"udp://{host}:{where[1]}"
