"""How many methods of another process can be called per second?"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contender import Contender, Plan, Role
from benchmarks.harness import cast
from benchmarks.workload import Case, Measurement, Metric, with_messages

CALLS = Metric("calls_per_second", "calls/s", "per_second", higher_is_better=True)
ITEMS = Metric("calls_per_second", "items/s", "per_second", higher_is_better=True)
CALLERS = 100
STREAM = "a stream of results"


class Calls:
    """``add(a, b)`` by one caller and by many at once over one connection; and a stream."""

    name = "calls"
    title = "Remote calls"
    rounds = 9

    def cases(self, *, quick: bool) -> list[Case]:
        """Each caller waits for its result before it calls again."""
        alone = Plan(messages=60_000 if quick else 300_000, warmup=10_000)
        crowd = replace(alone, messages=alone.messages // 60, warmup=200, callers=CALLERS)
        return [
            Case("1 caller", alone, (CALLS,)),
            Case(f"{CALLERS} callers", crowd, (CALLS,)),
            Case(STREAM, alone, (ITEMS,)),
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone whose server can be called."""
        return contender.plays("answer", _client(case))

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round."""
        plan = with_messages(case.plan, round(case.plan.messages * contender.call_pace))
        with cast(contender, "answer", _client(case), plan) as pair:
            flow = pair.outcome("client").value
            pair.outcome("server")
        return Measurement({CALLS.key: flow.per_second}, flow.messages, pair.queued)


def _client(case: Case) -> Role:
    return "watch" if case.name == STREAM else "call"
