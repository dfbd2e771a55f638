"""publisher: send messages to whoever subscribes."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

import anyio
from anyio.abc import AsyncResource

from aioipc import codecs
from aioipc._opening import Opening
from aioipc.abc import Allow, Capability, Codec
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import (
    AccessDenied,
    AddressError,
    ClosedError,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    WouldBlock,
)
from aioipc.limits import Limits
from aioipc.listener import Listener, listen
from aioipc.loop.waiting import Waits
from aioipc.pubsub._codec import PublisherEnd, Request
from aioipc.pubsub._feed import Feed, SubscriberStatistics
from aioipc.pubsub._retained import Retained
from aioipc.transports import can_listen, family_of
from aioipc.wire.hello import HandshakeTimeout
from aioipc.wire.pubsub import Credit, Open, Subscribe, Unsubscribe, Welcome, WhenFull
from aioipc.wire.topics import TopicTrie, check_topic

__all__ = ["Publisher", "PublisherStatistics", "publisher"]

log = logging.getLogger("aioipc.pubsub")

T = TypeVar("T")

_TURN: Final = 256
"""Messages to send before the loop, which carries answers, gets a turn."""
_KNOWN_TOPICS: Final = 4096
"""Topics whose subscribers are remembered, so that they need no search."""


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


@dataclass(frozen=True, slots=True)
class _Audience:
    """Who wants one topic."""

    feeds: tuple[Feed, ...]
    blocking: tuple[Feed, ...]

    def has_room(self, size: int) -> bool:
        return all(feed.outbox.has_room(size) for feed in self.blocking)


class Publisher(AsyncResource, Generic[T]):
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
    ) -> None:
        self._source = source
        self._codec = codec
        self._limits = limits
        self._may_block = may_block
        self._retained = Retained(retain, limits.max_topics)
        self._trie: TopicTrie[Feed] = TopicTrie()
        self._feeds: set[Feed] = set()
        self._audiences: dict[str, _Audience] = {}
        self._news = Waits()
        self._order = asyncio.Lock()  # asyncio's is fair: publishers wait in the order of the calls
        self._in_line = 0
        self._since_turn = 0
        self._is_closed = False
        self._published = self._waited = self._disconnected = 0
        self._offered_before = self._dropped_before = 0  # by subscribers that have left
        # Its owner is this object: `aclose` ends it and waits for it.
        self._work = asyncio.get_running_loop().create_task(self._serve())
        self._work.add_done_callback(lambda _: self._news.end())

    @property
    def address(self) -> str:
        """Where it is reached: the port that was chosen, the name that was made up."""
        return self._source.address

    def statistics(self) -> PublisherStatistics:
        """What it has done so far. Works on a closed publisher too."""
        return PublisherStatistics(
            published=self._published,
            offered=self._offered_before + sum(feed.outbox.offered for feed in self._feeds),
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
            ValueError: That is no topic.

        Cancellation:
            Abandons the wait.
        """
        if topic is not None:
            check_topic(topic)
        while self._count(topic) < subscribers:
            self._check_open()
            if self._work.done():
                raise PeerCrashed(f"nobody else can subscribe at {self.address}")
            await self._news.until_end()

    async def publish(self, topic: str, obj: T) -> None:
        """Send an object to everybody who subscribes to a topic.

        It is encoded once. On return it has left, or waits for those who are slow. As long as a
        subscriber with ``when_full="block"`` has no room for it, it is sent to nobody.

        Raises:
            ValueError: That is no topic.
            EncodeError: The object does not fit the codec.
            FrameTooLarge: It is over ``limits.max_message_bytes``.
            QuotaExceeded: The topic is too long, or one more than can be retained.
            ClosedError: This side closed the publisher.

        Cancellation:
            Before it was sent to anybody, it is sent to nobody.
        """
        if self._since_turn >= _TURN:
            self._since_turn = 0
            await asyncio.sleep(0)
        data = self._pack(topic, obj)
        if self._in_line or not self._try_publish(topic, data):
            await self._publish_in_line(topic, data)

    def publish_nowait(self, topic: str, obj: T) -> None:
        """As `publish`, where nobody can wait.

        Subscribers hear of it at the latest at the end of this turn of the loop.

        Raises:
            WouldBlock: A subscriber with ``when_full="block"`` has no room, or another publish
                waits for one. It was sent to nobody.
            Others: As `publish`.
        """
        data = self._pack(topic, obj)
        if self._in_line or not self._try_publish(topic, data):
            raise WouldBlock(f"a subscriber to {topic!r} has no room")

    def _pack(self, topic: str, obj: T) -> bytes:
        self._check_open()
        self._audience(topic)  # it complains about what is no topic
        self._retained.check(topic)
        data = self._codec.pack(topic, obj)
        if len(data) > self._limits.max_message_bytes:
            raise FrameTooLarge(len(data), self._limits.max_message_bytes)
        return data

    def _try_publish(self, topic: str, data: bytes) -> bool:
        """Send a message to all who want it, unless one of them has to be waited for."""
        audience = self._audience(topic)
        if audience.blocking and not audience.has_room(len(data)):
            return False
        self._published += 1
        self._since_turn += 1 + len(audience.feeds)
        self._retained.keep(topic, data)
        for feed in audience.feeds:
            if not feed.offer(topic, data):
                self._disconnected += 1
                self._leave(feed)
        return True

    async def _publish_in_line(self, topic: str, data: bytes) -> None:
        self._in_line += 1
        self._waited += 1
        try:
            async with self._order:
                while not self._try_publish(topic, data):
                    await self._news.until_end()
                    self._check_open()
        finally:
            self._in_line -= 1

    def _audience(self, topic: str) -> _Audience:
        known = self._audiences.get(topic)
        if known is None:
            check_topic(topic)
            feeds = tuple(self._trie.match(topic))
            known = _Audience(feeds, tuple(feed for feed in feeds if feed.blocks))
            if len(self._audiences) >= _KNOWN_TOPICS:
                self._audiences.clear()
            self._audiences[topic] = known
        return known

    def _count(self, topic: str | None) -> int:
        return len(self._feeds) if topic is None else len(self._audience(topic).feeds)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError(f"this side closed the publisher on {self.address}")

    # Subscribers

    async def _serve(self) -> None:
        if isinstance(self._source, Listener):
            await self._source.serve(self._serve_one)
        else:
            await self._serve_one(self._source)

    async def _serve_one(self, channel: Channel[Any]) -> None:
        try:
            feed = self._enter(channel, await self._hear_first(channel))
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

    async def _hear_first(self, channel: Channel[Request]) -> Request:
        wait_s = self._limits.handshake_s
        try:
            async with asyncio.timeout(wait_s):
                return await channel.receive()
        except TimeoutError:
            raise HandshakeTimeout(f"no subscription within {wait_s:g} s") from None

    def _enter(self, channel: Channel[Any], wanted: Request) -> Feed:
        if not isinstance(wanted, Open):
            raise ProtocolError(f"a subscriber begins with Open, not {type(wanted).__name__}")
        if wanted.when_full is WhenFull.BLOCK and not self._may_block:
            raise AccessDenied(errno.EACCES, "subscribers may not block this publisher")
        most = self._limits.max_queued_messages
        if wanted.queue > most:
            raise QuotaExceeded(
                errno.EDQUOT, f"a queue of {wanted.queue:,} messages is over the limit of {most:,}"
            )
        feed = Feed(channel, wanted, self._limits, self._news.end)
        channel.send_nowait(Welcome())
        self._feeds.add(feed)
        try:
            self._subscribe(feed, wanted.patterns)
        except BaseException:
            self._leave(feed)
            raise
        return feed

    def _take(self, feed: Feed, request: Request) -> None:
        match request:
            case Credit(count):
                feed.grant(count)
            case Subscribe(patterns):
                self._subscribe(feed, patterns)
            case Unsubscribe(patterns):
                self._unsubscribe(feed, patterns)
            case Open():
                raise ProtocolError("a subscriber says Open once")

    def _subscribe(self, feed: Feed, patterns: Sequence[str]) -> None:
        added = set(patterns) - feed.patterns
        count, most = len(feed.patterns) + len(added), self._limits.max_patterns
        if count > most:
            raise QuotaExceeded(
                errno.EDQUOT, f"{count:,} patterns of one subscriber are over the limit of {most:,}"
            )
        for topic, data in self._late_for(feed, added):
            feed.outbox.keep(topic, data)
        for pattern in added:
            self._trie.add(pattern, feed)
        feed.patterns |= added
        feed.pump()
        self._changed()

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
                lambda topic: bool(wanted.match(topic)) and feed not in self._trie.match(topic)
            )
        )

    def _unsubscribe(self, feed: Feed, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            if pattern in feed.patterns:
                feed.patterns.remove(pattern)
                self._trie.remove(pattern, feed)
        self._changed()

    def _leave(self, feed: Feed) -> None:
        """A subscriber is gone. Idempotent."""
        if feed in self._feeds:
            self._feeds.remove(feed)
            self._offered_before += feed.outbox.offered
            self._dropped_before += feed.outbox.dropped
            self._unsubscribe(feed, tuple(feed.patterns))

    def _changed(self) -> None:
        self._audiences.clear()
        self._news.end()

    # The end

    async def aclose(self) -> None:
        """Close the publisher. Idempotent.

        Publishes that wait raise ClosedError. What was published is delivered first, for at most
        ``limits.linger_s`` seconds, and then subscribers see a clean end; one that has not taken
        everything by then sees PeerCrashed.

        Cancellation:
            Closes at once, abruptly.
        """
        try:
            if not self._is_closed:
                self._is_closed = True
                self._news.end()
                if isinstance(self._source, Listener):
                    await self._source.aclose()
                async with anyio.create_task_group() as tasks:
                    for feed in self._feeds:
                        tasks.start_soon(self._finish, feed)
        finally:
            for feed in self._feeds:
                feed.channel.abort()  # those that are left when this is cancelled
            self._work.cancel()
            await asyncio.wait([self._work])
            await self._source.aclose()

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
    if retain < 0:
        raise ValueError(f"retain must be 0 or more, not {retain:,}")
    where = Address.parse(address)
    known = limits or Limits()
    end = PublisherEnd(codecs.get(codec))
    way: Callable[..., Opening[Any]] = listen if can_listen(where) else connect
    able: Capability = family_of(where, able_to=way.__name__).CAPABILITIES
    if Capability.DUPLEX not in able:
        raise AddressError(f"address '{where}': it is one way, and subscribers have to be heard")

    async def open_() -> Publisher[Any]:
        source = await way(where, codec=end, limits=known, polling=polling, allow=allow)
        return Publisher(source, end, known, retain=retain, may_block=may_block)

    return Opening(open_)
