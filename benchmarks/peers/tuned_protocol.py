"""asyncio.Protocol with hand-written length framing on a Unix socket: the reference.

The fastest thing that asyncio offers without aioipc, written as an expert would: everything
happens in the callbacks, frames are cut out of whole chunks, a round trip is one write and one
read, small messages are gathered into writes of 64 KiB, large ones are neither copied on the way
out nor on the way in.

The reference has one call for each message at both ends, as a program that uses it would, and as
``send`` and ``async for`` have. Beside it stands the same with whole batches at both ends, which
is what ``send_many`` and ``receive_many`` compare with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from benchmarks.calls import Adder, call_all
from benchmarks.contender import (
    SMALL,
    Buffer,
    Contender,
    Family,
    Flow,
    Gauge,
    Loop,
    Plan,
    Seat,
)
from benchmarks.peers._framed_protocol import FramedProtocol
from benchmarks.peers._handmade_rpc import ProtocolAnswers, ProtocolCalls
from benchmarks.probe import Ticker

P = TypeVar("P", bound=FramedProtocol)


class _Echo(FramedProtocol):
    """Answers in the callback."""

    def __init__(self, ended: asyncio.Semaphore) -> None:
        super().__init__()
        self._ended = ended

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._ended.release()

    def received(self, message: Buffer) -> None:
        self.send(cast("bytes", message))


class _Ping(FramedProtocol):
    """Sends the next message from the callback that brings the reply."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        super().__init__()
        self.finished: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
        self.samples: list[int] = []
        self._messages = iter(messages)
        self._sent_ns = 0

    def begin(self) -> None:
        """Send the first message."""
        self._sent_ns = time.perf_counter_ns()
        self.send(next(self._messages))

    def received(self, message: Buffer) -> None:
        now = time.perf_counter_ns()
        self.samples.append(now - self._sent_ns)
        self._sent_ns = now
        following = next(self._messages, None)
        if following is None:
            self.finished.set_result(message)
        else:
            self.send(following)


class _Mailbox(FramedProtocol):
    """Keeps what it receives for a task."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: asyncio.Queue[Buffer] = asyncio.Queue()
        self.received = self.messages.put_nowait  # type: ignore[method-assign, assignment]


class _Sink(FramedProtocol):
    """Counts in the callback, one by one."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__()
        self._gauge = gauge
        self._mark = self._ahead = gauge.seat.plan.warmup
        self._left = self._next_few()

    def received(self, message: Buffer) -> None:
        self._left = left = self._left - 1
        if not left:
            self._few_came(message)

    def _next_few(self) -> int:
        """How many messages to count before the next look at what is ahead."""
        few = self._ahead % SMALL or SMALL
        self._ahead -= few
        return few

    def _few_came(self, message: Buffer) -> None:
        if not self._ahead:
            mark = _note(self._gauge, self._mark, message)
            self._mark, self._ahead = mark, mark - self._mark
        self._left = self._next_few()


class _BatchSink(FramedProtocol):
    """Counts in the callback, whole chunks."""

    def __init__(self, gauge: Gauge) -> None:
        super().__init__()
        self._gauge = gauge
        self._count = 0
        self._mark = gauge.seat.plan.warmup
        self._chunk: list[Buffer] = []
        self.received = self._chunk.append  # type: ignore[method-assign, assignment]

    def chunk_ended(self) -> None:
        self._count = count = self._count + len(self._chunk)
        while self._mark and count >= self._mark:
            self._mark = _note(self._gauge, self._mark, self._chunk[-1])
        self._chunk.clear()


def _note(gauge: Gauge, count: int, message: Buffer) -> int:
    """Tell the gauge about the message that ends a phase; returns the end of the next phase."""
    plan = gauge.seat.plan
    if count == plan.warmup:
        gauge.warm()
        return count + 1
    if count == plan.warmup + 1:
        gauge.start()
        return plan.total
    gauge.stop(message)
    return 0


