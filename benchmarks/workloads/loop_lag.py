"""How late does another task in the same loop run while a channel works?"""

from __future__ import annotations

import time

from benchmarks.contender import Contender, Flow, Plan
from benchmarks.harness import Outcome, cast
from benchmarks.workload import (
    Case,
    Measurement,
    Metric,
    carries_bytes,
    percentile,
    scaled,
    with_messages,
)

METRICS = (
    Metric("lag_p99_us", "lag p99", "us"),
    Metric("lag_p50_us", "lag p50", "us"),
    Metric("lag_max_us", "worst", "us"),
)
SECONDS = 1.0
SECONDS_QUICK = 0.5


class LoopLag:
    """A second task waits for a kernel timer that fires every millisecond.

    "silent" is the floor: the same loop with an idle connection, where the lag is the machine's
    own wake-up time.
    """

    name = "loop_lag"
    title = "Loop lag of another task"
    rounds = 3

    def __init__(self) -> None:
        self._seconds = SECONDS
        self._rates: dict[tuple[str, str], float] = {}

    def cases(self, *, quick: bool) -> list[Case]:
        """Silence; round trips, which is where polling happens; streaming, at the sink."""
        self._seconds = SECONDS_QUICK if quick else SECONDS
        return [
            Case("silent", Plan(64, 1, 1), METRICS),
            Case("round trips", Plan(64, 5_000, 1_000), METRICS),
            Case("streaming", Plan(64, 100_000, 1_000), METRICS),
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """The references and aioipc: where a program has a loop to be held up."""
        playable = contender.plays("echo", "ping", "hold", "sink", "source")
        has_loop = contender.family != "peer" and contender.loop is not None
        return carries_bytes(contender, case) and has_loop and playable

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One round, long enough for hundreds of ticks."""
        lags = [nanoseconds / 1000 for nanoseconds in self._lags(contender, case)]
        metrics = {
            "lag_p99_us": percentile(lags, 99),
            "lag_p50_us": percentile(lags, 50),
            "lag_max_us": max(lags),
        }
        return Measurement(metrics, len(lags))

    def _lags(self, contender: Contender, case: Case) -> list[int]:
        if case.name == "silent":
            return _silent(contender, case.plan, self._seconds)
        run = _round_trips if case.name == "round trips" else _streaming
        key = (contender.name, case.name)
        if key not in self._rates:
            self._rates[key] = _rate(run(contender, scaled(case.plan, contender)))
        messages = round(self._seconds * self._rates[key])
        return run(contender, with_messages(case.plan, messages)).lags_ns


def _rate(outcome: Outcome) -> float:
    """Messages per second of a first, short run."""
    if isinstance(outcome.value, Flow):
        return outcome.value.per_second
    latencies_ns: list[int] = outcome.value
    return 1e9 * len(latencies_ns) / sum(latencies_ns)


def _round_trips(contender: Contender, plan: Plan) -> Outcome:
    with cast(contender, "echo", "ping", plan, lag="client") as pair:
        return pair.outcome("client")


def _streaming(contender: Contender, plan: Plan) -> Outcome:
    with cast(contender, "sink", "source", plan, lag="server") as pair:
        pair.warm_up()
        return pair.outcome("server")


def _silent(contender: Contender, plan: Plan, seconds: float) -> list[int]:
    with cast(contender, "echo", "hold", plan, lag="client") as pair:
        pair.expect("client", "holding")
        time.sleep(seconds)
        pair.client.release()
        return pair.outcome("client").lags_ns
