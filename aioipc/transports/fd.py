"""``fd:`` descriptors that this process inherited: one for both ways, or one for each."""

from __future__ import annotations

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._activated import activated
from aioipc.transports._adopted import adopted_stream
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._sockets import SocketAcceptor
from aioipc.transports._stream import STREAM

__all__ = ["CAPABILITIES", "connect", "listen"]

CAPABILITIES = STREAM | Capability.CREDENTIALS


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Take the descriptors over; they are closed with the stream.

    Raises:
        AddressError: They are not open, or cannot be read or written.
        AccessDenied: ``allow`` refuses the peer of the socket.
    """
    return adopted_stream(address, address.fds, allow=allow)


async def listen(
    address: Address, *, limits: Limits, allow: Allow | None
) -> SingleAcceptor | SocketAcceptor:
    """Accept on a listening socket; else the same connection, as the only one that is yielded.

    Raises:
        AddressError: It is not open, or cannot be served.
        AccessDenied: Other machines can reach it; or ``allow`` refuses the only peer.
    """
    if len(address.fds) == 1 and (acceptor := activated(address, limits)) is not None:
        return acceptor
    return SingleAcceptor(await connect(address, limits=limits, allow=allow))
