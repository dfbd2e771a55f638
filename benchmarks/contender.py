"""What a contender is: the roles that two processes play, and what they are told.

A contender implements the roles it can play as methods, plain or ``async``:

============== ======== ====================================================================
role           process  what it does
============== ======== ====================================================================
echo           server   sends every message back
ping           client   sends a message and waits until it is back; returns the latencies
sink           server   receives everything from ``plan.clients`` connections; returns a Flow
source         client   sends everything over ``plan.clients`` connections
hold           client   opens ``plan.clients`` connections, one round trip each, then waits
paced_ping     client   like ping, one round trip every ``plan.interval_ns``
paced_source   client   like source, one message every ``plan.interval_ns``
publish        server   sends everything to ``plan.clients`` subscribers, none of which loses any
subscribe      client   subscribes ``plan.clients`` times, receives everything; returns a Flow
answer         server   serves `calls.Sums` until all calls were made
call           client   ``plan.callers`` tasks call ``add`` over one connection; returns a Flow
watch          client   iterates over ``count``, a stream of results; returns a Flow
shuttle        server   puts everything into a queue and takes it out again; returns a Flow
stand_by       client   waits until it may go
keep           server   makes what a lock needs, and leaves it to the client
lock           client   acquires and releases it, alone; returns the latencies
lend, borrow   both     take turns at a lock; return how long after the other they had it
take           server   looks at each array that it gets, and says so
hand           client   passes an array over, again and again; returns the latencies
============== ======== ====================================================================

Each adapter writes its hot loops out, as an expert in that library would: a shared layer would
cost every contender the same nanoseconds, and so flatter the slow ones.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

Loop = Literal["asyncio", "uvloop"]
Role = Literal[
    "echo",
    "ping",
    "sink",
    "source",
    "hold",
    "paced_ping",
    "paced_source",
    "publish",
    "subscribe",
    "answer",
    "call",
    "watch",
    "shuttle",
    "stand_by",
    "keep",
    "lock",
    "lend",
    "borrow",
    "take",
    "hand",
]
Carries = Literal["bytes", "dict", "lock", "array"]
Family = Literal["reference", "aioipc", "peer"]
Buffer = bytes | bytearray | memoryview
Wiring = tuple[Any, Any]
"""What the server process and the client process are given so that they find each other."""

BATCH_MESSAGES = 256
BATCH_BYTES = 64 * 1024
SMALL = 256
"""CPython keeps the integers up to this: to count in them makes no object per message."""

_STAMP = struct.Struct("<Q")
_FILLER = b"\x5a"


class WrongMessage(AssertionError):
    """A contender lost, repeated or changed a message: its figures would mean nothing."""


@dataclass(frozen=True)
class Plan:
    """How much work one round is.

    Attributes:
        size: Bytes of one message.
        messages: Measured messages per connection.
        warmup: Messages per connection before the clock starts.
        clients: Connections, all held by the client process.
        interval_ns: Time between two messages of a paced role.
        carries: Whether a message is bytes, or a dict with three fields for a codec. Locks and
            arrays are no messages.
        callers: Tasks that call over the same connection, ``messages`` calls each.
    """

    size: int = 64
    messages: int = 1
    warmup: int = 0
    clients: int = 1
    interval_ns: int = 0
    carries: Carries = "bytes"
    callers: int = 1

    @property
    def total(self) -> int:
        """Messages per connection, warm-up included."""
        return self.warmup + self.messages

    @cached_property
    def payload(self) -> Any:
        """The message that is sent again and again."""
        return self._stamped(0)

    @cached_property
    def last(self) -> Any:
        """The message that ends a connection's share: it carries the number of messages."""
        return self._stamped(self.total)

    def warming(self) -> Iterator[Any]:
        """The messages before the clock starts."""
        return repeat(self.payload, self.warmup)

    def measured(self) -> Iterator[Any]:
        """The messages that count; the last one is stamped."""
        return chain(repeat(self.payload, self.messages - 1), (self.last,))

    def in_batches(self, messages: Iterator[Any]) -> Iterator[list[Any]]:
        """The same messages in lists of up to 64 KiB, for contenders that take many at once."""
        count = max(1, min(BATCH_MESSAGES, BATCH_BYTES // self.size))
        while batch := list(islice(messages, count)):
            yield batch

    def check_last(self, message: Any) -> None:
        """Make sure that the last message received is the last one sent.

        Raises:
            WrongMessage: It is another one, or it changed on the way.
        """
        if message != self.last:
            raise WrongMessage(f"message {self.total} is not the last one that was sent")

    def _stamped(self, number: int) -> Any:
        if self.carries == "dict":
            return {"id": number, "name": "eur.usd", "price": 1.0842}
        return _STAMP.pack(number) + _FILLER * (self.size - _STAMP.size)


@dataclass
class Seat:
    """One role's place: its plan, its end of the wiring, and the line to the harness."""

    plan: Plan
    wiring: Any
    control: Connection

    def announce(self, event: str) -> None:
        """Tell the harness: "listening", "warm" or "holding"."""
        self.control.send(event)

    def wait(self) -> None:
        """Block until the harness says go on."""
        self.control.recv()

    async def wait_in_loop(self) -> None:
        """The same without stopping the loop, which may still have bytes to write."""
        await asyncio.get_running_loop().run_in_executor(None, self.control.recv)


@dataclass(frozen=True)
class Flow:
    """What a sink saw: ``messages`` arrivals after the first one, in ``elapsed_ns``."""

    messages: int
    elapsed_ns: int

    @property
    def per_second(self) -> float:
        """Messages per second, measured at the receiver."""
        return self.messages * 1e9 / max(1, self.elapsed_ns)


@dataclass
class Gauge:
    """Times the arrivals of a sink over all its connections.

    The client pauses after the warm-up until every connection is warm, so the clock runs from the
    first measured arrival on any connection to the last arrival on any.

    Attributes:
        seat: The sink's seat.
        streams: How many streams are counted by themselves; one where all clients share a socket.
    """

    seat: Seat
    streams: int
    _cold: int = field(init=False)
    _running: int = field(init=False)
    _started_ns: int = 0
    _stopped_ns: int = 0
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._cold = self._running = self.streams

    def warm(self) -> None:
        """A stream has received its warm-up."""
        self._cold -= 1
        if not self._cold:
            self.seat.announce("warm")

    def start(self) -> None:
        """A stream has received its first measured message."""
        if not self._started_ns:
            self._started_ns = time.perf_counter_ns()

    def stop(self, last: Any) -> None:
        """A stream has received its last message.

        Raises:
            WrongMessage: It is not the last one that was sent.
        """
        self._stopped_ns = time.perf_counter_ns()
        self.seat.plan.check_last(last)
        self._running -= 1
        if not self._running:
            self._done.set()

    async def finished(self) -> Flow:
        """Wait for the last message of the last connection."""
        await self._done.wait()
        return self.flow()

    def flow(self) -> Flow:
        """The measured flow, once every connection has stopped."""
        plan = self.seat.plan
        return Flow(plan.messages * plan.clients - 1, self._stopped_ns - self._started_ns)


class Contender:
    """One way to move messages between two processes.

    Attributes:
        name: Unique, short, shown in the tables.
        loop: The event loop its roles run on; None for blocking code.
        pace: Share of a workload's messages that it gets, so that slow ones end in time.
        call_pace: The same for calls.
        quick: Takes part in a quick run.
        family: "reference", "aioipc" or "peer".
        max_size: Largest message it can carry, in bytes.
        many_senders: Many clients can send to one server.
        many_echoes: A server can answer many clients.
        carries: What a message of it is.
        hidden: Whether the work is done in processes that the harness cannot look into.
        refuses: Roles that its base class has, but it cannot play.
    """

    name: str
    loop: Loop | None = None
    pace: float = 1.0
    call_pace: float = 1.0
    quick: bool = False
    family: Family = "peer"
    max_size: int = 1 << 30
    many_senders: bool = False
    many_echoes: bool = False
    carries: Carries = "bytes"
    hidden: bool = False
    refuses: tuple[Role, ...] = ()

    def plays(self, *roles: Role) -> bool:
        """Whether it has all these roles."""
        return all(hasattr(self, role) and role not in self.refuses for role in roles)

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        """What both processes need; held open by the harness until both have it."""
        path = str(folder / "socket")
        yield path, path
