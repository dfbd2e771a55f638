"""What publishers and subscribers say to each other, and what waits for one subscriber.

A subscriber begins with `Open` and is answered with `Welcome`. From then on it is sent each
`Publication` that matches one of its patterns, as long as it has credit: it began with a window of
so many messages and grants more as it takes them. What there is no credit for waits in an `Outbox`
on the publisher's side, and `Lost` stands where messages are missing.

A publisher may have a broadcast ring, to which it invites by `Ring` who began with `Ride`. Then
publications go by the ring as long as a subscriber keeps up. `Look` wakes one that sleeps, and
`Away` says that what follows comes by the channel.
"""

from __future__ import annotations

import collections
import enum
from collections.abc import Sequence
from typing import Annotated

import msgspec

__all__ = [
    "Away",
    "Credit",
    "Look",
    "Lost",
    "Open",
    "Outbox",
    "Publication",
    "Ride",
    "Ring",
    "Subscribe",
    "Unsubscribe",
    "Welcome",
    "WhenFull",
]

Count = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class WhenFull(enum.StrEnum):
    """What happens to a message that finds the queue of a subscriber full."""

    BLOCK = "block"
    """The publisher waits for this subscriber."""
    DROP_OLDEST = "drop_oldest"
    """The messages that wait for longest give way."""
    DROP_NEWEST = "drop_newest"
    """The new message is lost."""
    LATEST = "latest"
    """Of each topic only the newest message waits; beyond that, as `DROP_OLDEST`."""
    DISCONNECT = "disconnect"
    """The subscriber is disconnected."""


