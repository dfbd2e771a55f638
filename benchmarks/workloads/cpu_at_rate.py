"""What does polling cost where it cannot help: at a slow rate, and with both on one CPU?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contender import Contender, Plan
from benchmarks.harness import Pair, cast, pinned_cpus
from benchmarks.workload import Case, Measurement, Metric, carries_bytes, scaled
from benchmarks.workloads.round_trip import P50, P99, latencies

RATE_PER_S = 1_000
INTERVAL_NS = 1_000_000_000 // RATE_PER_S

CPU = Metric("cpu_us", "CPU per message", "us")


class CpuAtRate:
    """CPU time of both processes; adaptive polling should cost what blocking costs."""

    name = "cpu_at_rate"
    title = "CPU at a slow rate"
    rounds = 3

    def cases(self, *, quick: bool) -> list[Case]:
        """1,000 messages/s one way and there and back; then round trips on one CPU."""
        messages = 1_000 if quick else 2_000
        return [
            Case("one way, 1,000/s", Plan(64, messages, 10, 1, INTERVAL_NS), (CPU,)),
            Case("round trips, 1,000/s", Plan(64, messages, 10, 1, INTERVAL_NS), (CPU,)),
            Case("round trips, one CPU", Plan(64, messages * 4, messages), (P50, P99)),
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who can keep a pace."""
        return carries_bytes(contender, case) and contender.plays("paced_ping", "paced_source")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        plan = scaled(case.plan, contender)
        match case.name:
            case "one way, 1,000/s":
                return _paced_stream(contender, plan)
            case "round trips, 1,000/s":
                return _paced_round_trips(contender, plan)
            case _:
                return _on_one_cpu(contender, plan)


def _paced_stream(contender: Contender, plan: Plan) -> Measurement:
    with cast(contender, "sink", "paced_source", plan) as pair:
        pair.expect("server", "warm")
        return _cpu(pair, plan)


def _paced_round_trips(contender: Contender, plan: Plan) -> Measurement:
    with cast(contender, "echo", "paced_ping", plan) as pair:
        pair.expect("client", "warm")
        return _cpu(pair, plan)


def _cpu(pair: Pair, plan: Plan) -> Measurement:
    """CPU time of both processes per message, once everything is connected."""
    before = pair.effort()
    pair.client.release()
    pair.outcome("client")
    pair.outcome("server")
    spent = pair.effort() - before
    return Measurement({"cpu_us": spent.cpu_ns / 1000 / plan.messages}, plan.messages, pair.queued)


def _on_one_cpu(contender: Contender, plan: Plan) -> Measurement:
    """Round trips, the processes taking turns on one CPU; "queued" is in their nature here."""
    cpu, _ = pinned_cpus()
    with cast(contender, "echo", "ping", plan, cpus=(cpu, cpu)) as pair:
        return replace(latencies(pair), queued=0.0)
