"""aioipc's own channels, over every transport, on both loops, polling and blocking."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import aioipc
from benchmarks.contender import (
    BATCH_MESSAGES,
    SMALL,
    Contender,
    Flow,
    Gauge,
    Loop,
    Plan,
    Role,
    Seat,
    Wiring,
)
from benchmarks.probe import Ticker

_QUICK = {
    *((name, "block") for name in ("unix", "shm")),
    *((name, "adaptive") for name in ("unix", "pipe", "fifo", "shm")),
}
"""Transports and ways to wait that take part in a quick run."""

LARGE_BYTES = 64 * 1024
MANY_CLIENTS = 100
MIB = 1024 * 1024

Channel = aioipc.Channel[Any]
Ends = tuple[Channel, Channel]
"""The channel to receive from and the channel to send to; one and the same where it is duplex."""
Handler = Callable[[Channel, Channel], Awaitable[None]]


class AioipcChannel(Contender):
    """A server and its clients, on an address that both know."""

    family = "aioipc"
    many_senders = True
    many_echoes = True
    merged = False
    """Whether the messages of all clients arrive on one channel."""

    def __init__(
        self, scheme: str, loop: Loop, *, polling: str = "adaptive", codec: str = "raw"
    ) -> None:
        variants = [] if polling == "adaptive" else [polling]
        variants += [] if codec == "raw" else [codec]
        self.name = f"aioipc {' '.join([scheme, *variants])} ({loop})"
        self.scheme = scheme
        self.loop = loop
        self.carries = "bytes" if codec == "raw" else "dict"
        self.quick = (scheme, polling) in _QUICK and (loop == "uvloop" or scheme == "unix")
        self._polling = polling
        self._codec = codec

    # --- roles

    async def echo(self, seat: Seat) -> None:
        """Answer on every channel until it ends."""
        await self.serve(seat, _echo)

    async def ping(self, seat: Seat) -> list[int]:
        """Send, then receive."""
        async with self.connected(seat) as (incoming, outgoing):
            return await ping(seat.plan, incoming, outgoing)

    async def sink(self, seat: Seat) -> Flow:
        """``async for`` on every channel."""
        gauge = Gauge(seat, 1 if self.merged else seat.plan.clients)

        async def count(incoming: Channel, _: Channel) -> None:
            await self.drain(gauge, incoming)

        await self.serve(seat, count, one_way=True)
        return gauge.flow()

    async def source(self, seat: Seat) -> None:
        """``send`` on every channel."""
        plan = seat.plan
        async with AsyncExitStack() as stack:
            channels = [
                (await stack.enter_async_context(self.connected(seat, one_way=True)))[1]
                for _ in range(plan.clients)
            ]
            await asyncio.gather(*(self.flood(each, plan.warming(), plan) for each in channels))
            await seat.wait_in_loop()
            await asyncio.gather(*(self.flood(each, plan.measured(), plan) for each in channels))

    async def hold(self, seat: Seat) -> None:
        """One round trip on every channel, then a receive that nothing answers."""
        async with AsyncExitStack() as stack:
            waiting = []
            for _ in range(seat.plan.clients):
                incoming, outgoing = await stack.enter_async_context(self.connected(seat))
                await outgoing.send(seat.plan.payload)
                await incoming.receive()
                waiting.append(asyncio.ensure_future(incoming.receive()))
            seat.announce("holding")
            await seat.wait_in_loop()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def paced_ping(self, seat: Seat) -> None:
        """One round trip per tick."""
        async with self.connected(seat) as (incoming, outgoing):
            for message in seat.plan.warming():
                await outgoing.send(message)
                await incoming.receive()
            seat.announce("warm")
            await seat.wait_in_loop()
            ticker = Ticker(seat.plan.interval_ns)
            reply = None
            for message in seat.plan.measured():
                await ticker.tick()
                await outgoing.send(message)
                reply = await incoming.receive()
            seat.plan.check_last(reply)

    async def paced_source(self, seat: Seat) -> None:
        """One message per tick."""
        async with self.connected(seat, one_way=True) as (_, channel):
            await self.flood(channel, seat.plan.warming(), seat.plan)
            await seat.wait_in_loop()
            ticker = Ticker(seat.plan.interval_ns)
            for message in seat.plan.measured():
                await ticker.tick()
                await channel.send(message)

    # --- the hot loops of a stream

    async def flood(self, channel: Channel, messages: Iterator[Any], plan: Plan) -> None:
        """Send everything, one by one."""
        for message in messages:
            await channel.send(message)
        await channel.flush()

    async def drain(self, gauge: Gauge, channel: Channel) -> None:
        """Receive everything, one by one."""
        plan = gauge.seat.plan
        senders = plan.clients if self.merged else 1
        await self.receive(channel, senders * plan.warmup)
        gauge.warm()
        message = await channel.receive()
        gauge.start()
        if senders * plan.messages > 1:
            message = await self.receive(channel, senders * plan.messages - 1)
        gauge.stop(message)

    async def receive(self, channel: Channel, count: int) -> Any:
        """Receive ``count`` messages, one by one; returns the last one."""
        left = count % SMALL or SMALL
        count -= left
        async for message in channel:
            left -= 1
            if not left:
                if not count:
                    return message
                left = SMALL
                count -= left
        raise EOFError(f"the stream ended {count + left} messages early")

    # --- how both sides meet

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        if self.scheme == "tcp":
            address = f"tcp://127.0.0.1:{_free_port()}"
        else:
            address = f"{self.scheme}:{folder}/meet"
        yield address, address

    async def serve(self, seat: Seat, handler: Handler, *, one_way: bool = False) -> None:
        """Run the handler on the channel of every client, until the last one is done."""

        async def handle(channel: Channel) -> None:
            async with channel:
                await handler(channel, channel)

        limits = self.limits(seat.plan)
        async with self.listen(seat.wiring, limits) as listener, asyncio.TaskGroup() as tasks:
            seat.announce("listening")
            for _ in range(seat.plan.clients):
                tasks.create_task(handle(await listener.accept()))

    @asynccontextmanager
    async def connected(self, seat: Seat, *, one_way: bool = False) -> AsyncIterator[Ends]:
        """Connect as a client; ``one_way`` needs nothing to receive from."""
        async with self.connect(seat.wiring) as channel:
            yield channel, channel

    def limits(self, plan: Plan) -> aioipc.Limits:
        """Rings as a user would choose them: room for large messages, little where many are."""
        if plan.clients >= MANY_CLIENTS:
            return aioipc.Limits(ring_bytes=LARGE_BYTES)
        if plan.size >= LARGE_BYTES:
            return aioipc.Limits(ring_bytes=4 * MIB)
        return aioipc.Limits()

    def listen(self, address: str, limits: aioipc.Limits | None = None) -> Any:
        """aioipc.listen with this contender's options."""
        return aioipc.listen(address, codec=self._codec, polling=self._polling, limits=limits)

    def connect(self, address: str) -> Any:
        """aioipc.connect with this contender's options."""
        return aioipc.connect(address, codec=self._codec, polling=self._polling)


