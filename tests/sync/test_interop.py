"""Programs in C, and GNU make, share locks, semaphores and job slots with us."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aioipc import AddressError, ClosedError, ConnectError, sync
from aioipc.sync.jobserver import JobServer
from tests.children import PATIENCE_S
from tests.links import steps
from tests.sync.contest import in_time
from tests.verify.build import Unavailable, compiler

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("native") / "native"
    try:
        command = [compiler(), "-Wall", "-Werror", "-pthread", str(HERE / "native.c")]
    except Unavailable as reason:
        pytest.skip(str(reason))
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


class Program:
    """The C program, from "taken" to its end."""

    def __init__(self, native: Path, *words: object) -> None:
        self.process = subprocess.Popen(
            [native, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    async def end(self) -> int:
        await asyncio.to_thread(self.process.communicate, "\n", PATIENCE_S)
        return self.process.returncode


def ask(native: Path, *words: object) -> str:
    command = [str(native), *map(str, words), "try"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def posix() -> Iterator[sync.PosixSemaphore]:
    semaphore = sync.PosixSemaphore(f"/aioipc-test-{os.getpid()}", 1)
    yield semaphore
    semaphore.close()
    semaphore.unlink()


@pytest.fixture
def sysv() -> Iterator[sync.SysVSemaphore]:
    semaphore = sync.SysVSemaphore(None, 1)
    yield semaphore
    semaphore.close()
    semaphore.remove()


@pytest.fixture(params=["posix", "sysv", "ofd", "classic"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, list[object]]:
    """An object of ours, and how the C program finds the same."""
    kind = request.param
    if kind in ("ofd", "classic"):
        return sync.FileLock(tmp_path / "file", 10, 20), [kind, tmp_path / "file", 15, 10]
    semaphore = request.getfixturevalue(kind)
    if kind == "posix":
        return semaphore, ["sem", semaphore.name, 1]
    return semaphore, ["semop", semaphore.id]


@pytest.mark.asyncio
async def test_c_waits_for_us_and_we_for_c(native: Path, subject: tuple[Any, list[object]]) -> None:
    ours, words = subject
    assert ask(native, *words) == "free"
    guard = await ours.acquire()
    assert ask(native, *words) == "busy"
    theirs = Program(native, *words)
    guard.release()
    assert await theirs.line() == "taken"
    if isinstance(ours, sync.FileLock):
        assert ours.holders() == [sync.RegionHolder(theirs.process.pid, 15, 10, shared=False)]
    waiting = asyncio.create_task(ours.acquire())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    async with in_time():
        assert await theirs.end() == 0
        await waiting
    ours.close()


@pytest.mark.asyncio
async def test_c_is_killed(native: Path, subject: tuple[Any, list[object]]) -> None:
    ours, words = subject
    theirs = Program(native, *words, "die")
    assert await theirs.line() == "taken"
    waiting = asyncio.create_task(ours.acquire())
    assert await theirs.end() == -signal.SIGKILL
    if words[0] == "sem":  # as documented: the permit is lost
        waiting.cancel()
        await asyncio.wait([waiting])
        assert ours.value == 0
        return
    async with in_time():
        await waiting
    ours.close()


def test_regions_that_do_not_meet(native: Path, tmp_path: Path) -> None:
    lock = sync.FileLock(tmp_path / "file", 10, 20)
    with pytest.raises(AddressError):
        sync.FileLock(tmp_path / "file", -1)
    guard = lock.acquire_nowait()
    assert ask(native, "ofd", tmp_path / "file", 0, 10) == "free"
    assert ask(native, "classic", tmp_path / "file", 30, 0) == "free"
    assert ask(native, "classic", tmp_path / "file", 29, 1) == "busy"
    guard.release()
    shared = [sync.FileLock(tmp_path / "file", shared=True) for _ in range(2)]
    guards = [each.acquire_nowait() for each in shared]
    assert lock.locked()
    assert not shared[0].locked()
    for each in guards:
        each.release()
    assert not lock.locked()


@pytest.mark.asyncio
async def test_a_set_that_is_removed() -> None:
    semaphore = sync.SysVSemaphore(None, 0)
    waiting = asyncio.create_task(semaphore.acquire())
    await asyncio.sleep(0.02)
    semaphore.remove()
    async with in_time():
        with pytest.raises(ClosedError):
            await waiting
    with pytest.raises(ClosedError):
        await semaphore.acquire()
    semaphore.close()


def test_what_has_the_name_of_a_semaphore() -> None:
    """Too short a file is mapped by sem_open(3) all the same, and kills who touches it."""
    name = f"/aioipc-short-{os.getpid()}"
    place = Path(f"/dev/shm/sem.{name[1:]}")
    makers: list[Callable[[], object]] = [place.touch, partial(os.mkfifo, place), place.mkdir]
    for make in makers:
        make()
        for permits in (None, 1):
            with pytest.raises(AddressError, match=f"something else than a semaphore for '{name}'"):
                sync.PosixSemaphore(name, permits)
        place.rmdir() if place.is_dir() else place.unlink()


def test_semaphores_that_are_not_there() -> None:
    with pytest.raises(AddressError):
        sync.PosixSemaphore("/aioipc-no-such")
    with pytest.raises(AddressError):
        sync.SysVSemaphore(0x7FFFFFF1)


# --- make --------------------------------------------------------------------------------

MAKEFILE = """
all: a b c d e f g h
a b c d e f g h:
\t+@{python} {script} {folder} $@
"""

# A recipe that is itself a client, and takes as many more slots as it can get.
RECIPE = """
import asyncio, os, sys
from aioipc import WouldBlock
from aioipc.sync import JobServer

