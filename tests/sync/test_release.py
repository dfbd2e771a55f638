"""Only who holds something releases it, and once: the count never changes otherwise."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import AddressError, ClosedError, sync
from tests.sync.contest import Writing, in_time

KINDS: dict[str, Any] = {
    "lock": lambda: sync.Lock("x"),
    "semaphore": lambda: sync.Semaphore("x", 1),
    "anonymous": lambda: sync.AnonymousSemaphore(1),
    "rwlock": lambda: Writing("x"),
    "condition": lambda: sync.Condition("x"),
    "jobserver": lambda: sync.JobServer(1),
}


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


@pytest.mark.asyncio
async def test_wrong_releases(subject: Any) -> None:
    with pytest.raises(RuntimeError):
        subject.release()
    guard = await subject.acquire()

    async def other() -> None:
        with pytest.raises(RuntimeError):
            subject.release()
        with pytest.raises(RuntimeError):
            guard.release()

    await asyncio.create_task(other())
    assert guard.is_held
    guard.release()
    for wrong in (guard.release, subject.release, guard.mark_consistent):
        with pytest.raises(RuntimeError):
            wrong()
    guard = subject.acquire_nowait()
    with pytest.raises(Exception, match=r"held|taken"):
        await asyncio.create_task(try_once(subject))
    guard.release()
    subject.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["the object", "the guard"])
async def test_what_a_task_took_that_has_ended(subject: Any, by: str) -> None:
    """As that of `asyncio.wait_for` on Python 3.11."""
    guard = await asyncio.create_task(subject.acquire())
    with pytest.raises(Exception, match=r"held|taken"):
        subject.acquire_nowait()
    (subject if by == "the object" else guard).release()
    assert not guard.is_held
    with pytest.raises(RuntimeError):
        subject.release()
    subject.acquire_nowait().release()
    subject.close()


async def try_once(subject: Any) -> None:
    subject.acquire_nowait()


@pytest.mark.leaves_names  # for the next owner is told
@pytest.mark.asyncio
async def test_close_gives_back_and_ends_waits(subject: Any) -> None:
    await subject.acquire()
    waiting = asyncio.create_task(subject.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    subject.close()
    subject.close()
    async with in_time(1):
        with pytest.raises(ClosedError):
            await waiting
    with pytest.raises(ClosedError):
        await subject.acquire()
    with pytest.raises(ClosedError):
        subject.release()


@pytest.mark.leaves_names  # the collector may take the files before the lock
@pytest.mark.asyncio
async def test_dropped_while_held() -> None:
    lock = sync.Lock("x")
    await lock.acquire()
    del lock
    with pytest.warns(ResourceWarning, match="dropped while held"):
        gc.collect()
    async with sync.Lock("x") as guard:
        assert guard.owner_died
        guard.mark_consistent()


def posix(permits: int | None = None) -> sync.PosixSemaphore:
    return sync.PosixSemaphore(f"/aioipc-dropped-{os.getpid()}", permits)


def free(subject: Any) -> int:
    """How many permits nobody holds."""
    if isinstance(subject, sync.AnonymousSemaphore):
        return sum(subject._counter.try_take() for _ in range(3))
    return int(subject.tokens() if isinstance(subject, sync.JobServer) else subject.value)


def same_permits(subject: sync.AnonymousSemaphore) -> sync.AnonymousSemaphore:
    return sync.AnonymousSemaphore.from_fd(os.dup(subject.fileno()))


def same_jobs(server: sync.JobServer) -> sync.JobServer:
    return sync.JobServer.from_environment(server.environment())


KEY = 0x41500000 + os.getpid()
DROPPED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "anonymous": (lambda: sync.AnonymousSemaphore(1), same_permits),
    "jobserver": (lambda: sync.JobServer(2), same_jobs),
    "posix": (lambda: posix(1), lambda _: posix()),
    "sysv": (lambda: sync.SysVSemaphore(KEY, 1), lambda _: sync.SysVSemaphore(KEY)),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_permits_of_what_was_dropped_while_held_come_back(kind: str) -> None:
    make, same = DROPPED[kind]
    owner = make()
    dropped = same(owner)
    held = [dropped.acquire_nowait() for _ in range(2 if kind == "jobserver" else 1)]
    assert free(owner) == 0
    del dropped, held
    with pytest.warns(ResourceWarning, match="was dropped while held"):
        gc.collect()
    assert free(owner) == 1
    if kind == "posix":
        owner.unlink()
    if kind == "sysv":
        owner.remove()
    owner.close()


def test_a_file_lock_that_is_dropped_while_held(tmp_path: Path) -> None:
    sync.FileLock(tmp_path / "x").acquire_nowait()
    with pytest.warns(ResourceWarning, match="file lock .*/x' was dropped while held"):
        gc.collect()
    assert not sync.FileLock(tmp_path / "x").locked()


@pytest.mark.parametrize("name", ["", ".x", "a b", "x" * 65, "a/", "/tmp/.."])
def test_names(name: str) -> None:
    with pytest.raises(AddressError):
        sync.Lock(name)


@pytest.mark.asyncio
async def test_those_who_disagree() -> None:
    semaphore = sync.Semaphore("x", 2)
    async with semaphore:
        with pytest.raises(AddressError, match="made for 2, not for 3"):
            sync.Semaphore("x", 3).acquire_nowait()
    semaphore.close()
    for count in (0, 513):
        with pytest.raises(ValueError, match="between 1 and 512"):
            sync.Semaphore("x", count)
