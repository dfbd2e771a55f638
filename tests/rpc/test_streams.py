"""Streams of calls, in both directions: credit, early ends, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aioipc
from aioipc import rpc
from aioipc.wire.rpc import WIDEST_WINDOW, WINDOW
from tests.children import PATIENCE_S
from tests.links import Link, steps
from tests.rpc.store import Change, MemoryStore, connected

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("link", ["memory", "shm"], indirect=True),
]


class Endless(MemoryStore):
    """Counts how far ahead of its consumer a stream gets."""

    made = 0

    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            while True:
                yield self.made
                self.made += 1
        finally:
            self.tell("counted")


async def test_a_slow_consumer_holds_up_its_stream_and_nothing_else(link: Link) -> None:
    service = Endless()
    async with connected(link, service) as (store, _):
        async with rpc.closing(store.count(0)) as slow:
            assert await anext(slow) == 0
            for _ in range(50):
                assert await store.get("a") == 1
            assert service.made <= WINDOW
            quick = [await anext(slow) for _ in range(500)]
            assert quick == list(range(1, 501))
            for _ in range(50):
                assert await store.get("a") == 1
            assert service.made <= 501 + WIDEST_WINDOW
        assert await service.events.get() == "counted"


class Pages(MemoryStore):
    """A stream of short items, and then of others."""

    made = 0

    def __init__(self, later: int) -> None:
        super().__init__()
        self.later = later

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        while True:
            self.made += 1
            yield Change("a" * (1 if self.made <= 600 else self.later), self.made)


@pytest.mark.parametrize(("later", "window"), [(1, WIDEST_WINDOW), (5_000, WINDOW)])
async def test_fewer_items_wait_while_they_are_long(link: Link, later: int, window: int) -> None:
    service = Pages(later)
    async with connected(link, service) as (store, _), rpc.closing(store.watch()) as changes:
        for taken in range(1, 1_001):
            assert (await anext(changes)).value == taken
        for _ in range(50):
            assert await store.get("a") == 1
        assert window // 2 <= service.made - 1_000 <= window


async def test_leaving_early_closes_the_generator(link: Link) -> None:
    async with connected(link) as (store, service):
        async with rpc.closing(store.watch("b")) as changes:
            assert await anext(changes) == Change("bb", 2)
            assert await service.events.get() == "watching"
        assert await service.events.get() == "no longer watching"
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


async def test_breaking_out_of_the_loop_is_enough(link: Link) -> None:
    async with connected(link) as (store, service):
        async for _ in store.watch("b"):
            break
        assert await service.events.get() == "watching"
        assert await service.events.get() == "no longer watching"


async def test_a_stream_that_nobody_asks_is_not_called(link: Link) -> None:
    async with connected(link) as (store, service):
        stream = store.watch()
        await stream.aclose()  # type: ignore[attr-defined]
        assert await store.get("a") == 1
        assert service.events.empty()


async def test_cancelling_a_wait_for_an_item_keeps_the_stream(link: Link) -> None:
    async with connected(link) as (store, service):
        stream = store.watch()
        assert await anext(stream) == Change("a", 1)
        assert await anext(stream) == Change("bb", 2)
        waiting = asyncio.ensure_future(anext(stream))
        await steps(3)
        with pytest.raises(aioipc.BusyError):
            await anext(stream)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await service.events.get() == "watching"
        await steps(5)
        assert service.events.empty()
        await stream.aclose()  # type: ignore[attr-defined]
        assert await service.events.get() == "no longer watching"


async def test_an_error_comes_after_the_items(link: Link) -> None:
    class Failing(MemoryStore):
        async def count(self, to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number
            raise RuntimeError("no more")

    async with connected(link, Failing()) as (store, _):
        items = store.count(100)
        assert [await anext(items) for _ in range(100)] == list(range(100))
        with pytest.raises(aioipc.RemoteError, match="no more"):
            await anext(items)
        assert await store.get("a") == 1


async def test_a_method_that_stops_reading_stops_the_upload(link: Link) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 5
            yield -1
            for number in range(100_000):
                yield number
        finally:
            closed.set()

    closed = asyncio.Event()
    async with connected(link) as (store, _):
        assert await store.total(numbers()) == 4
        assert closed.is_set()


async def test_an_upload_that_fails_fails_the_call(link: Link) -> None:
    class Watched(MemoryStore):
        async def total(self, numbers: Any) -> int:
            try:
                return await super().total(numbers)
            except asyncio.CancelledError:
                self.tell("cancelled")
                raise

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise LookupError("mine")

    async with connected(link, Watched()) as (store, service):
        with pytest.raises(LookupError, match="mine"):
            await store.total(numbers())
        assert await service.events.get() == "cancelled"
        assert await store.get("a") == 1


class Abort(BaseException):
    pass


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, Abort])
async def test_an_upload_that_ends_by_what_is_no_exception(
    link: Link, error: type[BaseException]
) -> None:
    """A task that it waits for was cancelled, for example: that is the caller's to know."""

    async def numbers() -> AsyncIterator[int]:
        yield 5
        raise error

    async with connected(link) as (store, _):
        with pytest.raises(error):
            await store.total(numbers())
        assert await store.get("a") == 1


async def test_what_is_no_stream_is_not_sent(link: Link) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async with asyncio.timeout(PATIENCE_S), connected(link) as (store, _):
        for given in ([1], (number for number in [1]), b"1", None, numbers):
            for call in (store.total(given), anext(store.doubled(given))):  # type: ignore[arg-type]
                with pytest.raises(aioipc.BadArguments) as refused:
                    await call
                assert str(refused.value).endswith(
                    ": argument 'numbers' is a stream: "
                    f"give an async iterable, not {type(given).__name__}"
                )
        statistics = rpc.connection_of(store).channel.statistics()
        assert statistics.messages_sent == 0


async def test_a_stream_that_cannot_be_iterated_over_fails_the_call(link: Link) -> None:
    class Broken:
        def __aiter__(self) -> AsyncIterator[int]:
            raise LookupError("mine")

    async with asyncio.timeout(PATIENCE_S), connected(link) as (store, _):
        with pytest.raises(LookupError, match="mine"):
            await store.total(Broken())
        assert await store.get("a") == 1


async def test_a_wrong_item_of_an_upload_is_named(link: Link) -> None:
    async def numbers() -> AsyncIterator[Any]:
        yield 1
        yield "two"

    async with connected(link) as (store, _):
        with pytest.raises(aioipc.BadArguments, match="item of 'numbers': Expected `int`"):
            await store.total(numbers())
        assert await store.get("a") == 1


async def test_both_ways_at_once_in_lockstep(link: Link) -> None:
    """Each number is made from the answer to the one before."""
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        for _ in range(20):
            yield await answers.get()

    async with connected(link) as (store, _):
        results = []
        async for answer in store.doubled(numbers()):
            results.append(answer)
            answers.put_nowait(answer)
        assert results == [2**power for power in range(1, 22)]


async def test_many_streams_at_once(link: Link) -> None:
    async with connected(link) as (store, _):

        async def consume(to: int) -> list[int]:
            return [number async for number in store.count(to)]

        results = await asyncio.gather(*(consume(100 + number) for number in range(50)))
        assert results == [list(range(100 + number)) for number in range(50)]
