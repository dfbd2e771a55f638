"""What does a connected pair cost while nobody says anything?"""

from __future__ import annotations

import time

from benchmarks.contender import Contender, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, Metric, carries_bytes

SETTLE_S = 0.5
SILENCE_S = 3.0

SWITCHES = Metric("switches", "context switches", "count")
CPU = Metric("cpu_us", "CPU", "us")


class Idle:
    """A connected pair, both sides waiting to receive: the kernel's own counts over 3 s."""

    name = "idle"
    title = f"Idle connected pair, {SILENCE_S:.0f} s"
    rounds = 1

    def cases(self, *, quick: bool) -> list[Case]:
        """One connection."""
        del quick  # silence cannot be shortened
        return [Case("1 connection", Plan(64, 1, 1), (SWITCHES, CPU))]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who can hold a connection."""
        return carries_bytes(contender, case) and contender.plays("echo", "hold")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One silence, after one round trip and a moment to settle."""
        with cast(contender, "echo", "hold", case.plan) as pair:
            pair.expect("client", "holding")
            time.sleep(SETTLE_S)
            before = pair.effort()
            time.sleep(SILENCE_S)
            spent = pair.effort() - before
        return Measurement({"switches": spent.switches, "cpu_us": spent.cpu_ns / 1000}, 0)
