"""Proofs of exclusion: a counter that everybody changes, and a room that has only so many seats."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aioipc import sync
from tests.children import PATIENCE_S

CONTENDER = """
from pathlib import Path
from tests.sync.contest import KINDS, Room
subject = KINDS[sys.argv[1]](sys.argv[2])
room = Room(Path(sys.argv[3]), 3 if sys.argv[1] == "semaphore" else 1)
rounds = int(sys.argv[4])
say("ready", os.getpid())
for _ in range(rounds) if rounds else iter(int, 1):
    async with subject as guard:
        with room:
            await asyncio.sleep(0.001 if not rounds else 0)
subject.close()
say("done")
"""
"""Enters a room again and again: kind, name, path of the room, rounds (0: for ever)."""

KINDS: dict[str, Callable[[str], Any]] = {
    "lock": sync.Lock,
    "semaphore": lambda name: sync.Semaphore(name, 3),
    "condition": sync.Condition,
    "file": lambda name: sync.FileLock(f"{os.environ['AIOIPC_RUNTIME_DIR']}/../{name}.locked"),
}


class Writing:
    """A RWLock that is entered to write."""

    def __init__(self, name: str) -> None:
        self._lock = sync.RWLock(name)
        self.acquire = self._lock.acquire_writing
        self.acquire_nowait = self._lock.acquire_writing_nowait
        self.release = self._lock.release
        self.close = self._lock.close
        self.locked = self._lock.locked
        self.holders = self._lock.holders

    async def __aenter__(self) -> sync.Guard:
        return await self.acquire()

    async def __aexit__(self, *details: object) -> None:
        self.release()


KINDS["rwlock"] = Writing


class Room:
    """Seats are files that are made exclusively: who is killed inside leaves his, with his pid.

    Args:
        path: A directory.
        seats: How many may be inside at the same time.
    """

    def __init__(self, path: Path, seats: int) -> None:
        self.path = path
        self.seats = seats

    def __enter__(self) -> None:
        entrance = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(entrance, fcntl.LOCK_EX)  # else one buries who sat down since
            self._sit_down()
        finally:
            os.close(entrance)

    def _sit_down(self) -> None:
        for _ in range(2):
            for seat in range(self.seats):
                self._mine = self.path / str(seat)
                try:
                    os.symlink(str(os.getpid()), self._mine)
                    return
                except FileExistsError:
                    self._bury(self._mine)
        raise AssertionError(f"overlap: {[os.readlink(each) for each in self.path.iterdir()]}")

    def __exit__(self, *details: object) -> None:
        os.unlink(self._mine)

    def _bury(self, seat: Path) -> None:
        try:
            pid = int(os.readlink(seat))
        except FileNotFoundError:
            return
        if not is_running(pid):
            seat.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process was not killed; one that dies may still be listed for a moment."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The grant of a lock may come before its killed owner has left /proc.
    pending = int(text.partition("ShdPnd:")[2].split()[0], 16)
    state = text.partition("State:")[2].split()[0]
    return state not in "ZX" and not pending & (1 << (signal.SIGKILL - 1)) and "VmSize" in text


@asynccontextmanager
async def in_time(seconds: float = PATIENCE_S) -> AsyncIterator[None]:
    """Fail rather than hang."""
    async with asyncio.timeout(seconds):
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only looking can tell."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
