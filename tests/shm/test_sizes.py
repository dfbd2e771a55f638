"""Messages around every size that makes a difference to a ring (cases 49 and 50)."""

from __future__ import annotations

import asyncio
import random

import pytest

import aioipc
from aioipc import Channel, Limits, WouldBlock
from tests.links import fill
from tests.scale import scaled
from tests.shm.bare import CAPACITY, OPTIONS, span

pytestmark = pytest.mark.asyncio

MAXREC = CAPACITY // 4
FRAGMENT = 32 * 1024
CAPACITIES = [64 * 1024, 256 * 1024, 1024 * 1024]
EDGES = sorted(
    {
        edge + more
        for edge in (0, 8, MAXREC, FRAGMENT, 2 * FRAGMENT, CAPACITY, 4 * MAXREC, 256 * 1024)
        for more in (-9, -8, -1, 0, 1, 7, 8, 9)
        if edge + more >= 0
    }
)


def patterned(size: int) -> bytes:
    """Bytes that show when a part of them is missing, doubled or elsewhere."""
    return bytes(number % 251 for number in range(min(size, 251))) * (size // 251 + 1)


async def both_ways(left: Channel[bytes], right: Channel[bytes], messages: list[bytes]) -> None:
    """Send them there and back, one behind the other and all at once."""
    for message in messages:
        sending = asyncio.create_task(left.send(message))
        assert await right.receive() == message
        await sending
    for one, other in ((left, right), (right, left)):
        sending = asyncio.create_task(one.send_many(messages))
        for message in messages:
            assert await other.receive() == message
        await sending


@pytest.mark.parametrize("capacity", CAPACITIES)
async def test_every_edge(capacity: int) -> None:
    edges = [*EDGES, *(capacity // 4 + more for more in (-8, -1, 0, 1, 8))]
    messages = [patterned(size)[:size] for size in edges]
    left, right = aioipc.pair("shm", codec="raw", limits=Limits(ring_bytes=capacity))
    async with left, right:
        await both_ways(left, right, messages)
        assert left.statistics().messages_sent == 2 * len(messages)


async def test_any_sizes_at_any_place(chance: random.Random) -> None:
    """However the end of the ring cuts into them."""
    left, right = aioipc.pair("shm", **OPTIONS)
    async with left, right:
        for _ in range(scaled(20, full=2_000)):
            sizes = [
                chance.choice([chance.randrange(100), chance.choice(EDGES)]) for _ in range(20)
            ]
            await both_ways(left, right, [chance.randbytes(size) for size in sizes])


@pytest.mark.parametrize(("size", "records"), [(MAXREC, 1), (MAXREC + 1, 2)])
async def test_a_quarter_of_the_ring_is_one_record(size: int, records: int) -> None:
    left, right = aioipc.pair("shm", **OPTIONS)
    async with left, right:
        await left.send(b"")
        assert await right.receive() == b""
        left.send_nowait(bytes(size))
        await left.flush()
        assert await right.receive() == bytes(size)
        assert right.statistics().messages_received == 2
        with pytest.raises(WouldBlock):
            right.receive_nowait()


async def test_a_ring_that_is_full_to_the_last_byte() -> None:
    left, right = aioipc.pair("shm", **OPTIONS)
    async with left, right:
        await left.send(b"HELLO is out of the way")
        await right.receive()
        await right.send(b"here, too")
        await left.receive()
        for _ in range(20):
            sent = fill(left)
            sending = asyncio.create_task(left.send(b"one more"))
            await asyncio.sleep(0)
            assert not sending.done()
            for message in sent:
                assert await right.receive() == message
            assert await right.receive() == b"one more"
            await sending


async def test_full_both_ways() -> None:
    """Nobody waits for whoever waits for it."""
    left, right = aioipc.pair("shm", **OPTIONS)
    async with left, right:
        sent = fill(left), fill(right)
        sending = [asyncio.create_task(end.send(bytes(5 * CAPACITY))) for end in (left, right)]
        await asyncio.sleep(0)
        for messages, end in zip(sent, (right, left), strict=True):
            for message in messages:
                assert await end.receive() == message
        for got in await asyncio.gather(left.receive(), right.receive()):
            assert got == bytes(5 * CAPACITY)
        await asyncio.gather(*sending)


async def test_one_byte_over_the_limit() -> None:
    limits = Limits(ring_bytes=CAPACITY, max_message_bytes=5 * CAPACITY)
    left, right = aioipc.pair("shm", codec="raw", limits=limits)
    async with left, right:
        with pytest.raises(aioipc.FrameTooLarge):
            await left.send(bytes(5 * CAPACITY + 1))
        sending = asyncio.create_task(left.send(bytes(5 * CAPACITY)))
        assert await right.receive() == bytes(5 * CAPACITY)
        await sending


async def test_small_messages_by_the_ring_as_a_whole(chance: random.Random) -> None:
    """Many rounds: the positions go round and round, with PADs wherever they have to be."""
    left, right = aioipc.pair("shm", **OPTIONS)
    async with left, right:
        for size in (0, 1, 8, 9, 1000, 4095, 4096, MAXREC - 8, MAXREC):
            messages = [chance.randbytes(size) for _ in range(2 * CAPACITY // span(size) % 500 + 9)]
            sending = asyncio.create_task(left.send_many(messages))
            got: list[bytes] = []
            while len(got) < len(messages):
                got += await right.receive_many()
            await sending
            assert got == messages
