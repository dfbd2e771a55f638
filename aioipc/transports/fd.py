"""``fd:`` descriptors that this process inherited: one for both ways, or one for each."""

from __future__ import annotations

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._adopted import adopted_stream
from aioipc.transports._single import SingleAcceptor
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


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """The same connection, as the only one that a listener yields."""
    return SingleAcceptor(await connect(address, limits=limits, allow=allow))
