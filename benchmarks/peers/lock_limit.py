"""What the machine allows of a lock that the death of its owner opens: a program in C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contender import Contender, Plan, Seat, Wiring
from benchmarks.peers._program import Program

PROGRAM = Program("lock_limit")


class LockLimit(Contender):
    """A FIFO with a lock, as ``aioipc.sync`` has it; both processes are the program's own."""

    name = "lock limit (C)"
    family = "reference"
    carries = "lock"
    hidden = True

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        wiring = PROGRAM.ready(), str(folder / "line")
        yield wiring, wiring

    def keep(self, seat: Seat) -> None:
        """Everything happens in the client's role."""
        seat.announce("listening")

    def lock(self, seat: Seat) -> list[int]:
        """Take it and release it, with nobody else about."""
        program, path = seat.wiring
        samples: list[int] = program.run(f"path={path}", "only=alone", f"rounds={seat.plan.total}")
        return samples[seat.plan.warmup :]

    def lend(self, seat: Seat) -> list[int]:
        """Everything happens in the client's role."""
        seat.announce("listening")
        return []

    def borrow(self, seat: Seat) -> list[int]:
        """Take turns."""
        program, path = seat.wiring
        plan = seat.plan
        samples: list[int] = program.run(
            f"path={path}",
            "only=hand_over",
            f"rounds={plan.total}",
            f"hold_ns={plan.interval_ns}",
            f"pause_ns={plan.interval_ns // 2}",
        )
        return samples


CONTENDERS = [LockLimit()]
