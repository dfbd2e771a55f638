"""A forked child has no part in what its parent holds, and cannot use it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from aioipc import ForkError, sync
from tests.links import steps
from tests.sync.contest import Writing, in_time

KINDS: dict[str, Callable[[], Any]] = {
    "lock": lambda: sync.Lock("x"),
    "semaphore": lambda: sync.Semaphore("x", 1),
    "writing": lambda: Writing("x"),
    "condition": lambda: sync.Condition("x"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_the_parents_release_frees_it(kind: str) -> None:
    subject = KINDS[kind]()
    await subject.acquire()
    other = KINDS[kind]()
    waiting = asyncio.create_task(hold_once(other))
    await steps(3)
    pid = fork(lambda: None)
    subject.release()
    async with in_time(1):
        await waiting
    other.close()
    os.kill(pid, signal.SIGKILL)
    await ended(pid)
    subject.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_the_child_gets_an_error(kind: str) -> None:
    subject = KINDS[kind]()
    guard = await subject.acquire()

    def in_child() -> None:
        for use in (subject.acquire_nowait, subject.release, subject.locked):
            try:
                use()
            except ForkError:
                continue
            os._exit(1)
        subject.close()
        try:
            guard.release()
        except RuntimeError:
            os._exit(0)

    pid = fork(in_child)
    assert await ended(pid) == 0
    assert subject.locked()
    subject.release()
    subject.close()


def test_the_child_of_a_thread_does_not_release_what_that_holds() -> None:
    """It has the number of the thread, where no loop runs."""
    semaphore = sync.PosixSemaphore(f"/aioipc-forked-{os.getpid()}", 1)
    guard = semaphore.acquire_nowait()

    def in_child() -> None:
        for use in (guard.release, guard.mark_consistent, semaphore.release):
            with pytest.raises(ForkError):
                use()
        assert not guard.is_held
        os._exit(0)

    _, status = os.waitpid(fork(in_child), 0)
    assert status == 0
    assert semaphore.value == 0
    guard.release()
    assert semaphore.value == 1
    semaphore.unlink()
    semaphore.close()


@pytest.mark.asyncio
async def test_one_that_was_not_used_yet_serves_the_child() -> None:
    lock = sync.Lock("x")

    def in_child() -> None:
        lock.acquire_nowait().release()
        lock.close()
        os._exit(0)

    pid = fork(in_child)
    assert await ended(pid) == 0
    lock.close()


async def ended(pid: int) -> int:
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    return os.waitstatus_to_exitcode(status)


async def hold_once(subject: Any) -> None:
    async with subject:
        pass


def fork(in_child: Callable[[], None]) -> int:
    """Fork a child that does something and then lives on."""
    pid = os.fork()
    if pid == 0:
        try:
            in_child()
            signal.pause()
        finally:
            os._exit(2)
    return pid