async def _echo(incoming: Channel, outgoing: Channel) -> None:
    async for message in incoming:
        await outgoing.send(message)


async def ping(plan: Plan, incoming: Channel, outgoing: Channel) -> list[int]:
    """Round trips, timed one by one."""
    return await timed(plan, outgoing.send, incoming.receive)


async def timed(
    plan: Plan, send: Callable[[Any], Awaitable[None]], receive: Callable[[], Awaitable[Any]]
) -> list[int]:
    """Round trips, by whatever sends and receives."""
    for message in plan.warming():
        await send(message)
        await receive()
    samples = []
    reply = None
    before = time.perf_counter_ns()
    for message in plan.measured():
        await send(message)
        reply = await receive()
        now = time.perf_counter_ns()
        samples.append(now - before)
        before = now
    plan.check_last(reply)
    return samples


class ThroughTasks(AioipcChannel):
    """As programs grow: one task receives, and hands over to the one that waits, or answers."""

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(scheme, loop)
        self.name = f"aioipc {scheme} through tasks ({loop})"
        self.quick = False
        self.refuses = ("sink", "source", "hold", "paced_ping", "paced_source")

    async def echo(self, seat: Seat) -> None:
        """A second task answers."""
        await self.serve(seat, _relay)

    async def ping(self, seat: Seat) -> list[int]:
        """Send, then wait for what a second task receives."""
        received: asyncio.Queue[Any] = asyncio.Queue()
        async with self.connected(seat) as (incoming, outgoing), asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_hand_over(incoming, received))
            samples = await timed(seat.plan, outgoing.send, received.get)
            reading.cancel()
        return samples


