"""A service that writes down which calls ran, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol


class Marking(Protocol):
    """Calls by number, none of which may run twice."""

    async def fast(self, number: int) -> int: ...

    async def slow(self, number: int) -> int: ...

    def several(self, number: int) -> AsyncIterator[int]: ...


class Marker:
    """Keeps `Marking`."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def _mark(self, number: int) -> None:
        os.write(self._fd, b"%d\n" % number)

    async def fast(self, number: int) -> int:
        self._mark(number)
        return number

    async def slow(self, number: int) -> int:
        self._mark(number)
        await asyncio.sleep(number % 8 / 1_000)
        return number

    async def several(self, number: int) -> AsyncIterator[int]:
        self._mark(number)
        for item in range(3):
            yield item
            await asyncio.sleep(0)


def marks(path: Path) -> list[int]:
    """The calls that ran."""
    return [int(line) for line in path.read_text().splitlines()]
