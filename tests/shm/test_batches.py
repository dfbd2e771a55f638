"""Batches over the ring: short bytes take a straight way, all else the one of single messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import aioipc
from aioipc import EndOfStream, FrameTooLarge
from tests.scale import scaled

RING_BYTES = 65536
FRAGMENT = 32768
"""Parts of a message that is too long for one record."""
STRAIGHT = 8192
"""Longer messages are looked at one by one."""

sizes = st.one_of(
    st.integers(0, 100),
    st.integers(STRAIGHT - 2, STRAIGHT + 2),
    st.sampled_from([RING_BYTES // 4, RING_BYTES // 4 + 1, FRAGMENT + 1, 100_000]),
)
kinds = st.sampled_from([bytes, bytes, bytes, bytearray, memoryview])
batches = st.lists(st.lists(st.tuples(kinds, sizes), max_size=12), min_size=1, max_size=6)


def numbered(batches: list[list[tuple[Any, int]]]) -> Iterator[list[Any]]:
    """The messages of each batch, of which no two are alike, if they are not too short."""
    number = 0
    for batch in batches:
        messages = []
        for kind, size in batch:
            number += 1
            messages.append(kind((number.to_bytes(4, "little") * (size // 4 + 1))[:size]))
        yield messages


@settings(max_examples=scaled(150, full=3_000))
@given(batches=batches, most=st.sampled_from([1, 2, 7, 300]), single=st.booleans())
@example(batches=[[(bytes, 1)] * 700], most=512, single=False)
@example(batches=[[(bytes, STRAIGHT)] * 20, [(bytes, 1)] * 300], most=300, single=True)
def test_all_come_in_order(
    batches: list[list[tuple[Any, int]]], most: int, *, single: bool
) -> None:
    sent = list(numbered(batches))
    flat = [bytes(message) for messages in sent for message in messages]

    async def send(channel: aioipc.Channel[Any]) -> None:
        async with channel:
            for messages in sent:
                await channel.send_many(messages)
                if single:
                    await channel.send(b"single")

    async def receive(channel: aioipc.Channel[Any]) -> list[bytes]:
        got: list[bytes] = []
        async with channel:
            while True:
                try:
                    some = await channel.receive_many(most)
                except EndOfStream:
                    return [message for message in got if message != b"single"]
                assert 1 <= len(some) <= most
                got += some

    async def both() -> tuple[list[bytes], int, int]:
        limits = aioipc.Limits(ring_bytes=RING_BYTES)
        left, right = aioipc.pair("shm", codec="raw", limits=limits)
        _, got = await asyncio.gather(send(left), receive(right))
        return got, left.statistics().messages_sent, right.statistics().messages_received

    got, count_sent, count_received = asyncio.run(both())
    assert got == flat
    assert count_sent == count_received == len(flat) + (len(batches) if single else 0)


@pytest.mark.asyncio
async def test_one_that_is_too_long_ends_the_batch() -> None:
    """Those before it were sent, those behind it were not."""
    limits = aioipc.Limits(max_message_bytes=1000)
    left, right = aioipc.pair("shm", codec="raw", limits=limits)
    async with left, right:
        with pytest.raises(FrameTooLarge, match=r"1,001 .* 1,000"):
            await left.send_many([b"a", b"b" * 1000, b"c" * 1001, b"d"])
        await left.send(b"e")
        assert await right.receive_many() == [b"a", b"b" * 1000, b"e"]


@pytest.mark.asyncio
async def test_what_brings_descriptors_is_the_last() -> None:
    left, right = aioipc.pair("shm", codec="raw")
    async with left, right:
        await left.send_many([b"a", b"b"])
        await left.send(b"c", fds=[0])
        await left.send_many([b"d", b"e"])
        assert await right.receive_many() == [b"a", b"b", b"c"]
        (fd,) = right.take_fds()
        os.close(fd)
        assert await right.receive_many() == [b"d", b"e"]


@pytest.mark.asyncio
async def test_a_batch_that_does_not_fit_waits_for_room() -> None:
    limits = aioipc.Limits(ring_bytes=RING_BYTES)
    left, right = aioipc.pair("shm", codec="raw", limits=limits)
    messages = [b"%06d" % number for number in range(20_000)]
    async with left, right:
        sending = asyncio.create_task(left.send_many(messages))
        got: list[bytes] = []
        while len(got) < len(messages):
            got += await right.receive_many(100)
        await sending
        assert got == messages
