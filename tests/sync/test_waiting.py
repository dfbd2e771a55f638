"""Waiting costs no thread, no timer and no CPU, and no clock but the monotonic one matters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import sync
from tests.links import steps
from tests.sync.contest import Writing, in_time

WAIT_S = 0.3


def held(subject: Any) -> Any:
    subject.acquire_nowait()
    return subject


async def at_condition(condition: sync.Condition) -> None:
    async with condition:
        await condition.wait()


WAITS: dict[str, Callable[[], tuple[list[Any], Callable[[Any], Awaitable[object]]]]] = {
    "lock": lambda: ([sync.Lock("x"), sync.Lock("x")], lambda it: it.acquire()),
    "semaphore": lambda: (
        [sync.Semaphore("x", 1), sync.Semaphore("x", 1)],
        lambda it: it.acquire(),
    ),
    "file": lambda: ([sync.FileLock(__file__), sync.FileLock(__file__)], lambda it: it.acquire()),
    "writer": lambda: ([Writing("x"), Writing("x")], lambda it: it.acquire()),
    "reader": lambda: ([Writing("x"), sync.RWLock("x")], lambda it: it.acquire_reading()),
    "lock of a condition": lambda: (
        [sync.Condition("x"), sync.Condition("x")],
        lambda it: it.acquire(),
    ),
    "event": lambda: ([sync.Event("x")], lambda it: it.wait()),
    "barrier": lambda: ([sync.Barrier("x", 3)], lambda it: it.wait()),
    "condition": lambda: ([sync.Condition("x")], at_condition),
}


@pytest.mark.parametrize("kind", WAITS)
@pytest.mark.asyncio
async def test_who_waits_sleeps(kind: str) -> None:
    subjects, wait = WAITS[kind]()
    if len(subjects) > 1:
        held(subjects[0])
    threads = threading.active_count()
    waiting = [asyncio.ensure_future(wait(subjects[-1])) for _ in range(2)]
    await asyncio.sleep(0.05)
    before = time.thread_time()
    await asyncio.sleep(WAIT_S)
    assert time.thread_time() - before < WAIT_S / 20
    assert threading.active_count() == threads
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    if len(subjects) > 1:
        subjects[0].release()
    for subject in subjects:
        subject.close()


@pytest.mark.asyncio
async def test_a_reader_comes_in_beside_one_who_was_faster(runtime_dir: Path) -> None:
    """Who waited for the writer is let in, also if another reader has it by the time he looks."""
    writer, slow, fast = (sync.RWLock("x") for _ in range(3))
    writer.acquire_writing_nowait()
    waiting = asyncio.create_task(slow.acquire_reading())
    await steps(3)
    writer.release()
    fast.acquire_reading_nowait()  # before the loop has looked who may go on
    async with in_time():
        await waiting
    assert len(fast.holders()) == 2
    for lock in (writer, slow, fast):
        lock.close()


@pytest.mark.asyncio
async def test_a_shared_file_lock_comes_in_beside_one_that_was_faster(tmp_path: Path) -> None:
    alone, slow, fast = (sync.FileLock(tmp_path / "x", shared=it) for it in (False, True, True))
    alone.acquire_nowait()
    waiting = asyncio.create_task(slow.acquire())
    await steps(3)
    alone.release()
    fast.acquire_nowait()
    async with in_time():
        await waiting
    for lock in (alone, slow, fast):
        lock.close()


def test_no_realtime_clock() -> None:
    """Nothing here asks for the time of day; see also the timeouts of asyncio."""
    package = Path(sync.__file__).parent
    command = ["grep", "-rnE", r"time\.time\(|time_ns\(\)|CLOCK_REALTIME|datetime", str(package)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert not [line for line in found.splitlines() if "monotonic_ns" not in line]


@pytest.mark.asyncio
async def test_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, other = sync.Lock("x"), sync.Lock("x")
    await lock.acquire()
    start = time.monotonic()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await other.acquire()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    assert 0.04 <= time.monotonic() - start < 5  # uvloop counts in milliseconds
    assert 0.04 <= lock.holders()[0].held_s < 5
    lock.release()
    async with other:
        pass
    lock.close()
    other.close()


def test_import_is_lazy() -> None:
    code = "import sys, aioipc; assert 'aioipc.sync' not in sys.modules; aioipc.sync.Lock"
    subprocess.run([sys.executable, "-c", code], check=True)
