"""Locks of others: of multiprocessing, posix_ipc, portalocker and filelock.

None of them but filelock's can be awaited, so they wait in the loop's thread pool; what does not
wait, a release, is called directly. Blocking they show what the mechanism itself costs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import filelock
import portalocker
import posix_ipc

from benchmarks.contender import Seat
from benchmarks.locks import AwaitedLock, BlockingLock, LockContender
from benchmarks.peers._executor import in_executor

_spawn = multiprocessing.get_context("spawn")


class _InExecutor:
    """A lock whose acquire blocks, for ``async with``."""

    def __init__(self, acquire: Callable[[], Any], release: Callable[[], Any]) -> None:
        self._acquire = in_executor(acquire)
        self._release = release

    async def __aenter__(self) -> None:
        await self._acquire()

    async def __aexit__(self, *details: object) -> None:
        self._release()


class _OfMultiprocessing(LockContender):
    @contextmanager
    def made(self, folder: Path) -> Iterator[Any]:
        yield _spawn.Lock()


class _OfPosixIpc(LockContender):
    @contextmanager
    def made(self, folder: Path) -> Iterator[Any]:
        with_name = _Semaphore(f"/{folder.name}")
        posix_ipc.Semaphore(with_name.name, posix_ipc.O_CREX, initial_value=1).close()
        try:
            yield with_name
        finally:
            posix_ipc.unlink_semaphore(with_name.name)


class _Semaphore:
    """Becomes the semaphore of its name where it arrives."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return posix_ipc.Semaphore, (self.name,)


class BlockingSemaphore(_OfMultiprocessing, BlockingLock):
    """multiprocessing.Lock."""

    name = "multiprocessing Lock (blocking)"

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[Any]:
        yield seat.wiring.lock


class ExecutorSemaphore(_OfMultiprocessing, AwaitedLock):
    """multiprocessing.Lock."""

    loop = "asyncio"
    name = "multiprocessing Lock (executor)"
    quick = True

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[AbstractAsyncContextManager[Any]]:
        lock = seat.wiring.lock
        yield _InExecutor(lock.acquire, lock.release)


class BlockingPosix(_OfPosixIpc, BlockingSemaphore):
    """A named semaphore."""

    name = "posix_ipc (blocking)"


class ExecutorPosix(_OfPosixIpc, ExecutorSemaphore):
    """A named semaphore."""

    name = "posix_ipc (executor)"


class BlockingPortalocker(BlockingLock):
    """flock(2), waited for in the kernel."""

    name = "portalocker (blocking)"

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[Any]:
        yield _portalocker(seat)


class ExecutorPortalocker(AwaitedLock):
    """flock(2), waited for in the kernel by a thread."""

    loop = "asyncio"
    name = "portalocker (executor)"
    quick = True

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[AbstractAsyncContextManager[Any]]:
        lock = _portalocker(seat)
        yield _InExecutor(lock.acquire, lock.release)


def _portalocker(seat: Seat) -> Any:
    return portalocker.Lock(seat.wiring.lock, flags=portalocker.LockFlags.EXCLUSIVE)


class BlockingFilelock(BlockingLock):
    """flock(2), tried every 50 ms."""

    name = "filelock (blocking)"

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[Any]:
        yield filelock.FileLock(seat.wiring.lock)


class AsyncFilelock(AwaitedLock):
    """filelock's own face for asyncio, with its defaults."""

    loop = "asyncio"
    name = "filelock (its AsyncFileLock)"
    quick = True

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[AbstractAsyncContextManager[Any]]:
        yield filelock.AsyncFileLock(seat.wiring.lock, loop=asyncio.get_running_loop())


CONTENDERS = [
    ExecutorSemaphore(),
    ExecutorPosix(),
    ExecutorPortalocker(),
    AsyncFilelock(),
    BlockingSemaphore(),
    BlockingPosix(),
    BlockingPortalocker(),
    BlockingFilelock(),
]
