"""Files that somebody removes or replaces under us: both sides agree on the new ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aioipc import AccessDenied, AddressError, WouldBlock, sync
from tests.links import steps
from tests.sync.contest import in_time

KINDS: dict[str, Callable[[], sync.Lock | sync.Semaphore]] = {
    "lock": lambda: sync.Lock("x"),
    "semaphore": lambda: sync.Semaphore("x", 1),
}


def remove_all(runtime_dir: Path) -> None:
    for path in (runtime_dir / "sync").rglob("*"):
        if not path.is_dir():
            path.unlink()


@pytest.mark.asyncio
async def test_removed_while_held_and_waited_for(runtime_dir: Path) -> None:
    """Who waited gets the new file, not the old one that nobody else can find."""
    one, two, three = (sync.Lock("x") for _ in range(3))
    await one.acquire()
    waiting = asyncio.create_task(hold_once(two))
    await steps(3)
    remove_all(runtime_dir)
    guard = await three.acquire()
    one.release()
    await steps(10)
    assert not waiting.done()  # the old file is free, but the new one is held
    guard.release()
    async with in_time():
        await waiting
    for lock in (one, two, three):
        lock.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_renamed_while_in_use(kind: str, runtime_dir: Path) -> None:
    """Who has a renamed file open comes over to the new one, and nobody removes what he holds."""
    folder = runtime_dir / "sync" / kind
    one, two, three = (KINDS[kind]() for _ in range(3))
    async with one:
        pass
    for path in list(folder.iterdir()):
        path.rename(runtime_dir / f"{path.name}.renamed")
    async with one:
        assert two.locked()
        two.close()  # it is not the last one here
        with pytest.raises(WouldBlock):
            three.acquire_nowait()
    one.close()
    three.close()
    assert not list(folder.iterdir())
    for path in runtime_dir.glob("*.renamed"):
        path.unlink()


async def hold_once(lock: sync.Lock | sync.FileLock) -> None:
    async with lock:
        pass


@pytest.mark.asyncio
async def test_a_file_lock_follows_the_path(tmp_path: Path) -> None:
    path = tmp_path / "data"
    one, two, three = (sync.FileLock(path) for _ in range(3))
    await one.acquire()
    waiting = asyncio.create_task(hold_once(two))
    await steps(3)
    path.rename(tmp_path / "old")
    guard = await three.acquire()
    one.release()
    await steps(10)
    assert not waiting.done()
    guard.release()
    async with in_time():
        await waiting
    two.close()


@pytest.mark.asyncio
async def test_what_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("something else, longer than a head of sixty-four bytes or so")
    with pytest.raises(AddressError, match="not made by aioipc"):
        await sync.Lock(tmp_path / "text").acquire()
    (tmp_path / "note").write_text("x")
    with pytest.raises(AddressError, match="not made by aioipc"):
        await sync.Lock(tmp_path / "note").acquire()
    assert (tmp_path / "note").read_text() == "x"
    (tmp_path / "link").symlink_to(tmp_path / "text")
    with pytest.raises(AccessDenied):
        await sync.Lock(tmp_path / "link").acquire()
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "link/"):
        with pytest.raises((AccessDenied, AddressError)):
            await sync.Lock(f"{tmp_path}/{name}").acquire()
    with pytest.raises(AccessDenied):
        await sync.FileLock(tmp_path / "fifo").acquire()
    for path in (tmp_path / "text" / "x", tmp_path, tmp_path / ("x" * 255), tmp_path / ("x" * 252)):
        with pytest.raises(AddressError):
            await sync.Lock(path).acquire()
    for path in (tmp_path / "text" / "x", tmp_path):
        with pytest.raises(AddressError):
            await sync.FileLock(path).acquire()
    with pytest.raises(FileNotFoundError):
        await sync.Lock(tmp_path / "no" / "lock").acquire()
    (tmp_path / ".planted~line").write_text("")
    with pytest.raises(AccessDenied):
        await sync.Lock(tmp_path / "planted").acquire()


@pytest.mark.asyncio
async def test_a_name_of_another_kind(tmp_path: Path) -> None:
    lock = sync.Lock(tmp_path / "x")
    async with lock:
        with pytest.raises(AddressError, match="is a lock, not a semaphore"):
            await sync.Semaphore(tmp_path / "x", 1).acquire()
    lock.close()
    assert not list(tmp_path.iterdir())


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioipc.kernel.region.filesystem_type", lambda fd: 0x6969)
    with pytest.raises(AddressError, match="NFS"):
        sync.FileLock(tmp_path / "x").acquire_nowait()
    sync.FileLock(tmp_path / "x", network=True).acquire_nowait().release()
