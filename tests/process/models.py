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

    @rpc.idempotent
    async def die_unless(self, path: str) -> int: ...

    @rpc.idempotent
    async def always_die(self) -> None: ...

    @rpc.notification
    async def note(self, path: str) -> None: ...

    def count(self, to: int) -> AsyncIterator[int]: ...

    def count_and_die(self, to: int) -> AsyncIterator[int]: ...

    async def total(self, numbers: AsyncIterable[int]) -> int: ...

    async def grow(self, count: int) -> int: ...


class Worker:
    """Keeps `Model`."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.kept = b""

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
        os.kill(os.getpid(), signal.SIGKILL)

    def die_unless(self, path: str) -> int:
        if not Path(path).exists():
            Path(path).touch()
            self.die("kill")
        return os.getpid()

    def always_die(self) -> None:
        self.die("kill")

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


class Broken(Worker):
    def __init__(self) -> None:
        raise LookupError("there is no model")


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
