"""Tasks, threads, loops and processes exclude each other; tasks of one loop come in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioipc import WouldBlock, sync
from tests.children import Peers
from tests.conftest import LOOPS
from tests.programs import program
from tests.scale import scaled
from tests.sync.contest import CONTENDER, KINDS, Room, in_time, until

ROUNDS = scaled(60, full=2_000)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(kind: str, runtime_dir: Path) -> Iterator[str]:
    name = f"{runtime_dir.name}-{kind}"
    yield name
    (runtime_dir.parent / f"{name}.locked").unlink(missing_ok=True)


@pytest.fixture
def room(kind: str, tmp_path: Path) -> Room:
    return Room(tmp_path, 3 if kind == "semaphore" else 1)


async def visit(subject: Any, room: Room, rounds: int) -> None:
    for _ in range(rounds):
        async with subject:
            with Room(room.path, room.seats):
                await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_tasks_and_objects(kind: str, name: str, room: Room) -> None:
    subjects = [KINDS[kind](name) for _ in range(3)]
    async with in_time(), asyncio.TaskGroup() as tasks:
        for subject in [*subjects, *subjects]:
            tasks.create_task(visit(subject, room, 20))
    for subject in subjects:
        subject.close()


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_threads_and_loops(factory: Any, kind: str, name: str, room: Room) -> None:
    subject = KINDS[kind](name)
    done: list[int] = []

    def run(number: int) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(visit(subject, room, 20))
        done.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]
    subject.close()


@pytest.mark.asyncio
async def test_processes(kind: str, name: str, room: Room, peers: Peers) -> None:
    rivals = [program(peers, CONTENDER, kind, name, room.path, ROUNDS) for _ in range(3)]
    subject = KINDS[kind](name)
    for rival in rivals:
        (await rival.next_line()).startswith("ready")
    async with in_time():
        await visit(subject, room, ROUNDS)
    for rival in rivals:
        assert await rival.next_line() == "done"
        assert await rival.ended() == 0
    subject.close()


@pytest.mark.asyncio
async def test_tasks_of_a_loop_come_in_order(kind: str, name: str) -> None:
    subject = KINDS[kind](name)
    permits = 3 if kind == "semaphore" else 1
    go, order = asyncio.Event(), list[int]()

    async def hold() -> None:
        async with subject:
            await go.wait()

    async def wait(number: int) -> None:
        async with subject:
            order.append(number)

    holders = [asyncio.create_task(hold()) for _ in range(permits)]
    await until(subject.locked)
    waiters = [asyncio.create_task(wait(number)) for number in range(20)]
    await asyncio.sleep(0)
    go.set()
    async with in_time():
        await asyncio.gather(*holders, *waiters)
    assert order == sorted(order)
    subject.close()


async def take(subject: Any) -> sync.Guard:
    guard: sync.Guard = await subject.acquire()
    return guard


@pytest.mark.asyncio
async def test_nowait(kind: str, name: str) -> None:
    one, other = KINDS[kind](name), KINDS[kind](name)
    guards = [await take(one) if kind != "semaphore" else one.acquire_nowait()]
    guards += [one.acquire_nowait() for _ in range(2 if kind == "semaphore" else 0)]
    assert other.locked()
    with pytest.raises(WouldBlock):
        other.acquire_nowait()
    guards.pop().release()
    assert not other.locked()
    other.acquire_nowait().release()
    for guard in guards:
        guard.release()
    one.close()
    other.close()


@pytest.mark.asyncio
async def test_a_task_that_would_wait_for_itself(kind: str, name: str) -> None:
    subject = KINDS[kind](name)
    async with subject:
        if kind != "semaphore":
            with pytest.raises(RuntimeError, match="already"):
                await subject.acquire()
    subject.close()
