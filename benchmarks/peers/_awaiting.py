"""The roles of libraries with an awaitable send and an awaitable receive."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.contender import Contender, Flow, Gauge, Seat

AsyncEnds = tuple[Callable[[bytes], Awaitable[Any]], Callable[[], Awaitable[Any]]]
"""send(message) and receive(): the library's own methods, awaited without a layer between."""


class AwaitingContender(Contender):
    """A subclass says how each side gets its two functions."""

    def server(self, seat: Seat) -> AbstractAsyncContextManager[AsyncEnds]:
        """Announce that it listens, and give send and receive."""
        raise NotImplementedError

    def client(self, seat: Seat) -> AbstractAsyncContextManager[AsyncEnds]:
        """Connect, and give send and receive."""
        raise NotImplementedError

    async def echo(self, seat: Seat) -> None:
        """Answer every message."""
        async with self.server(seat) as (send, receive):
            for _ in range(seat.plan.total):
                await send(await receive())

    async def ping(self, seat: Seat) -> list[int]:
        """Send, then wait for the reply."""
        plan = seat.plan
        samples = []
        reply = b""
        async with self.client(seat) as (send, receive):
            for message in plan.warming():
                await send(message)
                await receive()
            before = time.perf_counter_ns()
            for message in plan.measured():
                await send(message)
                reply = await receive()
                now = time.perf_counter_ns()
                samples.append(now - before)
                before = now
        plan.check_last(reply)
        return samples

    async def sink(self, seat: Seat) -> Flow:
        """Receive everything, from however many clients, by one receive function."""
        plan = seat.plan
        gauge = Gauge(seat, 1)
        async with self.server(seat) as (_, receive):
            for _ in range(plan.clients * plan.warmup):
                await receive()
            gauge.warm()
            message = await receive()
            gauge.start()
            for _ in range(plan.clients * plan.messages - 1):
                message = await receive()
            gauge.stop(message)
        return gauge.flow()

    async def source(self, seat: Seat) -> None:
        """Send everything."""
        async with self.client(seat) as (send, _):
            for message in seat.plan.warming():
                await send(message)
            await seat.wait_in_loop()
            for message in seat.plan.measured():
                await send(message)

    async def hold(self, seat: Seat) -> None:
        """One round trip, then silence."""
        async with self.client(seat) as (send, receive):
            await send(seat.plan.payload)
            await receive()
            seat.announce("holding")
            await seat.wait_in_loop()