class TunedProtocol(Contender):
    """The reference contender, on either loop."""

    family: Family = "reference"
    quick = True
    call_pace = 0.1
    many_senders = True
    many_echoes = True

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.name = f"tuned Protocol ({loop})"

    async def echo(self, seat: Seat) -> None:
        """Answer from the callback."""
        ended = asyncio.Semaphore(0)
        server = await self.serve(lambda: _Echo(ended), seat.wiring)
        seat.announce("listening")
        for _ in range(seat.plan.clients):
            await ended.acquire()
        server.close()

    async def ping(self, seat: Seat) -> list[int]:
        """Round trips from callback to callback."""
        plan = seat.plan
        protocol = await self._connect(seat, lambda: _Ping([*plan.warming(), *plan.measured()]))
        protocol.begin()
        plan.check_last(await protocol.finished)
        protocol.transport.close()
        return protocol.samples[plan.warmup :]

    async def sink(self, seat: Seat) -> Flow:
        """Count in the callback."""
        gauge = Gauge(seat, seat.plan.clients)
        server = await self.serve(lambda: self.new_sink(gauge), seat.wiring)
        seat.announce("listening")
        flow = await gauge.finished()
        server.close()
        return flow

    async def source(self, seat: Seat) -> None:
        """Gathered writes on every connection."""
        plan = seat.plan
        connections = [await self._connect(seat, FramedProtocol) for _ in range(plan.clients)]
        await asyncio.gather(*(self.flood(each, plan.warming(), plan) for each in connections))
        await seat.wait_in_loop()
        await asyncio.gather(*(self.flood(each, plan.measured(), plan) for each in connections))
        for each in connections:
            each.transport.close()
        await asyncio.gather(*(each.closed for each in connections))

    async def hold(self, seat: Seat) -> None:
        """Round trip on every connection, then silence."""
        for _ in range(seat.plan.clients):
            protocol = await self._connect(seat, lambda: _Ping([seat.plan.payload]))
            protocol.begin()
            await protocol.finished
        seat.announce("holding")
        await seat.wait_in_loop()

    async def paced_ping(self, seat: Seat) -> None:
        """One round trip per tick."""
        protocol = await self._connect(seat, _Mailbox)
        reply: Buffer = b""
        for message in seat.plan.warming():
            protocol.send(message)
            await protocol.messages.get()
        seat.announce("warm")
        await seat.wait_in_loop()
        ticker = Ticker(seat.plan.interval_ns)
        for message in seat.plan.measured():
            await ticker.tick()
            protocol.send(message)
            reply = await protocol.messages.get()
        seat.plan.check_last(reply)
        protocol.transport.close()

    async def paced_source(self, seat: Seat) -> None:
        """One message per tick."""
        protocol = await self._connect(seat, FramedProtocol)
        await protocol.send_all(seat.plan.warming())
        await seat.wait_in_loop()
        ticker = Ticker(seat.plan.interval_ns)
        for message in seat.plan.measured():
            await ticker.tick()
            protocol.send(message)
        protocol.transport.close()
        await protocol.closed

    async def answer(self, seat: Seat) -> None:
        """Hand-written calls, served."""
        adder = Adder(seat.plan)
        protocols: list[ProtocolAnswers] = []

        def connected() -> ProtocolAnswers:
            protocols.append(ProtocolAnswers({"add": adder.add}))
            return protocols[-1]

        server = await self.serve(connected, seat.wiring)
        seat.announce("listening")
        await adder.done.wait()
        await protocols[0].closed
        server.close()

    async def call(self, seat: Seat) -> Flow:
        """Hand-written calls."""
        protocol = await self._connect(seat, ProtocolCalls)
        flow = await call_all(seat, lambda a, b: protocol.calls.call("add", a, b))
        protocol.transport.close()
        return flow

    def new_sink(self, gauge: Gauge) -> FramedProtocol:
        """The protocol that counts."""
        return _Sink(gauge)

    async def flood(self, protocol: FramedProtocol, messages: Iterator[bytes], plan: Plan) -> None:
        """Send everything, one by one."""
        await protocol.send_all(messages)

    async def serve(
        self, factory: Callable[[], FramedProtocol], where: str
    ) -> asyncio.AbstractServer:
        """Start the server."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(factory, where, backlog=1024)

    async def connect(self, factory: Callable[[], P], where: str) -> P:
        """Connect to it."""
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(factory, where))[1]

    async def _connect(self, seat: Seat, factory: Callable[[], P]) -> P:
        return await self.connect(factory, seat.wiring)


class TunedBatches(TunedProtocol):
    """The same with whole batches at both ends."""

    max_size = 1024
    refuses = ("ping", "hold", "paced_ping", "paced_source", "call")

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.name = f"tuned Protocol batch ({loop})"

    def new_sink(self, gauge: Gauge) -> FramedProtocol:
        return _BatchSink(gauge)

    async def flood(self, protocol: FramedProtocol, messages: Iterator[bytes], plan: Plan) -> None:
        for batch in plan.in_batches(messages):
            await protocol.send_many(batch)


CONTENDERS = [
    TunedProtocol("uvloop"),
    TunedProtocol("asyncio"),
    TunedBatches("uvloop"),
    TunedBatches("asyncio"),
]
