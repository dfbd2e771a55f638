"""map and imap: order, bounds, progress, and what a failure or a break leaves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator

import pytest

from aioipc import BusyError, RemoteError, process
from aioipc.process import Results, imap, imap_unordered, pool
from tests.process import models
from tests.process.models import Model
from tests.programs import loop_name

pytestmark = pytest.mark.asyncio

BOTH = pytest.mark.parametrize("imap_", [imap, imap_unordered])


class Calls:
    """A function that returns when it is told to, and counts who is inside."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.cancelled = 0
        self.gates: dict[int, asyncio.Event] = {}

    async def __call__(self, number: int) -> int:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gates.setdefault(number, asyncio.Event()).wait()
            return 10 * number
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1

    async def open(self, *numbers: int) -> None:
        for number in numbers:
            self.gates.setdefault(number, asyncio.Event()).set()
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def echo(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def test_over_a_pool() -> None:
    done: list[int] = []
    async with pool(models.Worker, Model, size=2, args=(1,)) as model:
        assert await process.map(model.add, range(200), progress=done.append) == [*range(1, 201)]
        async with imap_unordered(model.add, range(200)) as results:
            assert sorted([result async for result in results]) == [*range(1, 201)]
        with pytest.raises(RemoteError, match="LookupError: b"):
            await process.map(model.fail, ["b", "c"])
        assert await model.add(0) == 1
    assert done == [*range(1, 201)]


async def test_the_order_of_the_items() -> None:
    calls = Calls()
    async with imap(calls, range(4), lookahead=4) as results:
        await calls.open(3, 1, 0, 2)
        assert [result async for result in results] == [0, 10, 20, 30]


async def test_the_order_of_the_results() -> None:
    calls = Calls()
    async with imap_unordered(calls, range(4), lookahead=4) as results:
        for number in (3, 1, 0, 2):
            await calls.open(number)
        assert [result async for result in results] == [30, 10, 0, 20]


@BOTH
async def test_no_more_items_are_taken_than_looked_ahead(
    imap_: Callable[..., Results[int]],
) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    async with imap_(echo, items(), lookahead=5) as results:
        await turns()
        assert len(taken) == 5
        assert [await anext(results) for _ in range(3)] == [0, 1, 2]
        await turns()
        assert len(taken) == 8
        assert [result async for result in results] == [*range(3, 100)]


@BOTH
async def test_no_item_at_all(imap_: Callable[..., Results[int]]) -> None:
    async with imap_(echo, [], lookahead=3) as results:
        assert [result async for result in results] == []
    assert await process.map(echo, [], lookahead=1) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin later before Python 3.12")
@BOTH
async def test_tasks_that_begin_at_once(imap_: Callable[..., Results[int]]) -> None:
    """With asyncio's eager task factory, under which they may end at once, too."""
    if loop_name() == "uvloop":
        pytest.skip("uvloop gives the factory an argument that Python 3.13.0 refuses")
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    try:
        for items in ([], [1, 2, 3], range(20)):
            async with imap_(double, items, lookahead=4) as results:
                assert sorted([result async for result in results]) == [2 * n for n in items]
    finally:
        loop.set_task_factory(None)


async def double(number: int) -> int:
    return 2 * number


@BOTH
async def test_leaving_early_cancels_what_is_open(imap_: Callable[..., Results[int]]) -> None:
    calls = Calls()
    async with imap_(calls, range(10), lookahead=4) as results:
        await calls.open(0)
        assert await anext(results) == 0
        await turns()
        assert calls.inside == 4
    assert (calls.inside, calls.cancelled, calls.most) == (0, 4, 4)
    with pytest.raises(StopAsyncIteration):
        await anext(results)


@BOTH
async def test_a_failure_ends_it(imap_: Callable[..., Results[int]]) -> None:
    async def fail(number: int) -> int:
        if number == 2:
            raise LookupError(number)
        return await echo(number)

    seen: list[int] = []

    async def see() -> None:
        async with imap_(fail, range(10), lookahead=1) as results:
            async for result in results:
                seen.append(result)  # noqa: PERF401 - to be seen after the exception

    with pytest.raises(LookupError):
        await see()
    assert seen == [0, 1]


@BOTH
@pytest.mark.parametrize("kind", [LookupError, asyncio.CancelledError, GeneratorExit])
async def test_items_that_fail(
    imap_: Callable[..., Results[int]], kind: type[BaseException]
) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise kind

    async with imap_(echo, items(), lookahead=1) as results:
        assert await anext(results) == 1
        with pytest.raises(kind):
            await anext(results)


async def test_cancelled_while_it_waits_loses_nothing() -> None:
    calls = Calls()
    async with imap(calls, range(2), lookahead=2) as results:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(results)
        waiting = asyncio.create_task(anext(results))
        await turns()
        with pytest.raises(BusyError):
            await anext(results)
        await calls.open(0, 1)
        assert await waiting == 0
        assert await anext(results) == 10


async def test_a_function_that_is_cancelled_from_elsewhere() -> None:
    async def cancelled(number: int) -> int:
        raise asyncio.CancelledError

    async with imap(cancelled, range(2), lookahead=1) as results:
        with pytest.raises(asyncio.CancelledError):
            await anext(results)


async def test_misuse() -> None:
    with pytest.raises(ValueError, match="is no method of a pool, so say lookahead="):
        imap(echo, [])
    with pytest.raises(ValueError, match="lookahead must be at least 1, not 0"):
        imap(echo, [], lookahead=0)
    with pytest.raises(RuntimeError, match="enter it first"):
        await anext(imap(echo, [1], lookahead=1))
