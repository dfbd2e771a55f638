"""multiprocessing.Pipe: blocking, and from asyncio through a thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.contender import Contender, Loop, Plan, Seat, Wiring
from benchmarks.peers._awaiting import AsyncEnds, AwaitingContender
from benchmarks.peers._blocking import BlockingContender, Ends
from benchmarks.peers._executor import in_executor


class _Piped(Contender):
    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        server_end, client_end = multiprocessing.Pipe()
        with server_end, client_end:
            yield server_end, client_end


class BlockingPipe(_Piped, BlockingContender):
    """send_bytes and recv_bytes in a plain loop."""

    name = "multiprocessing Pipe (blocking)"
    pace = 0.25
    quick = True

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        seat.announce("listening")
        yield seat.wiring.send_bytes, seat.wiring.recv_bytes

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        yield seat.wiring.send_bytes, seat.wiring.recv_bytes


class ExecutorPipe(_Piped, AwaitingContender):
    """The same calls, each handed to the loop's thread pool."""

    loop: Loop = "asyncio"
    name = "multiprocessing Pipe (executor)"
    pace = 0.02

    @asynccontextmanager
    async def server(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        seat.announce("listening")
        yield in_executor(seat.wiring.send_bytes), in_executor(seat.wiring.recv_bytes)

    @asynccontextmanager
    async def client(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        yield in_executor(seat.wiring.send_bytes), in_executor(seat.wiring.recv_bytes)


CONTENDERS = [BlockingPipe(), ExecutorPipe()]
