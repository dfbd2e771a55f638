"""Messages that go by the broadcast ring, and those that cannot or no longer do."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import random
import signal
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import Channel, codecs, pubsub
from aioipc.abc import Codec
from aioipc.codecs import msgpack
from aioipc.kernel.eventfd import create_eventfd
from aioipc.kernel.memory import create_memory, seal
from aioipc.kernel.owned import OwnedFd
from aioipc.native._broadcast import HEAD_BYTES, PAGE_BYTES
from aioipc.native._memory import Mapping
from aioipc.pubsub import Gap, Message, Publisher, Subscription
from aioipc.pubsub._codec import PublisherEnd, SubscriberEnd
from aioipc.wire.pubsub import Away, Open, Ride, Ring, Welcome, WhenFull
from tests.children import Peers
from tests.links import steps
from tests.programs import program
from tests.pubsub.turning import until
from tests.scale import patience_s, scaled

pytestmark = pytest.mark.asyncio

SMALL = aioipc.Limits(ring_bytes=64 * 1024)


def by_ring(publisher: Publisher[Any]) -> int:
    """How many messages went by the ring, once for each subscriber."""
    publisher.statistics()  # those aboard are told first
    return sum(feed.seat.sent for feed in publisher._feeds if feed.seat is not None)


@contextlib.asynccontextmanager
async def couple(
    *, queue: int = 1000, limits: aioipc.Limits = SMALL, when_full: str = "block"
) -> AsyncIterator[tuple[Publisher[Any], Subscription[Any]]]:
    async with (
        pubsub.publisher("shm:", limits=limits) as publisher,
        pubsub.subscriber(publisher.address, "a", when_full=when_full, queue=queue) as subscription,
    ):
        yield publisher, subscription


async def values(subscription: Subscription[Any], count: int) -> list[Any]:
    async with asyncio.timeout(20):
        items = [await subscription.receive() for _ in range(count)]
    return [-item.count if isinstance(item, Gap) else item.value for item in items]


async def test_one_copy_for_all() -> None:
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(pubsub.publisher("shm:", limits=SMALL))
        subscriptions = [
            await stack.enter_async_context(pubsub.subscriber(publisher.address, "a"))
            for _ in range(10)
        ]
        for number in range(100):
            await publisher.publish("a", number)
        for subscription in subscriptions:
            assert await values(subscription, 100) == list(range(100))
        assert by_ring(publisher) == 1_000
        assert publisher.stage is not None
        assert publisher.stage.writer.position < 100 * 100, "not ten times as much"


async def test_who_sleeps_is_woken() -> None:
    async with couple() as (publisher, subscription):
        for number in range(50):
            receiving = asyncio.create_task(subscription.receive())
            await steps(number % 5)
            await publisher.publish("a", number)
            async with asyncio.timeout(20):
                assert await receiving == Message("a", number)
        assert by_ring(publisher) == 50


async def test_long_messages_go_another_way_and_the_order_stays() -> None:
    sizes = [1, 100, 16 * 1024, 1, 100_000, 1, 1, 10, 200_000, 1]
    async with couple() as (publisher, subscription):

        async def publish() -> None:
            for number in range(100):
                await publisher.publish("a", [number, b"x" * sizes[number % len(sizes)]])

        publishing = asyncio.create_task(publish())
        seen = await values(subscription, 100)
        await publishing
        assert [value[0] for value in seen] == list(range(100))
        assert [len(value[1]) for value in seen] == [sizes[n % len(sizes)] for n in range(100)]
        assert by_ring(publisher) > 0


async def test_who_has_caught_up_is_on_the_ring_again() -> None:
    async with couple(queue=4, when_full="drop_oldest") as (publisher, subscription):
        for number in range(20):
            await publisher.publish("a", number)
        assert await values(subscription, 9) == [0, 1, 2, 3, -12, *range(16, 20)]
        before = by_ring(publisher)
        async with asyncio.timeout(20):
            while by_ring(publisher) == before:
                receiving = asyncio.create_task(subscription.receive())
                await steps(10)  # it grants before it sleeps, and the publisher reads that
                await publisher.publish("a", "again")
                assert await receiving == Message("a", "again")
        assert publisher.statistics().dropped == subscription.statistics().missed == 12


async def test_a_gap_comes_before_what_was_published_later() -> None:
    """And nothing comes twice: nobody is on the ring while it has something else to read."""
    middle, long = b"x" * 17_000, b"x" * 30_000  # over a quarter of the ring; over its own limit
    async with (
        pubsub.publisher("shm:", limits=SMALL) as publisher,
        pubsub.subscriber(
            publisher.address, "a", queue=2, limits=aioipc.Limits(max_message_bytes=20_000)
        ) as subscription,
    ):
        await publisher.publish("a", "first")
        assert await values(subscription, 1) == ["first"]
        for number in range(4):
            receiving = asyncio.create_task(subscription.receive())
            await steps(20)  # it grants before it sleeps, and the publisher reads that
            receiving.cancel()
            await asyncio.wait([receiving])
            await publisher.publish("a", long)
            await publisher.publish("a", number)
            await publisher.publish("a", middle)
            assert await values(subscription, 3) == [-1, number, middle]
        await publisher.publish("a", "last")
        assert await values(subscription, 1) == ["last"]


async def test_what_is_retained_comes_before_what_is_published_later() -> None:
    async with (
        pubsub.publisher("shm:", retain=1, limits=SMALL) as publisher,
        pubsub.subscriber(publisher.address, "a") as subscription,
    ):
        await publisher.publish("b", "retained")
        await publisher.publish("a", 1)
        assert by_ring(publisher) == 1
        await subscription.subscribe("b")
        await publisher.ready(topic="b")
        await publisher.publish("b", "later")
        assert await values(subscription, 3) == [1, "retained", "later"]


async def test_the_ring_is_too_small_for_what_is_under_way() -> None:
    """Nobody is overrun for that: the rest of it goes by the channel."""
    count, size = 300, 1_000
    async with (
        couple() as (publisher, slow),
        pubsub.subscriber(publisher.address, "a", when_full="block") as fast,
    ):
        for number in range(count):
            await publisher.publish("a", [number, b"x" * size])
            assert await values(fast, 1) == [[number, b"x" * size]]
        assert [value[0] for value in await values(slow, count)] == list(range(count))
        assert publisher.statistics().dropped == 0
        assert by_ring(publisher) < 2 * count


POLICIES = ("block", "drop_oldest", "drop_newest", "latest", "block")


@pytest.mark.parametrize("seed", range(scaled(6, full=300)))
@pytest.mark.timeout(patience_s(60))
async def test_any_order_of_events(seed: int) -> None:
    """Every number comes once, in order, or is in a gap: however fast, long and late."""
    dice = random.Random(seed)
    count = 400
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(pubsub.publisher("shm:", limits=SMALL))

        async def consume(policy: str, queue: int, haste: float, own: int) -> tuple[int, int]:
            rolls = random.Random(own)
            expected = 0
            async with pubsub.subscriber(
                publisher.address, "a", when_full=policy, queue=queue
            ) as items:
                async for item in items:
                    if isinstance(item, Gap):
                        assert policy != "block"
                        expected += item.count
                        continue
                    assert item.value[0] == expected, (policy, queue, seed)
                    expected += 1
                    if rolls.random() > haste:
                        receiving = asyncio.create_task(asyncio.sleep(0.002 * rolls.random()))
                        await receiving
                counted = items.statistics()
                assert counted.received + counted.missed == expected == count
                return counted.received, counted.missed

        consuming = [
            asyncio.create_task(
                consume(policy, dice.choice((1, 3, 20, 500)), dice.choice((0.9, 0.99, 1)), own)
            )
            for own, policy in enumerate(POLICIES)
        ]
        await publisher.ready(len(consuming))
        for number in range(count):
            size = dice.choice((0, 10, 500, 500, 3_000, 20_000 if dice.random() < 0.1 else 10))
            await publisher.publish("a", [number, b"x" * size])
            if dice.random() < 0.1:
                await asyncio.sleep(0.001 * dice.random())
        await publisher.aclose()
        ends = await asyncio.gather(*consuming)
        counted = publisher.statistics()
        assert counted.offered == count * len(ends)
        assert counted.dropped == sum(missed for _, missed in ends)


async def test_a_cancelled_receive_loses_nothing_by_the_ring() -> None:
    async with couple() as (publisher, subscription):
        seen: list[Any] = []

        async def receive() -> None:
            item = await subscription.receive()
            assert isinstance(item, Message)
            seen.append(item.value)

        async with asyncio.timeout(20):
            for number in range(200):
                receiving = asyncio.create_task(receive())
                await steps(number % 4)
                await publisher.publish("a", number)
                await steps(number % 3)
                receiving.cancel()
                await asyncio.wait([receiving])
            while len(seen) < 200:
                await receive()
        assert seen == list(range(200))


async def test_whoever_takes_without_a_wait_lets_the_loop_turn() -> None:
    async with couple(queue=5_000, limits=aioipc.Limits()) as (publisher, subscription):
        for number in range(5_000):
            publisher.publish_nowait("a", number)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        assert await values(subscription, 5_000) == list(range(5_000))
        assert turns >= 10
        counting.cancel()
        await asyncio.wait([counting])


async def test_the_end_comes_after_what_is_in_the_ring() -> None:
    async with couple() as (publisher, subscription):
        for number in range(10):
            await publisher.publish("a", number)
        await publisher.aclose()
        assert [item.value async for item in subscription if isinstance(item, Message)] == list(
            range(10)
        )


@pytest.mark.leaves_names
async def test_the_death_comes_after_what_is_in_the_ring(peers: Peers) -> None:
    publisher = program(
        peers,
        """
        from aioipc import pubsub
        async with pubsub.publisher("shm:doomed") as publisher:
            say(publisher.address)
            await publisher.ready()
            for number in range(100):
                await publisher.publish("a", number)
            await asyncio.sleep(0)  # at the end of a turn everything is shown
            os.kill(os.getpid(), 9)
        """,
    )
    async with pubsub.subscriber(await publisher.next_line(), "a") as subscription:
        assert await values(subscription, 100) == list(range(100))
        with pytest.raises(aioipc.PeerCrashed):
            await subscription.receive()


async def test_a_forked_child_has_no_part_in_it() -> None:
    async with couple() as (publisher, subscription):
        await publisher.publish("a", 1)
        child = os.fork()
        if child == 0:
            try:
                publisher.publish_nowait("a", "from the child")
            except aioipc.ForkError:
                os._exit(7)
            os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        await publisher.publish("a", 2)
        assert await values(subscription, 2) == [1, 2]


async def test_subscribers_cannot_write_to_the_ring(peers: Peers) -> None:
    async with pubsub.publisher("shm:", limits=SMALL) as publisher:
        reader = program(
            peers,
            """
            from aioipc import pubsub
            async with pubsub.subscriber(sys.argv[1], "a") as items:
                await items.receive()
                say("received")
                await hear()
            """,
            publisher.address,
        )
        await publisher.ready()
        await publisher.publish("a", 1)
        assert await reader.next_line() == "received"
        maps = Path(f"/proc/{reader.pid}/maps").read_text().splitlines()
        found = {
            line.split(":")[-1].split(" (")[0]: line.split()[1]
            for line in maps
            if "aioipc-broadcast" in line
        }
        assert found == {"aioipc-broadcast": "r--s", "aioipc-broadcast-page": "rw-s"}
        await asyncio.to_thread(reader.kill)


async def test_a_subscriber_that_wants_no_descriptors() -> None:
    async with (
        pubsub.publisher("shm:", limits=SMALL) as publisher,
        pubsub.subscriber(publisher.address, "a", limits=aioipc.Limits(max_fds=0)) as items,
    ):
        await publisher.publish("a", 1)
        assert await values(items, 1) == [1]
        assert by_ring(publisher) == 0


async def test_more_subscribers_than_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioipc.pubsub._stage._MOST_SEATS", 1)
    async with (
        couple() as (publisher, first),
        pubsub.subscriber(publisher.address, "a") as second,
    ):
        await publisher.publish("a", 1)
        assert await values(first, 1) == await values(second, 1) == [1]
        assert by_ring(publisher) == 1
        await first.aclose()
        await until(lambda: len(publisher.statistics().subscribers) == 1)
        async with pubsub.subscriber(publisher.address, "a") as third:
            await publisher.publish("a", 2)
            assert await values(second, 1) == await values(third, 1) == [2]
            assert by_ring(publisher) == 1


async def test_a_stopped_subscriber_costs_the_others_nothing(peers: Peers) -> None:
    """It is taken off the ring, and the others stay on."""
    async with couple() as (publisher, subscription):
        stopped = program(
            peers,
            """
            from aioipc import pubsub
            async with pubsub.subscriber(sys.argv[1], "a", queue=10) as items:
                say("ready")
                numbers = [item.value[0] async for item in items if hasattr(item, "value")]
                say(numbers == sorted(set(numbers)), len(numbers) + items.statistics().missed)
            """,
            publisher.address,
        )
        await stopped.next_line()
        stopped.signal(signal.SIGSTOP)
        for number in range(500):
            await publisher.publish("a", [number, b"x" * 1_000])
            assert (await values(subscription, 1))[0][0] == number
        assert 500 <= by_ring(publisher) <= 510
        stopped.signal(signal.SIGCONT)
        await publisher.aclose()
        assert await stopped.next_line() == "True 500"


# Who breaks the rules


@contextlib.asynccontextmanager
async def false_publisher(
    *said: Any, fds: int = 2, files: Sequence[OwnedFd] | None = None
) -> AsyncIterator[str]:
    """Answers a subscriber with these messages, the first of them with descriptors."""
    codec: Codec[Any] = PublisherEnd(msgpack)
    async with aioipc.listen("shm:", codec=codec) as listener:

        async def serve() -> None:
            async with await listener.accept() as channel:
                assert isinstance(await channel.receive(), Ride)
                assert isinstance(await channel.receive(), Open)
                await answer(channel)
                with contextlib.suppress(aioipc.IPCError):
                    await channel.receive()

        async def answer(channel: Channel[Any]) -> None:
            with contextlib.ExitStack() as stack:
                sent = files or [stack.enter_context(create_eventfd()) for _ in range(fds)]
                for number, message in enumerate(said):
                    await channel.send(message, fds=sent if number == 0 else ())

        serving = asyncio.create_task(serve())
        try:
            yield listener.address
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@pytest.mark.parametrize("fds", [0, 1, 2, 3])
async def test_an_invitation_to_what_is_no_ring(fds: int) -> None:
    async with false_publisher(Ring(65536, 4, 0, 0), Welcome(), fds=fds) as address:
        with pytest.raises(aioipc.HandshakeError):
            await pubsub.subscriber(address, "a")


async def test_asides_that_make_no_sense() -> None:
    async with (
        false_publisher(Welcome(), Away(0, 0, 0), fds=0) as address,
        pubsub.subscriber(address, "a") as subscription,
    ):
        with pytest.raises(aioipc.ProtocolError, match="Away"):
            await subscription.receive()


async def test_a_place_beyond_the_end() -> None:
    async with couple() as (publisher, subscription):
        (feed,) = publisher._feeds
        feed.channel.send_nowait(Away(0, 0, 2**40))
        with pytest.raises(aioipc.RingCorrupted):
            await subscription.receive()


async def test_a_subscriber_that_says_it_twice(caplog: pytest.LogCaptureFixture) -> None:
    async with couple() as (publisher, subscription):
        await subscription._channel.send(Ride(1))
        with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
            await subscription.receive()
        await until(lambda: not publisher.statistics().subscribers)
    assert "says Ride once" in caplog.text


PAD = struct.pack("Q", 2 << 32)
"""Bytes of a ring that a reader is to pass."""


@contextlib.asynccontextmanager
async def in_false_ring(capacity: int) -> AsyncIterator[tuple[Subscription[Any], Mapping, Mapping]]:
    """A subscription, the ring that it looks at, which its publisher made up, and its page."""
    size = HEAD_BYTES + capacity
    with (
        create_memory(size, sealed=False) as ring,
        create_memory(PAGE_BYTES) as page,
    ):
        memory = Mapping(ring.fileno(), size)
        seal(ring, against_writing=True)
        async with (
            false_publisher(Ring(capacity, 4, 0, 0), Welcome(), files=(ring, page)) as address,
            pubsub.subscriber(address, "a") as subscription,
        ):
            yield subscription, memory, Mapping(page.fileno(), PAGE_BYTES)


async def test_a_publisher_that_says_it_is_far_ahead() -> None:
    """No loop follows it there: a ring is never further than once around."""
    async with in_false_ring(65536) as (subscription, memory, _):
        view = memoryview(memory)
        view[HEAD_BYTES : HEAD_BYTES + 8] = struct.pack("Q", 2 << 32 | 65536 - 8)
        view[:8] = struct.pack("Q", 2**60)
        with pytest.raises(aioipc.RingCorrupted):
            await subscription.receive()


async def test_what_is_for_others_leaves_others_their_turn() -> None:
    capacity = 2**22
    async with in_false_ring(capacity) as (subscription, memory, page):
        view, end = memoryview(memory), struct.pack("Q", capacity)
        view[HEAD_BYTES:] = PAD * (capacity // 8)
        view[:8] = end
        receiving = asyncio.create_task(subscription.receive())
        turns = 0
        while bytes(memoryview(page)[:8]) != end:
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 20
        receiving.cancel()
        await asyncio.wait([receiving])


@pytest.mark.parametrize("payload", [b"\xff", b"\0"])
async def test_a_subscriber_that_says_it_is_within_a_message(peers: Peers, payload: bytes) -> None:
    """The publisher takes no payload for a message, and the others go on."""
    publisher = program(
        peers,
        """
        from aioipc import pubsub
        async with (
            pubsub.publisher("shm:", codec="raw") as publisher,
            pubsub.subscriber(publisher.address, "a", codec="raw", when_full="block") as good,
        ):
            say(publisher.address)
            await publisher.ready(2)
            payload = bytes.fromhex(sys.argv[1]) * 64
            for _ in range(2):
                await publisher.publish("a", payload)
            await asyncio.sleep(0)  # at the end of a turn everything is shown
            say("shown")
            await hear()
            for _ in range(8):
                await publisher.publish("a", payload)
            say([(await good.receive()).value for _ in range(10)] == [payload] * 10)
        """,
        payload.hex(),
    )
    codec: Codec[Any] = SubscriberEnd(codecs.get("raw"), aioipc.Limits())
    async with aioipc.connect(await publisher.next_line(), codec=codec) as channel:
        await channel.send_many([Ride(2**20), Open(["a"], WhenFull.DROP_OLDEST, 2, 2)])
        assert isinstance(await channel.receive(), Ring)
        ring, page = channel.take_fds()
        with mmap.mmap(ring, 4096, prot=mmap.PROT_READ) as memory, mmap.mmap(page, 4096) as own:
            os.close(ring)
            os.close(page)
            assert await publisher.next_line() == "shown"
            (tail,) = struct.unpack_from("Q", memory)
            struct.pack_into("Q", own, 0, tail - 32)
            publisher.tell("go on")
            assert await publisher.next_line() == "True"
    assert await publisher.ended() == 0