async def _hand_over(channel: Channel, received: asyncio.Queue[Any]) -> None:
    async for message in channel:
        received.put_nowait(message)


async def _relay(incoming: Channel, outgoing: Channel) -> None:
    async def answer() -> None:
        while True:
            await outgoing.send(await received.get())

    received: asyncio.Queue[Any] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        answering = tasks.create_task(answer())
        await _hand_over(incoming, received)
        answering.cancel()


class Batches(AioipcChannel):
    """send_many and receive_many."""

    max_size = 1024

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(scheme, loop)
        self.name = f"aioipc {scheme} batch ({loop})"
        self.refuses = ("ping", "hold", "paced_ping")

    async def flood(self, channel: Channel, messages: Iterator[Any], plan: Plan) -> None:
        for batch in plan.in_batches(messages):
            await channel.send_many(batch)
        await channel.flush()

    async def receive(self, channel: Channel, count: int) -> Any:
        messages: list[Any] = []
        while count:
            messages = await channel.receive_many(min(count, BATCH_MESSAGES))
            count -= len(messages)
        return messages[-1]


class InPlace(AioipcChannel):
    """Large messages by ``reserve`` and ``borrow``: copied in once, and read where they lie."""

    def __init__(self, loop: Loop) -> None:
        super().__init__("shm", loop)
        self.name = f"aioipc shm in place ({loop})"
        self.refuses = ("ping", "hold", "paced_ping", "paced_source")
        self.many_senders = False

    def plays(self, *roles: Role) -> bool:
        return hasattr(aioipc.Channel, "reserve") and super().plays(*roles)

    async def flood(self, channel: Channel, messages: Iterator[Any], plan: Plan) -> None:
        for message in messages:
            async with channel.reserve(plan.size) as slot:
                slot.view[:] = message
        await channel.flush()

    async def receive(self, channel: Channel, count: int) -> Any:
        last = b""
        while count:
            count -= 1
            async with channel.borrow() as view:
                if not count:
                    last = bytes(view)
        return last

    async def drain(self, gauge: Gauge, channel: Channel) -> None:
        plan = gauge.seat.plan
        await self.receive(channel, plan.warmup)
        gauge.warm()
        await self.receive(channel, 1)
        gauge.start()
        gauge.stop(await self.receive(channel, plan.messages - 1))

    def limits(self, plan: Plan) -> aioipc.Limits:
        """A message in place takes at most a quarter of the ring."""
        return aioipc.Limits(ring_bytes=max(LARGE_BYTES, 4 * plan.size))


@dataclass(frozen=True)
class _Inherited:
    """An address made of descriptors, which a spawned process inherits under their numbers."""

    address: str
    fds: tuple[int, ...]

    def __getstate__(self) -> dict[str, Any]:
        for fd in self.fds:
            DupFd(fd)
        return self.__dict__


class InheritedPair(AioipcChannel):
    """``pair("pipe")``: an end for each process."""

    many_senders = False
    many_echoes = False

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        left, right = aioipc.pair(self.scheme, codec=self._codec)
        ends = _Inherited(*left.detach()), _Inherited(*right.detach())
        try:
            yield ends
        finally:
            for fd in ends[0].fds + ends[1].fds:
                os.close(fd)

    async def serve(self, seat: Seat, handler: Handler, *, one_way: bool = False) -> None:
        async with self.connect(seat.wiring.address) as channel:
            seat.announce("listening")
            await handler(channel, channel)

    @asynccontextmanager
    async def connected(self, seat: Seat, *, one_way: bool = False) -> AsyncIterator[Ends]:
        async with self.connect(seat.wiring.address) as channel:
            yield channel, channel


