"""What the workers of the pools of the tests serve."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Protocol

from aioipc import rpc


class Model(Protocol):
    """All that can be done to a worker."""

    async def add(self, number: int) -> int: ...

    async def pid(self) -> int: ...

    async def fail(self, text: str) -> None: ...

    async def meet(self, directory: str, parties: int) -> int: ...

    async def compute_for_ever(self, began: str) -> None: ...

    async def wait_for_ever(self, began: str, ended: str) -> None: ...

    async def die(self, how: str) -> None: ...

    async def die_after_a_fork(self, path: str) -> None: ...

    @rpc.idempotent
    async def die_unless(self, path: str) -> int: ...

    @rpc.idempotent
    async def step_again(self, number: int) -> int: ...

    @rpc.idempotent
    async def always_die(self) -> None: ...

    @rpc.idempotent
    async def die_at(self, number: int) -> int: ...

    @rpc.notification
    async def note(self, path: str) -> None: ...

    async def step(self, number: int) -> int: ...

    async def step_later(self, number: int) -> int: ...

    def count(self, to: int) -> AsyncIterator[int]: ...

    def count_and_die(self, to: int) -> AsyncIterator[int]: ...

    async def total(self, numbers: AsyncIterable[int]) -> int: ...

    async def grow(self, count: int) -> int: ...

    async def fill(self, count: int) -> bytes: ...


class Steps:
    """Numbers with which `Model.step` does more than to return them."""

    fails = -1
    waits = -2
    dies = -3
    is_unsendable = -4
    is_of_another_type = -5
    takes_long = -6
    aborts = -7
    is_closed = -8
    exits = -9
    interrupts = -10


RAISED = {
    Steps.fails: LookupError("no such number"),
    Steps.aborts: BaseException("all of it"),
    Steps.is_closed: GeneratorExit("too early"),
    Steps.exits: SystemExit("enough"),
    Steps.interrupts: KeyboardInterrupt("enough"),
}


class Worker:
    """Keeps `Model`."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.kept = b""
        self.inside = 0

    def add(self, number: int) -> int:
        return self.base + number

    async def pid(self) -> int:
        return os.getpid()

    def fail(self, text: str) -> None:
        raise LookupError(text)

    async def meet(self, directory: str, parties: int) -> int:
        """Wait until so many run at the same time."""
        Path(directory, f"{os.getpid()}-{time.monotonic_ns()}").touch()
        while len(os.listdir(directory)) < parties:  # noqa: ASYNC110 - in several processes
            await asyncio.sleep(0.001)
        return os.getpid()

    def compute_for_ever(self, began: str) -> None:
        Path(began).touch()
        while True:
            pass

    async def wait_for_ever(self, began: str, ended: str) -> None:
        Path(began).touch()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            Path(ended).touch()

    def die(self, how: str) -> None:
        if how == "segfault":
            ctypes.string_at(0)
        elif how == "exit":
            os._exit(3)
        elif how == "leave":
            os._exit(0)
        elif how == "close":
            os.closerange(3, 1024)
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)

    def die_after_a_fork(self, path: str) -> None:
        """Leave a child that has left the group and holds all descriptors."""
        if os.fork() == 0:
            os.setsid()
            os.mkfifo(path)
            Path(path).read_text()
            os._exit(0)
        while not Path(path).exists():
            pass
        os._exit(4)

    def die_unless(self, path: str) -> int:
        if not Path(path).exists():
            Path(path).touch()
            self.die("kill")
        return os.getpid()

    def step_again(self, number: int) -> int:
        """Die once in this directory, and then no more."""
        if number == Steps.dies and not Path("died").exists():
            Path("died").touch()
            self.die("kill")
        return number

    def always_die(self) -> None:
        self.die("kill")

    def die_at(self, number: int) -> int:
        if number == Steps.dies:
            self.die("kill")
        return number

    def step(self, number: int) -> int:
        """Do what a number means: see `Steps`."""
        if number in RAISED:
            raise RAISED[number]
        if number == Steps.waits:
            Path("waits").touch()
            while not Path("gate").exists():
                time.sleep(0.001)
        if number == Steps.takes_long:
            time.sleep(0.02)
        if number == Steps.dies:
            self.die("kill")
        if number == Steps.is_unsendable:
            return object()  # type: ignore[return-value]
        if number == Steps.is_of_another_type:
            return "text"  # type: ignore[return-value]
        return number

    async def step_later(self, number: int) -> int:
        self.inside += 1
        assert self.inside == 1, "one at a time"
        await asyncio.sleep(0)
        self.inside -= 1
        return self.step(number)

    def note(self, path: str) -> None:
        Path(path).touch()

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async def count_and_die(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
            await asyncio.sleep(0)
        self.die("kill")

    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    def grow(self, count: int) -> int:
        self.kept = b"x" * count
        return os.getpid()

    def fill(self, count: int) -> bytes:
        return bytes(count)


class Broken(Worker):
    def __init__(self) -> None:
        raise LookupError("there is no model")


class Leaves(Worker):
    def __init__(self) -> None:
        raise SystemExit(0)


class Incomplete:
    async def add(self, number: int) -> int:
        return number


class BrokenOnceUp(Worker):
    """Its first workers start, and all further ones fail to."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if Path(path).exists():
            raise LookupError("no second time")


async def made_slowly(base: int) -> Worker:
    await asyncio.sleep(0)
    return Worker(base)
