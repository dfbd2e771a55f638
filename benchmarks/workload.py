"""What a workload is: one question, asked of every contender that can answer it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks.contender import Contender, Plan

DISTURBED = 0.05
"""From this share of its time on, spent waiting for a CPU, a round says more about others."""


@dataclass(frozen=True)
class Metric:
    """One figure of a measurement.

    Attributes:
        key: Its name in the JSON file.
        title: Its column in the table.
        unit: "per_second", "us", "count", "bytes", ...; decides how it is printed.
        higher_is_better: Direction of the ratio against the reference.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Case:
    """One variant of a workload, for example a message size; it gets a table of its own.

    Attributes:
        name: Unique within its workload.
        plan: How much work one round is.
        metrics: What is measured; the first one ranks the contenders and carries the ratios.
    """

    name: str
    plan: Plan
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Measurement:
    """One round of one contender.

    Attributes:
        metrics: The figures.
        messages: How many messages were measured.
        queued: Share of the time in which a process waited for a CPU that neighbours had.
        note: Whatever else there is to say.
    """

    metrics: dict[str, float]
    messages: int
    queued: float = 0.0
    note: str = ""

    @property
    def is_calm(self) -> bool:
        """Whether the neighbours left it the CPUs."""
        return self.queued < DISTURBED


class Workload(Protocol):
    """A question.

    Attributes:
        name: What ``--workload`` takes.
        title: Headline of its tables.
        rounds: At most this many rounds, where more would only cost time.
    """

    name: str
    title: str
    rounds: int

    def cases(self, *, quick: bool) -> Sequence[Case]:
        """The variants to measure."""

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Whether this contender can answer."""

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """Run one round.

        Raises:
            RoleFailed: One of the two processes failed.
        """


def scaled(plan: Plan, contender: Contender) -> Plan:
    """The plan with the contender's share of the messages."""
    return with_messages(plan, round(plan.messages * contender.pace))


def with_messages(plan: Plan, messages: int) -> Plan:
    """The plan with another number of messages; its warm-up changes in proportion."""
    messages = max(2, messages)
    warmup = max(1, round(plan.warmup * messages / plan.messages))
    return replace(plan, messages=messages, warmup=warmup)


def percentile(samples: Iterable[float], percent: float) -> float:
    """The sample below which ``percent`` of all samples lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def carries_bytes(contender: Contender, case: Case) -> bool:
    """Whether the contender can carry the messages of this case, as bytes."""
    return contender.carries == "bytes" and case.plan.size <= contender.max_size
