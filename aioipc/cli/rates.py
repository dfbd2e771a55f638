"""How fast counts grow, from one reading of the statistics to the next: pure arithmetic."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aioipc.kernel.pages import Counted, Reading
from aioipc.kernel.statistics import Kind

__all__ = ["Paced", "Pacing", "Rates", "total"]

Rates = dict[str, float]
"""Counts per second, by name."""

_Identity = tuple[int, int, int]
"""A process, its page, and the row in it."""

_ACTS: Final = frozenset(
    {"messages_sent", "messages_received", "acquired", "accepted", "given", "put", "got"}
)
_BYTES: Final = ("bytes_sent", "bytes_received")
_STREAM_ACT_BYTES: Final = 4096
"""A byte stream has no messages to count."""


@dataclass(frozen=True, slots=True)
class Paced:
    """A row, and how fast its counts grow.

    Attributes:
        pid: Whose it is.
        row: What it says now.
        rates: By the names of the counts.
    """

    pid: int
    row: Counted
    rates: Rates

    @property
    def activity(self) -> float:
        """What to sort by: how much it does, whatever that is."""
        if self.row.kind is Kind.STREAM:
            return sum(self.rates.get(name, 0) for name in _BYTES) / _STREAM_ACT_BYTES
        return sum(rate for name, rate in self.rates.items() if name in _ACTS)


class Pacing:
    """Compares each reading with the one before.

    What is seen for the first time has grown since it was opened.
    """

    def __init__(self) -> None:
        self._before: dict[_Identity, Counted] = {}
        self._then_ns = 0

    def pace(self, readings: Sequence[Reading], now_ns: int) -> list[Paced]:
        """The rows of all processes, sums included.

        Args:
            readings: What was read now.
            now_ns: On the clock of ``time.monotonic_ns``.
        """
        paced: list[Paced] = []
        seen: dict[_Identity, Counted] = {}
        for reading in readings:
            for row in reading.rows:
                identity = (reading.pid, reading.opened_ns, row.serial)
                before = self._before.get(identity)
                since_ns = row.opened_ns if before is None else self._then_ns
                seen[identity] = row
                paced.append(Paced(reading.pid, row, _rates(row, before, now_ns - since_ns)))
        self._before, self._then_ns = seen, now_ns
        return paced


def total(rows: Sequence[Paced], kind: Kind) -> Rates:
    """All rows of a kind together, sums of closed ones included."""
    rates: collections.Counter[str] = collections.Counter()
    for paced in rows:
        if paced.row.kind is kind:
            rates.update(paced.rates)
    return dict(rates)


def _rates(row: Counted, before: Counted | None, elapsed_ns: int) -> Rates:
    seconds = max(elapsed_ns, 1_000_000) / 1e9
    old = {} if before is None else before.counts
    # Words are read one after the other, so a process that writes nonsense may count backwards.
    return {name: max(0, n - old.get(name, 0)) / seconds for name, n in row.counts.items()}
