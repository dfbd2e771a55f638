"""How long others have to wait for the loop: counted in operations, since a clock would lie."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self

__all__ = ["MOST_OPERATIONS", "Turns"]

MOST_OPERATIONS = 512
"""So many operations at most between two turns of the loop."""


class Turns:
    """Counts the turns of the loop from another task, while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._turn())
        await asyncio.sleep(0)
        return self

    async def _turn(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def __aexit__(self, *details: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def longest_run(self, total: int, operate: Callable[[], Awaitable[object]]) -> int:
        """The most operations in a row during which no other task ran.

        Args:
            total: How many there are.
            operate: Does one; or several, and returns a list of them.
        """
        longest = run = done = 0
        seen = self.count
        while done < total:
            result = await operate()
            count = len(result) if isinstance(result, list) else 1
            done += count
            run += count
            if self.count != seen:
                seen, run = self.count, 0
            longest = max(longest, run)
        return longest
