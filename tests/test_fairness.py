"""Whoever uses a channel without ever having to wait still lets the loop turn."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

import pytest

import aioipc
from tests.links import Link

pytestmark = pytest.mark.asyncio

MOST_OPERATIONS = 512
"""What docs/architecture.md promises: so many operations between two turns of the loop."""


class Turns:
    """Counts the turns of the loop, from another task."""

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


async def longest_run(turns: Turns, operations: int, operate: object) -> int:
    """The most operations in a row during which no other task ran."""
    longest = run = 0
    seen = turns.count
    for _ in range(operations):
        await operate()  # type: ignore[operator]
        run += 1
        if turns.count != seen:
            seen, run = turns.count, 0
        longest = max(longest, run)
    return longest


async def test_a_sender_that_always_finds_room(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:

        async def drain() -> None:
            for _ in range(5_000):
                await right.receive()

        draining = asyncio.create_task(drain())
        assert await longest_run(turns, 5_000, lambda: left.send(b"x")) <= MOST_OPERATIONS
        await draining


async def test_a_receiver_that_always_finds_messages(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:
        sending = asyncio.create_task(left.send_many([b"x"] * 5_000))
        assert await longest_run(turns, 5_000, right.receive) <= MOST_OPERATIONS
        await sending


async def test_batches_count_their_messages(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:
        sending = asyncio.create_task(left.send_many([b"x"] * 20_000))
        received = 0
        longest = run = 0
        seen = turns.count
        while received < 20_000:
            count = len(await right.receive_many(100))
            received += count
            run += count
            if turns.count != seen:
                seen, run = turns.count, 0
            longest = max(longest, run)
        # The turn comes with the operation after the limit was reached.
        assert longest <= MOST_OPERATIONS + 100
        await sending


async def test_a_long_message_does_not_keep_the_loop() -> None:
    size = 32 * 1024 * 1024
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right, Turns() as turns:
        before = turns.count
        sending = asyncio.create_task(left.send(bytes(size)))
        assert len(await right.receive()) == size
        await sending
        # A socket holds a few hundred KiB, so there is no other way than many turns; what
        # counts is that neither side does more than a few reads or writes per turn.
        calls = left.statistics().write_calls + right.statistics().read_calls
        assert turns.count - before >= calls / 64
