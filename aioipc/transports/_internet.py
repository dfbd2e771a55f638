"""What the transports over the Internet protocols share: names and loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket

from aioipc.address import Address
from aioipc.errors import AccessDenied, ConnectError

__all__ = ["Resolved", "Target", "check_loopback", "in_numbers", "is_loopback", "resolve"]

Target = tuple[str, int] | tuple[str, int, int, int]
"""Where connect(2) and bind(2) go: ip(7) and ipv6(7)."""

Resolved = tuple[socket.AddressFamily, Target]


async def resolve(address: Address, kind: int = socket.SOCK_STREAM) -> list[Resolved]:
    """Look the host of an address up, in the order in which to try: getaddrinfo(3).

    A name is looked up in a thread of the loop's, an address in numbers needs none.

    Raises:
        ConnectError: The host has no address.
    """
    assert address.host is not None
    with contextlib.suppress(OSError):
        return in_numbers(address, kind)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=kind)
    except OSError as error:
        raise ConnectError(f"{address}: {address.host!r} has no address: {error}") from error
    return [(family, target) for family, _, _, _, target in found]  # type: ignore[misc]


def in_numbers(address: Address, kind: int, family: int = socket.AF_UNSPEC) -> list[Resolved]:
    """What an address says by itself.

    Raises:
        OSError: It has a name, or is of another family.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(address.host, address.port, family, kind, flags=flags)
    return [(family, target) for family, _, _, _, target in found]  # type: ignore[misc]


def is_loopback(host: str) -> bool:
    """Whether an IP address is reachable from this machine only."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def check_loopback(address: Address, target: Target) -> None:
    """Refuse to be reachable from other machines where nothing authenticates them.

    Raises:
        AccessDenied: ``target`` is not a loopback address.
    """
    if not is_loopback(target[0]):
        raise AccessDenied(
            errno.EACCES,
            f"listen on {address}: {address.scheme}: authenticates nobody, so it binds loopback "
            f"only, and {target[0]} is not",
        )
