"""What does a lock between processes cost, alone, and when another process waits for it?"""

from __future__ import annotations

from benchmarks.contender import Contender, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, scaled
from benchmarks.workloads.round_trip import P50, P99, latencies, percentiles

ALONE = "acquire and release, alone"
HAND_OVER = "hand-over to who waits"
HOLD_NS = 2_000_000
"""Long enough for the other process to come and wait; half of it is long enough to be gone."""


class Locks:
    """Latencies; for a hand-over from just before the release to where the other one has it."""

    name = "locks"
    title = "Locks between processes"
    rounds = 5

    def cases(self, *, quick: bool) -> list[Case]:
        """Nobody else about, and two processes in turns."""
        alone = 2_000 if quick else 10_000
        return [
            Case(ALONE, Plan(messages=alone, warmup=alone // 10), (P50, P99)),
            Case(HAND_OVER, Plan(messages=200 if quick else 400, interval_ns=HOLD_NS), (P50, P99)),
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Every lock."""
        return contender.carries == "lock"

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        plan = scaled(case.plan, contender)
        if case.name == ALONE:
            with cast(contender, "keep", "lock", plan) as pair:
                return latencies(pair)
        with cast(contender, "lend", "borrow", plan) as pair:
            samples = pair.outcome("client").value + pair.outcome("server").value
            return percentiles(samples, pair.queued)
