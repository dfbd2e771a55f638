"""A line of tasks that wait for the same thing, served in the order in which they came."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Line"]

T = TypeVar("T")


class Line:
    """Tasks of one loop that wait for one thing to become possible. Only the first of them tries.

    What is waited for never travels through here: who is woken looks again, and takes it without
    another wait. So a task that is cancelled leaves everything to the next one.

    Attributes:
        places: One for each task that waits.

    Args:
        ask: Called with a callback when the first in line found nothing: it is to be called once
            when trying again may help. Called with None when nobody waits any more.
    """

    def __init__(self, ask: Callable[[Callable[[], object] | None], object] | None = None) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self.places: collections.deque[_Place] = collections.deque()
        self._ending: BaseException | None = None

    async def until(self, attempt: Callable[[], T | None], *, again: bool = False) -> T:
        """Wait in line until ``attempt()`` gives something other than None, and return that.

        Args:
            attempt: Tried when this is the first in line.
            again: Stand before all others, as one that had its turn and was sent back.

        Raises:
            RuntimeError: The line belongs to another loop, which could not wake this one's task.
            Exception: What `end` was given, or what the attempt raised.

        Cancellation:
            Safe: leaves the line.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this belongs to the event loop of another thread")
        place = _Place()
        if again:
            self.places.appendleft(place)
        else:
            self.places.append(place)
        try:
            while True:
                if self._ending is not None:
                    raise self._ending.with_traceback(None)
                if self.places[0] is place:
                    found = attempt()
                    if found is not None:
                        return found
                    if self._ask is not None:
                        self._ask(self.wake)
                await place.wait()
        finally:
            self.places.remove(place)
            if self.places:
                self.wake()
            elif self._ask is not None and self._ending is None:
                self._ask(None)

    def wake(self) -> None:
        """Let the first in line look again."""
        if self.places:
            self.places[0].wake()

    def wake_next(self) -> None:
        """Let one more look again: the first of those that were not told to already.

        Those who were told at the same time look in the order of the line, so each is the first.
        """
        for place in self.places:
            if not place.is_woken:
                place.wake()
                return

    def end(self, error: BaseException) -> None:
        """Raise ``error`` in all that wait, and in whoever comes later."""
        self._ending = error
        for place in self.places:
            place.wake()


class _Place:
    """Where one task stands."""

    __slots__ = ("_ready", "is_woken")

    def __init__(self) -> None:
        self.is_woken = False
        self._ready: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if not self.is_woken:
            self._ready = asyncio.get_running_loop().create_future()
            try:
                await self._ready
            finally:
                self._ready = None
        self.is_woken = False

    def wake(self) -> None:
        self.is_woken = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
