"""connect and pair: the ways to get one channel."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, overload

from aioipc._opening import ChannelOptions, Opening, check_allow
from aioipc.abc import Allow, Capability, Codec
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.errors import AddressError, ConnectError, IPCError, from_os_error
from aioipc.limits import Limits
from aioipc.transports import family_of
from aioipc.transports._session import Session

__all__ = ["connect", "greet", "pair"]

T = TypeVar("T")


@overload
def connect(
    address: str | Address,
    *,
    codec: Codec[T],
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Channel[T]]: ...
@overload
def connect(
    address: str | Address,
    *,
    codec: str = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Channel[Any]]: ...
def connect(
    address: str | Address,
    *,
    codec: str | Codec[Any] = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Channel[Any]]:
    """Open a channel to whoever serves an address: await it, or enter it with ``async with``.

    It returns as soon as the transport is connected. This side's HELLO travels with the first
    message; what the peer thinks of it shows at the first receive.

    Args:
        address: Where to; see docs/addresses.md.
        codec: How objects become messages: "msgpack", "json", "text", "raw", "pickle", or an
            object such as ``aioipc.codecs.typed(Event)``.
        framing: "length" between aioipc peers, or "lines", "headers", "none" to talk to
            programs that know nothing of aioipc.
        limits: Sizes and deadlines.
        polling: "adaptive", "block" or "busy"; see docs/architecture.md.
        allow: Decides by the server's credentials whether to talk to it. By default servers
            of the same user and of root are trusted.

    Raises:
        AddressError: The address is wrong, or cannot be connected to.
        ConnectError: Nobody listens there, or not within ``limits.connect_s``.
        AccessDenied: The path or the server's user is not trusted.
        ValueError: An option is unknown.
        TypeError: An argument is of a wrong type.

    Cancellation:
        Undoes: nothing stays open.
    """
    where = Address.parse(address)
    family = family_of(where, able_to="connect")
    options = ChannelOptions.check(codec, framing, limits, polling)
    options.check_address(where, family.CAPABILITIES)
    check_allow(allow)

    async def open_() -> Channel[Any]:
        # Connecting may need no wait. Who opens many channels in a row gives others a turn, in
        # which the HELLOs of the earlier ones leave.
        await asyncio.sleep(0)
        transport = await open_transport(family, where, options.limits, allow)
        try:
            channel = options.open_channel(options.open_port(transport))
        except BaseException:
            transport.close()
            raise
        greet(channel)
        return channel

    return Opening(open_)


def pair(
    kind: str = "unix",
    *,
    codec: str | Codec[Any] = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
) -> tuple[Channel[Any], Channel[Any]]:
    """Two connected channels: for two tasks, or one for a child process (`Channel.detach`).

    Args:
        kind: "memory", "pipe", "unix", "unix+seqpacket" or "shm".
        codec: As for `connect`.
        framing: As for `connect`.
        limits: As for `connect`.
        polling: As for `connect`.

    Raises:
        AddressError: There are no pairs of that kind.
        ResourceExhausted: There are no descriptors left.
        ValueError: An option is unknown.
        TypeError: An argument is of a wrong type.
    """
    if not isinstance(kind, str):
        raise TypeError(f"the kind of a pair is a str, not {type(kind).__name__}")
    scheme, _, rest = kind.partition(":")
    where = Address.parse(kind) if rest else Address(scheme, "")
    family = family_of(where, able_to="pair")
    if rest:
        raise AddressError(f"pair({kind!r}): a pair has no name; say pair({scheme!r})")
    options = ChannelOptions.check(codec, framing, limits, polling)
    options.check_address(where, family.CAPABILITIES)
    try:
        left, right = family.pair(limits=options.limits)
    except OSError as error:
        if isinstance(error, IPCError):
            raise
        raise from_os_error(error, f"pair({kind!r})") from error
    ports = options.open_port(left), options.open_port(right)
    if isinstance(ports[0], Session) and isinstance(ports[1], Session):
        ports[0].knows(ports[1])
        ports[1].knows(ports[0])
    return options.open_channel(ports[0]), options.open_channel(ports[1])


async def open_transport(family: Any, address: Address, limits: Limits, allow: Allow | None) -> Any:
    """Connect within the deadline of ``limits``, with the exceptions of `aioipc.errors`."""
    try:
        async with asyncio.timeout(limits.connect_s):
            return await family.connect(address, limits=limits, allow=allow)
    except TimeoutError:
        # Nobody at all would have been noticed at once on this machine.
        hint = "; a server is there, but takes nobody in" if _is_local(family) else ""
        raise ConnectError(
            f"connect to {address}: no answer within {limits.connect_s:g} s{hint}"
        ) from None
    except OSError as error:
        if isinstance(error, IPCError):
            raise
        raise from_os_error(error, f"connect to {address}", connecting=True) from error


def _is_local(family: Any) -> bool:
    return Capability.CREDENTIALS in family.CAPABILITIES


def greet(channel: Channel[Any]) -> None:
    """Let the HELLO leave at the end of this turn, in case nothing is sent with it."""
    port = channel.port
    if isinstance(port, Session):
        port.hear_hello()
        if port.writes:
            asyncio.get_running_loop().call_soon(port.flush_quietly)
