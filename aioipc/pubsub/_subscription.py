"""subscriber: receive what a publisher sends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from anyio.abc import AsyncResource

from aioipc import codecs
from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow, Codec, PeerCredentials
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import (
    ConnectError,
    DecodeError,
    IPCError,
    ProtocolError,
    QuotaExceeded,
    WouldBlock,
    name_address,
)
from aioipc.limits import Limits, check_count
from aioipc.native._operation import called_natively
from aioipc.native._pubsub import SubscriptionCore
from aioipc.pubsub._codec import Aside, SubscriberEnd
from aioipc.pubsub._items import Gap, Message
from aioipc.pubsub._place import FDS, Place
from aioipc.wire.pubsub import (
    Away,
    Credit,
    Look,
    Open,
    Ride,
    Ring,
    Subscribe,
    Unsubscribe,
    Welcome,
    WhenFull,
)
from aioipc.wire.topics import check_pattern

__all__ = ["Gap", "Message", "Subscription", "SubscriptionStatistics", "subscriber"]

T = TypeVar("T")

_WINDOW: Final = 256
"""The most messages under way to one subscriber."""
_LOOKS: Final = 16
"""So often a receive looks for a message before others have a turn."""


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """What a subscription has seen since it was opened.

    Attributes:
        received: Messages, those that could not be decoded included.
        missed: Messages that the gaps stood for.
        gaps: Gaps.
    """

    received: int
    missed: int
    gaps: int


@called_natively
class Subscription(SubscriptionCore[T], AsyncResource, Generic[T]):
    """What comes from one publisher: an async iterator of `Message` and `Gap`.

    Made by `aioipc.pubsub.subscriber`. One task at a time receives. The iteration ends when the
    publisher finishes and raises PeerCrashed when it dies. It is an async context manager.
    """

    def __init__(
        self,
        channel: Channel[Any],
        end: SubscriberEnd[T],
        patterns: Sequence[str],
        *,
        limits: Limits,
        window: int,
        place: Place | None,
    ) -> None:
        super().__init__(channel, end.unpacker, max(1, window // 2))
        self._channel = channel
        self._end = end
        self._place = place
        self.reader = None if place is None else place.reader
        self._patterns = set(patterns)
        self._limits = limits
        self._missed = self._gaps = 0

    @property
    def address(self) -> str:
        """Where the publisher is."""
        return self._channel.address

    @property
    def peer(self) -> PeerCredentials | None:
        """Who publishes, where the kernel tells."""
        return self._channel.peer

    @property
    def patterns(self) -> frozenset[str]:
        """What is subscribed to."""
        return frozenset(self._patterns)

    def statistics(self) -> SubscriptionStatistics:
        """What it has seen so far. Works on a closed subscription too."""
        return SubscriptionStatistics(self.received, self._missed, self._gaps)

    # Receiving

    async def _receive_in_turn(self) -> Message[T] | Gap:
        if self.is_in_debt:
            await self._grant()
        looks = 0
        while (item := self.take_from_ring() or await self._hear()) is None:
            looks += 1
            if looks % _LOOKS == 0:  # there is always more in the ring, and it is for others
                await asyncio.sleep(0)
        return item

    async def _hear(self) -> Message[T] | Gap | None:
        """Wait for the channel; None if it says to look at the ring."""
        place = self._place
        if place is not None and not place.arm():
            return None
        try:
            if self.owed and place is not None and not place.is_on:
                item = await self._receive_off_ring()
            else:
                item = await self._channel.receive()
        except DecodeError:
            if place is not None and place.is_known():
                return None
            self.count_message()
            raise
        except IPCError as error:
            last = self.take_from_ring() if self._channel.is_ending(error) else None
            if last is None:
                raise
            return last
        return self._judge(item)

    def _judge(self, item: Message[T] | Gap | Aside) -> Message[T] | Gap | None:
        if isinstance(item, Message):
            if self._place is not None and self._place.is_known():
                return None
            self.count_message()
        elif isinstance(item, Gap):
            self._gaps += 1
            self._missed += item.count
        else:
            self._heed(item)
            return None
        return item

    def _unpack(self, data: bytes) -> Message[T]:
        return self._end.decode_message(data)

    async def _receive_off_ring(self) -> Message[T] | Gap | Aside:
        with contextlib.suppress(WouldBlock):
            return self._channel.receive_nowait()  # type: ignore[no-any-return]
        await self._grant()  # with nothing under way messages may come by the ring again
        return await self._channel.receive()  # type: ignore[no-any-return]

    def _heed(self, aside: Aside) -> None:
        if self._place is not None and isinstance(aside, Away):
            self._place.step_off(aside)
        elif self._place is None or not isinstance(aside, Look):
            raise ProtocolError(
                f"{self._channel.address}: a publisher does not say {type(aside).__name__} here"
            )

    async def _grant(self) -> None:
        """Let the publisher send as many again as were taken."""
        count = self.owed
        sending = self._channel.send(Credit(count))
        try:
            await sending
        except IPCError:  # nobody listens any more; a receive says so, after what is there
            self.owed = 0
        finally:
            if sending.is_accepted:
                self.owed -= count

    # What is wanted

    async def subscribe(self, *patterns: str) -> None:
        """Match other patterns as well.

        It takes effect when the publisher has read it. ``publisher.ready(topic=...)`` tells.

        Raises:
            ValueError: That is no pattern.
            QuotaExceeded: They are too many, or too long.
            PeerCrashed: The publisher is gone.
            ClosedError: This side closed the subscription.

        Cancellation:
            Either all patterns are added or none is.
        """
        _checked([*self._patterns, *patterns], self._limits)
        await self._send(Subscribe(list(patterns)), self._patterns.update)

    async def unsubscribe(self, *patterns: str) -> None:
        """Match these patterns no longer; what is under way still comes.

        Raises:
            PeerCrashed: The publisher is gone.
            ClosedError: This side closed the subscription.
            ValueError: That is no pattern.

        Cancellation:
            Either all patterns are removed or none is.
        """
        for pattern in patterns:
            check_pattern(pattern)
        await self._send(Unsubscribe(list(patterns)), self._patterns.difference_update)

    async def _send(
        self, request: Subscribe | Unsubscribe, change: Callable[[list[str]], None]
    ) -> None:
        sending = self._channel.send(request)
        try:
            await sending
        finally:
            if sending.is_accepted:
                change(request.patterns)

    # The end

    async def aclose(self) -> None:
        """End the subscription. Idempotent.

        Cancellation:
            Closes at once, abruptly.
        """
        if self._place is not None:
            self._place.close()
            self.reader = None
        await self._channel.aclose()


@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: Codec[T],
    when_full: str = "drop_oldest",
    queue: int = 1000,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Subscription[T]]: ...
@overload
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: str = "msgpack",
    when_full: str = "drop_oldest",
    queue: int = 1000,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Subscription[Any]]: ...
def subscriber(
    address: str | Address,
    *patterns: str,
    codec: str | Codec[Any] = "msgpack",
    when_full: str = "drop_oldest",
    queue: int = 1000,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Subscription[Any]]:
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
    wanted = _checked(patterns, known)
    window = 1 if policy is WhenFull.LATEST else min(queue, _WINDOW)
    by_ring = Address.parse(address).scheme == "shm" and known.max_fds >= FDS
    ride = Ride(known.max_message_bytes) if by_ring else None
    request = Open(sorted(wanted), policy, queue, window)
    end = SubscriberEnd(codecs.get(codec), known)

    async def open_() -> Subscription[Any]:
        async with contextlib.AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                connect(address, codec=end, limits=known, polling=polling, allow=allow)
            )
            place = await _introduce(channel, ride, request, known)
            stack.pop_all()
        return Subscription(
            channel, end, request.patterns, limits=known, window=window, place=place
        )

    return Opening(open_)


def _checked(patterns: Sequence[str], limits: Limits) -> set[str]:
    for pattern in patterns:
        check_pattern(pattern)
    wanted = set(patterns)
    if len(wanted) > limits.max_patterns:
        raise QuotaExceeded(
            errno.EDQUOT,
            f"{len(wanted):,} patterns of one subscriber are over the limit of "
            f"{limits.max_patterns:,}",
        )
    return wanted


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
