"""How little a publish over shared memory takes: copies, system calls and bells, all counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import pubsub
from aioipc.pubsub import Publisher, Subscription
from tests.links import steps
from tests.scale import patience_s
from tests.traced import calls_by_phase

in_loop = pytest.mark.asyncio

LIMITS = aioipc.Limits(ring_bytes=1 << 20)
MESSAGE = b"x" * 100
MESSAGES = 100


@contextlib.asynccontextmanager
async def audience(count: int) -> AsyncIterator[tuple[Publisher[Any], list[Subscription[Any]]]]:
    """So many subscribers, all of them on the ring and awake."""
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(
            pubsub.publisher("shm:", codec="raw", limits=LIMITS)
        )
        subscriptions = [
            await stack.enter_async_context(
                pubsub.subscriber(
                    publisher.address, "a", codec="raw", when_full="block", polling="block"
                )
            )
            for _ in range(count)
        ]
        await publisher.publish("a", b"the first")
        for subscription in subscriptions:
            await subscription.receive()
        await steps(5)
        yield publisher, subscriptions


def bells(publisher: Publisher[Any]) -> list[int]:
    """How many bells the publisher rang for each subscriber."""
    return [feed.channel.statistics().bells_rung for feed in publisher._feeds]


def calls(publisher: Publisher[Any], subscriptions: list[Subscription[Any]]) -> int:
    """How many system calls all of their channels have made."""
    channels = [feed.channel for feed in publisher._feeds]
    channels += [subscription._channel for subscription in subscriptions]
    counts = [channel.statistics() for channel in channels]
    return sum(count.write_calls + count.read_calls for count in counts)


@in_loop
async def test_one_copy_whatever_the_number_of_subscribers() -> None:
    written = []
    for count in (1, 8, 50):
        async with audience(count) as (publisher, subscriptions):
            stage = publisher.stage
            assert stage is not None
            before = stage.writer.position
            for _ in range(MESSAGES):
                await publisher.publish("a", MESSAGE)
            written.append(stage.writer.position - before)
            for subscription in subscriptions:
                for _ in range(MESSAGES):
                    assert await subscription.receive() == pubsub.Message("a", MESSAGE)
    assert len(set(written)) == 1
    assert written[0] < MESSAGES * (len(MESSAGE) + 64)


@in_loop
@pytest.mark.parametrize("count", [1, 8, 50])
async def test_no_system_call_for_those_who_are_awake(count: int) -> None:
    async with audience(count) as (publisher, subscriptions):
        before = calls(publisher, subscriptions)
        for number in range(MESSAGES):
            await publisher.publish("a", b"%d" % number)
            await steps(number % 3)  # batches of every kind
        for subscription in subscriptions:
            for number in range(MESSAGES):
                assert await subscription.receive() == pubsub.Message("a", b"%d" % number)
        assert calls(publisher, subscriptions) == before


@in_loop
@pytest.mark.parametrize("count", [1, 8, 50])
async def test_one_bell_for_each_who_sleeps_and_each_batch(count: int) -> None:
    async with audience(count) as (publisher, subscriptions):
        for _ in range(3):
            receiving = [
                asyncio.ensure_future(subscription.receive()) for subscription in subscriptions
            ]
            await steps(5)
            before = bells(publisher)
            for number in range(20):
                publisher.publish_nowait("a", b"%d" % number)
            for task, subscription in zip(receiving, subscriptions, strict=True):
                assert (await task) == pubsub.Message("a", b"0")
                for number in range(1, 20):
                    assert await subscription.receive() == pubsub.Message("a", b"%d" % number)
            await steps(3)
            assert bells(publisher) == [rung + 1 for rung in before]


TRACED = """
options = {"codec": "raw", "limits": aioipc.Limits(ring_bytes=1 << 20), "polling": "block"}
publisher = await pubsub.publisher(sys.argv[1], **options)
subscriptions = [
    await pubsub.subscriber(publisher.address, "a", when_full="block", **options)
    for _ in range(8)
]
await publisher.publish("a", b"the first")
for subscription in subscriptions:
    await subscription.receive()
for _ in range(5):
    await asyncio.sleep(0)
phase("publish")
for _ in range(100):
    publisher.publish_nowait("a", b"x" * 100)
phase("end of turn")
await asyncio.sleep(0)
await asyncio.sleep(0)
phase("receive")
for subscription in subscriptions:
    for _ in range(100):
        await subscription.receive()
phase("sleep")
receiving = [asyncio.ensure_future(each.receive()) for each in subscriptions]
for _ in range(5):
    await asyncio.sleep(0)
phase("publish to sleepers")
for _ in range(20):
    publisher.publish_nowait("a", b"x" * 100)
phase("wake")
await asyncio.gather(*receiving)
phase("end")
for subscription in subscriptions:
    await subscription.aclose()
await publisher.aclose()
"""


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_kernel_counts_the_same(loop: str, tmp_path: Path) -> None:
    counted = calls_by_phase(TRACED, loop, f"shm:{tmp_path}/traced", tmp_path=tmp_path)
    assert not counted["publish"]
    assert not [call for call in counted["end of turn"] if "bell" in call]
    assert not [call for call in counted["receive"] if "bell" in call]
    assert counted["publish to sleepers"] == {"write of a bell": 8}
    assert "write of a bell" not in counted["wake"]
