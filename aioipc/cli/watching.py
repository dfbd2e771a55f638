"""``aioipc top``: read the statistics of other processes, now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.live import Live

from aioipc.cli.notation import Notation
from aioipc.cli.problems import PeerFailed
from aioipc.cli.rates import Paced, Pacing
from aioipc.cli.screen import screen, screen_as_text
from aioipc.cli.session import first_of
from aioipc.cli.standard import Output
from aioipc.kernel.pages import Counted, Reading, read_pages

__all__ = ["Watching", "print_once", "watch"]

_FIRST_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Watching:
    """What ``aioipc top`` was asked to do.

    Attributes:
        pids: The processes; none for all.
        interval_s: How long from one table to the next.
        count: How many tables to show; None for no end.
    """

    pids: Sequence[int]
    interval_s: float = 1.0
    count: int | None = None


async def print_once(wanted: Watching) -> None:
    """Print one reading as JSON, one process per line.

    Raises:
        PeerFailed: None of the processes that were asked for counts anything.

    Cancellation:
        Abandons it.
    """
    readings = _read_first(wanted)
    now_ns = time.monotonic_ns()
    async with Output.open(Notation.of("text", None, as_json=True)) as output:
        for reading in readings:
            await output.print([_facts(reading, now_ns)])


async def watch(wanted: Watching) -> None:
    """Show tables until there were enough, or all processes that were asked for have ended.

    Raises:
        PeerFailed: None of them counts anything.
        OutputClosed: Nobody reads the tables any more.

    Cancellation:
        Abandons it, and leaves the terminal as it was.
    """
    first = _read_first(wanted)
    console = Console()
    if console.is_terminal:
        await _watch_live(wanted, first, console)
        return
    async with Output.open(Notation.of("text", None, as_json=False)) as output:
        await first_of(_watch_as_text(wanted, first, output), output.wait_closed())


async def _watch_live(wanted: Watching, first: list[Reading], console: Console) -> None:
    # It refreshes when it is told to: no thread.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for readings, paced in _readings(wanted, first):
            live.update(screen(readings, paced, console.height), refresh=True)


async def _watch_as_text(wanted: Watching, first: list[Reading], output: Output) -> None:
    async for readings, paced in _readings(wanted, first):
        await output.print([screen_as_text(readings, paced)])


async def _readings(
    wanted: Watching, first: list[Reading]
) -> AsyncIterator[tuple[list[Reading], list[Paced]]]:
    """One reading after the other, with the rates since the one before."""
    pacing = Pacing()
    pacing.pace(first, time.monotonic_ns())
    await asyncio.sleep(min(_FIRST_S, wanted.interval_s))
    shown = 0
    while True:
        readings = read_pages(wanted.pids or None)
        if wanted.pids and not readings:
            return
        yield readings, pacing.pace(readings, time.monotonic_ns())
        shown += 1
        if shown == wanted.count:
            return
        await asyncio.sleep(wanted.interval_s)


def _read_first(wanted: Watching) -> list[Reading]:
    readings = read_pages(wanted.pids or None)
    if wanted.pids and not readings:
        pids = ", ".join(map(str, wanted.pids))
        raise PeerFailed(f"no statistics of {pids}: no such process of yours has used aioipc yet")
    return readings


def _facts(reading: Reading, now_ns: int) -> dict[str, object]:
    return {
        "pid": reading.pid,
        "command": reading.command,
        "age_s": _age_s(reading.opened_ns, now_ns),
        "refused": reading.refused,
        "rows": [_row_facts(row, now_ns) for row in reading.rows],
    }


def _row_facts(row: Counted, now_ns: int) -> dict[str, object]:
    facts: dict[str, object] = {"kind": row.kind.name.lower()}
    if row.is_sum:
        facts["closed"] = row.closed
    else:
        facts |= {"name": row.name, "peer": row.peer or None}
    return {**facts, "age_s": _age_s(row.opened_ns, now_ns), **row.counts}


def _age_s(opened_ns: int, now_ns: int) -> float:
    return round(max(0, now_ns - opened_ns) / 1e9, 3)
