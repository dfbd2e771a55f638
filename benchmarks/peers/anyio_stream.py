"""anyio's Unix stream, length-prefixed through its own buffered reader, on the asyncio backend."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.contender import Loop, Seat
from benchmarks.peers._awaiting import AsyncEnds, AwaitingContender

_HEADER = struct.Struct("<I")


def framed_ends(stream: ByteStream) -> AsyncEnds:
    """How to send and receive messages over any stream of anyio's."""
    buffered = BufferedByteReceiveStream(stream)

    async def send(message: bytes) -> None:
        await stream.send(_HEADER.pack(len(message)) + message)

    async def receive() -> bytes:
        (size,) = _HEADER.unpack(await buffered.receive_exactly(4))
        return await buffered.receive_exactly(size)

    return send, receive


class AnyioStream(AwaitingContender):
    """connect_unix and create_unix_listener."""

    loop: Loop = "asyncio"
    name = "anyio Unix stream (asyncio)"
    pace = 0.05

    @asynccontextmanager
    async def server(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        async with await anyio.create_unix_listener(seat.wiring) as listener:
            accepted: anyio.abc.ObjectReceiveStream[ByteStream]
            handed, accepted = anyio.create_memory_object_stream[ByteStream](1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handed.send)
                seat.announce("listening")
                async with accepted, await accepted.receive() as stream:
                    yield framed_ends(stream)
                tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def client(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        async with await anyio.connect_unix(seat.wiring) as stream:
            yield framed_ends(stream)


CONTENDERS = [AnyioStream()]
