"""The deadline of a task, wherever it was set."""

from __future__ import annotations

import asyncio
import math

import anyio
import pytest

import aioipc
from aioipc.loop.deadline import remaining_s

pytestmark = pytest.mark.asyncio


def remaining() -> float:
    return remaining_s(asyncio.get_running_loop())


async def test_none() -> None:
    assert remaining() == math.inf
    async with aioipc.timeout(None) as block:
        assert remaining() == math.inf
    assert not block.expired()


async def test_the_nearest_counts() -> None:
    async with aioipc.timeout(50):
        assert 40 < remaining() < 51
        async with aioipc.timeout(99):
            assert 40 < remaining() < 51
        async with aioipc.timeout(20):
            assert 10 < remaining() < 21
            with anyio.fail_after(5):
                await asyncio.sleep(0)
                assert 0 < remaining() < 6
            with anyio.move_on_after(70):
                await asyncio.sleep(0)
                assert 10 < remaining() < 21
        assert 40 < remaining() < 51
    assert remaining() == math.inf


async def test_it_runs_out_like_that_of_asyncio() -> None:
    block = aioipc.timeout(0.01)
    with pytest.raises(TimeoutError):
        async with block:
            await asyncio.get_running_loop().create_future()
    assert block.expired()
    assert remaining() == math.inf


async def test_tasks_see_it_while_the_block_lasts() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    look = asyncio.Event()

    async def task() -> None:
        seen.put_nowait(remaining())
        await look.wait()
        seen.put_nowait(remaining())

    async with aioipc.timeout(50):
        running = asyncio.ensure_future(task())
        assert 40 < await seen.get() < 51
    look.set()
    assert await seen.get() == math.inf
    await running
