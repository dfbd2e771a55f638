"""Whoever uses a channel without ever having to wait still lets the loop turn.

`aioipc.testing` has that as a rule for any transport; here are the numbers of our own ones.
"""

from __future__ import annotations

import asyncio

import pytest

import aioipc
from aioipc.testing import Faults, faulty_pair
from aioipc.testing._turns import Turns
from tests.links import Link

pytestmark = pytest.mark.asyncio

MOST_OPERATIONS = 512
"""What docs/architecture.md promises: so many operations between two turns of the loop."""
MANY = 5_000
BATCH = 100


async def test_a_sender_that_always_finds_room(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:

        async def drain() -> None:
            for _ in range(MANY):
                await right.receive()

        draining = asyncio.create_task(drain())
        assert await turns.longest_run(MANY, lambda: left.send(b"x")) <= MOST_OPERATIONS
        await draining


async def test_a_receiver_that_always_finds_messages(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:
        sending = asyncio.create_task(left.send_many([b"x"] * MANY))
        assert await turns.longest_run(MANY, right.receive) <= MOST_OPERATIONS
        await sending


async def test_batches_count_their_messages(link: Link) -> None:
    async with link(codec="raw") as (left, right), Turns() as turns:
        sending = asyncio.create_task(left.send_many([b"x"] * 4 * MANY))
        longest = await turns.longest_run(4 * MANY, lambda: right.receive_many(BATCH))
        # The turn comes with the operation after the limit was reached.
        assert longest <= MOST_OPERATIONS + BATCH
        await sending


async def test_many_pieces_wake_a_receiver_once_per_turn() -> None:
    torn = Faults(tear_bytes=7, delay_turns=1)
    left, right = faulty_pair(torn, torn, codec="raw")
    async with left, right, Turns() as turns:
        sending = asyncio.create_task(left.send_many([b"x"] * MANY))
        assert await turns.longest_run(MANY, right.receive) <= MOST_OPERATIONS
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
