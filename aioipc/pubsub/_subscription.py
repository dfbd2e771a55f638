"""Subscription: receive what a publisher sends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from anyio.abc import AsyncResource

from aioipc.abc import PeerCredentials
from aioipc.channel import Channel
from aioipc.errors import (
    DecodeError,
    IPCError,
    ProtocolError,
    QuotaExceeded,
    WouldBlock,
)
from aioipc.limits import Limits
from aioipc.native._operation import called_natively
from aioipc.native._pubsub import SubscriptionCore
from aioipc.pubsub._codec import Aside, SubscriberEnd
from aioipc.pubsub._items import Gap, Message
from aioipc.pubsub._place import Place
from aioipc.wire.pubsub import (
    Away,
    Credit,
    Look,
    Subscribe,
    Unsubscribe,
)
from aioipc.wire.topics import check_pattern

__all__ = ["Subscription", "SubscriptionStatistics", "check_patterns"]

T = TypeVar("T")

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
        check_patterns([*self._patterns, *patterns], self._limits)
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


def check_patterns(patterns: Collection[str], limits: Limits) -> set[str]:
    """Refuse what are no patterns.

    Raises:
        ValueError: That is none.
        QuotaExceeded: They are too many.
    """
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
