"""A subscriber whose publisher comes and goes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import pubsub
from aioipc.pubsub import Interruption, Message, ReconnectingSubscription
from tests.children import Peers
from tests.links import steps, until
from tests.programs import program

pytestmark = pytest.mark.asyncio

EVERYWHERE = pytest.mark.parametrize("address", ["unix:news", "shm:news", "memory:news"])


async def lasting(address: str, *patterns: str, **options: Any) -> ReconnectingSubscription[Any]:
    subscription = await pubsub.subscriber(address, *patterns, reconnect=True, **options)
    assert isinstance(subscription, ReconnectingSubscription)
    return subscription


@EVERYWHERE
async def test_one_publisher_after_the_other(address: str) -> None:
    publisher = await pubsub.publisher(address)
    async with await lasting(address, "a.*") as news:
        await publisher.publish("a.b", 1)
        assert await news.receive() == Message("a.b", 1)
        await publisher.publish("a.b", 2)
        await publisher.aclose()
        assert await news.receive() == Message("a.b", 2), "what had left is not lost"
        waiting = asyncio.ensure_future(news.receive())
        await steps(20)
        assert not waiting.done()
        async with pubsub.publisher(address) as next_:
            await next_.ready(topic="a.b")
            await next_.publish("a.c", 3)
            match await waiting:
                case Interruption(reason):
                    assert reason
                case other:
                    pytest.fail(f"{other!r} is no Interruption")
            assert await anext(news) == Message("a.c", 3)
            assert news.statistics() == pubsub.SubscriptionStatistics(received=3, missed=0, gaps=0)
            assert news.interruptions == 1
            assert news.patterns == {"a.*"}
            assert news.address == address


async def test_what_is_retained_comes_behind_the_interruption() -> None:
    async with pubsub.publisher("unix:news", retain=1):
        news = await lasting("unix:news", ">")
    async with pubsub.publisher("unix:news", retain=1) as publisher, news:
        await publisher.publish("a", 1)
        assert isinstance(await news.receive(), Interruption)
        assert await news.receive() == Message("a", 1)


PUBLISH = """
async with aioipc.pubsub.publisher(sys.argv[1]) as publisher:
    say("publishes")
    await publisher.ready(subscribers=1)
    for number in range(3):
        await publisher.publish("n", number)
    await hear()
"""


@pytest.mark.parametrize("address", ["unix:news", "shm:news"])
async def test_a_publisher_that_is_killed(address: str, peers: Peers) -> None:
    numbers = [Message("n", number) for number in range(3)]
    first = program(peers, PUBLISH, address)
    first.line()
    async with await lasting(address, "n") as news:
        assert [await news.receive() for _ in range(3)] == numbers
        first.signal(signal.SIGKILL)
        second = program(peers, PUBLISH, address)
        match await news.receive():
            case Interruption(reason):
                assert "SIGKILL" in reason or "ended" in reason
            case other:
                pytest.fail(f"{other!r} is no Interruption")
        assert [await news.receive() for _ in range(3)] == numbers
    second.tell("end")
    assert await second.ended() == 0


@pytest.mark.parametrize("is_there", [True, False])
async def test_patterns_are_those_of_the_next_publisher_too(is_there: bool) -> None:
    publisher = await pubsub.publisher("unix:news")
    async with await lasting("unix:news", "a", "b") as news:
        if not is_there:
            await publisher.aclose()
        await news.subscribe("c")
        await news.unsubscribe("a")
        assert news.patterns == {"b", "c"}
        if is_there:
            await publisher.ready(topic="c")
            await publisher.aclose()
        waiting = asyncio.ensure_future(news.receive())
        async with pubsub.publisher("unix:news") as publisher:
            await publisher.ready(topic="c")
            assert isinstance(await waiting, Interruption)
            for topic in "abc":
                await publisher.publish(topic, None)
            assert [await news.receive() for _ in range(2)] == [
                Message("b", None),
                Message("c", None),
            ]


async def test_patterns_that_change_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = await pubsub.publisher("unix:news")
    async with await lasting("unix:news", "a") as news:
        await publisher.aclose()
        may_open, opens = asyncio.Event(), asyncio.Event()
        open_ = news._open

        async def open_slowly(patterns: Any) -> Any:
            subscription = await open_(patterns)
            opens.set()
            await may_open.wait()
            return subscription

        monkeypatch.setattr(news, "_open", open_slowly)
        waiting = asyncio.ensure_future(news.receive())
        async with pubsub.publisher("unix:news") as publisher:
            await opens.wait()
            await news.subscribe("b")
            await news.unsubscribe("a")
            may_open.set()
            await publisher.ready(topic="b")
            assert isinstance(await waiting, Interruption)
            await publisher.publish("b", 1)
            assert await news.receive() == Message("b", 1)


@pytest.mark.parametrize(
    "change", [lambda news: news.subscribe(""), lambda news: news.unsubscribe("")]
)
async def test_what_is_no_pattern_changes_nothing(change: Callable[[Any], Any]) -> None:
    async with pubsub.publisher("unix:news"), await lasting("unix:news", "a") as news:
        with pytest.raises(ValueError, match="pattern"):
            await change(news)
        assert news.patterns == {"a"}


async def test_cancelling_and_closing_while_nobody_publishes() -> None:
    publisher = await pubsub.publisher("unix:news")
    news = await lasting("unix:news", "a")
    await publisher.aclose()
    waiting = [asyncio.ensure_future(news.receive()) for _ in range(2)]
    await steps(20)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await news.aclose()
    await news.aclose()
    with pytest.raises(aioipc.ClosedError):
        await waiting[1]
    with pytest.raises(aioipc.ClosedError):
        await news.receive()
    with pytest.raises(aioipc.ClosedError):
        await news.subscribe("b")


async def test_one_that_fell_behind_is_told() -> None:
    async with (
        pubsub.publisher("unix:news") as publisher,
        await lasting("unix:news", "a", when_full="disconnect", queue=1) as news,
    ):
        for number in range(100):
            await publisher.publish("a", number)
        with pytest.raises(aioipc.QuotaExceeded):
            async for _ in news:
                pass


async def test_the_first_publisher_is_there_or_not() -> None:
    with pytest.raises(aioipc.ConnectError):
        await lasting("unix:nobody", "a")


async def test_somebody_else_there_is_not_tried_for_ever(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/news"
    publisher = await pubsub.publisher(address)
    async with await lasting(address, "a") as news:
        await publisher.aclose()
        async with aioipc.listen(address) as listener:
            serving = asyncio.ensure_future(listener.serve(lambda channel: channel.receive()))
            with pytest.raises(aioipc.CodecMismatch):
                await news.receive()
            await listener.aclose()
            await until(serving.done)
