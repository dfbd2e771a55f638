"""The program for anyio's stream, on aioipc's: nothing but how it is opened is another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aioipc
from benchmarks.contender import Family, Loop, Seat
from benchmarks.peers._awaiting import AsyncEnds, AwaitingContender
from benchmarks.peers.anyio_stream import framed_ends


class StreamOverAioipc(AwaitingContender):
    """`aioipc.connect_stream` and `aioipc.listen_stream`, under anyio's buffered reader."""

    family: Family = "aioipc"

    def __init__(self, scheme: str, loop: Loop) -> None:
        self.loop = loop
        self.scheme = scheme
        self.name = f"aioipc {scheme} byte stream ({loop})"
        self.quick = loop == "asyncio"

    @asynccontextmanager
    async def server(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        async with aioipc.listen_stream(f"{self.scheme}:{seat.wiring}") as listener:
            seat.announce("listening")
            async with await listener.accept() as stream:
                yield framed_ends(stream)

    @asynccontextmanager
    async def client(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        async with aioipc.connect_stream(f"{self.scheme}:{seat.wiring}") as stream:
            yield framed_ends(stream)


CONTENDERS = [
    StreamOverAioipc(scheme, loop) for scheme in ("unix", "shm") for loop in ("asyncio", "uvloop")
]
