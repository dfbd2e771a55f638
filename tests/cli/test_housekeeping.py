"""aioipc ls and aioipc clean: what there is, whose it is, and what is left of the dead."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import sync
from aioipc.kernel.inventory import Item, list_items, remove_item
from aioipc.memory import SharedMemory, SharedValue
from tests.children import Peer, Peers
from tests.cli.commands import Commands
from tests.programs import program
from tests.scale import scaled

EVERYTHING = """
async with contextlib.AsyncExitStack() as stack:
    for address in ("unix:served", "shm:ring"):
        await stack.enter_async_context(aioipc.listen(address))
    await stack.enter_async_context(aioipc.queues.mailbox("box"))
    lock = aioipc.sync.Lock("mine")
    await stack.enter_async_context(lock)
    value = aioipc.memory.SharedValue("speed")
    value.set(1)
    say("ready")
    await hear()
    value.close()
lock.close()
"""

WAITER = """
lock = aioipc.sync.Lock("mine")
say("here")
async with lock:
    say("mine")
lock.close()
"""

NAMES = {
    ("endpoint shm", "ring"),
    ("endpoint unix", "served"),
    ("lock", "mine"),
    ("mailbox", "box"),
    ("value", "speed"),
}


def listed(commands: Commands) -> dict[tuple[str, str], dict[str, Any]]:
    """What ls says, without what is of others on this machine."""
    done = commands.run("ls", "--json")
    assert (done.status, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    words = ("memory", "POSIX", "sysv")
    return {(row["kind"], row["name"]): row for row in rows if row["kind"].split()[0] not in words}


async def everything(peers: Peers) -> Peer:
    child = program(peers, EVERYTHING)
    assert await child.next_line() == "ready"
    return child


@pytest.mark.slow
@pytest.mark.asyncio
async def test_what_is_in_use(commands: Commands, peers: Peers) -> None:
    assert listed(commands) == {}
    owner = await everything(peers)
    waiter = program(peers, WAITER)
    assert await waiter.next_line() == "here"
    rows = listed(commands)
    while not rows["lock", "mine"]["waiters"]:
        rows = await asyncio.to_thread(listed, commands)
    assert {*rows} == NAMES
    for row in rows.values():
        assert row["owners"] == [owner.pid]
        assert owner.pid in row["users"]
        assert row["in_use"]
    assert rows["lock", "mine"]["waiters"] == [waiter.pid]
    assert commands.run("clean", "--yes") == (0, b"", "")
    assert {*listed(commands)} == NAMES
    shown = commands.run("ls").out.decode()
    assert str(owner.pid) in shown
    assert "speed" in shown
    owner.tell("end")
    assert await owner.ended() == 0
    assert await waiter.next_line() == "mine"
    assert await waiter.ended() == 0
    assert listed(commands) == {}


@pytest.mark.slow
@pytest.mark.asyncio
async def test_what_is_left_of_the_dead(commands: Commands, peers: Peers) -> None:
    owner = await everything(peers)
    owner.kill()
    await owner.ended()
    rows = listed(commands)
    assert {*rows} == NAMES
    assert not any(row["in_use"] for row in rows.values())
    wanted = sorted(f"{kind} {name}" for kind, name in NAMES)
    dry = commands.run("clean", "--dry-run")
    assert sorted(dry.out.decode().splitlines()) == wanted
    assert commands.run("clean", stdin=b"n\n").status == 1
    assert {*listed(commands)} == NAMES
    done = commands.run("clean", stdin=b"y\n")
    assert done.status == 0
    assert sorted(done.out.decode().splitlines()) == wanted
    assert "Remove 5?" in done.err
    assert listed(commands) == {}
    assert commands.run("clean", "-y") == (0, b"", "")


REGION = """
async with aioipc.sync.FileLock(sys.argv[1], 10, 20) as guard:
    say("mine")
    await hear()
