"""What locks and the like count for `aioipc top`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import sync
from aioipc.kernel.pages import Counted, read_pages
from aioipc.kernel.statistics import Kind
from tests.children import Peers
from tests.programs import program

WAITERS = 5


def locks(pid: int | None = None) -> dict[str, Counted]:
    (reading,) = read_pages([pid or os.getpid()])
    return {row.name: row for row in reading.rows if row.kind is Kind.LOCK and not row.is_sum}


def counts(name: str) -> dict[str, int]:
    return locks()[name].counts


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lock 'cache'", lambda path: sync.Lock("cache")),
        ("semaphore 'cache'", lambda path: sync.Semaphore("cache", 1)),
        ("an anonymous semaphore", lambda path: sync.AnonymousSemaphore(1)),
        ("file lock", sync.FileLock),
    ],
)
async def test_who_waits_and_who_holds(
    tmp_path: Path, name: str, make: Callable[[Path], Any]
) -> None:
    lock = make(tmp_path / "file")
    assert not any(each.startswith(name) for each in locks()), "nothing before its first use"

    async def take() -> None:
        async with lock:
            await asyncio.sleep(0)

    async with lock:
        (name,) = (each for each in locks() if each.startswith(name))
        tasks = [asyncio.ensure_future(take()) for _ in range(WAITERS)]
        while counts(name)["waiting"] < WAITERS:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        assert counts(name)["held"] == 1
        tasks.pop().cancel()
    await asyncio.gather(*tasks)
    found = counts(name)
    assert (found["acquired"], found["held"], found["waiting"]) == (WAITERS, 0, 0)
    assert found["waits"] >= WAITERS
    assert found["waited_ns"] > 0
    lock.close()
    assert name not in locks()


async def taken(lock: sync.Lock) -> sync.Guard:
    async with lock as guard:
        guard.mark_consistent()
    return guard


@pytest.mark.asyncio
async def test_waits_for_other_processes_and_their_deaths(peers: Peers) -> None:
    code = """
    async with aioipc.sync.Lock("shared"):
        say("mine")
        await hear()
    """
    peer = program(peers, code)
    assert await peer.next_line() == "mine"
    assert locks(peer.pid)["lock 'shared'"].counts["held"] == 1
    lock = sync.Lock("shared")
    taking = asyncio.ensure_future(taken(lock))
    while "lock 'shared'" not in locks():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)
    assert counts("lock 'shared'")["waiting"] == 1
    peer.kill()
    assert (await taking).owner_died
    found = counts("lock 'shared'")
    assert (found["acquired"], found["waits"], found["owners_died"]) == (1, 1, 1)
    assert found["held"] == 0
    lock.close()


@pytest.mark.asyncio
async def test_a_forked_child_counts_for_itself(peers: Peers, tmp_path: Path) -> None:
    code = """
    held, unused = aioipc.sync.Lock("held"), aioipc.sync.FileLock(sys.argv[1])
    async with held:
        async with unused:
            pass
        pid = os.fork()
        if pid == 0:
            asyncio.events._set_running_loop(None)
            unused.acquire_nowait()
            unused.release()
            held.close()
            say(os.getpid())
            sys.stdin.readline()
            os._exit(0)
        os.waitpid(pid, 0)
        say("gone")
        await hear()
    """
    peer = program(peers, code, tmp_path / "file")
    child = int(await peer.next_line())
    (row,) = locks(child).values()
    assert row.name.startswith("file lock")
    assert row.counts["acquired"] == 1
    peer.tell()
    assert await peer.next_line() == "gone"
    assert {row.counts["acquired"] for row in locks(peer.pid).values()} == {1}
    assert locks(peer.pid)["lock 'held'"].counts["held"] == 1
    peer.tell()
    assert await peer.ended() == 0
