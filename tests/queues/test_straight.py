"""The straight way of queues that the kernel keeps: no task, no Future, and turns for others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import pytest_asyncio

import aioipc
from aioipc import queues

pytestmark = pytest.mark.asyncio

KernelQueue = queues.Queue[Any]


@pytest_asyncio.fixture(params=["mq", "sysv"])
async def queue(
    request: pytest.FixtureRequest, mq_name: str, sysv_key: int
) -> AsyncIterator[KernelQueue]:
    address = f"mq:{mq_name}" if request.param == "mq" else f"sysv:{sysv_key}"
    async with queues.open(address, create=True) as queue:
        yield queue
        queue.unlink()


def step(operation: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    """Drive an operation once: whether it is done, and with what."""
    try:
        return False, operation.send(None)
    except StopIteration as result:
        return True, result.value


async def pause(queue: KernelQueue) -> Coroutine[Any, Any, Any]:
    """Put and get until a put gives others a turn; returns that one."""
    while True:
        put = queue.put("left out")
        if not step(put)[0]:
            return put
        while not step(get := queue.get())[0]:
            get.close()


async def test_who_need_not_wait_does_not_suspend(queue: KernelQueue) -> None:
    await queue.put("warm")  # the first operations of a loop may have to give it a turn
    assert await queue.get() == "warm"
    for operation, result in (
        (queue.put({"n": 1}), None),
        (queue.get(), {"n": 1}),
        (queue.put({"n": 2}), None),
        (queue.get_item(), {"n": 2}),
    ):
        done, found = step(operation)
        assert done
        assert getattr(found, "value", found) == result


async def test_nothing_happens_before_it_is_awaited(queue: KernelQueue) -> None:
    put = queue.put(1)
    assert (await queue.statistics()).messages == 0
    await put
    get = queue.get()
    assert (await queue.statistics()).messages == 1
    assert await get == 1
    for spent in (put, get):
        with pytest.raises(RuntimeError, match="only once"):
            await spent
    with pytest.warns(RuntimeWarning, match="never awaited: nothing was put"):
        queue.put(2)  # type: ignore[unused-coroutine]
    queue.get()  # type: ignore[unused-coroutine]
    gc.collect()
    assert (await queue.statistics()).messages == 0


async def test_others_get_turns(queue: KernelQueue) -> None:
    """A task that never has to wait lets the loop turn once per 512 operations, or sooner."""
    pairs, turns = 2_000, 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    for number in range(pairs):
        await queue.put(number)
        assert await queue.get() == number
    counting.cancel()
    assert turns >= 2 * pairs // 512


async def test_giving_a_turn_loses_nothing(queue: KernelQueue) -> None:
    """Neither where the pause is abandoned, nor where the task is cancelled in it."""
    (await pause(queue)).close()
    put = await pause(queue)
    with pytest.raises(KeyError):
        put.throw(KeyError("out"))
    with pytest.raises(RuntimeError, match="only once"):
        put.send(None)
    assert (await queue.statistics()).messages == 0
    task = asyncio.ensure_future(_put_and_get_on(queue))
    while not task.done():
        await asyncio.sleep(0)
        task.cancel()
    assert (await queue.statistics()).messages <= 1  # what it had put when it was cancelled
    await queue.put("goes on")


async def _put_and_get_on(queue: KernelQueue) -> None:
    while True:
        await queue.put(1)
        await queue.get()


async def test_bad_options_are_refused_before_anything_is_put(queue: KernelQueue) -> None:
    with pytest.raises(ValueError, match="has neither"):
        await queue.put(1, ttl_s=1)
    with pytest.raises(aioipc.EncodeError):
        await queue.put(object())
    with pytest.raises(aioipc.FrameTooLarge):
        await queue.put(bytes(1 << 20))
    assert (await queue.statistics()).messages == 0


async def test_it_belongs_to_its_thread(queue: KernelQueue) -> None:
    def elsewhere() -> None:
        for operation in (queue.put(1), queue.get()):
            with pytest.raises(RuntimeError, match="of another thread"):
                operation.send(None)

    await asyncio.to_thread(elsewhere)
    assert (await queue.statistics()).messages == 0
