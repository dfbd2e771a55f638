"""How many messages per second reach every subscriber, when none may be lost?"""

from __future__ import annotations

from benchmarks.contender import Contender, Flow, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, carries_bytes, scaled
from benchmarks.workloads.one_way import BYTES, RATE

SUBSCRIBERS = (1, 8, 50)


class PubSub:
    """One publisher, and subscribers in one process so that two CPUs suffice.

    The rate counts what arrives, so each publish counts once per subscriber.
    """

    name = "pub_sub"
    title = "Publish and subscribe"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """64 B, to one subscriber, to several and to many."""
        messages = 50_000 if quick else 200_000
        return [
            Case(
                f"64 B to {count}",
                Plan(64, messages // count, 100, clients=count),
                (RATE, BYTES),
            )
            for count in SUBSCRIBERS
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone who publishes."""
        return carries_bytes(contender, case) and contender.plays("publish", "subscribe")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        plan = scaled(case.plan, contender)
        with cast(contender, "publish", "subscribe", plan) as pair:
            pair.warm_up(sink="client")
            flow: Flow = pair.outcome("client").value
            pair.outcome("server")
        rate = flow.per_second
        metrics = {"messages_per_second": rate, "bytes_per_second": rate * plan.size}
        return Measurement(metrics, flow.messages, pair.queued)
