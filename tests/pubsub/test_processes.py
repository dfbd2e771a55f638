"""Publishers and subscribers in processes of their own, which stop, are killed and break rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest

import aioipc
from aioipc import Channel, pubsub
from aioipc.abc import Codec
from aioipc.codecs import msgpack
from aioipc.pubsub import Gap, Message, Publisher, Subscription
from aioipc.pubsub._codec import SubscriberEnd
from aioipc.wire.pubsub import Credit, Open, Subscribe, Unsubscribe, WhenFull
from tests.children import Peers
from tests.programs import Nursery, program
from tests.pubsub.turning import until
from tests.scale import patience_s, scaled

pytestmark = pytest.mark.asyncio

SUBSCRIBER = """
from aioipc import pubsub
address, name, when_full, queue = sys.argv[1:]
async with pubsub.subscriber(address, "n", when_full=when_full, queue=int(queue)) as subscription:
    say(name, "ready", os.getpid())
    last = -1
    async for item in subscription:
        if isinstance(item, pubsub.Gap):
            last += item.count
        else:
            assert item.value[0] == last + 1, (name, last, item)
            last += 1
    counted = subscription.statistics()
    say(name, "end", counted.received, counted.missed)
"""
"""Checks that every number is there or in a gap; says at the end how many of each."""


async def publish(publisher: Publisher[Any], numbers: range, size: int) -> None:
    for number in numbers:
        await publisher.publish("n", [number, b"x" * size])


@pytest.mark.parametrize(
    ("address", "when_full", "others"),
    [
        ("unix:", "drop_oldest", 49),
        ("shm:", "drop_oldest", 5),
        ("unix:", "drop_newest", 5),
        ("shm:", "latest", 49),
    ],
)
@pytest.mark.timeout(patience_s(60))
async def test_one_stopped_subscriber_among_fifty(
    peers: Peers, address: str, when_full: str, others: int
) -> None:
    """Case 64: the others get everything, in order, while it is stopped; it has exact gaps."""
    count, size = scaled(100, full=20_000), 500
    async with pubsub.publisher(address, limits=aioipc.Limits(ring_bytes=64 * 1024)) as publisher:
        stopped = program(peers, SUBSCRIBER, publisher.address, "slow", when_full, 10)
        assert (await stopped.next_line()).startswith("slow ready")
        nursery = Nursery(peers, SUBSCRIBER, publisher.address)
        for number in range(others):
            await asyncio.to_thread(nursery.start, number, "block", 100)
            assert (await nursery.peer.next_line()).startswith(f"{number} ready")
        await publisher.ready(others + 1)

        stopped.signal(signal.SIGSTOP)
        await publish(publisher, range(count), size)
        await until_taken(publisher)
        counted = publisher.statistics()
        assert counted.published == count
        assert counted.offered == (others + 1) * count
        (slow,) = [each for each in counted.subscribers if each.when_full == when_full]
        # As many were under way as the window has, which is the queue or, for "latest", one.
        assert slow.dropped == count - (2 if when_full == "latest" else 20)
        assert counted.dropped == slow.dropped, "nobody else lost any"

        stopped.signal(signal.SIGCONT)
        await publisher.aclose()
        for _ in range(others):
            assert (await nursery.peer.next_line()).split()[1:] == ["end", str(count), "0"]
        received, missed = map(int, (await stopped.next_line()).split()[2:])
        assert (received, missed) == (count - slow.dropped, slow.dropped)
        assert await stopped.ended() == 0


async def until_taken(publisher: Publisher[Any]) -> None:
    """Wait until nothing waits for a subscriber that blocks: they all go on."""
    await until(
        lambda: (
            not any(
                each.waiting
                for each in publisher.statistics().subscribers
                if each.when_full == "block"
            )
        )
    )


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_a_stopped_subscriber_that_wants_to_be_disconnected(
    peers: Peers, address: str
) -> None:
    async with (
        pubsub.publisher(address) as publisher,
        pubsub.subscriber(publisher.address, "n", when_full="block") as other,
    ):
        stopped = program(
            peers,
            """
            from aioipc import pubsub
            options = {"when_full": "disconnect", "queue": 5}
            async with pubsub.subscriber(sys.argv[1], "n", **options) as items:
                say("ready")
                try:
                    async for item in items:
                        pass
                except aioipc.QuotaExceeded as error:
                    say(items.statistics().received, error)
            """,
            publisher.address,
        )
        await stopped.next_line()
        stopped.signal(signal.SIGSTOP)
        await publish(publisher, range(50), 100)
        assert [(await other.receive()).value[0] for _ in range(50)] == list(range(50))  # type: ignore[union-attr]
        assert publisher.statistics().disconnected == 1
        stopped.signal(signal.SIGCONT)
        assert (await stopped.next_line()).startswith("5 ")
        assert await stopped.ended() == 0


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_a_stopped_subscriber_that_blocks(peers: Peers, address: str) -> None:
    """It holds the publisher back for as long as it is stopped, and loses nothing."""
    async with (
        pubsub.publisher(address) as publisher,
        pubsub.subscriber(publisher.address, "n", when_full="block") as other,
    ):
        stopped = program(peers, SUBSCRIBER, publisher.address, "slow", "block", 10)
        await stopped.next_line()
        stopped.signal(signal.SIGSTOP)
        publishing = asyncio.create_task(publish(publisher, range(100), 100))
        await until(lambda: publisher.statistics().waits)
        held = publisher.statistics().published
        assert 20 <= held <= 100, "what is under way and what may wait"
        assert [(await other.receive()).value[0] for _ in range(held)] == list(range(held))  # type: ignore[union-attr]
        assert not publishing.done()
        stopped.signal(signal.SIGCONT)
        await publishing
        await publisher.aclose()
        assert await stopped.next_line() == "slow end 100 0"


@pytest.mark.parametrize("address", ["unix:", "shm:", "tcp://127.0.0.1:0"])
async def test_a_killed_subscriber_is_dropped_at_once(peers: Peers, address: str) -> None:
    async with pubsub.publisher(address) as publisher:
        victim = program(peers, SUBSCRIBER, publisher.address, "victim", "block", 1)
        await victim.next_line()
        victim.signal(signal.SIGSTOP)
        publishing = asyncio.create_task(publish(publisher, range(100), 100))
        await until(lambda: publisher.statistics().waits)
        await asyncio.to_thread(victim.kill)
        async with asyncio.timeout(20):
            await publishing
        assert publisher.statistics().subscribers == ()


@pytest.mark.parametrize("address", ["unix:pub", "shm:pub", "tcp://127.0.0.1:0"])
@pytest.mark.leaves_names
async def test_a_killed_publisher(peers: Peers, address: str) -> None:
    publisher = program(
        peers,
        """
        from aioipc import pubsub
        async with pubsub.publisher(sys.argv[1]) as publisher:
            say(publisher.address)
            await publisher.ready()
            for number in range(100):
                await publisher.publish("n", number)
            await asyncio.sleep(0)  # at the end of a turn everything has left
            say("done")
            await hear()
        """,
        address,
    )
    async with pubsub.subscriber(await publisher.next_line(), "n") as subscription:
        assert await publisher.next_line() == "done"
        first = await subscription.receive()
        await asyncio.to_thread(publisher.kill)
        seen = [first, *[await subscription.receive() for _ in range(99)]]
        with pytest.raises(aioipc.PeerCrashed):
            await subscription.receive()
        assert seen == [Message("n", number) for number in range(100)], "all that had arrived"


@pytest.mark.parametrize("address", ["unix:", "shm:"])
@pytest.mark.timeout(patience_s(60))
async def test_subscribers_that_are_killed_at_any_time(peers: Peers, address: str) -> None:
    """Those that stay miss nothing, whatever happens beside them."""
    async with pubsub.publisher(address) as publisher:
        stays = program(peers, SUBSCRIBER, publisher.address, "stays", "block", 50)
        await stays.next_line()
        stop = asyncio.Event()

        async def keep_publishing() -> int:
            number = 0
            while not stop.is_set():
                await publisher.publish("n", [number, b""])
                number += 1
            return number

        publishing = asyncio.create_task(keep_publishing())
        nursery = Nursery(peers, LATE_SUBSCRIBER, publisher.address)
        policies = [policy.value for policy in WhenFull]
        for number in range(scaled(10, full=2_000)):
            policy = policies[number % len(policies)]
            pid = await asyncio.to_thread(nursery.start, policy)
            assert await nursery.peer.next_line() == "ready"
            await asyncio.sleep(0.0005 * (number % 5))  # so that it is killed at any point
            with contextlib.suppress(ProcessLookupError):  # one that was disconnected has ended
                os.kill(pid, signal.SIGKILL)
        stop.set()
        count = await publishing
        await publisher.aclose()
        assert await stays.next_line() == f"stays end {count} 0"


LATE_SUBSCRIBER = """
from aioipc import pubsub
address, when_full = sys.argv[1:]
async with pubsub.subscriber(address, "n", when_full=when_full, queue=5) as subscription:
    say("ready")
    with contextlib.suppress(aioipc.QuotaExceeded, aioipc.PeerCrashed):
        async for item in subscription:
            pass