class Open(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Subscribe, for the first time.

    Attributes:
        patterns: What topics to match.
        when_full: What happens when ``queue`` is not enough.
        queue: How many messages may wait at the publisher.
        window: How many messages may be under way.
    """

    patterns: list[str]
    when_full: WhenFull
    queue: Count
    window: Count


class Subscribe(msgspec.Struct, array_like=True, tag=2, gc=False):
    """Match other patterns as well."""

    patterns: list[str]


class Unsubscribe(msgspec.Struct, array_like=True, tag=3, gc=False):
    """Match some patterns no longer."""

    patterns: list[str]


class Credit(msgspec.Struct, array_like=True, tag=4, gc=False):
    """So many more messages may be sent."""

    count: Count


class Welcome(msgspec.Struct, array_like=True, tag=5, gc=False):
    """The answer to `Open`: what is published from now on will come."""


class Publication(msgspec.Struct, array_like=True, tag=6, gc=False):
    """One message.

    Attributes:
        topic: What it is about.
        value: The object, in the codec of the two sides.
    """

    topic: str
    value: memoryview


class Lost(msgspec.Struct, array_like=True, tag=7, gc=False):
    """So many messages are missing here. It takes no credit."""

    count: Count


class Ride(msgspec.Struct, array_like=True, tag=11, gc=False):
    """Before `Open`: messages may come by a broadcast ring.

    Attributes:
        longest: How long they may be, in bytes.
    """

    longest: Number


class Ring(msgspec.Struct, array_like=True, tag=8, gc=False):
    """An invitation to a broadcast ring, before `Welcome`. Two descriptors come with it.

    Attributes:
        capacity: Of the ring, in bytes.
        words: Of a mask.
        slot: The subscriber's.
        start: The position where it begins to read.
    """

    capacity: Annotated[int, msgspec.Meta(ge=4096, le=2**30)]
    words: Annotated[int, msgspec.Meta(ge=1, le=16)]
    slot: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    start: Number


class Away(msgspec.Struct, array_like=True, tag=9, gc=False):
    """What follows comes by the channel, beginning with what the subscriber may have missed.

    Attributes:
        taken: How many messages of the ring it is known to have taken.
        sent: How many there were.
        position: Where it is to read on when messages come by the ring again.
    """

    taken: Number
    sent: Number
    position: Number


class Look(msgspec.Struct, array_like=True, tag=10, gc=False):
    """There is something in the ring."""


class _Waiting:
    """A message in an outbox."""

    __slots__ = ("data", "lost", "topic")

    def __init__(self, topic: str, data: bytes, lost: int) -> None:
        self.topic = topic
        self.data = data
        self.lost = lost
        """How many are missing right before it."""


class Outbox:
    """What waits for one subscriber, and the policy for when that is too much.

    Args:
        when_full: The policy.
        max_messages: How many messages may wait.
        max_bytes: How many bytes they may have together; a single one may always wait.
        window: With how many messages of credit to begin. There is never more.
    """

    def __init__(
        self, when_full: WhenFull, *, max_messages: int, max_bytes: int, window: int
    ) -> None:
        self.when_full = when_full
        self.offered = 0
        """Messages that were for this subscriber."""
        self.dropped = 0
        """Those of them that it will not get."""
        self.bytes = 0
        """What waits has so many."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._window = window
        self._credit = window
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._by_topic: dict[str, _Waiting] = {}
        self._lost = 0  # behind the last one that waits
        self._is_last_unpaid = False  # what was sent last took no credit: nobody says it was read

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to say."""
        return not self._queue and not self._lost

    def has_room(self, size: int) -> bool:
        """Whether a message of ``size`` bytes can wait beside the others."""
        if not self._queue:
            return True
        return len(self._queue) < self._max_messages and self.bytes + size <= self._max_bytes

    @property
    def is_settled(self) -> bool:
        """Whether the subscriber has taken everything, `Lost` and `Away` included."""
        return self._credit == self._window and self.is_empty and not self._is_last_unpaid

    @property
    def rides(self) -> int:
        """How many messages may leave by the ring.

        Who blocks may have as many more there as could wait here: nothing of it has to give way.
        """
        if self._queue or self._lost:
            return 0
        more = self._max_messages if self.when_full is WhenFull.BLOCK else 0
        return max(0, self._credit + more)

    def take_back(self, messages: Sequence[bytes]) -> None:
        """Messages that had left by the ring are to leave another way, behind an `Away`.

        They come before all others, and the subscriber may have taken, and granted, some of them.
        """
        self._is_last_unpaid = True
        self._credit += len(messages)
        for data in reversed(messages):
            self._queue.appendleft(_Waiting("", data, 0))
            self.bytes += len(data)

    @property
    def passes(self) -> int:
        """How many messages may leave at once, past nothing that waits."""
        return 0 if self._queue or self._lost else max(0, self._credit)

    def let_pass(self, count: int) -> None:
        """Messages left at once."""
        self._credit -= count
        self._is_last_unpaid = False
        self.offered += count

    def offer(self, topic: str, data: bytes) -> bool:
        """Put a message in, by the policy; with ``BLOCK``, ask `has_room` before.

        Returns:
            False if the subscriber has to be disconnected instead.
        """
        if self.when_full is WhenFull.LATEST and self._replace(topic, data):
            return True
        if not self.has_room(len(data)) and not self._overflow(len(data)):
            return self.when_full is not WhenFull.DISCONNECT
        self.keep(topic, data)
        return True

    def keep(self, topic: str, data: bytes) -> None:
        """Put a message in, whether or not there is room."""
        self.offered += 1
        waiting = _Waiting(topic, data, self._lost)
        self._lost = 0
        self._queue.append(waiting)
        self.bytes += len(data)
        if self.when_full is WhenFull.LATEST:
            self._by_topic[topic] = waiting

    def grant(self, count: int) -> None:
        """The subscriber has taken so many messages."""
        self._credit = min(self._window, self._credit + count)

    def take(self) -> bytes | Lost | None:
        """What is to be sent next; None if nothing is, or nothing may be."""
        if self._credit <= 0:
            return None
        if not self._queue:
            return self._tell_lost()
        head = self._queue[0]
        if head.lost:
            lost, head.lost = head.lost, 0
            self._is_last_unpaid = True
            return Lost(lost)
        self._credit -= 1
        self._is_last_unpaid = False
        return self._remove_head().data

    def lose(self) -> None:
        """What was just taken cannot be sent after all."""
        self._credit += 1
        self.dropped += 1
        self._miss(1)

    def _tell_lost(self) -> Lost | None:
        if not self._lost:
            return None
        lost, self._lost = self._lost, 0
        self._is_last_unpaid = True
        return Lost(lost)

    def _replace(self, topic: str, data: bytes) -> bool:
        """Let a message take the place of an older one of its topic, if that waits."""
        waiting = self._by_topic.get(topic)
        if waiting is None:
            return False
        self.bytes += len(data) - len(waiting.data)
        waiting.data = data
        waiting.lost += 1
        self.offered += 1
        self.dropped += 1
        while self.bytes > self._max_bytes and self._queue[0] is not waiting:
            self._drop_oldest()
        return True

    def _overflow(self, size: int) -> bool:
        """There is no room: whether the message goes in all the same."""
        assert self.when_full is not WhenFull.BLOCK, "a publisher asks for room"
        if self.when_full is WhenFull.DISCONNECT:
            return False
        if self.when_full is WhenFull.DROP_NEWEST:
            self.offered += 1
            self.dropped += 1
            self._lost += 1
            return False
        while not self.has_room(size):
            self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        self._miss(self._remove_head().lost + 1)
        self.dropped += 1

    def _miss(self, count: int) -> None:
        """Messages are missing in front of all that wait."""
        if self._queue:
            self._queue[0].lost += count
        else:
            self._lost += count

    def _remove_head(self) -> _Waiting:
        head = self._queue.popleft()
        self.bytes -= len(head.data)
        if self._by_topic.get(head.topic) is head:
            del self._by_topic[head.topic]
        return head