async def main():
    server = JobServer.from_environment()
    async with server:
        os.mkdir(f"{sys.argv[1]}/{sys.argv[2]}")
        try:
            more = server.acquire_nowait()
        except WouldBlock:
            more = None
        assert len(os.listdir(sys.argv[1])) <= 3, os.listdir(sys.argv[1])
        await asyncio.sleep(0.01)
        if more is not None:
            more.release()
        os.rmdir(f"{sys.argv[1]}/{sys.argv[2]}")
    server.close()

asyncio.run(main())
"""


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    if shutil.which("make") is None:
        pytest.skip("no make")
    (tmp_path / "inside").mkdir()
    (tmp_path / "recipe.py").write_text(RECIPE)
    path = tmp_path / "Makefile"
    path.write_text(
        MAKEFILE.format(
            python=sys.executable, script=tmp_path / "recipe.py", folder=tmp_path / "inside"
        )
    )
    return path


def make(makefile: Path, *options: str, **more: Any) -> None:
    environment = {key: text for key, text in os.environ.items() if not key.startswith("MAKE")}
    more.setdefault("env", environment)
    command = ["make", "-f", str(makefile), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15, **more)
    assert done.returncode == 0, done.stderr + done.stdout


def test_recipes_are_clients_of_make(makefile: Path) -> None:
    make(makefile, "-j3")


@pytest.mark.asyncio
async def test_make_is_our_client(makefile: Path) -> None:
    server = JobServer(3)
    async with server:
        environment = server.environment({"PATH": os.environ["PATH"]})
        await asyncio.to_thread(make, makefile, env=environment, pass_fds=server.fds)
    assert server.tokens() == 2
    server.close()


@pytest.mark.parametrize("kind", ["pipe", "fifo"])
@pytest.mark.asyncio
async def test_slots_are_shared(kind: str, tmp_path: Path) -> None:
    server = JobServer(3, fifo=tmp_path / "jobs" if kind == "fifo" else None)
    client = JobServer.from_environment(server.environment({}))
    mine = [await server.acquire() for _ in range(2)]
    its = [await client.acquire() for _ in range(2)]  # its own, and the last token
    assert server.tokens() == 0
    waiting = asyncio.create_task(use_once(server))
    await steps(10)
    assert not waiting.done()
    its.pop().release()
    async with in_time():
        await waiting
    for guard in [*mine, *its]:
        guard.release()
    assert server.tokens() == 2
    client.close()
    server.close()
    assert not list(tmp_path.iterdir())


async def use_once(server: JobServer) -> None:
    async with server:
        pass


def test_no_jobserver() -> None:
    with pytest.raises(ConnectError, match="names no jobserver"):
        JobServer.from_environment({})
    with pytest.raises(ConnectError, match="marked"):
        JobServer.from_environment({"MAKEFLAGS": " -j --jobserver-auth=998,999"})
    with pytest.raises(ConnectError, match="No such file"):
        JobServer.from_environment({"MAKEFLAGS": " -j --jobserver-auth=fifo:/no/such"})
    for jobs in (0, 4097):
        with pytest.raises(ValueError, match="jobs"):
            JobServer(jobs)
