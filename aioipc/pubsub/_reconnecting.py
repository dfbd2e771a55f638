"""A subscription to one publisher after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Generic, TypeVar

from anyio.abc import AsyncResource

from aioipc._renewal import Renewal
from aioipc.abc import PeerCredentials
from aioipc.errors import ClosedError, EndOfStream, PeerCrashed
from aioipc.limits import Limits
from aioipc.pubsub._items import Gap, Interruption, Message
from aioipc.pubsub._subscription import Subscription, SubscriptionStatistics, check_patterns
from aioipc.wire.topics import check_pattern

__all__ = ["ReconnectingSubscription"]

T = TypeVar("T")
Open = Callable[[Collection[str]], Awaitable[Subscription[T]]]


class _Link(Generic[T]):
    """One connection to a publisher, as `Renewal` sees it."""

    peer_is_closing = False

    def __init__(self, subscription: Subscription[T]) -> None:
        self.subscription = subscription
        self.ending: BaseException | None = None

    @property
    def was_answered(self) -> bool:
        """Whether anything came: one that welcomes subscribers and drops them has to be spared."""
        return self.subscription.statistics().received > 0

    async def wait_idle(self) -> None:
        """Return at once: a publisher does not say that it is about to end."""

    async def aclose(self) -> None:
        """End the subscription. Idempotent."""
        await self.subscription.aclose()


class ReconnectingSubscription(AsyncResource, AsyncIterator["Message[T] | Gap | Interruption"]):
    """What comes from one publisher, and from another one after it.

    Made by `aioipc.pubsub.subscriber` with ``reconnect=True``. An async iterator that goes on for
    ever, and an async context manager. One task at a time receives.

    Args:
        open_: Opens a subscription with some patterns.
        first: What it opened first.
        limits: Those of this side.

    Raises:
        ImportError: stamina, which spreads the attempts, is not installed.
    """

    def __init__(self, open_: Open[T], first: Subscription[T], limits: Limits) -> None:
        self._open = open_
        self._limits = limits
        self._patterns = set(first.patterns)
        self._link = _Link(first)
        self._before = SubscriptionStatistics(0, 0, 0)
        self._renewal = Renewal(self._open_link, self._link)
        self.interruptions = 0
        """How often it has gone on with another connection."""

    @property
    def address(self) -> str:
        """Where the publisher is."""
        return self._link.subscription.address

    @property
    def peer(self) -> PeerCredentials | None:
        """Who publishes at present, or did last, where the kernel tells."""
        return self._link.subscription.peer

    @property
    def patterns(self) -> frozenset[str]:
        """What is subscribed to."""
        return frozenset(self._patterns)

    def statistics(self) -> SubscriptionStatistics:
        """What it has seen so far, from all publishers. Works on a closed subscription too."""
        return _sum(self._before, self._link.subscription.statistics())

    async def receive(self) -> Message[T] | Gap | Interruption:
        """Wait for the next message, for news of lost ones, or for the next publisher.

        Raises:
            QuotaExceeded: This side fell behind, with ``when_full="disconnect"``; or it asked
                for more than the publisher gives.
            AccessDenied: The next publisher does not trust this user; and so `CodecMismatch` and
                `VersionMismatch`, if it speaks otherwise.
            DecodeError: The message does not fit the codec; it is consumed, the others come.
            ClosedError: This side closed the subscription.
            BusyError: Another task is waiting.

        Cancellation:
            Safe: nothing is lost.
        """
        while True:
            link = await self._renewal.get()
            if link is not self._link:
                return self._go_on(link)
            try:
                return await link.subscription.receive()
            except (EndOfStream, PeerCrashed) as error:
                link.ending = error.with_traceback(None)

    __anext__ = receive

    def _go_on(self, link: _Link[T]) -> Interruption:
        last, self._link = self._link, link
        self._before = _sum(self._before, last.subscription.statistics())
        self.interruptions += 1
        return Interruption(str(last.ending))

    async def _open_link(self) -> _Link[T]:
        subscription = await self._open(self._patterns)
        try:
            while subscription.patterns != self._patterns:  # they were changed meanwhile
                await subscription.subscribe(*self._patterns - subscription.patterns)
                await subscription.unsubscribe(*subscription.patterns - self._patterns)
        except BaseException:
            await subscription.aclose()
            raise
        return _Link(subscription)

    # What is wanted

    async def subscribe(self, *patterns: str) -> None:
        """Match other patterns as well: `Subscription.subscribe`. The next publisher is told, too.

        Raises:
            ValueError: That is no pattern.
            QuotaExceeded: They are too many, or too long.
            ClosedError: This side closed the subscription.

        Cancellation:
            Either all patterns are added or none is.
        """
        check_patterns([*self._patterns, *patterns], self._limits)
        await self._change(
            lambda subscription: subscription.subscribe(*patterns),
            lambda subscription: subscription.patterns.issuperset(patterns),
            lambda: self._patterns.update(patterns),
        )

    async def unsubscribe(self, *patterns: str) -> None:
        """Match these patterns no longer: `Subscription.unsubscribe`.

        Raises:
            ClosedError: This side closed the subscription.
            ValueError: That is no pattern.

        Cancellation:
            Either all patterns are removed or none is.
        """
        for pattern in patterns:
            check_pattern(pattern)
        await self._change(
            lambda subscription: subscription.unsubscribe(*patterns),
            lambda subscription: subscription.patterns.isdisjoint(patterns),
            lambda: self._patterns.difference_update(patterns),
        )

    async def _change(
        self,
        tell: Callable[[Subscription[T]], Awaitable[None]],
        was_told: Callable[[Subscription[T]], bool],
        change: Callable[[], Any],
    ) -> None:
        """Tell the publisher, if there is one; the next one is told when it is there."""
        while True:
            self._renewal.check_open()
            link = self._renewal.current
            try:
                if link.ending is None:
                    await tell(link.subscription)
            except (EndOfStream, PeerCrashed):
                pass
            except ClosedError:
                if link.ending is None:  # else it was closed because it had ended
                    raise
            except BaseException:
                if was_told(link.subscription):
                    change()
                raise
            change()
            if self._renewal.current is link:
                return

    async def aclose(self) -> None:
        """End the subscription. Idempotent.

        Cancellation:
            Closes at once, abruptly.
        """
        await self._renewal.aclose()


def _sum(one: SubscriptionStatistics, other: SubscriptionStatistics) -> SubscriptionStatistics:
    return SubscriptionStatistics(
        one.received + other.received, one.missed + other.missed, one.gaps + other.gaps
    )
