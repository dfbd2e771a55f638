"""The service that contenders call, and the client that calls it.

Everybody serves the same two methods, by name, with arguments in msgpack; only what lies between
``await add(total, 1)`` and `Sums.add` is theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from benchmarks.contender import Flow, Plan, Seat, WrongMessage

Add = Callable[[int, int], Awaitable[int]]
Count = Callable[[int], AsyncIterator[int]]


class Sums(Protocol):
    """What is called."""

    async def add(self, a: int, b: int) -> int:
        """The sum."""

    def count(self, stop: int) -> AsyncIterator[int]:
        """The numbers below ``stop``."""


class Adder:
    """The implementation, which knows when all calls of a plan were made."""

    def __init__(self, plan: Plan) -> None:
        self.done = asyncio.Event()
        self._left = plan.total * plan.callers

    async def add(self, a: int, b: int) -> int:
        """Does not wait for anything, as most methods that look something up."""
        self._left -= 1
        if not self._left:
            self.done.set()
        return a + b

    async def count(self, stop: int) -> AsyncIterator[int]:
        """The second call, after the one that warms up, is the last one."""
        for number in range(stop):
            yield number
        self._left -= stop
        if not self._left:
            self.done.set()


async def call_all(seat: Seat, add: Add) -> Flow:
    """All callers at once; the clock runs from the end of the warm-up to the last result.

    Raises:
        WrongMessage: A result is wrong.
    """
    plan = seat.plan
    await asyncio.gather(*(_add_up(add, plan.warmup) for _ in range(plan.callers)))
    started_ns = time.perf_counter_ns()
    sums = await asyncio.gather(*(_add_up(add, plan.messages) for _ in range(plan.callers)))
    elapsed_ns = time.perf_counter_ns() - started_ns
    if set(sums) != {plan.messages}:
        raise WrongMessage(f"{plan.messages} calls that add 1 gave {set(sums)}")
    return Flow(plan.messages * plan.callers, elapsed_ns)


async def _add_up(add: Add, calls: int) -> int:
    total = 0
    for _ in range(calls):
        total = await add(total, 1)
    return total


async def watch_all(seat: Seat, count: Count) -> Flow:
    """Two streams, of which the second one is measured.

    Raises:
        WrongMessage: An item is wrong or missing.
    """
    plan = seat.plan
    await _follow(count, plan.warmup)
    started_ns = time.perf_counter_ns()
    await _follow(count, plan.messages)
    return Flow(plan.messages, time.perf_counter_ns() - started_ns)


async def _follow(count: Count, stop: int) -> None:
    expected = 0
    async for item in count(stop):
        if item != expected:
            raise WrongMessage(f"item {expected} of a stream is {item}")
        expected += 1
    if expected != stop:
        raise WrongMessage(f"a stream of {stop} items ended after {expected}")
