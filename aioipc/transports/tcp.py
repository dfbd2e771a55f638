"""``tcp:`` stream sockets over the network: tcp(7). There is no identity, so loopback only."""

from __future__ import annotations

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.kernel.credentials import refuse_allow
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._sockets import SocketAcceptor
from aioipc.transports._tcp import CAPABILITIES, connect_tcp, listen_tcp

__all__ = ["CAPABILITIES", "connect", "listen"]


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Connect to the first of the host's addresses that answers.

    Raises:
        ConnectError: Nobody listens there, or the host has no address.
        ValueError: ``allow`` was given; TCP knows no users.
    """
    refuse_allow(address, allow)
    return await connect_tcp(address, limits)


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Listen on a loopback address; port 0 lets the kernel choose.

    Raises:
        AccessDenied: The address is reachable from other machines, and nothing would
            authenticate them.
        ResourceExhausted: The port is in use.
        ConnectError: The host has no address.
        ValueError: ``allow`` was given.
    """
    refuse_allow(address, allow)
    return await listen_tcp(address, limits, lambda stream: stream)
