"""A cancelled acquire takes nothing, in whatever state it is: queued, granted, about to run."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aioipc import sync
from tests.scale import patience_s, scaled
from tests.sync.contest import Writing, in_time, until

PERMITS = 2
ROUNDS = scaled(1_000, full=20_000)

KINDS: dict[str, Callable[[], Any]] = {
    "lock": lambda: sync.Lock("x"),
    "semaphore": lambda: sync.Semaphore("x", PERMITS),
    "anonymous": lambda: sync.AnonymousSemaphore(PERMITS),
    "writing": lambda: Writing("x"),
    "file": lambda: sync.FileLock(f"{tempfile.gettempdir()}/aioipc-cancelled-{os.getpid()}"),
    "posix": lambda: sync.PosixSemaphore(f"/aioipc-cancelled-{os.getpid()}", PERMITS),
    "sysv": lambda: sync.SysVSemaphore(None, PERMITS),
    "jobserver": lambda: sync.JobServer(PERMITS),
}
ONE = {"lock", "writing", "file"}


@pytest.mark.timeout(patience_s(30))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_no_permit_is_lost(kind: str, chance: random.Random) -> None:
    """Tasks are cancelled at any loop turn; at the end all permits are there."""
    subject = KINDS[kind]()
    inside = 0
    permits = 1 if kind in ONE else PERMITS

    async def use(turns: int) -> None:
        nonlocal inside
        async with subject:
            inside += 1
            assert inside <= permits
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    async def cancel_somewhere() -> None:
        task = asyncio.create_task(use(chance.randrange(4)))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async with in_time(patience_s(25)):
        for _ in range(ROUNDS // 5):
            await asyncio.gather(*(cancel_somewhere() for _ in range(5)))
        guards = [await subject.acquire() for _ in range(permits)]
    for guard in guards:
        guard.release()
    check_and_remove(kind, subject)
    subject.close()
    # The pump ends within one slice after its last waiter.
    await until(lambda: not any("semaphore" in each.name for each in threading.enumerate()))


def check_and_remove(kind: str, subject: Any) -> None:
    match kind:
        case "posix":
            assert subject.value == PERMITS
            subject.unlink()
        case "sysv":
            assert subject.value == PERMITS
            subject.remove()
        case "jobserver":
            assert subject.tokens() == PERMITS - 1
        case "file":
            os.unlink(subject.path)


@pytest.mark.timeout(patience_s(30))
@pytest.mark.asyncio
async def test_no_notification_is_lost(chance: random.Random) -> None:
    """Of many who wait some are cancelled; each notification reaches one who is not."""
    conditions = [sync.Condition("x") for _ in range(3)]
    woken = 0

    async def wait(condition: sync.Condition) -> None:
        nonlocal woken
        async with condition:
            await condition.wait()
        woken += 1

    async with in_time(patience_s(25)):
        for _ in range(scaled(12, full=1_000)):
            woken = 0
            tasks = [asyncio.create_task(wait(chance.choice(conditions))) for _ in range(8)]
            for _ in range(chance.randrange(200)):
                await asyncio.sleep(0)
            doomed = chance.sample(tasks, 4)
            for task in doomed:
                task.cancel()
                for _ in range(chance.randrange(10)):
                    await asyncio.sleep(0)
            while woken + sum(task.done() for task in doomed if task.cancelled()) < 8:
                async with conditions[0] as guard:
                    assert not guard.owner_died
                    conditions[0].notify()
                await asyncio.sleep(0.001)
            await asyncio.wait(tasks)
    for condition in conditions:
        condition.close()


@pytest.mark.asyncio
async def test_a_notification_of_a_cancelled_waiter_goes_on() -> None:
    condition = sync.Condition("x")
    order: list[str] = []

    async def wait(name: str) -> None:
        async with condition:
            await condition.wait()
            order.append(name)

    async with in_time():
        first = asyncio.create_task(wait("first"))
        await waiting(condition, 1)
        second = asyncio.create_task(wait("second"))
        await waiting(condition, 2)
        async with condition:
            condition.notify()
            first.cancel()
        await second
    assert order == ["second"]
    assert first.cancelled()
    condition.close()


async def waiting(condition: sync.Condition, count: int) -> None:
    """Wait until so many wait; a ticket is drawn before the lock is given up."""
    while True:
        async with condition:
            if len(condition._open().parts()) >= count + 2:
                return
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_a_wait_in_a_cancelled_scope_of_anyio() -> None:
    """It cancels in every turn of the loop; who waits gets the lock in his turn all the same."""
    condition = sync.Condition("x")
    scope = anyio.CancelScope()
    ended = asyncio.Event()

    async def wait() -> None:
        with scope:
            async with condition:
                await condition.wait()
        ended.set()

    async def take_turns() -> None:
        while not ended.is_set():
            async with condition:
                await asyncio.sleep(0)

    async with in_time(), asyncio.TaskGroup() as tasks:
        tasks.create_task(wait())
        await waiting(condition, 1)
        for _ in range(3):
            tasks.create_task(take_turns())
        await waiting(condition, 1)  # all of them stand in line
        scope.cancel()
    assert scope.cancelled_caught
    condition.close()


@pytest.mark.asyncio
async def test_a_cancelled_event_wait() -> None:
    event = sync.Event("x")
    task = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    event.set()
    async with in_time():
        await event.wait()
    event.clear()
    assert not event.is_set()
    event.close()
