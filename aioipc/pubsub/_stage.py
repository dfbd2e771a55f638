"""The broadcast ring of a publisher, and the seats of its subscribers.

docs/broadcast-ring.md has the protocol of the ring, docs/pubsub-wire.md how messages go by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable
from typing import Final

from aioipc.errors import ForkError, from_os_error
from aioipc.kernel.memory import create_memory, seal
from aioipc.kernel.owned import OwnedFd, abandon_in_child
from aioipc.native._broadcast import HEAD_BYTES, PAGE_BYTES, BroadcastWriter
from aioipc.native._memory import Mapping
from aioipc.native._pubsub import StageCore
from aioipc.wire.pubsub import Away, Ring

__all__ = ["Seat", "Stage"]

_WORDS: Final = 4
_MOST_SEATS: Final = 64 * _WORDS


class Stage(StageCore):
    """The ring, in memory that only this process can write to.

    Args:
        capacity: Of the ring, in bytes.
        wake: Called with the slot of each subscriber that is to be woken.

    Raises:
        ResourceExhausted: There is not so much memory, or no descriptor left.
    """

    def __init__(self, capacity: int, wake: Callable[[int], object]) -> None:
        size = HEAD_BYTES + capacity
        with contextlib.ExitStack() as undo:
            try:
                file = undo.enter_context(create_memory(size, "aioipc-broadcast", sealed=False))
                writer = BroadcastWriter(Mapping(file.fileno(), size), _WORDS)
                seal(file, against_writing=True)
            except OSError as error:
                raise from_os_error(error, f"make a ring of {capacity:,} bytes") from error
            undo.pop_all()
        super().__init__(writer, asyncio.get_running_loop().call_soon, wake)
        self.file: OwnedFd = file
        self.capacity = capacity
        self._vacant = list(range(_MOST_SEATS))
        abandon_in_child(self)

    @property
    def writer(self) -> BroadcastWriter:
        """The ring.

        Raises:
            ForkError: It belongs to the parent process.
        """
        self._check_open()
        assert self.ring is not None, "it is open"
        return self.ring

    def _check_open(self) -> None:
        if self.ring is None:
            raise ForkError("this publisher belongs to the parent process")

    def seat(self, longest: int) -> Seat | None:
        """A place for one more subscriber; None if there is none left.

        Args:
            longest: The longest message that it takes, in bytes.

        Raises:
            ResourceExhausted: There is no memory for it, or no descriptor.
        """
        if not self._vacant:
            return None
        try:
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(create_memory(PAGE_BYTES, "aioipc-broadcast-page"))
                page = Mapping(file.fileno(), PAGE_BYTES)
                undo.pop_all()
        except OSError as error:
            raise from_os_error(error, "make a page of a broadcast ring") from error
        seat = Seat(self, heapq.heappop(self._vacant), page, file)
        seat.longest = min(longest, self.capacity // 4)
        return seat

    def vacate(self, slot: int) -> None:
        """Nobody has this slot any more."""
        if self.ring is not None:
            self.ring.leave(slot)
            heapq.heappush(self._vacant, slot)

    def close(self) -> None:
        """Send nothing more. What was sent stays readable for who has it mapped. Idempotent."""
        self.publish()
        self.ring = None
        self.file.close()

    def abandon(self) -> None:
        """This is a forked child, which has none of the memory."""
        self.ring = None
        self.close()


class Seat:
    """A subscriber's place in the ring, as the publisher sees it.

    A subscriber is on the ring, or else gets its messages by its channel. It steps on when it
    has taken everything that was sent, and steps off when it falls behind or a message is too
    long. What it had not taken by then goes by the channel after all, behind an `Away` that says
    how many messages of the ring it is known to have.
    """

    def __init__(self, stage: Stage, slot: int, page: Mapping, file: OwnedFd) -> None:
        self.slot = slot
        self.is_on = False
        self.longest = 0
        """The longest message that may go by the ring, in bytes."""
        self.sent = 0
        """Messages that went by the ring, those included that went by the channel after all."""
        self._stage = stage
        self._page_file = file
        self._is_closed = False
        start = stage.writer.seat(slot, page)
        stage.writer.hold(slot, False)
        self.invitation = Ring(stage.capacity, _WORDS, slot, start)

    @property
    def fds(self) -> tuple[int, int]:
        """The descriptors that go with the invitation."""
        return self._stage.file.fileno(), self._page_file.fileno()

    def invited(self) -> None:
        """The invitation has left."""
        self._page_file.close()

    def step_on(self) -> None:
        """From now on messages go by the ring."""
        self.is_on = True
        self._stage.writer.hold(self.slot, True)

    def step_off(self) -> tuple[list[bytes], Away]:
        """Returns the messages that are not known to be taken, and what to say before them."""
        self.is_on = False
        self._stage.publish()
        messages = self._stage.writer.untaken(self.slot)
        self._stage.writer.hold(self.slot, False)
        away = Away(self.sent - len(messages), self.sent, self._stage.writer.position)
        return messages, away

    def close(self) -> None:
        """Leave. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self.is_on = False
            self._page_file.close()
            self._stage.vacate(self.slot)
