"""What goes over a link, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aioipc.cli.demo.book import Message
from aioipc.cli.demo.links import Link
from aioipc.cli.demo.peer import END
from aioipc.cli.problems import PeerFailed

__all__ = ["Latency", "Rate", "Row", "round_trips", "stream"]

_PAGE = 256
_WARM_UP = 0.2  # of the time; polling and caches settle


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages one way."""

    messages: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips, one at a time, in microseconds."""

    messages: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Row:
    """What came out for one transport, or what went wrong with it."""

    scheme: str
    what: str
    rate: Rate | None = None
    polling: Latency | None = None
    blocking: Latency | None = None
    problem: str = ""

    @property
    def checked(self) -> int:
        """How many messages were compared with what they should be."""
        return sum(part.messages for part in (self.rate, self.polling, self.blocking) if part)


async def stream(
    link: Link, book: list[Message], seconds: float, tick: Callable[[], object]
) -> Rate:
    """Send for a while, one by one, and let the other side say how many came right.

    Raises:
        PeerFailed: One was lost, doubled, changed or out of order.
    """
    sent = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        page = sent % len(book)
        for message in book[page : page + _PAGE]:
            await link.outgoing.send(message)
            sent += 1
        tick()
    await link.outgoing.send(END)
    report = await link.incoming.receive()
    elapsed = time.perf_counter() - begun
    if report != sent:
        came = f"{report:,} came" if isinstance(report, int) else report
        raise PeerFailed(f"{sent:,} messages were sent: {came}")
    return Rate(sent, sent / elapsed)


async def round_trips(
    link: Link, book: list[Message], seconds: float, tick: Callable[[], object]
) -> Latency:
    """Send a message and wait for it to come back, over and over.

    Raises:
        PeerFailed: Another one came back.
    """
    clock_ns = time.perf_counter_ns
    times_ns: list[int] = []
    count = 0
    begun_ns = warm_ns = clock_ns()
    end_ns = begun_ns + int(seconds * 1e9)
    while not times_ns or clock_ns() < end_ns:
        if warm_ns < begun_ns + _WARM_UP * (end_ns - begun_ns):
            times_ns.clear()
            warm_ns = clock_ns()
        for message in book[count % len(book) :][:_PAGE]:
            sent_ns = clock_ns()
            await link.outgoing.send(message)
            reply = await link.incoming.receive()
            times_ns.append(clock_ns() - sent_ns)
            count += 1
            if reply != message:
                raise PeerFailed(f"{message!r:.200} was sent, and {reply!r:.200} came back")
        tick()
    return _latency(count, times_ns)


def _latency(count: int, times_ns: list[int]) -> Latency:
    times_ns.sort()
    p50, p99 = (times_ns[int(len(times_ns) * part)] / 1000 for part in (0.5, 0.99))
    return Latency(count, p50, p99)