"""


@pytest.mark.slow
@pytest.mark.asyncio
async def test_locks_of_files(commands: Commands, peers: Peers, tmp_path: Path) -> None:
    """Who has which bytes and who waits; of the dead a FIFO is left, which is removed."""
    owner = program(peers, REGION, tmp_path / "data")
    assert await owner.next_line() == "mine"
    waiter = program(peers, REGION, tmp_path / "data")
    row: dict[str, Any] = {}
    while not row.get("waiters"):
        (row,) = (await asyncio.to_thread(listed, commands)).values()
    assert (row["kind"], row["name"]) == ("file lock", f"{tmp_path}/data[10:30]")
    assert (row["owners"], row["waiters"]) == ([owner.pid], [waiter.pid])
    assert commands.run("clean", "--yes") == (0, b"", "")
    waiter.kill()
    owner.kill()
    await asyncio.gather(owner.ended(), waiter.ended())
    (row,) = listed(commands).values()
    status = (tmp_path / "data").stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    assert row["name"] == f"inode {status.st_ino} of device {device}[10:30]"
    assert not row["in_use"]
    assert commands.run("clean", "-y").out.decode() == f"file lock {row['name']}\n"
    assert listed(commands) == {}
    assert not os.path.exists(row["path"])


@pytest.mark.asyncio
async def test_nothing_is_removed_that_is_used_by_now(peers: Peers, runtime_dir: Path) -> None:
    """The list is old when the removal begins: only the locks decide."""
    owner = await everything(peers)
    owner.kill()
    await owner.ended()
    items = [item for item in list_items() if item.is_removable]
    assert {(item.kind, item.name) for item in items} == NAMES
    async with (
        aioipc.listen("unix:served"),
        aioipc.listen("shm:ring"),
        aioipc.queues.mailbox("box"),
        sync.Lock("mine") as guard,
    ):
        assert guard.owner_died
        guard.mark_consistent()
        with SharedValue[int]("speed") as value:
            assert value.get() == 1
            assert [remove_item(item) for item in items] == [False] * 5
            with pytest.raises(aioipc.WouldBlock):
                await asyncio.to_thread(sync.Lock("mine").acquire_nowait)
            assert value.get() == 1
    assert [remove_item(item) for item in items] == [False] * 5


def test_taking_and_cleaning_at_the_same_time(peers: Peers, runtime_dir: Path) -> None:
    """Whoever takes a lock has it, however often others clean."""
    child = program(
        peers,
        """
        from aioipc.kernel.inventory import Item, remove_item
        say("go")
        path = os.environ["AIOIPC_RUNTIME_DIR"]
        while not os.path.exists(path + "/stop"):
            for kind in ("lock", "value"):
                with contextlib.suppress(FileNotFoundError):
                    remove_item(Item(kind, "mine", ""))
        """,
    )
    assert child.line() == "go"
    for number in range(scaled(60, full=3000)):
        with SharedValue[int]("mine") as value, SharedValue[int]("mine") as same:
            value.set(number)
            assert same.get() == number
        lock, other = sync.Lock("mine"), sync.Lock("mine")
        guard = lock.acquire_nowait()
        assert not guard.owner_died
        assert other.locked()
        guard.release()
        lock.close()
        other.close()
    (runtime_dir / "stop").touch()
    assert child.wait() == 0
    (runtime_dir / "stop").unlink()


@pytest.mark.asyncio
async def test_waiting_for_a_file_and_cleaning_at_the_same_time(
    peers: Peers, runtime_dir: Path, tmp_path: Path
) -> None:
    """Who waits for a region gets it, however often others remove what nobody holds."""
    child = program(
        peers,
        """
        from aioipc.kernel.region_line import REGION_LINES, find_region_lines
        from aioipc.kernel.runtime_dir import open_runtime_dir
        with open_runtime_dir(*REGION_LINES) as directory:
            say("go")
            while not os.path.exists(directory.join("stop")):
                for line, _ in find_region_lines(directory):
                    line.remove_unused()
        """,
    )
    assert await child.next_line() == "go"
    one, other = sync.FileLock(tmp_path / "data"), sync.FileLock(tmp_path / "data")
    async with asyncio.timeout(20):
        for _ in range(scaled(60, full=3000)):
            guard = await one.acquire()
            assert other.locked()
            waiting = asyncio.create_task(other.acquire())
            await asyncio.sleep(0)
            guard.release()
            await waiting
            with pytest.raises(aioipc.WouldBlock):
                one.acquire_nowait()
            (await waiting).end()
    (runtime_dir / "sync" / "file" / "stop").touch()
    assert await child.ended() == 0
    (runtime_dir / "sync" / "file" / "stop").unlink()
    one.close()
    other.close()


def test_memory_with_a_name(commands: Commands) -> None:
    name = f"/aioipc-ls-{os.getpid()}"
    with SharedMemory.create(4096, name) as memory:
        rows = [json.loads(line) for line in commands.run("ls", "--json").out.splitlines()]
        (row,) = [row for row in rows if row["name"] == name]
        assert row["kind"] == "memory"
        assert row["users"] == [os.getpid()]
        memory.unlink()
    assert not remove_item(Item("memory", name, ""))


@pytest.mark.asyncio
async def test_what_others_know_too(commands: Commands) -> None:
    """Of System V only the users of memory are known."""
    key = 0x4C000000 | os.getpid()
    semaphore = sync.SysVSemaphore(key, 2)
    posix = sync.PosixSemaphore(f"/aioipc-ls-{os.getpid()}", 2)
    with SharedMemory.create(4096, f"sysv:{key:#x}") as memory:
        async with aioipc.queues.open(f"sysv:{key:#x}", create=True) as queue:
            await posix.acquire()
            await semaphore.acquire()
            done = commands.run("ls", "--json")
            shown = commands.run("ls").out.decode()
            queue.unlink()
        memory.unlink()
    posix.unlink()
    semaphore.remove()
    for subject in (posix, semaphore):
        subject.close()
    assert (done.status, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    found = {row["kind"]: row["users"] for row in rows if row["name"] == f"sysv:{key:#x}"}
    assert found == {"sysv memory": [os.getpid()], "sysv queue": None, "sysv semaphore": None}
    (row,) = [row for row in rows if row["name"] == f"/aioipc-ls-{os.getpid()}"]
    assert (row["kind"], row["users"]) == ("POSIX semaphore", [os.getpid()])
    assert f"sysv:{key:#x}" in shown
    assert not remove_item(Item("sysv queue", f"sysv:{key:#x}", ""))


QUEUES = """
import posix_ipc
from aioipc.kernel import inventory
inventory._QUEUES = sys.argv[1]
queue = posix_ipc.MessageQueue("/jobs", posix_ipc.O_CREX)
found = [item for item in inventory.list_items() if item.kind == "POSIX queue"]
say(*(f"{item.name} {item.path} {item.is_removable}" for item in found))
queue.unlink()
queue.close()
"""


def test_queues_of_posix(peers: Peers, tmp_path: Path) -> None:
    """Where they are mounted; here within a name space of its own."""
    script = f'mount -t mqueue aioipc "{tmp_path}" && exec "$@"'
    within = [
        *("unshare", "--user", "--map-root-user", "--mount", "--ipc"),
        "sh",
        "-c",
        script,
        "sh",
    ]
    known = shutil.which("unshare") is not None
    if not known or subprocess.run([*within, "true"], check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    peer = program(peers, QUEUES, tmp_path, within=within)
    assert peer.line() == f"/jobs {tmp_path}/jobs False"
    assert peer.wait() == 0


def test_what_is_not_ours(commands: Commands, runtime_dir: Path) -> None:
    """Files of other programs, and what is no file at all."""
    for folder in ("socket", "sync/lock", "sync/file"):
        (runtime_dir / folder).mkdir(mode=0o700, parents=True)
        os.chmod(runtime_dir / folder, 0o700)
        (runtime_dir / folder / "text").write_text("mine")
    os.chmod(runtime_dir / "sync", 0o700)
    assert commands.run("clean", "-y").status == 0
    for folder in ("socket", "sync/lock", "sync/file"):
        assert (runtime_dir / folder / "text").read_text() == "mine"
        (runtime_dir / folder / "text").unlink()
