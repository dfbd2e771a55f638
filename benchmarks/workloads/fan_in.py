"""What does a server take from 100 clients at once?"""

from __future__ import annotations

from benchmarks.contender import Contender, Plan
from benchmarks.workload import Case, Measurement, carries_bytes, scaled
from benchmarks.workloads.one_way import BYTES, RATE, stream

CLIENTS = 100


class FanIn:
    """100 connections, held by one process so that two CPUs suffice, all sending at once."""

    name = "fan_in"
    title = f"Fan-in of {CLIENTS} clients"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """64 B; every connection sends its share."""
        messages = 5_000 if quick else 20_000
        return [Case("64 B", Plan(64, messages, 20, CLIENTS), (RATE, BYTES))]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone whose server takes many clients."""
        return (
            carries_bytes(contender, case)
            and contender.many_senders
            and contender.plays("sink", "source")
        )

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        return stream(contender, scaled(case.plan, contender))
