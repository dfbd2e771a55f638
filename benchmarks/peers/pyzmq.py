"""ZeroMQ over ipc (DEALER sockets on both sides): blocking and asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import zmq
import zmq.asyncio

from benchmarks.calls import Adder, call_all
from benchmarks.contender import Flow, Loop, Plan, Seat
from benchmarks.peers._awaiting import AsyncEnds, AwaitingContender
from benchmarks.peers._blocking import BlockingContender, Ends
from benchmarks.peers._handmade_rpc import Answers, Calls

LARGE_BYTES = 64 * 1024
"""From here on zmq sends without a copy; below that, counting references costs more than one."""
QUEUED_BYTES = 64 * 1024 * 1024
QUEUED_MESSAGES = 10_000
"""High-water marks: enough to keep both sides busy, too little to fill the memory."""


def _bind(context: Any, seat: Seat) -> Any:
    socket = _socket(context, seat.plan)
    socket.bind(f"ipc://{seat.wiring}")
    seat.announce("listening")
    return socket


def _connect(context: Any, seat: Seat) -> Any:
    socket = _socket(context, seat.plan)
    socket.connect(f"ipc://{seat.wiring}")
    return socket


def _socket(context: Any, plan: Plan) -> Any:
    socket = context.socket(zmq.DEALER)
    each = QUEUED_BYTES // plan.size // plan.clients
    socket.set_hwm(max(2, min(QUEUED_MESSAGES, each)))
    return socket


def _ends(socket: Any, plan: Plan) -> tuple[Any, Any]:
    send = partial(socket.send, copy=False) if plan.size >= LARGE_BYTES else socket.send
    return send, socket.recv


class BlockingZmq(BlockingContender):
    """Plain sockets; zmq's own thread does the I/O."""

    name = "pyzmq (blocking)"
    pace = 0.5
    quick = True
    many_senders = True

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        with zmq.Context() as context, _bind(context, seat) as socket:
            yield _ends(socket, seat.plan)

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        with zmq.Context() as context, _connect(context, seat) as socket:
            yield _ends(socket, seat.plan)

    def source(self, seat: Seat) -> None:
        """One socket for each client, each in its turn."""
        plan = seat.plan
        with zmq.Context() as context, ExitStack() as stack:
            sockets = [stack.enter_context(_connect(context, seat)) for _ in range(plan.clients)]
            sends = [_ends(socket, plan)[0] for socket in sockets]
            _send_in_turn(sends, plan.warming())
            seat.wait()
            _send_in_turn(sends, plan.measured())


def _send_in_turn(sends: list[Any], messages: Iterable[bytes]) -> None:
    for message in messages:
        for send in sends:
            send(message)


class AsyncioZmq(AwaitingContender):
    """zmq.asyncio on the asyncio loop."""

    loop: Loop = "asyncio"
    name = "pyzmq (asyncio)"
    pace = 0.05
    call_pace = 0.05
    many_senders = True

    @asynccontextmanager
    async def server(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        with zmq.asyncio.Context() as context, _bind(context, seat) as socket:
            yield _ends(socket, seat.plan)

    @asynccontextmanager
    async def client(self, seat: Seat) -> AsyncIterator[AsyncEnds]:
        with zmq.asyncio.Context() as context, _connect(context, seat) as socket:
            yield _ends(socket, seat.plan)

    async def source(self, seat: Seat) -> None:
        """One socket and one task for each client."""
        plan = seat.plan
        with zmq.asyncio.Context() as context, ExitStack() as stack:
            sockets = [stack.enter_context(_connect(context, seat)) for _ in range(plan.clients)]
            sends = [_ends(socket, plan)[0] for socket in sockets]
            await asyncio.gather(*(_send_all(send, plan.warming()) for send in sends))
            await seat.wait_in_loop()
            await asyncio.gather(*(_send_all(send, plan.measured()) for send in sends))

    async def answer(self, seat: Seat) -> None:
        """Hand-written calls, served by a ROUTER."""
        adder = Adder(seat.plan)
        answers = Answers({"add": adder.add})
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.bind(f"ipc://{seat.wiring}")
            seat.announce("listening")
            reading = asyncio.create_task(_answer_all(socket, answers))
            await adder.done.wait()
            await answers.idle()
            reading.cancel()

    async def call(self, seat: Seat) -> Flow:
        """Hand-written calls from a DEALER."""
        with zmq.asyncio.Context() as context, _connect(context, seat) as socket:
            calls = Calls(socket.send)
            reading = asyncio.create_task(_take_all(socket, calls))
            flow = await call_all(seat, lambda a, b: calls.call("add", a, b))
            reading.cancel()
            return flow


async def _answer_all(socket: Any, answers: Answers) -> None:
    while True:
        caller, message = await socket.recv_multipart()

        def reply(result: bytes, caller: bytes = caller) -> None:
            socket.send_multipart((caller, result))

        answers.start(message, reply)


async def _take_all(socket: Any, calls: Calls) -> None:
    while True:
        calls.take(await socket.recv())


async def _send_all(send: Any, messages: Iterable[bytes]) -> None:
    for message in messages:
        await send(message)


CONTENDERS = [BlockingZmq(), AsyncioZmq()]
