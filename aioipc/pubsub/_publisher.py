"""publisher: send messages to whoever subscribes."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import anyio
from anyio.abc import AsyncResource

from aioipc import codecs
from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow, Capability, Codec
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import (
    AccessDenied,
    AddressError,
    ClosedError,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    ResourceExhausted,
    WouldBlock,
)
from aioipc.kernel.credentials import same_user
from aioipc.limits import Limits, check_count
from aioipc.listener import Listener, listen
from aioipc.loop.waiting import Waits, pacer_of
from aioipc.native._operation import called_natively
from aioipc.native._pubsub import Audience, PublisherCore
from aioipc.pubsub._codec import PublisherEnd, Request
from aioipc.pubsub._directory import Directory
from aioipc.pubsub._feed import Feed, SubscriberStatistics
from aioipc.pubsub._retained import Retained
from aioipc.pubsub._stage import Seat, Stage
from aioipc.transports import can_listen, family_of
from aioipc.wire.pubsub import Credit, Open, Ride, Subscribe, Unsubscribe, Welcome, WhenFull
from aioipc.wire.topics import TopicTrie, check_topic

__all__ = ["Publisher", "PublisherStatistics", "publisher"]

log = logging.getLogger("aioipc.pubsub")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublisherStatistics:
    """What a publisher has done since it was opened.

    Attributes:
        published: Messages.
        offered: The same, once for each subscriber that each was for, retained ones included.
        dropped: Those that a subscriber did not keep up with.
        disconnected: Subscribers that did not keep up and wanted to be disconnected.
        waits: How often a publish waited for a subscriber.
        subscribers: Those that are connected.
    """

    published: int
    offered: int
    dropped: int
    disconnected: int
    waits: int
    subscribers: tuple[SubscriberStatistics, ...]


@called_natively
class Publisher(PublisherCore[T], AsyncResource, Generic[T]):
    """Sends messages to whoever subscribes to their topic.

    Made by `aioipc.pubsub.publisher`. Any number of tasks may publish. It is an async context
    manager.
    """

    def __init__(
        self,
        source: Listener[Any] | Channel[Any],
        codec: PublisherEnd[T],
        limits: Limits,
        *,
        retain: int,
        may_block: bool,
        has_ring: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._retained = Retained(retain, limits.max_topics)
        self._directory = Directory()
        super().__init__(
            codec.codec,
            pacer_of(loop),
            self._retained if retain else None,
            self._directory.subjects,
            longest=limits.max_message_bytes,
        )
        self.stage: Stage | None
        self._source = source
        self._has_ring = has_ring
        self._seated: dict[int, Feed] = {}
        self._codec = codec
        self._limits = limits
        self._may_block = may_block
        self._feeds: set[Feed] = set()
        self._news = Waits()
        self._order = asyncio.Lock()  # asyncio's is fair: publishers wait in the order of the calls
        self._closing = asyncio.Lock()
        self._waited = self._disconnected = 0
        self._offered_before = self._dropped_before = 0  # by subscribers that have left
        # Its owner is this object: `aclose` ends it and waits for it.
        self._work = loop.create_task(self._serve())
        self._work.add_done_callback(lambda _: self._news.end())

    @property
    def address(self) -> str:
        """Where it is reached: the port that was chosen, the name that was made up."""
        return self._source.address

    def statistics(self) -> PublisherStatistics:
        """What it has done so far. Works on a closed publisher too."""
        self._settle()
        return PublisherStatistics(
            published=self.published,
            offered=self._offered_before + sum(feed.offered for feed in self._feeds),
            dropped=self._dropped_before + sum(feed.outbox.dropped for feed in self._feeds),
            disconnected=self._disconnected,
            waits=self._waited,
            subscribers=tuple(feed.statistics() for feed in self._feeds),
        )

    # Publishing

    async def ready(self, subscribers: int = 1, *, topic: str | None = None) -> None:
        """Wait until there are so many subscribers.

        Args:
            subscribers: How many.
            topic: Count those only that this topic would be sent to.

        Raises:
            ClosedError: This side closed the publisher.
            PeerCrashed: It has one peer, at an address without listeners, and that is gone.
            ValueError: That is no topic, or no number of subscribers.

        Cancellation:
            Abandons the wait.
        """
        subscribers = check_count("subscribers", subscribers, 0)
        if topic is not None:
            check_topic(topic)
        while self._count(topic) < subscribers:
            self._check_open()
            if self._work.done():
                raise PeerCrashed(f"nobody else can subscribe at {self.address}")
            await self._news.until_end()

    def publish_nowait(self, topic: str, obj: T) -> None:
        """As `publish`, where nobody can wait.

        Subscribers hear of it at the latest at the end of this turn of the loop.

        Raises:
            WouldBlock: A subscriber with ``when_full="block"`` has no room, or another publish
                waits for one. It was sent to nobody.
            Others: As `publish`.
        """
        sent = self._try_straight(topic, obj)
        if sent is True:
            return
        data = sent or self._pack(topic, obj)
        if self.in_line or not self._try_publish(topic, data):
            raise WouldBlock(f"a subscriber to {topic!r} has no room")

    def _publish_otherwise(
        self, topic: str, obj: T, data: bytes | None
    ) -> Coroutine[Any, Any, None] | None:
        data = data or self._pack(topic, obj)
        if self.in_line or not self._try_publish(topic, data):
            return self._publish_in_line(topic, data)
        return None

    def _pack(self, topic: str, obj: T) -> bytes:
        self._check_open()
        subject = self._directory.subject(topic)  # it complains about what is no topic
        self._retained.check(topic)
        return subject.pack(self._codec.encode_object(obj))

    def _try_publish(self, topic: str, data: bytes) -> bool:
        """Send a message to all who want it, unless one of them has to be waited for."""
        if len(data) > self.longest:
            raise FrameTooLarge(len(data), self.longest)
        audience = self._directory.audience(topic)
        self._settle()
        if audience.blocking and not audience.has_room(len(data)):
            return False
        self.published += 1
        self._worked(len(audience.feeds))
        self._retained.keep(topic, data)
        riders = self._put_in_ring(audience, data)
        for feed in audience.feeds:
            if feed not in riders and not feed.offer(topic, data):
                self._dismiss(feed)
        if riders and len(riders) == len(audience.feeds):
            self.aboard = audience
            self.rides_left = min(feed.outbox.rides for feed in riders)
            seats = (feed.seat.longest for feed in riders if feed.seat is not None)
            self.longest_ride = min(self.longest, *seats)
        return True

    def _offer(self, feed: Feed, topic: str, data: bytes) -> None:
        if not feed.offer(topic, data):
            self._dismiss(feed)

    def _dismiss(self, feed: Feed) -> None:
        self._disconnected += 1
        self._leave(feed)

    # By the ring

    def _settle(self) -> None:
        """Tell those aboard how many messages went by the ring, before they are looked at."""
        aboard, self.aboard = self.aboard, None
        if aboard is not None and self.rides:
            for feed in aboard.feeds:
                feed.ride(self.rides)
            self.rides = 0

    def _put_in_ring(self, audience: Audience[Feed], data: bytes) -> set[Feed]:
        """Send a message by the ring to those who keep up; returns them."""
        stage = self.stage
        if stage is None:
            return set()
        riders = {feed for feed in audience.feeds if feed.may_ride(len(data))}
        while riders:
            self.mask = stage.writer.mask(feed.seat.slot for feed in riders if feed.seat)
            slot = stage.put(data, self.mask)
            if slot is None:
                break
            slow = self._seated[slot]  # what would be written over is still to be taken by it
            riders.discard(slow)
            slow.step_off()
        for feed in riders:
            feed.ride()
        return riders

    async def _publish_in_line(self, topic: str, data: bytes) -> None:
        self.in_line += 1
        self._waited += 1
        try:
            async with self._order:
                self._check_open()
                while not self._try_publish(topic, data):
                    await self._news.until_end()
                    self._check_open()
        finally:
            self.in_line -= 1

    def _count(self, topic: str | None) -> int:
        return len(self._feeds) if topic is None else len(self._directory.audience(topic).feeds)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClosedError(f"this side closed the publisher on {self.address}")

    # Subscribers

    def _serve(self) -> Coroutine[Any, Any, None]:
        if isinstance(self._source, Listener):
            return self._source.serve(self._serve_one)
        return self._serve_one(self._source)

    async def _serve_one(self, channel: Channel[Any]) -> None:
        try:
            feed = self._enter(channel, *await self._hear_first(channel))
            try:
                async for request in channel:
                    self._take(feed, request)
            finally:
                self._leave(feed)
                await feed.aclose()
        except IPCError as error:
            if not channel.is_ending(error):
                log.warning("%s: a subscriber was refused: %s", self.address, error)
                channel.abort(error)

    async def _hear_first(self, channel: Channel[Request]) -> tuple[Request, Ride | None]:
        wait_s = self._limits.handshake_s
        try:
            async with asyncio.timeout(wait_s):
                first = await channel.receive()
                if isinstance(first, Ride):
                    return await channel.receive(), first
        except TimeoutError:
            raise HandshakeError(f"no subscription within {wait_s:g} s") from None
        return first, None

    def _enter(self, channel: Channel[Any], wanted: Request, ride: Ride | None) -> Feed:
        if not isinstance(wanted, Open):
            raise ProtocolError(f"a subscriber begins with Open, not {type(wanted).__name__}")
        if wanted.when_full is WhenFull.BLOCK and not self._may_block:
            raise AccessDenied(errno.EACCES, "subscribers may not block this publisher")
        most = self._limits.max_queued_messages
        if wanted.queue > most:
            raise QuotaExceeded(
                errno.EDQUOT, f"a queue of {wanted.queue:,} messages is over the limit of {most:,}"
            )
        # With "latest" one message is under way at a time, which is no use of a ring.
        may_ride = ride is not None and wanted.when_full is not WhenFull.LATEST
        seat = self._invite(channel, ride.longest) if ride is not None and may_ride else None
        feed = Feed(channel, wanted, self._limits, self._news.end, seat)
        self._feeds.add(feed)
        if seat is not None:
            self._seated[seat.slot] = feed
        try:
            channel.send_nowait(Welcome())
            self._subscribe(feed, wanted.patterns)
        except BaseException:
            self._leave(feed)
            raise
        return feed

    def _invite(self, channel: Channel[Any], longest: int) -> Seat | None:
        """Make room in the ring for who can be there: a process of this user, on this machine."""
        peer = channel.peer
        if not self._has_ring or self.is_closed or peer is None or not same_user(peer):
            return None
        try:
            if self.stage is None:
                self.stage = Stage(self._limits.ring_bytes, lambda slot: self._seated[slot].look())
            seat = self.stage.seat(longest)
        except ResourceExhausted as error:  # it goes without
            log.warning("%s: %s", self.address, error)
            return None
        if seat is not None:
            try:
                channel.send_nowait(seat.invitation, fds=seat.fds)
            except BaseException:
                seat.close()
                raise
            seat.invited()
        return seat

    def _take(self, feed: Feed, request: Request) -> None:
        self._settle()
        match request:
            case Credit(count):
                feed.grant(count)
            case Subscribe(patterns):
                self._subscribe(feed, patterns)
            case Unsubscribe(patterns):
                self._unsubscribe(feed, patterns)
            case Open() | Ride():
                raise ProtocolError(f"a subscriber says {type(request).__name__} once")

    def _subscribe(self, feed: Feed, patterns: Sequence[str]) -> None:
        added = set(patterns) - feed.patterns
        count, most = len(feed.patterns) + len(added), self._limits.max_patterns
        if count > most:
            raise QuotaExceeded(
                errno.EDQUOT, f"{count:,} patterns of one subscriber are over the limit of {most:,}"
            )
        late = self._late_for(feed, added)
        if late:
            self._check_waiting(feed)
            feed.step_off()  # what is published next comes behind them
        for topic, data in late:
            feed.outbox.keep(topic, data)
        self._directory.add(feed, added)
        feed.pump()
        self._changed()

    def _check_waiting(self, feed: Feed) -> None:
        """Keep nothing that was retained for who has too much waiting, and asks again and again."""
        waiting, limits = feed.outbox, self._limits
        if len(waiting) >= limits.max_queued_messages or waiting.bytes >= limits.max_queued_bytes:
            raise QuotaExceeded(
                errno.EDQUOT,
                f"a subscriber wants more that was retained, while {len(waiting):,} messages of "
                f"{waiting.bytes:,} bytes wait for it: the limit",
            )

    def _late_for(self, feed: Feed, patterns: set[str]) -> list[tuple[str, bytes]]:
        """The retained messages that these patterns match, and those of the feed did not."""
        wanted: TopicTrie[None] = TopicTrie()
        try:
            for pattern in patterns:
                wanted.add(pattern, None)
        except ValueError as error:
            raise ProtocolError(f"a subscriber sent {error}") from None
        return list(
            self._retained.of(
                lambda topic: bool(wanted.match(topic)) and not self._directory.is_for(feed, topic)
            )
        )

    def _unsubscribe(self, feed: Feed, patterns: Sequence[str]) -> None:
        self._directory.remove(feed, patterns)
        self._changed()

    def _leave(self, feed: Feed) -> None:
        """A subscriber is gone. Idempotent."""
        self._settle()
        if feed in self._feeds:
            self._feeds.remove(feed)
            if feed.seat is not None:
                del self._seated[feed.seat.slot]
                feed.seat.close()
            self._offered_before += feed.offered
            self._dropped_before += feed.outbox.dropped
            self._unsubscribe(feed, tuple(feed.patterns))

    def _changed(self) -> None:
        self._settle()
        self._news.end()

    # The end

    async def aclose(self) -> None:
        """Close the publisher. Idempotent.

        Publishes that wait raise ClosedError. What was published is delivered first, for at most
        ``limits.linger_s`` seconds, and then subscribers see a clean end; one that has not taken
        everything by then sees PeerCrashed. Who closes it meanwhile waits for that too.

        Cancellation:
            Closes at once, abruptly.
        """
        try:
            async with self._closing:  # another one that closes it waits for what this one delivers
                if not self.is_closed:
                    self.is_closed = True
                    await self._deliver()
        finally:
            for feed in self._feeds:
                feed.channel.abort()  # those that are left when this is cancelled
            self._work.cancel()
            try:
                await asyncio.wait([self._work])
            finally:  # in a cancelled scope nothing can be waited for
                if self.stage is not None:
                    self.stage.close()
                await self._source.aclose()

    async def _deliver(self) -> None:
        """Take no more subscribers and no more messages, and send what there is."""
        self._settle()
        self._news.end()
        if self.stage is not None:
            self.stage.publish()
        if isinstance(self._source, Listener):
            await self._source.aclose()
        async with anyio.create_task_group() as tasks:
            for feed in self._feeds:
                tasks.start_soon(self._finish, feed)

    async def _finish(self, feed: Feed) -> None:
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await feed.finish()
        except TimeoutError:
            feed.channel.abort()
        await feed.channel.aclose()


@overload
def publisher(
    address: str | Address,
    *,
    codec: Codec[T],
    retain: int = 0,
    may_block: bool = True,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Publisher[T]]: ...
@overload
def publisher(
    address: str | Address,
    *,
    codec: str = "msgpack",
    retain: int = 0,
    may_block: bool = True,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Publisher[Any]]: ...
def publisher(
    address: str | Address,
    *,
    codec: str | Codec[Any] = "msgpack",
    retain: int = 0,
    may_block: bool = True,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Publisher[Any]]:
    """Publish at an address: ``async with pubsub.publisher("shm:ticks") as publisher``.

    Args:
        address: Where subscribers connect to; see docs/addresses.md. It has to carry messages
            both ways. At an address without listeners (``stdio:``, ``fd:``) there is one.
        codec: As for `aioipc.connect`; subscribers need the same.
        retain: How many messages of each topic late subscribers still get.
        may_block: Whether a subscriber may choose ``when_full="block"``, and so stop the publisher.
        limits: Sizes and deadlines, how many may subscribe, and to how much.
        polling: As for `aioipc.connect`.
        allow: As for `aioipc.listen`.

    Raises:
        AddressError: The address is wrong, or one way.
        ValueError: An option is out of range.
        Others: As `aioipc.listen`.

    Cancellation:
        Undoes: nothing stays open.
    """
    retain = check_count("retain", retain, 0)
    where = Address.parse(address)
    known = check_limits(limits)
    check_allow(allow)
    end = PublisherEnd(codecs.get(codec))
    way: Callable[..., Opening[Any]] = listen if can_listen(where) else connect
    able: Capability = family_of(where, able_to=way.__name__).CAPABILITIES
    if Capability.DUPLEX not in able:
        raise AddressError(f"address '{where}': it is one way, and subscribers have to be heard")

    async def open_() -> Publisher[Any]:
        source = await way(where, codec=end, limits=known, polling=polling, allow=allow)
        return Publisher(
            source,
            end,
            known,
            retain=retain,
            may_block=may_block,
            has_ring=where.scheme == "shm",
        )

    return Opening(open_)