class Fifos(AioipcChannel):
    """A FIFO goes one way: whoever receives listens, whoever sends connects.

    All senders share it, so the messages of many clients arrive on one channel.
    """

    many_echoes = False
    merged = True
    max_size = 4096 - 8  # a record is one write of at most PIPE_BUF

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        addresses = f"fifo:{folder}/forth", f"fifo:{folder}/back"
        yield addresses, addresses

    async def serve(self, seat: Seat, handler: Handler, *, one_way: bool = False) -> None:
        forth, back = seat.wiring
        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(self.listen(forth))
            seat.announce("listening")
            incoming = await stack.enter_async_context(await listener.accept())
            outgoing = incoming
            if not one_way:
                outgoing = await stack.enter_async_context(self.connect(back))
            await handler(incoming, outgoing)

    @asynccontextmanager
    async def connected(self, seat: Seat, *, one_way: bool = False) -> AsyncIterator[Ends]:
        forth, back = seat.wiring
        async with AsyncExitStack() as stack:
            if one_way:
                outgoing = await stack.enter_async_context(self.connect(forth))
                yield outgoing, outgoing
                return
            listener = await stack.enter_async_context(self.listen(back))
            incoming = await stack.enter_async_context(await listener.accept())
            yield incoming, await stack.enter_async_context(self.connect(forth))

    async def echo(self, seat: Seat) -> None:
        """Answer as often as agreed: the receiving end of a FIFO outlives its writers."""

        async def answer(incoming: Channel, outgoing: Channel) -> None:
            for _ in range(seat.plan.total):
                await outgoing.send(await incoming.receive())

        await self.serve(seat, answer)


class SingleFifos(Fifos):
    """``?single``: one writer has the FIFO for itself, and writes as much at once as it likes."""

    many_senders = False
    max_size = 1 << 30

    def __init__(self, loop: Loop) -> None:
        super().__init__("fifo", loop)
        self.name = f"aioipc fifo single ({loop})"
        self.quick = False

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        addresses = f"fifo:{folder}/forth?single", f"fifo:{folder}/back?single"
        yield addresses, addresses


class OneProcess(AioipcChannel):
    """``pair("memory")``: two tasks of one process, where a message costs no system call."""

    many_senders = False
    many_echoes = False

    def __init__(self, loop: Loop) -> None:
        super().__init__("memory", loop)
        self.refuses = ("hold", "paced_ping", "paced_source")

    async def echo(self, seat: Seat) -> None:
        """Everything happens in the client's process."""
        seat.announce("listening")

    async def ping(self, seat: Seat) -> list[int]:
        left, right = aioipc.pair("memory", codec="raw", polling=self._polling)
        async with left, right, asyncio.TaskGroup() as tasks:
            echo = tasks.create_task(_echo(right, right))
            samples = await ping(seat.plan, left, left)
            echo.cancel()
        return samples

    async def sink(self, seat: Seat) -> Flow:
        """Everything happens in the server's process."""
        seat.announce("listening")
        plan = seat.plan
        gauge = Gauge(seat, 1)
        left, right = aioipc.pair("memory", codec="raw", polling=self._polling)
        async with left, right, asyncio.TaskGroup() as tasks:
            messages = chain(plan.warming(), plan.measured())
            tasks.create_task(self.flood(left, messages, plan))
            await self.drain(gauge, right)
        return gauge.flow()

    async def source(self, seat: Seat) -> None:
        await seat.wait_in_loop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _exists(scheme: str) -> bool:
    """Whether this version of the library has the transport."""
    try:
        _ = aioipc.connect(f"{scheme}:probe")
    except aioipc.AddressError:
        return False
    return True


def _contenders() -> Iterator[Contender]:
    loops: tuple[Loop, ...] = ("uvloop", "asyncio")
    named = [scheme for scheme in ("unix", "tcp", "shm") if scheme == "tcp" or _exists(scheme)]
    for loop in loops:
        for polling in ("adaptive", "block"):
            for scheme in named:
                yield AioipcChannel(scheme, loop, polling=polling)
            yield InheritedPair("pipe", loop, polling=polling)
            yield Fifos("fifo", loop, polling=polling)
        for scheme in named:
            yield Batches(scheme, loop)
            yield ThroughTasks(scheme, loop)
            yield AioipcChannel(scheme, loop, codec="msgpack")
        yield SingleFifos(loop)
        yield InPlace(loop)
        yield OneProcess(loop)


CONTENDERS = list(_contenders())