"""


# Who breaks the rules

OPEN = Open(["n"], WhenFull.BLOCK, 10, 10)


@contextlib.asynccontextmanager
async def attacked(
    **limits: Any,
) -> AsyncIterator[tuple[Channel[Any], Publisher[Any], Subscription[Any]]]:
    """A bare channel to a publisher, and a good subscriber of the same."""
    known = aioipc.Limits(**limits)
    codec: Codec[Any] = SubscriberEnd(msgpack, known)
    async with (
        pubsub.publisher("unix:", limits=known) as publisher,
        pubsub.subscriber(publisher.address, "n", when_full="block") as good,
        aioipc.connect(publisher.address, codec=codec) as channel,
    ):
        yield channel, publisher, good
        await publisher.publish("n", "good")
        assert await good.receive() == Message("n", "good")
        await until(lambda: len(publisher.statistics().subscribers) == 1)


async def say_and_hear(channel: Channel[Any], said: list[Any]) -> NoReturn:
    for message in said:
        await channel.send(message)
    while True:
        await channel.receive()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([Credit(1)], aioipc.ProtocolError),
        ([Subscribe(["a"])], aioipc.ProtocolError),
        ([OPEN, OPEN], aioipc.ProtocolError),
        ([Open(["a..b"], WhenFull.BLOCK, 1, 1)], aioipc.ProtocolError),
        ([OPEN, Subscribe(["x", "a*"])], aioipc.ProtocolError),
        ([Open(["x" * 2**20], WhenFull.BLOCK, 1, 1)], aioipc.QuotaExceeded),
        ([OPEN, Subscribe([".".join("a" * 10_000)])], aioipc.QuotaExceeded),
        ([Open([f"n.{n}" for n in range(100_000)], WhenFull.BLOCK, 1, 1)], aioipc.QuotaExceeded),
        ([OPEN, *(Subscribe([f"n.{n}"]) for n in range(2_000))], aioipc.QuotaExceeded),
        ([Open(["n"], WhenFull.BLOCK, 2**32 - 1, 1)], aioipc.QuotaExceeded),
    ],
    ids=lambda value: None if isinstance(value, list) else value.__name__,
)
async def test_who_breaks_the_rules_is_dropped(
    said: list[Any], error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Case 65 as well."""
    async with attacked() as (channel, _, _good):
        with pytest.raises((error, aioipc.PeerCrashed)):
            await say_and_hear(channel, said)
    assert "a subscriber was refused" in caplog.text
    assert "Traceback" not in caplog.text
    assert len(caplog.text) < 500


