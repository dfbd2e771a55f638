"""Who holds what, since when: as far as it can be known."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from aioipc import sync
from tests.children import Peers
from tests.programs import program

LOCKS = """
from aioipc import sync
guard = await sync.FileLock(sys.argv[1], 10, 20, shared=sys.argv[2] == "shared").acquire()
say("held")
await hear()
guard.release()
say("released")
await hear()
"""


@pytest.mark.leaves_names  # the other one is killed at the end
@pytest.mark.asyncio
async def test_holders_of_a_region(tmp_path: Path, peers: Peers) -> None:
    lock = sync.FileLock(tmp_path / "file", 15, 10)
    assert lock.holders() == []
    theirs = program(peers, LOCKS, tmp_path / "file", "alone")
    assert await theirs.next_line() == "held"
    assert lock.holders() == [sync.RegionHolder(theirs.pid, 10, 20, shared=False)]
    assert sync.FileLock(tmp_path / "file", 30).holders() == []
    assert sync.FileLock(tmp_path / "file", 0, 10).holders() == []
    theirs.tell()
    assert await theirs.next_line() == "released"
    assert lock.holders() == []
    everything = sync.FileLock(tmp_path / "file")
    async with everything:
        assert lock.holders() == [sync.RegionHolder(os.getpid(), 0, 0, shared=False)]
    for each in (lock, everything):
        each.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_all_who_share_a_region(tmp_path: Path, peers: Peers) -> None:
    readers = [program(peers, LOCKS, tmp_path / "file", "shared") for _ in range(2)]
    for reader in readers:
        assert await reader.next_line() == "held"
    pids = sorted(reader.pid for reader in readers)
    for shared in (True, False):
        lock = sync.FileLock(tmp_path / "file", shared=shared)
        assert lock.locked() is not shared
        assert lock.holders() == [sync.RegionHolder(pid, 10, 20, shared=True) for pid in pids]
        lock.close()
    readers[0].kill()
    anybody = sync.FileLock(tmp_path / "file").holders()
    assert [holder.pid for holder in anybody] == [readers[1].pid]


@pytest.mark.asyncio
async def test_who_set_an_event(peers: Peers) -> None:
    event = sync.Event("x")
    assert event.set_by() is None
    began = time.monotonic()
    setter = program(peers, "from aioipc import sync; sync.Event('x').set(); say('set')")
    await event.wait()
    found = event.set_by()
    assert found is not None
    assert found.pid == setter.pid
    assert began <= found.since <= time.monotonic()
    await setter.ended()
    assert event.set_by() == found
    event.clear()
    assert event.set_by() is None
    event.close()


@pytest.mark.asyncio
async def test_who_waits_at_a_barrier() -> None:
    barrier = sync.Barrier("x", 2)
    assert barrier.waiting() == []
    began = time.monotonic()
    waiting = asyncio.create_task(barrier.wait())
    await asyncio.sleep(0)
    (found,) = barrier.waiting()
    assert found.pid == os.getpid()
    assert began <= found.since <= time.monotonic()
    await barrier.wait()
    await waiting
    assert barrier.waiting() == []
    barrier.close()
