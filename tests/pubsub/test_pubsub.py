"""Publishers and subscribers in one process: over every kind of address, with every policy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

import aioipc
from aioipc import pubsub
from aioipc.codecs import msgpack
from aioipc.pubsub import Gap, Message, Publisher, Subscription
from tests.links import steps
from tests.pubsub.turning import until

pytestmark = pytest.mark.asyncio

ADDRESSES = ("unix:ticks", "shm:ticks", "tcp://127.0.0.1:0", "memory:ticks")
POLICIES = ("block", "drop_oldest", "drop_newest", "latest", "disconnect")

every_address = pytest.mark.parametrize("address", ADDRESSES)


async def take(subscription: Subscription[Any], count: int) -> list[object]:
    """The values of so many messages; a gap counts as one and as a negative number."""
    async with asyncio.timeout(20):
        items = [await subscription.receive() for _ in range(count)]
    return [-item.count if isinstance(item, Gap) else item.value for item in items]


async def flood(publisher: Publisher[Any], subscription: Subscription[Any], count: int) -> None:
    """Publish numbers to who takes none, one at a time in case somebody has to wait."""
    for number in range(count):
        await publisher.publish("a", number)


@contextlib.asynccontextmanager
async def couple(
    *patterns: str, address: str = "unix:ticks", retain: int = 0, **options: Any
) -> AsyncIterator[tuple[Publisher[Any], Subscription[Any]]]:
    async with (
        pubsub.publisher(address, retain=retain) as publisher,
        pubsub.subscriber(publisher.address, *(patterns or (">",)), **options) as subscription,
    ):
        yield publisher, subscription


@every_address
async def test_messages_go_to_who_wants_them(address: str) -> None:
    async with (
        pubsub.publisher(address) as publisher,
        pubsub.subscriber(publisher.address, "eur.*") as euros,
        pubsub.subscriber(publisher.address, "*.usd", "log.>") as dollars,
    ):
        await publisher.publish("eur.usd", 1)
        await publisher.publish("eur.gbp", {"bid": 2.5})
        await publisher.publish("nobody", "x")
        await publisher.publish("log.a.b", b"\0")
        assert await euros.receive() == Message("eur.usd", 1)
        assert await euros.receive() == Message("eur.gbp", {"bid": 2.5})
        assert await dollars.receive() == Message("eur.usd", 1)
        assert await dollars.receive() == Message("log.a.b", b"\0")
        counted = publisher.statistics()
        assert (counted.published, counted.offered, counted.dropped) == (4, 4, 0)
        assert {each.patterns for each in counted.subscribers} == {
            ("eur.*",),
            ("*.usd", "log.>"),
        }


@every_address
async def test_whoever_blocks_gets_everything(address: str) -> None:
    """From the moment that it is open, and to the end; more than any buffer holds."""
    count, size = 3_000, 2_000
    async with pubsub.publisher(address) as publisher:

        async def consume() -> list[int]:
            async with pubsub.subscriber(
                publisher.address, "n", when_full="block", queue=10
            ) as subscription:
                opened.set()
                return [int(value_of(item)[:8]) async for item in subscription]

        opened = asyncio.Event()
        consuming = [asyncio.create_task(consume()) for _ in range(3)]
        await publisher.ready(3)
        for number in range(count):
            await publisher.publish("n", b"%08d" % number + b"x" * (size - 8))
        await publisher.aclose()
        for each in consuming:
            assert await each == list(range(count))
        assert publisher.statistics().dropped == 0
        assert publisher.statistics().offered == 3 * count


def value_of(item: Message[Any] | Gap) -> Any:
    assert isinstance(item, Message)
    return item.value


@every_address
async def test_large_messages(address: str) -> None:
    large = b"x" * (900 * 1024)
    async with (
        pubsub.publisher(address) as publisher,
        pubsub.subscriber(publisher.address, "a", when_full="block") as subscription,
    ):
        for _ in range(5):
            await publisher.publish("a", large)
        assert await take(subscription, 5) == [large] * 5


class Counting:
    """msgpack that says how often it was used."""

    name = "counting"
    format = "msgpack"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, obj: object) -> list[bytes]:
        self.encoded += 1
        return [msgpack.encode(obj), b""]

    def decode(self, buffer: bytes) -> object:
        assert type(buffer) is bytes, "it did not say that it takes others"
        return msgpack.decode(buffer)


async def test_one_encoding_for_all() -> None:
    codec = Counting()
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(pubsub.publisher("unix:one", codec=codec))
        subscriptions = [
            await stack.enter_async_context(
                pubsub.subscriber("unix:one", "a", codec=codec, when_full=POLICIES[number % 5])
            )
            for number in range(20)
        ]
        for number in range(10):
            await publisher.publish("a", [number])
        await publisher.publish("nobody", [])
        assert codec.encoded == 11
        for subscription in subscriptions:
            item = await subscription.receive()
            while item != Message("a", [9]):
                item = await subscription.receive()


@pytest.mark.parametrize(
    ("codec", "value"),
    [("json", {"a": [1]}), ("text", "ü"), ("raw", b"\xff"), ("pickle", {1, 2}), ("msgpack", None)],
)
async def test_codecs(codec: str, value: object) -> None:
    async with (
        pubsub.publisher("unix:codecs", codec=codec) as publisher,
        pubsub.subscriber("unix:codecs", "a", codec=codec) as subscription,
    ):
        await publisher.publish("a", value)
        assert await subscription.receive() == Message("a", value)


class Tick(msgspec.Struct):
    bid: float


async def test_typed_messages_and_those_that_do_not_fit() -> None:
    async with (
        pubsub.publisher("unix:typed") as publisher,
        pubsub.subscriber(
            "unix:typed", "a", codec=aioipc.codecs.typed(Tick), when_full="block", queue=1
        ) as subscription,
    ):
        values: list[Any] = [{"bid": 1.5}, {"bid": "x"}, {"bid": 2.5}, [[]], {"bid": 3.5}]
        for value in values:
            publishing = asyncio.create_task(publisher.publish("a", value))
            try:
                item = await subscription.receive()
                assert isinstance(item, Message)
                assert isinstance(item.value, Tick)
            except aioipc.DecodeError:
                assert value in ({"bid": "x"}, [[]])
            await publishing
        assert subscription.statistics().received == 5


async def test_a_message_that_nests_too_deeply() -> None:
    limits = aioipc.Limits(max_depth=3)
    async with couple(limits=limits) as (publisher, subscription):
        await publisher.publish("a", [[[[[1]]]]])
        await publisher.publish("a", [1])
        with pytest.raises(aioipc.DecodeError, match="deeper than the limit of 3"):
            await subscription.receive()
        assert await take(subscription, 1) == [[1]]


async def test_what_cannot_be_published_is_sent_to_nobody() -> None:
    limits = aioipc.Limits(max_message_bytes=10_000)
    async with (
        pubsub.publisher("unix:bad", limits=limits, retain=1) as publisher,
        pubsub.subscriber("unix:bad", ">") as subscription,
    ):
        with pytest.raises(aioipc.EncodeError, match="object"):
            await publisher.publish("a", object())
        with pytest.raises(aioipc.FrameTooLarge):
            await publisher.publish("a", b"x" * 10_000)
        for topic in ("", "a.*", "a b", ">"):
            with pytest.raises(ValueError, match="topic"):
                await publisher.publish(topic, 1)
            with pytest.raises(ValueError, match="topic"):
                publisher.publish_nowait(topic, 1)
        for topic in ("x" * 2**20, ".".join("a" * 10_000)):
            with pytest.raises(aioipc.QuotaExceeded):
                await publisher.publish(topic, 1)
        await publisher.publish("a", "last")
        assert await take(subscription, 1) == ["last"]
        assert publisher.statistics().published == 1


async def test_a_subscriber_with_a_smaller_limit_sees_a_gap() -> None:
    limits = aioipc.Limits(max_message_bytes=1_000)
    async with (
        pubsub.publisher("unix:small") as publisher,
        pubsub.subscriber("unix:small", "a", limits=limits) as small,
        pubsub.subscriber("unix:small", "a") as usual,
    ):
        for value in (b"1", b"x" * 2_000, b"3"):
            await publisher.publish("a", value)
        assert await take(usual, 3) == [b"1", b"x" * 2_000, b"3"]
        assert await take(small, 3) == [b"1", -1, b"3"]
        assert small.statistics().missed == publisher.statistics().dropped == 1


# Who comes late


@every_address
async def test_what_is_retained(address: str) -> None:
    async with pubsub.publisher(address, retain=2) as publisher:
        for number in range(4):
            await publisher.publish("a", number)
            await publisher.publish("b", -number)
        async with (
            pubsub.subscriber(publisher.address, "a", when_full="block", queue=1) as one,
            pubsub.subscriber(publisher.address, ">") as two,
        ):
            assert await take(one, 2) == [2, 3]
            assert await take(two, 4) == [2, -2, 3, -3]
            await publisher.publish("a", "new")
            assert await take(one, 1) == await take(two, 1) == ["new"]


async def test_topics_that_are_retained_have_a_limit() -> None:
    limits = aioipc.Limits(max_topics=2)
    async with pubsub.publisher("unix:r", retain=1, limits=limits) as publisher:
        for _ in range(2):
            await publisher.publish("a", 1)
            await publisher.publish("b", 1)
        with pytest.raises(aioipc.QuotaExceeded, match="messages of 2 topics"):
            await publisher.publish("c", 1)
        assert publisher.statistics().published == 4


async def test_subscribing_and_unsubscribing_later() -> None:
    async with couple("a", retain=1) as (publisher, subscription):
        await publisher.publish("b", "retained")
        await publisher.publish("a", 1)
        await subscription.subscribe("b", "*")
        await publisher.ready(topic="b")
        assert subscription.patterns == {"a", "b", "*"}
        assert await take(subscription, 2) == [1, "retained"], "not what it had already"
        await subscription.unsubscribe("a", "*", "unknown")
        await until(lambda: publisher.statistics().subscribers[0].patterns == ("b",))
        await publisher.publish("a", 2)
        await publisher.publish("b", 3)
        assert await take(subscription, 1) == [3]


async def test_several_that_subscribe_at_a_time() -> None:
    """Behind one that is longer than what the kernel takes at once, the others wait."""
    long = [f"{number}{'x' * 1_000}" for number in range(1_000)]
    async with (
        pubsub.publisher("unix:") as publisher,
        pubsub.subscriber(publisher.address, "a") as subscription,
    ):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(subscription.subscribe(*long))
            tasks.create_task(subscription.subscribe("b"))
            tasks.create_task(subscription.unsubscribe("a"))
            tasks.create_task(subscription.subscribe("c"))
        assert subscription.patterns == {*long, "b", "c"}
        await publisher.ready(topic="c")
        (known,) = publisher.statistics().subscribers
        assert set(known.patterns) == subscription.patterns


async def test_wrong_patterns_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="pattern 'a"):
        _ = pubsub.subscriber("unix:no", "a..b")
    with pytest.raises(aioipc.QuotaExceeded):
        _ = pubsub.subscriber("unix:no", "a", "b", limits=aioipc.Limits(max_patterns=1))
    async with couple("a", limits=aioipc.Limits(max_patterns=2)) as (publisher, subscription):
        with pytest.raises(ValueError, match="one whole level"):
            await subscription.subscribe("b", "c*")
        with pytest.raises(aioipc.QuotaExceeded, match="3 patterns"):
            await subscription.subscribe("b", "c")
        assert subscription.patterns == {"a"}
        await publisher.publish("a", 1)
        assert await take(subscription, 1) == [1]


async def test_waiting_for_subscribers() -> None:
    async with pubsub.publisher("unix:ready") as publisher:
        await publisher.ready(0)
        for wrong in (float("nan"), True, "2"):
            with pytest.raises(TypeError, match="subscribers must be an int"):
                await publisher.ready(wrong)  # type: ignore[arg-type]
        waiting = asyncio.create_task(publisher.ready(2))
        async with pubsub.subscriber("unix:ready", "a"):
            await steps(10)
            assert not waiting.done()
            async with pubsub.subscriber("unix:ready", "b.*"):
                await waiting
                await publisher.ready(1, topic="b.x")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await publisher.ready(2, topic="b.x")
        await until(lambda: not publisher.statistics().subscribers)
        waiting = asyncio.create_task(publisher.ready())
        await steps(3)
    with pytest.raises(aioipc.ClosedError):
        await waiting


# When it is too much


@pytest.mark.parametrize("address", ["unix:ticks", "shm:ticks"])
@pytest.mark.parametrize(
    ("when_full", "seen"),
    [
        # The first five were sent at once, and five more may wait.
        ("drop_oldest", [0, 1, 2, 3, 4, -10, *range(15, 20)]),
        ("drop_newest", [*range(10), -10]),
        ("latest", [0, -18, 19]),
    ],
)
async def test_losses_are_seen_and_counted_on_both_sides(
    address: str, when_full: str, seen: list[int]
) -> None:
    async with couple("a", address=address, when_full=when_full, queue=5) as (
        publisher,
        subscription,
    ):
        await flood(publisher, subscription, 20)
        assert await take(subscription, len(seen)) == seen
        theirs, ours = publisher.statistics(), subscription.statistics()
        assert theirs.published == theirs.offered == 20
        assert theirs.dropped == ours.missed == -sum(number for number in seen if number < 0)
        assert ours.received == 20 - ours.missed
        assert ours.gaps == 1
        assert theirs.subscribers[0].dropped == theirs.dropped
        await publisher.publish("a", "then")
        assert await take(subscription, 1) == ["then"]


async def test_latest_keeps_one_of_each_topic() -> None:
    async with couple(when_full="latest") as (publisher, subscription):
        await publisher.publish("first", 0)
        for number in range(10):
            await publisher.publish("a", number)
            await publisher.publish("b", -number)
        values = [item async for item in between(subscription, 5)]
        assert values == [
            Message("first", 0),
            Gap(9),
            Message("a", 9),
            Gap(9),
            Message("b", -9),
        ]


async def between(subscription: Subscription[Any], count: int) -> AsyncIterator[object]:
    for _ in range(count):
        yield await subscription.receive()


@pytest.mark.parametrize("address", ["unix:ticks", "shm:ticks"])
async def test_who_wants_to_be_disconnected(address: str) -> None:
    async with (
        couple("a", address=address, when_full="disconnect", queue=5) as (publisher, slow),
        pubsub.subscriber(publisher.address, "a", when_full="block") as other,
    ):
        await flood(publisher, slow, 20)
        assert await take(slow, 5) == [0, 1, 2, 3, 4]
        with pytest.raises(aioipc.QuotaExceeded, match="fell behind: 5 messages"):
            await take(slow, 10)
        assert await take(other, 20) == list(range(20))
        counted = publisher.statistics()
        assert counted.disconnected == 1
        assert len(counted.subscribers) == 1


async def fill(publisher: Publisher[Any]) -> int:
    """Publish to a blocking subscriber until it has no room; how many that were."""
    count = 0
    with contextlib.suppress(aioipc.WouldBlock):
        while True:
            publisher.publish_nowait("a", count)
            count += 1
    return count


async def test_a_blocking_subscriber_holds_the_publisher_back() -> None:
    async with (
        couple("a", when_full="block", queue=3) as (publisher, slow),
        pubsub.subscriber(publisher.address, ">") as other,
    ):
        assert await fill(publisher) == 6, "three under way, three that wait"
        waiting = [asyncio.create_task(publisher.publish("a", number)) for number in (6, 7, 8)]
        await steps(10)
        assert not any(task.done() for task in waiting)
        with pytest.raises(aioipc.WouldBlock):
            publisher.publish_nowait("b", "nobody overtakes")
        assert await take(other, 6) == list(range(6)), "and no more yet"
        assert await take(slow, 9) == list(range(9))
        await asyncio.gather(*waiting)
        assert await take(other, 3) == [6, 7, 8], "in the order of the calls"
        assert publisher.statistics().waits == 3


async def test_a_publish_that_is_cancelled_is_for_nobody() -> None:
    async with (
        couple("a", when_full="block", queue=1) as (publisher, slow),
        pubsub.subscriber(publisher.address, ">") as other,
    ):
        count = await fill(publisher)
        waiting = [asyncio.create_task(publisher.publish("a", name)) for name in "xyz"]
        await steps(5)
        waiting[1].cancel()
        await steps(5)
        waiting[0].cancel()
        assert await take(slow, count + 1) == [*range(count), "z"]
        await waiting[2]
        await publisher.publish("b", "end")
        assert await take(other, count + 2) == [*range(count), "z", "end"]


@pytest.mark.parametrize("way", ["aclose", "unsubscribe"])
async def test_who_leaves_holds_nobody_back(way: str) -> None:
    async with couple("a", when_full="block", queue=1) as (publisher, slow):
        await fill(publisher)
        waiting = asyncio.create_task(publisher.publish("a", "x"))
        await steps(5)
        assert not waiting.done()
        await (slow.aclose() if way == "aclose" else slow.unsubscribe("a"))
        async with asyncio.timeout(20):
            await waiting


async def test_publishers_that_may_not_be_blocked() -> None:
    async with pubsub.publisher("unix:no", may_block=False):
        with pytest.raises(aioipc.AccessDenied, match="may not block"):
            await pubsub.subscriber("unix:no", "a", when_full="block")
        async with pubsub.subscriber("unix:no", "a", when_full="latest"):
            pass


# Cancellation, endings


@pytest.mark.parametrize("address", ["unix:ticks", "shm:ticks"])
async def test_a_cancelled_receive_loses_nothing(address: str) -> None:
    async with couple("a", address=address, when_full="block", queue=3) as (publisher, slow):

        async def publish() -> None:
            for number in range(300):
                await publisher.publish("a", number)
                if number % 7 == 0:
                    await steps(number % 5)

        publishing = asyncio.create_task(publish())
        seen: list[object] = []

        async def receive() -> None:
            item = await slow.receive()
            assert isinstance(item, Message)
            seen.append(item.value)

        async with asyncio.timeout(20):
            while len(seen) < 300:
                receiving = asyncio.create_task(receive())
                await steps(len(seen) % 4 + 1)
                receiving.cancel()
                await asyncio.wait([receiving])
        await publishing
        assert seen == list(range(300))


@every_address
async def test_the_end_of_a_publisher(address: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        publisher = await pubsub.publisher(address)
        first, second = [
            await stack.enter_async_context(
                pubsub.subscriber(publisher.address, ">", when_full="block", queue=2)
            )
            for _ in range(2)
        ]
        for number in range(4):
            await publisher.publish("a", number)
        closing = asyncio.create_task(publisher.aclose())
        for each in (first, second):
            assert [item.value async for item in each if isinstance(item, Message)] == [0, 1, 2, 3]
        await closing
        await publisher.aclose()
        with pytest.raises(aioipc.ClosedError):
            await publisher.publish("a", 1)
        with pytest.raises(aioipc.ClosedError):
            publisher.publish_nowait("a", 1)
        assert publisher.statistics().offered == 8


async def test_publishes_that_wait_when_the_publisher_closes() -> None:
    limits = aioipc.Limits(linger_s=0.05)
    async with (
        pubsub.publisher("unix:end", limits=limits) as publisher,
        pubsub.subscriber("unix:end", ">", when_full="block", queue=1) as slow,
    ):
        await fill(publisher)
        waiting = [asyncio.create_task(publisher.publish("a", number)) for number in range(4)]
        await steps(5)
        await publisher.aclose()
        for each in waiting:
            with pytest.raises(aioipc.ClosedError):
                await each
        assert await take(slow, 1) == [0]
        with pytest.raises(aioipc.PeerCrashed):
            await take(slow, 2)


async def test_a_close_that_is_cancelled() -> None:
    async with pubsub.publisher("unix:end") as publisher:
        slow = await pubsub.subscriber("unix:end", ">", when_full="block", queue=1)
        await fill(publisher)
        closing = asyncio.create_task(publisher.aclose())
        await steps(5)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(aioipc.PeerCrashed):
            await take(slow, 9)
        await slow.aclose()
        await slow.aclose()
        with pytest.raises(aioipc.ClosedError):
            await slow.receive()


@every_address
async def test_who_closes_it_too_cuts_nothing_off(address: str) -> None:
    publisher = await pubsub.publisher(address)
    async with pubsub.subscriber(publisher.address, "a", queue=10) as subscription:
        for number in range(15):
            await publisher.publish("a", number)
        closing = [asyncio.create_task(publisher.aclose()) for _ in range(3)]
        await steps(10)
        assert not any(each.done() for each in closing)
        items = [item async for item in subscription]
        await asyncio.gather(*closing)
    assert items == [Message("a", number) for number in range(15)]


async def test_a_publisher_that_is_left_in_a_cancelled_scope() -> None:
    with anyio.CancelScope() as scope:
        async with pubsub.publisher("shm:left") as publisher:
            subscription = await pubsub.subscriber("shm:left", "a")
            stage = publisher.stage
            scope.cancel()
    assert stage is not None
    assert stage.ring is None, "nothing is left for a second aclose"
    with pytest.raises((aioipc.EndOfStream, aioipc.PeerCrashed)):
        await subscription.receive()
    await subscription.aclose()
    async with pubsub.publisher("shm:left"):
        pass


async def test_only_one_task_receives() -> None:
    async with couple() as (_, subscription):
        receiving = asyncio.create_task(subscription.receive())
        await steps(2)
        with pytest.raises(aioipc.BusyError):
            await subscription.receive()
        receiving.cancel()
        await asyncio.wait([receiving])


async def test_one_peer_over_a_descriptor() -> None:
    left, right = (end.detach() for end in socket.socketpair())
    opening = asyncio.create_task(open_subscription(f"fd:{right}"))
    async with pubsub.publisher(f"fd:{left}") as publisher:
        await publisher.ready()
        subscription = await opening
        await publisher.publish("a", 1)
        assert await take(subscription, 1) == [1]
        await subscription.aclose()
        with pytest.raises(aioipc.PeerCrashed, match="nobody else"):
            await publisher.ready(2)
        await publisher.publish("a", 2)


async def open_subscription(address: str) -> Subscription[Any]:
    return await pubsub.subscriber(address, ">")


async def test_addresses_that_are_one_way(runtime_dir: object) -> None:
    with pytest.raises(aioipc.AddressError, match="one way"):
        _ = pubsub.publisher(f"fifo:{runtime_dir}/fifo")


async def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match="retain must be at least 0, not -1"):
        _ = pubsub.publisher("unix:a", retain=-1)
    with pytest.raises(ValueError, match="when_full must be one of block, drop_oldest"):
        _ = pubsub.subscriber("unix:a", "a", when_full="never")
    with pytest.raises(ValueError, match="queue must be between 1 and 65,536, not 0"):
        _ = pubsub.subscriber("unix:a", "a", queue=0)
    with pytest.raises(ValueError, match="pickle"):
        await pubsub.publisher("tcp://127.0.0.1:0", codec="pickle")


@pytest.mark.parametrize("wrong", [5, None, b"x", "", "a..b", "nul\0", "\udc80"])
async def test_what_is_no_pattern_changes_nothing(wrong: Any) -> None:
    kind = ValueError if isinstance(wrong, str) else TypeError
    async with couple("a") as (publisher, subscription):
        for change in (subscription.subscribe, subscription.unsubscribe):
            with pytest.raises(kind, match="pattern"):
                await change("a", wrong)
        assert subscription.patterns == {"a"}
        await publisher.publish("a", 1)
        assert await subscription.receive() == pubsub.Message("a", 1)


async def test_options_of_a_wrong_type() -> None:
    wrong: Any
    for wrong in ("x", 2.5, None):
        with pytest.raises(TypeError, match="retain must be an int, not"):
            _ = pubsub.publisher("unix:a", retain=wrong)
        with pytest.raises(TypeError, match="queue must be an int, not"):
            _ = pubsub.subscriber("unix:a", "a", queue=wrong)


async def test_a_codec_that_the_publisher_does_not_use() -> None:
    async with pubsub.publisher("unix:codec"):
        with pytest.raises(aioipc.CodecMismatch):
            await pubsub.subscriber("unix:codec", "a", codec="json")


async def test_nobody_publishes() -> None:
    with pytest.raises(aioipc.ConnectError):
        await pubsub.subscriber("unix:nobody", "a")


async def test_whoever_publishes_without_a_wait_lets_the_loop_turn() -> None:
    async with couple(when_full="drop_newest", queue=1) as (publisher, _):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await steps(1)
        before = turns
        for number in range(5_120):
            await publisher.publish("a", number)
        assert turns - before >= 10
        counting.cancel()
        await asyncio.wait([counting])
