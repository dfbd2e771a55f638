"""A rate that the machine allows, found by a program in C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender, Flow, Plan, Seat, Wiring
from benchmarks.peers._program import Program

MILLISECONDS = 70
RUNS = 3
"""The best one counts: the harness does not see what the neighbours take from this program."""


class Limit(Contender):
    """One figure of a program.

    Args:
        name: The contender's name.
        program: Whose figure.
        only: What the program is asked for.
    """

    family = "reference"
    hidden = True

    def __init__(self, name: str, program: Program, only: str) -> None:
        self.name = name
        self._program = program
        self._only = only

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        wiring = self._program.ready(), folder
        yield wiring, wiring

    def sink(self, seat: Seat) -> Flow:
        """The rate, as if that many messages had come within a second."""
        seat.announce("listening")
        seat.announce("warm")
        rate = max(self.run(seat, self._only) for _ in range(RUNS))
        return Flow(round(rate), 1_000_000_000)

    def source(self, seat: Seat) -> None:
        """Everything happens in the server's role."""
        seat.wait()

    def run(self, seat: Seat, only: str) -> Any:
        """Run the program once, for messages of the size in the plan."""
        program, folder = seat.wiring
        words = self.words(folder)
        return program.run(
            f"size={seat.plan.size}", f"only={only}", f"milliseconds={MILLISECONDS}", *words
        )

    def words(self, folder: Path) -> tuple[str, ...]:
        """What else the program is told."""
        return ()
