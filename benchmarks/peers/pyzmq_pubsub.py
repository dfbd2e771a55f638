"""ZeroMQ's publishers over ipc: XPUB sockets, which tell of subscriptions, and SUB sockets.

They have no high-water mark, so that nothing is lost: at one a publisher drops without a word, and
where XPUB_NODROP is set an asyncio one raises EAGAIN, for the socket says that it is writable.
"""

from __future__ import annotations

import asyncio
from typing import Any

import zmq
import zmq.asyncio

from benchmarks.contender import Contender, Flow, Gauge, Loop, Seat

NO_LIMIT = 0
TOPIC = b"bench.tick "
"""In front of each message, in one frame: zmq subscribes to how frames begin."""


def _publisher(context: Any, seat: Seat) -> Any:
    socket = context.socket(zmq.XPUB)
    socket.set_hwm(NO_LIMIT)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tells of each subscriber, not of the first alone
    socket.bind(f"ipc://{seat.wiring}")
    seat.announce("listening")
    return socket


def _subscriber(context: Any, seat: Seat) -> Any:
    socket = context.socket(zmq.SUB)
    socket.set_hwm(NO_LIMIT)
    socket.subscribe(TOPIC)
    socket.connect(f"ipc://{seat.wiring}")
    return socket


class BlockingZmqPubSub(Contender):
    """Plain sockets; zmq's own thread does the I/O."""

    name = "pyzmq XPUB (blocking)"
    pace = 0.5
    quick = True

    def publish(self, seat: Seat) -> None:
        """One loop that publishes."""
        with zmq.Context() as context, _publisher(context, seat) as socket:
            for _ in range(seat.plan.clients):
                socket.recv()
            for message in seat.plan.warming():
                socket.send(TOPIC + message)
            seat.wait()
            for message in seat.plan.measured():
                socket.send(TOPIC + message)

    def subscribe(self, seat: Seat) -> Flow:
        """Each subscriber in its turn."""
        plan = seat.plan
        gauge = Gauge(seat, plan.clients)
        with zmq.Context() as context:
            sockets = [_subscriber(context, seat) for _ in range(plan.clients)]
            for _ in range(plan.warmup):
                for socket in sockets:
                    socket.recv()
            for _ in sockets:
                gauge.warm()
            last: list[bytes] = []
            for number in range(plan.messages):
                last = [socket.recv()[len(TOPIC) :] for socket in sockets]
                if not number:
                    gauge.start()
            for message in last:
                gauge.stop(message)
            for socket in sockets:
                socket.close()
        return gauge.flow()


class AsyncioZmqPubSub(Contender):
    """zmq.asyncio on the asyncio loop."""

    name = "pyzmq XPUB (asyncio)"
    loop: Loop = "asyncio"
    pace = 0.1
    quick = True

    async def publish(self, seat: Seat) -> None:
        """One loop that publishes."""
        with zmq.asyncio.Context() as context, _publisher(context, seat) as socket:
            for _ in range(seat.plan.clients):
                await socket.recv()
            for message in seat.plan.warming():
                await socket.send(TOPIC + message)
            await seat.wait_in_loop()
            for message in seat.plan.measured():
                await socket.send(TOPIC + message)

    async def subscribe(self, seat: Seat) -> Flow:
        """One task for each subscriber."""
        gauge = Gauge(seat, seat.plan.clients)
        with zmq.asyncio.Context() as context:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(seat.plan.clients):
                    tasks.create_task(self._receive(context, seat, gauge))
        return gauge.flow()

    async def _receive(self, context: Any, seat: Seat, gauge: Gauge) -> None:
        plan = seat.plan
        with _subscriber(context, seat) as socket:
            for _ in range(plan.warmup):
                await socket.recv()
            gauge.warm()
            message = b""
            for number in range(plan.messages):
                message = (await socket.recv())[len(TOPIC) :]
                if not number:
                    gauge.start()
            gauge.stop(message)


CONTENDERS = [BlockingZmqPubSub(), AsyncioZmqPubSub()]
