"""Pools of processes beside each other: ``python -m benchmarks.pools [--calls N] [--rounds N]``.

Every pool has two workers that answer small calls. In "lone/s" one task awaits one call after the
other, in "calls/s" 128 tasks do so, each call by itself in both; "map/s" is each one's own map with
its defaults, which puts calls into batches where it can: multiprocessing.Pool a fixed part of all
items, whose results come together; aioipc as many as take 2 ms, whose results come as soon as they
have taken a fifth of a millisecond. Contenders take turns, and the best round of
each counts: neighbours only ever make a round slower. "64 MiB" is a call with an array of numpy of
that size as its argument, and "and back" one that also returns such an array; the median of a few,
after one to warm up. "open 4" is the time until a pool of four has answered its first call, and
"cancel" how long it takes to get rid of a call that sleeps without awaiting, and to have the next
one answered.
Where that cannot be done at all there is a dash.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import aioipc
from aioipc import process

SPAWN = multiprocessing.get_context("spawn")
SLEEP_S = 60.0
AHEAD = 64
LARGE_BYTES = 64 * 1024 * 1024
LARGE_CALLS = 5


class Service(Protocol):
    async def answer(self, number: int) -> int: ...
    async def size(self, data: NDArray[np.uint8]) -> int: ...
    async def inverted(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
    async def sleep(self, seconds: float) -> None: ...


class Answers:
    def answer(self, number: int) -> int:
        return number + 1

    def size(self, data: NDArray[np.uint8]) -> int:
        return measure(data)

    def inverted(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return invert(data)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def answer(number: int) -> int:
    return number + 1


def measure(data: NDArray[np.uint8]) -> int:
    return data.nbytes + int(data[-1])


def invert(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return ~data


async def measure_later(data: NDArray[np.uint8]) -> int:
    return measure(data)


async def invert_later(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return invert(data)


async def answer_later(number: int) -> int:
    return number + 1


@dataclass(frozen=True)
class Opened:
    """A pool that is open.

    Attributes:
        one: Makes a call.
        map: Makes many, by the map of the library with its defaults.
        size: Makes one with a large argument.
        inverted: Makes one with a large argument and a large result.
        sleep: Makes one that is then cancelled.
    """

    one: Callable[[int], Awaitable[int]]
    map: Callable[[int], Awaitable[list[int]]]
    size: Callable[[Any], Awaitable[int]]
    inverted: Callable[[Any], Awaitable[Any]]
    sleep: Callable[[float], Awaitable[None]] | None = None


@asynccontextmanager
async def aioipc_pool(size: int, at_once: int = 1) -> AsyncIterator[Opened]:
    async with process.pool(
        Answers,
        Service,
        size=size,
        calls_per_worker=at_once,
        cancel_grace_s=0.05,
    ) as service:
        yield Opened(
            service.answer,
            lambda count: process.map(service.answer, range(count)),
            service.size,
            service.inverted,
            service.sleep,
        )


def aioipc_pipelined(size: int) -> Any:
    return aioipc_pool(size, at_once=AHEAD)


@asynccontextmanager
async def of_executor(executor: Any) -> AsyncIterator[Opened]:
    loop = asyncio.get_running_loop()

    def one(number: int) -> Any:
        return loop.run_in_executor(executor, answer, number)

    async def many(count: int) -> list[int]:
        return await asyncio.to_thread(lambda: list(executor.map(answer, range(count))))

    def large(data: Any) -> Any:
        return loop.run_in_executor(executor, measure, data)

    def both(data: Any) -> Any:
        return loop.run_in_executor(executor, invert, data)

    try:
        yield Opened(one, many, large, both)
    finally:
        executor.shutdown()


def futures_pool(size: int) -> Any:
    return of_executor(concurrent.futures.ProcessPoolExecutor(size, mp_context=SPAWN))


def loky_pool(size: int) -> Any:
    import loky  # noqa: PLC0415 - takes part where it is installed

    return of_executor(loky.ProcessPoolExecutor(size))


@asynccontextmanager
async def multiprocessing_pool(size: int) -> AsyncIterator[Opened]:
    with SPAWN.Pool(size) as pool:

        def one(number: int) -> asyncio.Future[int]:
            """What comes from the thread of the pool that takes results, without further ones."""
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def tell(result: int) -> None:
                loop.call_soon_threadsafe(future.set_result, result)

            pool.apply_async(answer, (number,), callback=tell)
            return future

        yield Opened(
            one,
            lambda count: asyncio.to_thread(pool.map, answer, range(count)),
            lambda data: asyncio.to_thread(pool.apply, measure, (data,)),
            lambda data: asyncio.to_thread(pool.apply, invert, (data,)),
        )


@asynccontextmanager
async def aiomultiprocess_pool(size: int) -> AsyncIterator[Opened]:
    import aiomultiprocess  # noqa: PLC0415 - takes part where it is installed

    async with aiomultiprocess.Pool(size) as pool:

        async def one(number: int) -> int:
            found: int = await pool.apply(answer_later, (number,))
            return found

        async def many(count: int) -> list[int]:
            return list(await pool.map(answer_later, range(count)))

        async def large(data: Any) -> int:
            found: int = await pool.apply(measure_later, (data,))
            return found

        async def both(data: Any) -> Any:
            return await pool.apply(invert_later, (data,))

        yield Opened(one, many, large, both)


CONTENDERS: dict[str, Callable[[int], Any]] = {
    "aioipc": aioipc_pool,
    f"aioipc, {AHEAD} calls per worker": aioipc_pipelined,
    "concurrent.futures": futures_pool,
    "multiprocessing.Pool": multiprocessing_pool,
    "aiomultiprocess": aiomultiprocess_pool,
    "loky": loky_pool,
}


async def calls_per_s(contender: Callable[[int], Any], count: int) -> tuple[float, ...]:
    async with contender(2) as opened:
        return (
            await rate_of(tasks_that_call(opened.one, 1), count // 4),
            await rate_of(tasks_that_call(opened.one, 2 * AHEAD), count),
            await rate_of(opened.map, 10 * count),
        )


def tasks_that_call(
    one: Callable[[int], Awaitable[int]], tasks: int
) -> Callable[[int], Awaitable[list[int]]]:
    async def calls(count: int) -> list[int]:
        results = [0] * count
        numbers = iter(range(count))

        async def call() -> None:
            for number in numbers:
                results[number] = await one(number)

        await asyncio.gather(*(call() for _ in range(tasks)))
        return results

    return calls


async def rate_of(make: Callable[[int], Awaitable[list[int]]], count: int) -> float:
    await make(2 * AHEAD)
    began = time.perf_counter()
    found = await make(count)
    took_s = time.perf_counter() - began
    if found != [*range(1, count + 1)]:
        raise AssertionError("a contender lost or changed an answer")
    return count / took_s


async def large_s(contender: Callable[[int], Any]) -> tuple[float, float]:
    data = np.full(LARGE_BYTES, 1, np.uint8)
    async with contender(1) as opened:

        async def there() -> bool:
            return bool(await opened.size(data) == LARGE_BYTES + 1)

        async def and_back() -> bool:
            return bool((await opened.inverted(data))[-1] == 254)

        return await median_s(there), await median_s(and_back)


async def median_s(call: Callable[[], Awaitable[bool]]) -> float:
    took_s = []
    for _ in range(1 + LARGE_CALLS):
        began = time.perf_counter()
        if not await call():
            raise AssertionError("a contender lost a part of an array")
        took_s.append(time.perf_counter() - began)
    return statistics.median(took_s[1:])


async def opening_s(contender: Callable[[int], Any]) -> float:
    began = time.perf_counter()
    async with contender(4) as opened:
        await opened.one(1)
        return time.perf_counter() - began


async def cancelling_s(contender: Callable[[int], Any]) -> float | None:
    async with contender(1) as opened:
        if opened.sleep is None:
            return None
        await opened.one(1)
        task = asyncio.ensure_future(opened.sleep(SLEEP_S))
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        task.cancel()
        await asyncio.wait([task])
        await opened.one(1)
        return time.perf_counter() - began


@click.command()
@click.option("--calls", default=2_000, show_default=True, help="Calls of one round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the best one counts.")
def main(calls: int, rounds: int) -> None:
    """Measure pools of processes beside each other."""
    rates: dict[str, list[tuple[float, ...]]] = {}
    openings: dict[str, list[float]] = {}
    larges: dict[str, list[tuple[float, float]]] = {}
    cancels: dict[str, float | None] = {}
    for _ in range(rounds):
        for name, contender in CONTENDERS.items():
            try:
                rates.setdefault(name, []).append(aioipc.run(calls_per_s(contender, calls)))
                openings.setdefault(name, []).append(aioipc.run(opening_s(contender)))
                larges.setdefault(name, []).append(aioipc.run(large_s(contender)))
                if name not in cancels:
                    cancels[name] = aioipc.run(cancelling_s(contender))
            except ImportError as error:
                Console(stderr=True).print(f"{name} is not here: {error}")
    table = Table("pool", "lone/s", "calls/s", "map/s", "64 MiB", "and back", "open 4", "cancel")
    for name in filter(rates.get, rates):
        cancel_s = cancels.get(name)
        table.add_row(
            name,
            *(f"{max(rate):,.0f}" for rate in zip(*rates[name], strict=True)),
            *(f"{1000 * min(large):,.1f} ms" for large in zip(*larges[name], strict=True)),
            f"{min(openings[name]):.2f} s",
            "-" if cancel_s is None else f"{cancel_s:.2f} s",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
