"""Who waits for one object: a line for each loop, and a way to end all waits."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from aioipc.kernel.statistics import Tally
from aioipc.loop.lookout import Lookout

__all__ = ["Turn", "Turns"]

T = TypeVar("T")


class Source(Protocol):
    """Readable when it is worth trying again."""

    def fileno(self) -> int:
        """Its descriptor."""


class Line(asyncio.Lock):
    """Tasks of one loop, one behind the other. Those that are not the first count as waiting."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    async def acquire(self) -> Literal[True]:
        """Stand in line until it is this task's turn."""
        if not self.locked():
            return await super().acquire()
        with self._tally.waiting():
            return await super().acquire()


class Turn:
    """The tasks of one loop. Only the first in line tries and waits; so order is kept."""

    __slots__ = ("_tally", "line", "lookout")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.line = Line(tally)
        self.lookout = Lookout()

    async def take(self, attempt: Callable[[], T | None], source: Source) -> T:
        """Stand in line; then try until it works, and wait for a descriptor in between.

        Args:
            attempt: Returns what is wanted, or None; whatever it returns is not lost.
            source: What is waited for.

        Cancellation:
            Safe: nothing was taken.
        """
        async with self.line:
            if (taken := attempt()) is not None:
                return taken
            with self._tally.waiting():
                while (taken := attempt()) is None:
                    await self.lookout.ready(source.fileno())
            return taken


class Turns:
    """The lines of all loops that an object is used in.

    Args:
        tally: Counts who waits.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = (
            weakref.WeakKeyDictionary()
        )

    def here(self) -> Turn:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        return self._begin(loop) if turn is None else turn

    def end(self) -> None:
        """Let everybody look again, from whatever thread."""
        for loop, turn in list(self._turns.items()):
            _call(loop, turn.lookout.end)

    def close(self) -> None:
        """The same, when there is nothing to wait for any more."""
        self.end()
        turns, self._turns = self._turns, weakref.WeakKeyDictionary()
        for loop, turn in turns.items():
            if not _call(loop, turn.lookout.close):
                turn.lookout.close()

    def __del__(self) -> None:
        self.close()

    def forget(self) -> None:
        """Know of nobody, in a forked child."""
        turns, self._turns = self._turns, weakref.WeakKeyDictionary()
        for turn in turns.values():
            turn.lookout.abandon()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Turn:
        for old, turn in list(self._turns.items()):
            if old.is_closed():
                del self._turns[old]
                turn.lookout.close()
        turn = self._turns[loop] = Turn(self._tally)
        return turn


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> bool:
    """Call something in a loop, at once if it is this thread's; False if it is closed."""
    if _is_here(loop):
        callback()
        return True
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


def _is_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
