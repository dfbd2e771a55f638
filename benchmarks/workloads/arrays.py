"""How long does it take until another process has looked at an array of mine?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contender import Contender, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, scaled
from benchmarks.workloads.round_trip import P50, P99, latencies

MIB = 1024 * 1024
SIZES_MIB = (1, 16, 256)
COPIED_MIB = 2_000
"""As much as all rounds of one size may copy where the elements travel."""


class Arrays:
    """The array is there already, in whatever memory its library wants it in.

    From the call that hands it over to the answer of who has read its first and last number.
    """

    name = "arrays"
    title = "Hand-over of an array"
    rounds = 5

    def cases(self, *, quick: bool) -> list[Case]:
        """From a small picture to as much as a small machine can bear."""
        messages = 200 if quick else 1_000
        sizes = SIZES_MIB[:-1] if quick else SIZES_MIB
        return [
            Case(f"{size} MiB", Plan(size * MIB, messages, messages // 10), (P50, P99))
            for size in sizes
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Who hands over arrays."""
        return contender.carries == "array"

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round; fewer arrays where their elements are copied."""
        plan = scaled(case.plan, contender)
        if contender.pace < 1:
            most = max(4, COPIED_MIB * MIB // plan.size)
            plan = replace(plan, messages=min(plan.messages, most), warmup=1)
        with cast(contender, "take", "hand", plan) as pair:
            return latencies(pair)
