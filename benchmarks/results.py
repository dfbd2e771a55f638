"""What a run found: rounds, medians, ratios, and their JSON form."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender
from benchmarks.workload import Case, Measurement, Metric, Workload

UVLOOP_REFERENCE = "tuned Protocol (uvloop)"
ASYNCIO_REFERENCE = "tuned Protocol (asyncio)"


@dataclass
class Entry:
    """All rounds of one contender in one case. A failed round is None."""

    contender: str
    family: str
    rounds: list[Measurement | None] = field(default_factory=list)

    def median(self, key: str) -> float | None:
        """The median over the rounds."""
        values = self.values(key)
        return statistics.median(values) if values else None

    def values(self, key: str) -> list[float]:
        """The figure of each calm round; of every round where none was calm."""
        found = [each for each in self.rounds if each and key in each.metrics]
        calm = [each for each in found if each.is_calm]
        return [each.metrics[key] for each in calm or found]

    def spread(self, key: str) -> float | None:
        """How far the rounds lie apart: (largest - smallest) / median."""
        values = self.values(key)
        middle = statistics.median(values) if values else 0
        return (max(values) - min(values)) / middle if middle else None

    @property
    def queued(self) -> float:
        """Median share of the time that neighbours took from it."""
        return statistics.median([each.queued for each in self.rounds if each] or [0.0])

    @property
    def note(self) -> str:
        """What the last round had to say."""
        return next((each.note for each in reversed(self.rounds) if each), "")

    @property
    def messages(self) -> int:
        """Measured messages of one round."""
        return next((each.messages for each in self.rounds if each), 0)


@dataclass
class Table:
    """One case of one workload, with everyone who took part."""

    workload: str
    title: str
    case: str
    metrics: tuple[Metric, ...]
    entries: dict[str, Entry] = field(default_factory=dict)

    def ratio(self, contender: str, reference: str, metric: Metric) -> float | None:
        """How many times better the contender is than the reference."""
        if contender not in self.entries or reference not in self.entries:
            return None
        better = partial(_better, metric=metric)
        return compare(self.entries[contender], self.entries[reference], metric.key, better)

    def ranking(self) -> list[Entry]:
        """The entries, best first; those without a figure last."""
        metric = self.metrics[0]
        sign = -1 if metric.higher_is_better else 1

        def rank(entry: Entry) -> tuple[bool, float]:
            median = entry.median(metric.key)
            return median is None, sign * (median or 0)

        return sorted(self.entries.values(), key=rank)


def compare(
    ours: Entry, theirs: Entry, key: str, quotient: Callable[[float, float], float]
) -> float | None:
    """The median over the rounds of a quotient; of the calm ones, where there are any.

    Neighbours on the machine slow whole rounds, so a round is compared with itself.
    """
    pairs = [
        (one, other)
        for one, other in zip(ours.rounds, theirs.rounds, strict=False)
        if one and other and key in one.metrics and key in other.metrics
    ]
    calm = [(one, other) for one, other in pairs if one.is_calm and other.is_calm]
    found = [quotient(one.metrics[key], other.metrics[key]) for one, other in calm or pairs]
    return statistics.median(found) if found else None


def _better(ours: float, theirs: float, metric: Metric) -> float:
    larger, smaller = (ours, theirs) if metric.higher_is_better else (theirs, ours)
    if larger == smaller:
        return 1.0
    return larger / smaller if smaller else float("inf")


@dataclass
class Results:
    """Everything one run found."""

    environment: dict[str, object]
    options: dict[str, object]
    tables: list[Table] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    def open_table(self, workload: Workload, case: Case) -> Table:
        """Start the table of one case."""
        self.tables.append(Table(workload.name, workload.title, case.name, case.metrics))
        return self.tables[-1]

    def find(self, workload: str, case: str) -> Table | None:
        """The table of one case, if it was measured."""
        found = (each for each in self.tables if (each.workload, each.case) == (workload, case))
        return next(found, None)

    def save(self, file: Path) -> None:
        """Write everything as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self._document(), indent=1) + "\n")

    def _document(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "options": self.options,
            "skipped": self.skipped,
            "failures": self.failures,
            "interrupted": self.interrupted,
            "tables": [_table_document(table) for table in self.tables if table.entries],
        }


def _table_document(table: Table) -> dict[str, Any]:
    return {
        "workload": table.workload,
        "title": table.title,
        "case": table.case,
        "metrics": [asdict(metric) for metric in table.metrics],
        "entries": [
            {
                "contender": entry.contender,
                "family": entry.family,
                "median": {each.key: entry.median(each.key) for each in table.metrics},
                "ratio_to_uvloop": table.ratio(entry.contender, UVLOOP_REFERENCE, table.metrics[0]),
                "ratio_to_asyncio": table.ratio(
                    entry.contender, ASYNCIO_REFERENCE, table.metrics[0]
                ),
                "rounds": [asdict(each) if each else None for each in entry.rounds],
            }
            for entry in table.ranking()
        ],
    }


def load(file: Path) -> Results:
    """Read what ``Results.save`` wrote."""
    document = json.loads(file.read_text())
    results = Results(document["environment"], document["options"])
    results.skipped = document["skipped"]
    results.failures = document["failures"]
    results.interrupted = document["interrupted"]
    results.tables = [_read_table(table) for table in document["tables"]]
    return results


def _read_table(document: dict[str, Any]) -> Table:
    metrics = tuple(Metric(**metric) for metric in document["metrics"])
    table = Table(document["workload"], document["title"], document["case"], metrics)
    for each in document["entries"]:
        rounds = [Measurement(**found) if found else None for found in each["rounds"]]
        table.entries[each["contender"]] = Entry(each["contender"], each["family"], rounds)
    return table


def entry_of(table: Table, contender: Contender) -> Entry:
    """The entry of a contender in a table, made at its first round."""
    fresh = Entry(contender.name, contender.family)
    return table.entries.setdefault(contender.name, fresh)
