"""multiprocessing.Queue, one each way: blocking, and from asyncio through a thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.contender import Contender, Loop, Plan, Seat, Wiring
from benchmarks.peers._awaiting import AsyncEnds, AwaitingContender
from benchmarks.peers._blocking import BlockingContender, Ends
from benchmarks.peers._executor import in_executor

_SMALL_BYTES = 1024 * 1024
_spawn = multiprocessing.get_context("spawn")


class _Queued(Contender):
    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        # A Queue buffers without bound in its sender; a bound keeps large messages out of swap.
        bound = 1_000 if plan.size <= _SMALL_BYTES else 4
        forth, back = _spawn.Queue(bound), _spawn.Queue(bound)
        yield (back, forth), (forth, back)
        forth.close()
        back.close()


class BlockingQueue(_Queued, BlockingContender):
    """put and get in a plain loop."""

    name = "multiprocessing Queue (blocking)"
    pace = 0.1

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        outgoing, incoming = seat.wiring
        seat.announce("listening")
        yield outgoing.put, incoming.get

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        outgoing, incoming = seat.wiring
        yield outgoing.put, incoming.get


class ExecutorQueue(_Queued, AwaitingContender):
    """The same calls, each handed to the loop's thread pool."""

    loop: Loop = "asyncio"
    name = "multiprocessing Queue (executor)"
    pace = 0.02

    @asynccontextmanager
    async def server(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        outgoing, incoming = seat.wiring
        seat.announce("listening")
        yield in_executor(outgoing.put), in_executor(incoming.get)

    @asynccontextmanager
    async def client(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        outgoing, incoming = seat.wiring
        yield in_executor(outgoing.put), in_executor(incoming.get)


CONTENDERS = [BlockingQueue(), ExecutorQueue()]
