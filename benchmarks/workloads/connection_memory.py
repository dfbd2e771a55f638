"""What does a server keep in memory for each idle connection?"""

from __future__ import annotations

import time

from benchmarks.contender import Contender, Plan
from benchmarks.harness import cast
from benchmarks.proc import resident_bytes
from benchmarks.workload import Case, Measurement, Metric, carries_bytes

SETTLE_S = 0.2

OBJECTS = Metric("object_bytes", "Python objects", "bytes")
RESIDENT = Metric("resident_bytes", "resident (RssAnon)", "bytes")


class ConnectionMemory:
    """The server's memory with all clients connected, less its memory with none, per client.

    Two runs: one traced (tracemalloc sees what Python's allocator gave, buffers included), one
    that is not, for the kernel's view.
    """

    name = "connection_memory"
    title = "Memory per idle connection (server)"
    rounds = 1

    def cases(self, *, quick: bool) -> list[Case]:
        """As many connections as are needed to see one through the page size."""
        return [Case("idle", Plan(64, 1, 1, 200 if quick else 1_000), (OBJECTS, RESIDENT))]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone whose server takes many clients and who can hold them."""
        playable = contender.plays("echo", "hold")
        return carries_bytes(contender, case) and contender.many_echoes and playable

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One traced run, one plain run."""
        metrics = {
            "object_bytes": _objects(contender, case.plan) / case.plan.clients,
            "resident_bytes": _resident(contender, case.plan) / case.plan.clients,
        }
        return Measurement(metrics, case.plan.clients)


def _objects(contender: Contender, plan: Plan) -> int:
    with cast(contender, "echo", "hold", plan, trace_memory=True) as pair:
        pair.expect("client", "holding")
        time.sleep(SETTLE_S)
        return pair.traced_bytes()


def _resident(contender: Contender, plan: Plan) -> int:
    with cast(contender, "echo", "hold", plan, hesitate=True) as pair:
        before = resident_bytes(pair.server.pid)
        pair.client.release()
        pair.expect("client", "holding")
        time.sleep(SETTLE_S)
        return resident_bytes(pair.server.pid) - before