async def test_numbers_out_of_range(caplog: pytest.LogCaptureFixture) -> None:
    for said in (
        [Open(["n"], WhenFull.BLOCK, 0, 1)],
        [Open(["n"], WhenFull.BLOCK, 1, 0)],
        [Open(["n"], "never", 1, 1)],  # type: ignore[arg-type]
        [OPEN, Credit(0)],
        [OPEN, Credit(-1)],
        [OPEN, Credit(2**32)],
    ):
        async with attacked() as (channel, _, _good):
            with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
                await say_and_hear(channel, said)


async def test_more_credit_than_the_window_is_worth_nothing() -> None:
    async with attacked() as (channel, publisher, _good):
        await channel.send(Open(["x"], WhenFull.DROP_NEWEST, 2, 2))
        for _ in range(100):
            await channel.send(Credit(2**32 - 1))
        await publisher.ready(topic="x")
        for number in range(10):
            await publisher.publish("x", number)
        assert publisher.statistics().dropped == 6
        await channel.aclose()


@pytest.mark.parametrize("policy", WhenFull)
@pytest.mark.parametrize("limit", [{"max_queued_messages": 30}, {"max_queued_bytes": 300}])
async def test_who_wants_what_is_retained_again_and_again_is_dropped(
    policy: WhenFull, limit: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    limits = aioipc.Limits(**limit)
    codec: Codec[Any] = SubscriberEnd(msgpack, limits)
    async with (
        pubsub.publisher("unix:", retain=1, limits=limits) as publisher,
        aioipc.connect(publisher.address, codec=codec) as channel,
    ):
        for number in range(20):
            await publisher.publish(f"n.{number}", b"x" * 10)
        await channel.send(Open(["other"], policy, 10, 1))
        await publisher.ready()
        with contextlib.suppress(aioipc.IPCError):
            for _ in range(20):
                await channel.send_many([Subscribe(["n.*"]), Unsubscribe(["n.*"])])
        await until(lambda: not publisher.statistics().subscribers)
        assert publisher.statistics().offered in {20, 40}
    assert "more that was retained" in caplog.text


async def test_who_never_subscribes_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with attacked(handshake_s=0.05) as (channel, publisher, _good):
        with pytest.raises(aioipc.HandshakeError, match=r"no subscription within 0\.05 s"):
            await channel.receive()
        assert len(publisher.statistics().subscribers) == 1
    assert "no subscription within 0.05 s" in caplog.text


async def test_a_publisher_that_does_not_answer() -> None:
    limits = aioipc.Limits(handshake_s=0.05)
    codec: Codec[Any] = SubscriberEnd(msgpack, limits)
    async with aioipc.listen("unix:silent", codec=codec) as listener:
        with pytest.raises(aioipc.ConnectError, match="no answer within"):
            await pubsub.subscriber(listener.address, "n", limits=limits)
        async with await listener.accept():
            pass


async def test_gaps_and_messages_are_plain_values() -> None:
    match Message("a", 1):
        case Message(topic, value):
            assert (topic, value) == ("a", 1)
    match Gap(3):
        case Gap(count):
            assert count == 3
    assert Gap(3) == Gap(count=3)
    with pytest.raises(AttributeError):
        Gap(3).count = 4  # type: ignore[misc]
