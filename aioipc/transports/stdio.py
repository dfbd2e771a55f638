"""``stdio:`` standard input and output of this process: stdio(3)."""

from __future__ import annotations

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._adopted import adopted_stream
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._stream import STREAM

__all__ = ["CAPABILITIES", "connect", "listen"]

CAPABILITIES = STREAM


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Talk over descriptors 0 and 1, which stay open and are as before at the end.

    Raises:
        AddressError: One of them is not open.
    """
    return adopted_stream(address, (0, 1), allow=allow, keep=True)


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """The same connection, as the only one that a listener yields."""
    return SingleAcceptor(await connect(address, limits=limits, allow=allow))
