"""How many messages per second go one way? From 16 bytes to 16 MiB."""

from __future__ import annotations

from benchmarks.contender import Contender, Flow, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, Metric, carries_bytes, scaled

RATE = Metric("messages_per_second", "messages/s", "per_second", higher_is_better=True)
BYTES = Metric("bytes_per_second", "bytes/s", "bytes_per_second", higher_is_better=True)

SIZES = {
    # name: (bytes, messages, messages of a quick run)
    "16 B": (16, 2_000_000, 500_000),
    "128 B": (128, 2_000_000, 500_000),
    "1 KiB": (1 << 10, 500_000, 150_000),
    "64 KiB": (64 << 10, 20_000, 5_000),
    "1 MiB": (1 << 20, 1_500, 300),
    "16 MiB": (16 << 20, 60, 12),
}


class OneWay:
    """A source, a sink; the rate is measured at the sink, from the first to the last message."""

    name = "one_way"
    title = "One-way stream"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """One case for each size."""
        return [
            Case(name, Plan(size, few if quick else many, max(16, few // 10)), (RATE, BYTES))
            for name, (size, many, few) in SIZES.items()
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who can stream."""
        return carries_bytes(contender, case) and contender.plays("sink", "source")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        return stream(contender, scaled(case.plan, contender))


def stream(contender: Contender, plan: Plan) -> Measurement:
    """Stream from one process to the other; the figures of the sink."""
    with cast(contender, "sink", "source", plan) as pair:
        pair.warm_up()
        flow: Flow = pair.outcome("server").value
        pair.outcome("client")
    rate = flow.per_second
    metrics = {"messages_per_second": rate, "bytes_per_second": rate * plan.size}
    return Measurement(metrics, flow.messages, pair.queued)
