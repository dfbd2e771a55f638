"""How much of the bare decoder's speed is left when its messages come from another process?"""

from __future__ import annotations

from benchmarks.contender import Contender, Plan
from benchmarks.workload import Case, Measurement, scaled
from benchmarks.workloads.one_way import RATE, stream


class Codec:
    """A dict with three fields in msgpack; beside it the decoder alone."""

    name = "codec"
    title = "A dict with 3 fields, msgpack"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """One way."""
        plan = Plan(0, 300_000 if quick else 1_000_000, 10_000, carries="dict")
        return [Case("one way", plan, (RATE,))]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who carries objects."""
        return contender.carries == "dict" and contender.plays("sink", "source")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        return stream(contender, scaled(case.plan, contender))
