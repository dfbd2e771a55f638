"""What the machine allows: the ring in C, where both sides spin, and memcpy."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender, Flow, Plan, Seat, Wiring
from benchmarks.peers._program import Program

PROGRAM = Program("ring_limit", header="ring.h")
MILLISECONDS = 70
RUNS = 3
"""The best one counts: the harness does not see what the neighbours take from this program."""


class Limit(Contender):
    """One figure of the program.

    Args:
        name: The contender's name.
        only: What the program is asked for.
    """

    family = "reference"
    hidden = True

    def __init__(self, name: str, only: str) -> None:
        self.name = name
        self._only = only

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        program = PROGRAM.ready()
        yield program, program

    def sink(self, seat: Seat) -> Flow:
        """The rate, as if that many messages had come within a second."""
        seat.announce("listening")
        seat.announce("warm")
        rate = max(_run(seat, self._only) for _ in range(RUNS))
        return Flow(round(rate), 1_000_000_000)

    def source(self, seat: Seat) -> None:
        """Everything happens in the server's role."""
        seat.wait()


class RingLimit(Limit):
    """The ring, which also goes round."""

    def echo(self, seat: Seat) -> None:
        """Everything happens in the client's role."""
        seat.announce("listening")

    def ping(self, seat: Seat) -> list[int]:
        """Each sample is the mean of some round trips: one takes no longer than a clock."""
        best = min((_run(seat, "round_trips") for _ in range(RUNS)), key=statistics.median)
        return [round(nanoseconds) for nanoseconds in best]


def _run(seat: Seat, only: str) -> Any:
    program: Program = seat.wiring
    return program.run(f"size={seat.plan.size}", f"only={only}", f"milliseconds={MILLISECONDS}")


CONTENDERS = [RingLimit("ring limit (C)", "stream"), Limit("memcpy limit (C)", "memcpy")]
