"""What do a put and a get cost, where nobody has to wait?"""

from __future__ import annotations

from benchmarks.contender import Contender, Flow, Plan
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, carries_bytes, scaled
from benchmarks.workloads.one_way import RATE


class KernelQueues:
    """One process puts eight messages in and takes them out again."""

    name = "kernel_queues"
    title = "Message queues of the kernel, and mailboxes: put and get in one process"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """Two sizes."""
        messages = 50_000 if quick else 200_000
        sizes = {"64 B": 64, "1 KiB": 1 << 10}
        return [Case(name, Plan(size, messages, 1_000), (RATE,)) for name, size in sizes.items()]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Queues, and what is like one."""
        return carries_bytes(contender, case) and contender.plays("shuttle", "stand_by")

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        with cast(contender, "shuttle", "stand_by", scaled(case.plan, contender)) as pair:
            pair.warm_up()
            flow: Flow = pair.outcome("server").value
            pair.outcome("client")
        return Measurement({"messages_per_second": flow.per_second}, flow.messages, pair.queued)
