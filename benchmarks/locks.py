"""What takes turns at a lock have in common: the baton, and the roles around one kind of lock."""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.contender import Contender, Plan, Seat, Wiring

_FACTS = struct.Struct("<QQ")  # who had the lock last, and when he let go


@dataclass(frozen=True)
class Meeting:
    """What both processes are given.

    Attributes:
        lock: What the lock is made of: a path, or an object that a child inherits.
        baton: The file of the baton.
        is_host: Whether this side says that it listens.
    """

    lock: Any
    baton: str
    is_host: bool


class Baton:
    """Memory in which the owner of a lock leaves a word for the next one.

    Attributes:
        samples_ns: How long after the other one let go this side had the lock.
    """

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), _FACTS.size)
        self.samples_ns: list[int] = []

    @staticmethod
    def make(path: Path) -> str:
        """Make the file."""
        path.write_bytes(bytes(_FACTS.size))
        return str(path)

    def taken(self) -> None:
        """The lock is ours."""
        now_ns = time.monotonic_ns()
        owner, left_ns = _FACTS.unpack_from(self._page)
        if owner not in (0, os.getpid()):
            self.samples_ns.append(now_ns - left_ns)

    def leave(self) -> None:
        """The lock will be released right now."""
        _FACTS.pack_into(self._page, 0, os.getpid(), time.monotonic_ns())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._page.close()


class LockContender(Contender):
    """A subclass says what the lock is made of, and how each process gets it."""

    carries = "lock"

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        baton = Baton.make(folder / "baton")
        with self.made(folder) as lock:
            yield Meeting(lock, baton, is_host=True), Meeting(lock, baton, is_host=False)

    @contextmanager
    def made(self, folder: Path) -> Iterator[Any]:
        """Make it."""
        yield str(folder / "lock")

    def keep(self, seat: Seat) -> None:
        """Leave the client alone with the lock."""
        seat.announce("listening")


class AwaitedLock(LockContender):
    """One that is entered with ``async with``."""

    def opened(self, seat: Seat) -> AbstractContextManager[AbstractAsyncContextManager[Any]]:
        """The lock, as this process has it."""
        raise NotImplementedError

    async def lock(self, seat: Seat) -> list[int]:
        """Take it and release it, with nobody else about."""
        samples = []
        with self.opened(seat) as lock:
            for _ in range(seat.plan.total):
                before = time.perf_counter_ns()
                async with lock:
                    pass
                samples.append(time.perf_counter_ns() - before)
        return samples[seat.plan.warmup :]

    async def lend(self, seat: Seat) -> list[int]:
        """Take turns: hold it while the other one waits, and rest while that one holds it."""
        plan, meeting = seat.plan, seat.wiring
        hold_s = plan.interval_ns / 1e9
        with Baton(meeting.baton) as baton, self.opened(seat) as lock:
            if meeting.is_host:
                seat.announce("listening")
            for _ in range(plan.total):
                async with lock:
                    baton.taken()
                    await asyncio.sleep(hold_s)
                    baton.leave()
                await asyncio.sleep(hold_s / 2)
        return baton.samples_ns

    borrow = lend


class BlockingLock(LockContender):
    """One that is entered with ``with``, and keeps its thread waiting."""

    def opened(self, seat: Seat) -> AbstractContextManager[AbstractContextManager[Any]]:
        """The lock, as this process has it."""
        raise NotImplementedError

    def lock(self, seat: Seat) -> list[int]:
        """Take it and release it, with nobody else about."""
        samples = []
        with self.opened(seat) as lock:
            for _ in range(seat.plan.total):
                before = time.perf_counter_ns()
                with lock:
                    pass
                samples.append(time.perf_counter_ns() - before)
        return samples[seat.plan.warmup :]

    def lend(self, seat: Seat) -> list[int]:
        """Take turns: hold it while the other one waits, and rest while that one holds it."""
        plan, meeting = seat.plan, seat.wiring
        hold_s = plan.interval_ns / 1e9
        with Baton(meeting.baton) as baton, self.opened(seat) as lock:
            if meeting.is_host:
                seat.announce("listening")
            for _ in range(plan.total):
                with lock:
                    baton.taken()
                    time.sleep(hold_s)
                    baton.leave()
                time.sleep(hold_s / 2)
        return baton.samples_ns

    borrow = lend
