"""What the machine allows: the ring in C, where both sides spin, and memcpy."""

from __future__ import annotations

import statistics

from benchmarks.contender import Seat
from benchmarks.peers._limit import RUNS, Limit
from benchmarks.peers._program import Program

PROGRAM = Program("ring_limit", header="ring.h")


class RingLimit(Limit):
    """The ring, which also goes round."""

    def echo(self, seat: Seat) -> None:
        """Everything happens in the client's role."""
        seat.announce("listening")

    def ping(self, seat: Seat) -> list[int]:
        """Each sample is the mean of some round trips: one takes no longer than a clock."""
        runs = (self.run(seat, "round_trips") for _ in range(RUNS))
        return [round(nanoseconds) for nanoseconds in min(runs, key=statistics.median)]


CONTENDERS = [
    RingLimit("ring limit (C)", PROGRAM, "stream"),
    Limit("memcpy limit (C)", PROGRAM, "memcpy"),
]
