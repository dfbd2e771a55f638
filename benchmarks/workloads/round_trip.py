"""How long is a round trip? One message there and back, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contender import Contender, Plan
from benchmarks.harness import Pair, cast
from benchmarks.workload import Case, Measurement, Metric, carries_bytes, percentile, scaled

P50 = Metric("p50_us", "p50", "us")
P99 = Metric("p99_us", "p99", "us")


class RoundTrip:
    """64 bytes, echoed; median and 99th percentile of the latencies."""

    name = "round_trip"
    title = "Round trip"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """64 B only: the latency of a wake-up, not of a copy."""
        messages = 4_000 if quick else 20_000
        return [Case("64 B", Plan(64, messages, messages // 4), (P50, P99))]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who can answer."""
        return carries_bytes(contender, case) and contender.plays("echo", "ping")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        plan = scaled(case.plan, contender)
        with cast(contender, "echo", "ping", plan) as pair:
            return latencies(pair)


def latencies(pair: Pair) -> Measurement:
    """Percentiles of what the client's role brought back."""
    samples = pair.outcome("client").value
    return percentiles(samples, pair.queued)


def percentiles(samples_ns: Sequence[int], queued: float) -> Measurement:
    """The median and the 99th percentile of latencies."""
    samples = [nanoseconds / 1000 for nanoseconds in samples_ns]
    metrics = {"p50_us": percentile(samples, 50), "p99_us": percentile(samples, 99)}
    return Measurement(metrics, len(samples), queued)
