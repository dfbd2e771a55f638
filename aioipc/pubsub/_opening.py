"""subscriber: a subscription by the address of its publisher."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any, Final, Literal, TypeVar, overload

from aioipc import codecs
from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow, Codec
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import ConnectError, ProtocolError, name_address
from aioipc.limits import Limits, check_count
from aioipc.pubsub._codec import SubscriberEnd
from aioipc.pubsub._place import FDS, Place
from aioipc.pubsub._reconnecting import ReconnectingSubscription
from aioipc.pubsub._subscription import Subscription, check_patterns
from aioipc.wire.pubsub import Open, Ride, Ring, Welcome, WhenFull

__all__ = ["subscriber"]

T = TypeVar("T")

_WINDOW: Final = 256
"""The most messages under way to one subscriber."""


@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: Codec[T],
    when_full: str = "drop_oldest",
    queue: int = 1000,
    reconnect: Literal[False] = False,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Subscription[T]]: ...
@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: Codec[T],
    when_full: str = "drop_oldest",
    queue: int = 1000,
    reconnect: Literal[True],
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[ReconnectingSubscription[T]]: ...
@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: str = "msgpack",
    when_full: str = "drop_oldest",
    queue: int = 1000,
    reconnect: Literal[False] = False,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Subscription[Any]]: ...
@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: str = "msgpack",
    when_full: str = "drop_oldest",
    queue: int = 1000,
    reconnect: Literal[True],
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[ReconnectingSubscription[Any]]: ...
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: str | Codec[Any] = "msgpack",
    when_full: str = "drop_oldest",
    queue: int = 1000,
    reconnect: bool = False,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Any]:
    """Subscribe to a publisher: ``async with pubsub.subscriber("shm:ticks", "eur.*") as ticks``.

    Once it is open, everything comes that is published from then on and matches a pattern.

    Args:
        address: Where it publishes.
        patterns: Topics, in which ``*`` stands for one level and ``>`` at the end for the rest.
        codec: As for `aioipc.connect`; the publisher's.
        when_full: What happens when this side does not keep up. "drop_oldest": the messages that
            wait for longest are lost. "drop_newest": new messages are. "latest": of each topic
            only the newest waits. "block": the publisher waits. "disconnect": it ends.
        queue: How many messages may wait at the publisher. As many again are on their way, at most
            256, and with "latest" one.
        reconnect: Whether to subscribe again when the publisher is gone, with growing pauses
            (`ReconnectingSubscription`); an `Interruption` stands where that was. It needs the
            extra ``reconnect``.
        limits: Sizes and deadlines.
        polling: As for `aioipc.connect`.
        allow: As for `aioipc.connect`.

    Raises:
        ValueError: An option is unknown, or that is no pattern.
        QuotaExceeded: The patterns are too many or too long; or more than the publisher allows.
        AccessDenied: The publisher lets nobody block it, or does not trust this user.
        ConnectError: Nobody publishes there, or does not answer within ``limits.handshake_s``.
        Others: As `aioipc.connect`.

    Cancellation:
        Undoes: nothing stays open.
    """
    known = check_limits(limits)
    check_allow(allow)
    if when_full not in list(WhenFull):
        raise ValueError(f"when_full must be one of {', '.join(WhenFull)}, not {when_full!r}")
    queue = check_count("queue", queue, 1, known.max_queued_messages)
    policy = WhenFull(when_full)
    wanted = check_patterns(patterns, known)
    window = 1 if policy is WhenFull.LATEST else min(queue, _WINDOW)
    by_ring = Address.parse(address).scheme == "shm" and known.max_fds >= FDS
    ride = Ride(known.max_message_bytes) if by_ring else None
    end = SubscriberEnd(codecs.get(codec), known)

    async def open_with(patterns: Collection[str]) -> Subscription[Any]:
        request = Open(sorted(patterns), policy, queue, window)
        async with contextlib.AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                connect(address, codec=end, limits=known, polling=polling, allow=allow)
            )
            place = await _introduce(channel, ride, request, known)
            stack.pop_all()
        return Subscription(
            channel, end, request.patterns, limits=known, window=window, place=place
        )

    async def open_() -> Subscription[Any] | ReconnectingSubscription[Any]:
        first = await open_with(wanted)
        if not reconnect:
            return first
        try:
            return ReconnectingSubscription(open_with, first, known)
        except BaseException:
            await first.aclose()
            raise

    return Opening(open_)


async def _introduce(
    channel: Channel[Any], ride: Ride | None, request: Open, limits: Limits
) -> Place | None:
    """Subscribe, and wait until the publisher knows. Returns the place in its ring, if any."""
    await channel.send_many([request] if ride is None else [ride, request])
    place = None
    try:
        async with asyncio.timeout(limits.handshake_s):
            answer = await channel.receive()
            if isinstance(answer, Ring):
                place = Place(answer, channel.take_fds())
                answer = await channel.receive()
    except ProtocolError as error:
        name_address(error, channel.address)
        raise
    except TimeoutError:
        raise ConnectError(
            f"subscribe at {channel.address}: no answer within {limits.handshake_s:g} s"
        ) from None
    if not isinstance(answer, Welcome):
        raise ProtocolError(
            f"{channel.address}: a publisher begins with Welcome, not {type(answer).__name__}"
        )
    return place
