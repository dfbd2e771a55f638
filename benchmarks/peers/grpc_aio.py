"""grpc.aio over a Unix socket, bytes without protobuf: a unary call, and a client stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc  # type: ignore[import-untyped, import-not-found, unused-ignore]
import grpc.aio  # type: ignore[import-untyped, import-not-found, unused-ignore]
import msgspec

from benchmarks.calls import Adder, call_all, watch_all
from benchmarks.contender import Contender, Flow, Gauge, Loop, Plan, Seat

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode
_UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


class GrpcAio(Contender):
    """A generic handler; both serializers hand the bytes through."""

    loop: Loop = "asyncio"
    name = "grpc.aio"
    pace = 0.01
    call_pace = 0.02
    many_senders = True

    async def echo(self, seat: Seat) -> None:
        """Answer unary calls."""
        plan = seat.plan
        left = plan.total
        done = asyncio.Event()

        async def answer(request: bytes, _: Any) -> bytes:
            nonlocal left
            left -= 1
            if not left:
                done.set()
            return request

        async with _server(seat, {"call": grpc.unary_unary_rpc_method_handler(answer)}):
            await done.wait()

    async def ping(self, seat: Seat) -> list[int]:
        """One call at a time."""
        plan = seat.plan
        samples = []
        reply = b""
        async with grpc.aio.insecure_channel(f"unix:{seat.wiring}", _UNLIMITED) as channel:
            call = channel.unary_unary("/bench/call")
            for message in plan.warming():
                await call(message)
            before = time.perf_counter_ns()
            for message in plan.measured():
                reply = await call(message)
                now = time.perf_counter_ns()
                samples.append(now - before)
                before = now
        plan.check_last(reply)
        return samples

    async def sink(self, seat: Seat) -> Flow:
        """One client stream for each client."""
        gauge = Gauge(seat, seat.plan.clients)

        async def count(requests: AsyncIterator[bytes], _: Any) -> bytes:
            await _count(requests, seat.plan, gauge)
            return b""

        async with _server(seat, {"call": grpc.stream_unary_rpc_method_handler(count)}):
            return await gauge.finished()

    async def source(self, seat: Seat) -> None:
        """A channel, a stream and a task for each client; go on together after the warm-up."""
        warm = asyncio.Event()
        clients = [asyncio.create_task(_send_all(seat, warm)) for _ in range(seat.plan.clients)]
        await seat.wait_in_loop()
        warm.set()
        await asyncio.gather(*clients)

    async def answer(self, seat: Seat) -> None:
        """Arguments and results in msgpack, which is faster than protobuf."""
        adder = Adder(seat.plan)

        async def add(request: list[int], _: Any) -> int:
            return await adder.add(*request)

        async def count(request: int, _: Any) -> AsyncIterator[int]:
            async for number in adder.count(request):
                yield number

        methods = {
            "call": grpc.unary_unary_rpc_method_handler(add, decode, encode),
            "count": grpc.unary_stream_rpc_method_handler(count, decode, encode),
        }
        async with _server(seat, methods):
            await adder.done.wait()

    async def call(self, seat: Seat) -> Flow:
        """A unary call each."""
        async with grpc.aio.insecure_channel(f"unix:{seat.wiring}", _UNLIMITED) as channel:
            add = channel.unary_unary("/bench/call", encode, decode)
            return await call_all(seat, lambda a, b: add((a, b)))

    async def watch(self, seat: Seat) -> Flow:
        """A server stream."""
        async with grpc.aio.insecure_channel(f"unix:{seat.wiring}", _UNLIMITED) as channel:
            return await watch_all(seat, channel.unary_stream("/bench/count", encode, decode))


@asynccontextmanager
async def _server(seat: Seat, methods: dict[str, Any]) -> AsyncIterator[None]:
    server = grpc.aio.server(options=_UNLIMITED)
    handler = grpc.method_handlers_generic_handler("bench", methods)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{seat.wiring}")
    await server.start()
    seat.announce("listening")
    yield
    await server.stop(grace=1)


async def _count(requests: AsyncIterator[bytes], plan: Plan, gauge: Gauge) -> None:
    received = 0
    async for message in requests:
        received += 1
        if received == plan.warmup:
            gauge.warm()
        elif received == plan.warmup + 1:
            gauge.start()
        if received == plan.total:
            gauge.stop(message)


async def _send_all(seat: Seat, warm: asyncio.Event) -> None:
    options = [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{seat.wiring}", options) as channel:
        stream = channel.stream_unary("/bench/call")()
        for message in seat.plan.warming():
            await stream.write(message)
        await warm.wait()
        for message in seat.plan.measured():
            await stream.write(message)
        await stream.done_writing()
        await stream


CONTENDERS = [GrpcAio()]
