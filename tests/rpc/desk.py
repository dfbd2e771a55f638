"""A service that takes and gives what travels by descriptors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from aioipc.memory import SharedArray, SharedMemory
from aioipc.rpc import Descriptor


class Pipe:
    """A pipe, to see who can still write to it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def give_away(self) -> int:
        """The end to write, for somebody else to close."""
        writer, self.writer = self.writer, -1
        return writer

    def is_closed(self) -> bool:
        """Whether nobody can write any more, not here either."""
        if self.writer >= 0:
            os.close(self.give_away())
        try:
            return os.read(self.reader, 1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.is_closed()
        os.close(self.reader)


class Drawer(msgspec.Struct):
    """Things inside a thing."""

    name: str
    file: Descriptor | None = None
    frames: list[NDArray[np.uint8]] = []


class Desk(Protocol):
    """All that can be passed."""

    async def write(self, file: Descriptor, text: str = "") -> int: ...
    async def open(self, text: str) -> Descriptor: ...
    async def keep(self, file: Descriptor) -> None: ...
    async def drop(self) -> None: ...
    async def sleep(self, file: Descriptor) -> None: ...
    async def size(self, memory: SharedMemory) -> int: ...
    async def fill(self, frame: SharedArray, value: int) -> None: ...
    async def frame(self, value: int) -> SharedArray: ...
    async def total(self, numbers: NDArray[np.float64]) -> float: ...
    async def doubled(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]: ...
    async def hold(self, numbers: np.ndarray[Any, Any]) -> None: ...
    async def held(self) -> float: ...
    async def file_away(self, drawer: Drawer) -> Drawer: ...
    async def give(self, what: str) -> Descriptor: ...
    def files(self, count: int) -> AsyncIterator[Descriptor]: ...
    async def collect(self, files: AsyncIterable[Descriptor]) -> int: ...
    async def plain(self, number: int) -> int: ...
    def numbers(self, to: int) -> AsyncIterator[int]: ...
    async def add(self, numbers: AsyncIterable[int]) -> int: ...
    async def anything(self, value: Any, file: Descriptor | None = None) -> str: ...


class Clerk:
    """Keeps `Desk`."""

    def __init__(self) -> None:
        self.kept: Descriptor | None = None
        self.array: Any = None
        self.sleeping = asyncio.Event()

    def write(self, file: Descriptor, text: str = "") -> int:
        return os.write(file.fileno(), text.encode()) if text else 0

    def open(self, text: str) -> Descriptor:
        reader, writer = os.pipe()
        os.write(writer, text.encode())
        os.close(writer)
        return Descriptor.from_fd(reader)

    def keep(self, file: Descriptor) -> None:
        self.kept = file

    def drop(self) -> None:
        self.kept = None

    async def sleep(self, file: Descriptor) -> None:
        self.sleeping.set()
        await asyncio.get_running_loop().create_future()

    def size(self, memory: SharedMemory) -> int:
        return memory.size

    def fill(self, frame: SharedArray, value: int) -> None:
        frame.open_writable()[:] = value

    def frame(self, value: int) -> SharedArray:
        made = SharedArray.create((4, 3), "u1")
        made[:] = value
        return made

    def total(self, numbers: Any) -> float:
        return numbers.sum()  # type: ignore[no-any-return] # a scalar of numpy

    def doubled(self, numbers: Any) -> Any:
        return numbers * 2

    def hold(self, numbers: Any) -> None:
        self.array = numbers

    def held(self) -> float:
        total, self.array = float(self.array.sum()), None
        return total

    def file_away(self, drawer: Drawer) -> Drawer:
        return Drawer(drawer.name.upper(), drawer.file, [frame + 1 for frame in drawer.frames])

    def give(self, what: str) -> Any:
        return 5 if what == "number" else object()

    async def files(self, count: int) -> AsyncIterator[Descriptor]:
        for number in range(count):
            yield self.open(str(number))

    async def collect(self, files: AsyncIterable[Descriptor]) -> int:
        return sum([int(os.read(file.fileno(), 9)) async for file in files])

    def plain(self, number: int) -> int:
        return number

    async def numbers(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async def add(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    def anything(self, value: Any, file: Descriptor | None = None) -> str:
        return type(value).__name__
