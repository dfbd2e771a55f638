"""Lines of tasks that wait for the same thing."""

from __future__ import annotations

import asyncio

import pytest

from aioipc.loop.line import Line

pytestmark = pytest.mark.asyncio


async def test_those_who_are_woken_together_take_in_the_same_turn() -> None:
    line = Line()
    stock: list[int] = []
    taken: list[tuple[str, int]] = []

    def take() -> int | None:
        return stock.pop(0) if stock else None

    async def wait(name: str) -> None:
        taken.append((name, await line.until(take)))

    tasks = [asyncio.create_task(wait(name)) for name in "abcd"]
    await asyncio.sleep(0)
    stock.extend([1, 2, 3])
    for _ in range(3):
        line.wake_next()
    await asyncio.sleep(0)
    assert taken == [("a", 1), ("b", 2), ("c", 3)]
    assert len(line.places) == 1
    stock.append(4)
    line.wake_next()
    await asyncio.wait(tasks)
    line.wake_next()
    assert taken[-1] == ("d", 4)


async def test_who_is_woken_and_cancelled_leaves_it_to_the_next() -> None:
    line = Line()
    stock: list[int] = []

    def take() -> int | None:
        return stock.pop() if stock else None

    tasks = [asyncio.create_task(line.until(take)) for _ in range(2)]
    await asyncio.sleep(0)
    stock.append(1)
    line.wake_next()
    tasks[0].cancel()
    assert await tasks[1] == 1
    assert tasks[0].cancelled()
