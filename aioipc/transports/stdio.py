"""``stdio:`` standard input and output of this process: stdio(3)."""

from __future__ import annotations

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.kernel.descriptors import redirect_to_stderr, replace_with_null
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._adopted import adopted_stream
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._stream import STREAM

__all__ = ["CAPABILITIES", "connect", "listen"]

CAPABILITIES = STREAM


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Talk over what descriptors 0 and 1 were.

    From then on standard input is empty, and what is printed goes to standard error.

    Raises:
        AddressError: One of them is not open.
    """
    stream = adopted_stream(address, (0, 1), allow=allow, keep=True)
    # What else this process prints must not mix with messages, and the peer sees the end of
    # the stream only if nobody else holds it.
    replace_with_null(0)
    redirect_to_stderr(1)
    return stream


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """The same connection, as the only one that a listener yields."""
    return SingleAcceptor(await connect(address, limits=limits, allow=allow))
