"""One subscriber, as its publisher sees it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioipc.abc import PeerCredentials
from aioipc.channel import Channel
from aioipc.errors import FrameTooLarge, IPCError, QuotaExceeded, WouldBlock
from aioipc.limits import Limits
from aioipc.loop.waiting import Waits
from aioipc.native._pubsub import FeedCore
from aioipc.pubsub._codec import LOOK
from aioipc.pubsub._stage import Seat
from aioipc.wire.pubsub import Away, Lost, Open, Outbox, WhenFull

__all__ = ["Feed", "SubscriberStatistics"]


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """What became of the messages for one subscriber.

    Attributes:
        peer: Who it is, where the kernel tells.
        when_full: Its policy.
        patterns: What it subscribes to, sorted.
        offered: Messages for it, retained ones included.
        dropped: Those that it will not get.
        waiting: Those that wait at the publisher; the others were sent.
    """

    peer: PeerCredentials | None
    when_full: str
    patterns: tuple[str, ...]
    offered: int
    dropped: int
    waiting: int


class Feed(FeedCore):
    """The messages for one subscriber, and the channel that they leave by.

    Those that may pass at once leave without a word to it. It settles how many they were before it
    looks at the outbox, and says anew how many may pass when it is done there.

    Args:
        channel: Where to; it belongs to whoever made it.
        wanted: What the subscriber asked for.
        limits: The publisher's.
        news: Called when a message left: there may be room.
        seat: Its place in the broadcast ring, if it has one.
    """

    def __init__(
        self,
        channel: Channel[Any],
        wanted: Open,
        limits: Limits,
        news: Callable[[], object],
        seat: Seat | None = None,
    ) -> None:
        super().__init__(channel)
        self.channel = channel
        self.seat = seat
        self.patterns: set[str] = set()
        self.outbox = Outbox(
            wanted.when_full,
            max_messages=wanted.queue,
            max_bytes=limits.max_queued_bytes,
            window=wanted.window,
        )
        self.blocks = wanted.when_full is WhenFull.BLOCK
        self._news = news
        self._waits = Waits()
        self._is_over = False
        self._writing: asyncio.Task[None] | None = None
        self._away: Away | None = None  # to be said before anything else
        self._must_look = False

    # By the ring

    def may_ride(self, size: int) -> bool:
        """Whether a message may leave by the ring now. The subscriber steps on if it can."""
        seat = self.seat
        if seat is None or size > seat.longest or self._writing is not None or self._is_over:
            return False
        if not seat.is_on and self.outbox.is_settled:
            seat.step_on()
        return seat.is_on and self.outbox.rides > 0

    def ride(self, count: int = 1) -> None:
        """Messages left by the ring."""
        assert self.seat is not None, "it may ride"
        self.seat.sent += count
        self.outbox.let_pass(count)

    def step_off(self) -> None:
        """Go on by the channel, with what the subscriber may not have taken from the ring."""
        if self.seat is not None and self.seat.is_on:
            messages, self._away = self.seat.step_off()
            self.outbox.take_back(messages)
            self.pump()

    def look(self) -> None:
        """Wake the subscriber: there is something in the ring."""
        if not self._is_over:
            if self._writing is None:
                self._send(LOOK)
            else:
                self._must_look = True

    # By the channel

    def has_room(self, size: int) -> bool:
        """Whether a message of ``size`` bytes has to wait for nobody."""
        if self.seat is not None and self.seat.is_on:
            return self.outbox.rides > 0
        return self.outbox.has_room(size)

    def offer(self, topic: str, data: bytes) -> bool:
        """Let a message leave, or wait; False if the subscriber was disconnected instead."""
        self.step_off()
        self._settle()
        if self._writing is None and self.outbox.passes:
            self.outbox.let_pass(1)
            self._send(data)
        elif self.blocks:  # the publisher has asked whether there is room
            self.outbox.keep(topic, data)
        elif not self.outbox.offer(topic, data):
            self._disconnect()
            return False
        self._pump()
        return True

    def grant(self, count: int) -> None:
        """The subscriber has taken messages."""
        self._settle()
        self.outbox.grant(count)
        self._pump()
        self._say()

    def pump(self) -> None:
        """Send what may leave. What the channel has no room for leaves as soon as it has."""
        self._settle()
        self._pump()

    def _pump(self) -> None:
        if self._writing is not None or self._is_over:
            return
        message = self._next()
        while message is not None:
            if not self._send(message):
                return
            message = self._next()
        if self.seat is None:
            self.passes = self.outbox.passes

    def _settle(self) -> None:
        """Tell the outbox what passed; nothing more does."""
        if self.passed:
            self.outbox.let_pass(self.passed)
        self.passed = self.passes = 0

    def _next(self) -> bytes | Lost | Away | None:
        if self._away is not None:
            away, self._away = self._away, None
            return away
        if self._must_look:
            self._must_look = False
            return LOOK
        return self.outbox.take()

    def _send(self, message: bytes | Lost | Away) -> bool:
        """Send what was taken; False if nothing else can be sent now."""
        try:
            self.channel.send_nowait(message)
        except WouldBlock:
            self._writing = asyncio.get_running_loop().create_task(self._write(message))
            return False
        except FrameTooLarge:
            self.outbox.lose()
        except IPCError as error:
            self._check_ending(error)
            return False
        return True

    async def finish(self) -> None:
        """Wait until everything has left, or nothing can any more.

        Cancellation:
            Abandons the wait.
        """
        while not self._is_over and not self._has_left:
            await self._waits.until_end()

    async def aclose(self) -> None:
        """Send nothing more. Idempotent."""
        self._settle()
        self._is_over = True
        self._waits.end()
        if self.seat is not None:
            self.seat.close()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    @property
    def _has_left(self) -> bool:
        return self.outbox.is_empty and self._writing is None and self._away is None

    @property
    def offered(self) -> int:
        """Messages that were for it."""
        return self.outbox.offered + self.passed

    def statistics(self) -> SubscriberStatistics:
        """What became of its messages so far."""
        return SubscriberStatistics(
            peer=self.channel.peer,
            when_full=self.outbox.when_full.value,
            patterns=tuple(sorted(self.patterns)),
            offered=self.offered,
            dropped=self.outbox.dropped,
            waiting=len(self.outbox),
        )

    async def _write(self, message: bytes | Lost | Away | None) -> None:
        try:
            while message is not None:
                try:
                    await self.channel.send(message)
                except FrameTooLarge:
                    self.outbox.lose()
                message = self._next()
                self._say()
        except IPCError as error:
            self._check_ending(error)
        finally:
            self._writing = None
            self._say()

    def _say(self) -> None:
        self._waits.end()
        self._news()

    def _check_ending(self, error: IPCError) -> None:
        """Whoever reads from the channel is told of its end; anything else is a fault here."""
        if not self.channel.is_ending(error):
            raise error

    def _disconnect(self) -> None:
        waiting = len(self.outbox)
        self.channel.abort(
            QuotaExceeded(
                errno.EDQUOT,
                f"the subscriber fell behind: {waiting:,} messages wait for it, its limit",
            )
        )
