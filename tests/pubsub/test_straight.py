"""The straight way of a publish and a receive: what it writes, and what it leaves to the other."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import aioipc
from aioipc import pubsub
from aioipc.codecs import raw
from aioipc.native._pubsub import Subject, Unpacker
from aioipc.pubsub import Message, Publisher, Subscription
from aioipc.wire.pubsub import Publication
from tests.links import steps
from tests.scale import scaled

in_loop = pytest.mark.asyncio

LIMITS = aioipc.Limits(max_message_bytes=100_000)
SIZES = (0, 1, 255, 256, 65_535, 65_536)
TOPICS = ("a", "a" * 31, "é" * 16, "a" * 255, "b" * 256, "é" * 512)


def refuse(_: object) -> None:
    """What the straight way does not take."""


def unpacker() -> Unpacker:
    return Unpacker(Message, raw, refuse, max_depth=64, max_elements=1000)


@pytest.mark.parametrize("topic", TOPICS)
def test_it_writes_what_msgspec_writes(topic: str) -> None:
    for size in SIZES:
        value = bytes(size)
        packed = Subject(topic, None).pack(value)
        assert packed == msgspec.msgpack.encode(Publication(topic, value))  # type: ignore[arg-type]
        for buffer in (packed, memoryview(packed)):
            assert unpacker().unpack(buffer) == Message(topic, value)


def test_what_is_cut_or_goes_on_is_left_to_the_other_way() -> None:
    one = unpacker()
    for topic in TOPICS:
        whole = Subject(topic, None).pack(bytes(300))
        for length in range(len(whole)):
            assert one.unpack(whole[:length]) is None
        assert one.unpack(whole + b"\0") is None
        assert one.unpack(whole) == Message(topic, bytes(300))


def test_it_reads_nothing_that_msgspec_does_not(chance: random.Random) -> None:
    """Bytes are changed at random: what is read is what msgspec reads, or nothing."""
    one = unpacker()
    decode = msgspec.msgpack.Decoder(Publication).decode
    for _ in range(scaled(3_000, full=1_000_000)):
        data = bytearray(Subject(chance.choice(TOPICS[:4]), None).pack(bytes(chance.randrange(9))))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(min(len(data), 12))] = chance.randrange(256)
        found = one.unpack(bytes(data))
        if found is not None:
            expected = decode(data)
            assert found == Message(expected.topic, bytes(expected.value))


@contextlib.asynccontextmanager
async def couple(address: str) -> AsyncIterator[tuple[Publisher[Any], Subscription[Any]]]:
    async with (
        pubsub.publisher(address, limits=LIMITS) as publisher,
        pubsub.subscriber(publisher.address, "t.>", when_full="block") as subscription,
    ):
        await publisher.publish("t.warm", "warm")
        await subscription.receive()
        await steps(3)
        yield publisher, subscription


@in_loop
async def test_topics_with_the_same_subscribers_ride_together() -> None:
    async with couple("shm:") as (publisher, subscription):
        await publisher.publish("t.0", 0)
        aboard = publisher.aboard
        assert aboard is not None
        for number in range(1, 50):
            await publisher.publish(f"t.{number % 5}", number)
        assert publisher.aboard is aboard
        got = [await subscription.receive() for _ in range(50)]
        assert got == [Message(f"t.{number % 5}", number) for number in range(50)]
        assert publisher.statistics().published == 51


@in_loop
@pytest.mark.parametrize("address", ["shm:", "unix:"])
async def test_nothing_happens_before_it_is_awaited(address: str) -> None:
    async with couple(address) as (publisher, subscription):
        for number in range(3):
            publish = publisher.publish("t.a", number)
            assert publisher.statistics().published == 1 + number
            await publish
            await steps(2)
            receive = subscription.receive()
            assert subscription.statistics().received == 1 + number
            assert await receive == Message("t.a", number)
            for spent in (publish, receive):
                with pytest.raises(RuntimeError, match="only once"):
                    await spent
        with pytest.warns(RuntimeWarning, match="never awaited: nothing was sent"):
            publisher.publish("t.a", 3)  # type: ignore[unused-coroutine]
        assert publisher.statistics().published == 4


@in_loop
@pytest.mark.parametrize("address", ["shm:", "unix:"])
async def test_another_thread_is_refused(address: str) -> None:
    """Also by the ring, which could be written to, and would then wake nobody."""
    async with couple(address) as (publisher, subscription):

        async def publish() -> None:
            await publisher.publish("t.a", "by another loop")

        for wrong in (lambda: publisher.publish_nowait("t.a", 1), lambda: asyncio.run(publish())):
            with pytest.raises(RuntimeError, match="belongs to the event loop of another thread"):
                await asyncio.to_thread(wrong)
        await publisher.publish("t.a", 2)
        assert await subscription.receive() == Message("t.a", 2)
        assert publisher.statistics().published == 2


@in_loop
@pytest.mark.parametrize("address", ["shm:", "unix:"])
async def test_what_is_wrong_is_said_as_on_the_other_way(address: str) -> None:
    async with couple(address) as (publisher, subscription):
        await publisher.publish("t.a", 1)
        for topic in ("", "t.*", "t..a", 5, ["t"]):
            with pytest.raises((ValueError, TypeError)):
                await publisher.publish(topic, 1)  # type: ignore[arg-type]
        with pytest.raises(aioipc.EncodeError, match="cannot encode this object"):
            await publisher.publish("t.a", object())
        with pytest.raises(aioipc.FrameTooLarge):
            await publisher.publish("t.a", bytes(100_000))
        await publisher.publish("t.a", 2)
        assert [(await subscription.receive()) for _ in range(2)] == [
            Message("t.a", 1),
            Message("t.a", 2),
        ]
    with pytest.raises(aioipc.ClosedError):
        await publisher.publish("t.a", 3)
    with pytest.raises(aioipc.ClosedError):
        await subscription.receive()


@in_loop
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "block"])
async def test_what_passes_one_after_the_other_is_counted(when_full: str) -> None:
    """Over a socket nothing waits for who keeps up; then the queue fills, and is taken."""
    queue = 5
    async with (
        pubsub.publisher("unix:", limits=LIMITS) as publisher,
        pubsub.subscriber(publisher.address, "t", when_full=when_full, queue=queue) as slow,
        pubsub.subscriber(publisher.address, "t", when_full="block") as quick,
    ):
        for number in range(20):
            await publisher.publish("t", number)
            for subscription in (slow, quick):
                assert await subscription.receive() == Message("t", number)
            await steps(5)
        assert sum(feed.passed > 0 for feed in publisher._feeds) == 2
        counted = publisher.statistics()
        assert (counted.published, counted.offered, counted.dropped) == (20, 40, 0)

        room = queue + queue - slow.owed  # under way, and at the publisher
        count = room if when_full == "block" else 50
        for number in range(count):
            publisher.publish_nowait("t", number)
        counted = publisher.statistics()
        dropped = count - room
        assert (counted.offered, counted.dropped) == (40 + 2 * count, dropped)
        assert sorted(each.waiting for each in counted.subscribers) == [0, queue]
        if when_full == "block":
            with pytest.raises(aioipc.WouldBlock):
                publisher.publish_nowait("t", count)
            assert publisher.statistics().offered == counted.offered, "it was sent to nobody"

        assert [await quick.receive() for _ in range(count)] == [
            Message("t", number) for number in range(count)
        ]
        items = [await slow.receive() for _ in range(room + (dropped > 0))]
        missed = [item.count for item in items if isinstance(item, pubsub.Gap)]
        assert sum(missed) == dropped
