"""The roles of every library that blocks: two functions, send and receive, in plain loops."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.contender import Contender, Flow, Gauge, Seat

Ends = tuple[Callable[[bytes], Any], Callable[[], Any]]
"""send(message) and receive(): the library's own methods, called without a layer between."""


class BlockingContender(Contender):
    """A subclass says how each side gets its two functions."""

    def server(self, seat: Seat) -> AbstractContextManager[Ends]:
        """Announce that it listens, and give send and receive."""
        raise NotImplementedError

    def client(self, seat: Seat) -> AbstractContextManager[Ends]:
        """Connect, and give send and receive."""
        raise NotImplementedError

    def content(self, message: Any) -> bytes:
        """The bytes of what receive returned."""
        assert isinstance(message, bytes)
        return message

    def echo(self, seat: Seat) -> None:
        """Answer every message."""
        with self.server(seat) as (send, receive):
            for _ in range(seat.plan.total):
                send(receive())

    def ping(self, seat: Seat) -> list[int]:
        """Send, then wait for the reply."""
        plan = seat.plan
        samples: list[int] = []
        reply: Any = b""
        with self.client(seat) as (send, receive):
            for message in plan.warming():
                send(message)
                receive()
            before = time.perf_counter_ns()
            for message in plan.measured():
                send(message)
                reply = receive()
                now = time.perf_counter_ns()
                samples.append(now - before)
                before = now
        plan.check_last(self.content(reply))
        return samples

    def sink(self, seat: Seat) -> Flow:
        """Receive everything, from however many clients, by one receive function."""
        plan = seat.plan
        gauge = Gauge(seat, 1)
        with self.server(seat) as (_, receive):
            for _ in range(plan.clients * plan.warmup):
                receive()
            gauge.warm()
            message = receive()
            gauge.start()
            for _ in range(plan.clients * plan.messages - 1):
                message = receive()
            gauge.stop(self.content(message))
        return gauge.flow()

    def source(self, seat: Seat) -> None:
        """Send everything."""
        with self.client(seat) as (send, _):
            for message in seat.plan.warming():
                send(message)
            seat.wait()
            for message in seat.plan.measured():
                send(message)

    def hold(self, seat: Seat) -> None:
        """One round trip, then silence."""
        with self.client(seat) as (send, receive):
            send(seat.plan.payload)
            receive()
            seat.announce("holding")
            seat.wait()
