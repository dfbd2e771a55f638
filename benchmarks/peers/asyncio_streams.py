"""asyncio streams on a Unix socket, length-prefixed: what most programs use today."""

from __future__ import annotations

import asyncio
import struct
import time
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterable

from benchmarks.contender import Contender, Flow, Gauge, Loop, Seat

GATHER_BYTES = 64 * 1024
READ_LIMIT = 1 << 20

Connected = Callable[[StreamReader, StreamWriter], Awaitable[None]]

_HEADER = struct.Struct("<I")


async def receive(reader: StreamReader) -> bytes:
    """Read one message."""
    (size,) = _HEADER.unpack(await reader.readexactly(4))
    return await reader.readexactly(size)


def send(writer: StreamWriter, message: bytes) -> None:
    """Write one message."""
    writer.write(_HEADER.pack(len(message)) + message)


async def send_all(writer: StreamWriter, messages: Iterable[bytes]) -> None:
    """Write many messages, gathered as in the tuned Protocol."""
    gathered: list[bytes] = []
    gathered_bytes = 0
    for message in messages:
        gathered += (_HEADER.pack(len(message)), message)
        gathered_bytes += len(message)
        if gathered_bytes >= GATHER_BYTES:
            writer.writelines(gathered)
            gathered.clear()
            gathered_bytes = 0
            await writer.drain()
    writer.writelines(gathered)
    await writer.drain()


class AsyncioStreams(Contender):
    """StreamReader and StreamWriter, on either loop."""

    many_senders = True
    many_echoes = True
    pace = 0.5

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.name = f"asyncio streams ({loop})"
        self.quick = loop == "uvloop"

    async def serve(self, connected: Connected, where: str) -> asyncio.AbstractServer:
        """Start the server."""
        return await asyncio.start_unix_server(connected, where, limit=READ_LIMIT, backlog=1024)

    async def open(self, where: str) -> tuple[StreamReader, StreamWriter]:
        """Connect to it."""
        return await asyncio.open_unix_connection(where, limit=READ_LIMIT)

    async def echo(self, seat: Seat) -> None:
        """Answer on every connection until it ends."""
        endings = asyncio.Semaphore(0)

        async def answer(reader: StreamReader, writer: StreamWriter) -> None:
            try:
                while True:
                    send(writer, await receive(reader))
                    await writer.drain()
            except IncompleteReadError:
                writer.close()
                endings.release()

        server = await self.serve(answer, seat.wiring)
        seat.announce("listening")
        for _ in range(seat.plan.clients):
            await endings.acquire()
        server.close()

    async def ping(self, seat: Seat) -> list[int]:
        """One await for each direction."""
        plan = seat.plan
        reader, writer = await self.open(seat.wiring)
        for message in plan.warming():
            send(writer, message)
            await receive(reader)
        samples = []
        before = time.perf_counter_ns()
        reply = b""
        for message in plan.measured():
            send(writer, message)
            reply = await receive(reader)
            now = time.perf_counter_ns()
            samples.append(now - before)
            before = now
        plan.check_last(reply)
        writer.close()
        await writer.wait_closed()
        return samples

    async def sink(self, seat: Seat) -> Flow:
        """A handler for each connection."""
        gauge = Gauge(seat, seat.plan.clients)
        plan = seat.plan

        async def count(reader: StreamReader, writer: StreamWriter) -> None:
            for _ in plan.warming():
                await receive(reader)
            gauge.warm()
            message = await receive(reader)
            gauge.start()
            for _ in range(plan.messages - 1):
                message = await receive(reader)
            gauge.stop(message)
            writer.close()

        server = await self.serve(count, seat.wiring)
        seat.announce("listening")
        flow = await gauge.finished()
        server.close()
        return flow

    async def source(self, seat: Seat) -> None:
        """Gathered writes on every connection."""
        plan = seat.plan
        writers = [(await self.open(seat.wiring))[1] for _ in range(plan.clients)]
        await asyncio.gather(*(send_all(writer, plan.warming()) for writer in writers))
        await seat.wait_in_loop()
        await asyncio.gather(*(send_all(writer, plan.measured()) for writer in writers))
        for writer in writers:
            writer.close()
            await writer.wait_closed()

    async def hold(self, seat: Seat) -> None:
        """One round trip on every connection, then silence."""
        connections = []
        for _ in range(seat.plan.clients):
            reader, writer = await self.open(seat.wiring)
            send(writer, seat.plan.payload)
            await receive(reader)
            connections.append((reader, writer))
        seat.announce("holding")
        await seat.wait_in_loop()


CONTENDERS = [AsyncioStreams("uvloop"), AsyncioStreams("asyncio")]
