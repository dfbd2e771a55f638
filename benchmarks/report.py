"""The tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.results import ASYNCIO_REFERENCE, UVLOOP_REFERENCE, Entry, Results, Table
from benchmarks.targets import Verdict
from benchmarks.units import factor, figure

_STYLES = {"aioipc": "bold cyan", "reference": "bold", "peer": ""}
_MARKS = {True: "[green]reached[/]", False: "[red]missed[/]"}


def print_results(console: Console, results: Results) -> None:
    """One table for each case, then what was left out and what failed."""
    for table in results.tables:
        if table.entries:
            console.print(_table(table))
    for name, reason in results.skipped.items():
        console.print(f"[dim]skipped: {name}: {reason}[/]", highlight=False)
    for failure in results.failures:
        console.print("failed: " + failure, style="red", markup=False, highlight=False)


def print_verdicts(console: Console, verdicts: list[Verdict]) -> None:
    """The targets that this run could judge, and how many it could not."""
    judged = [verdict for verdict in verdicts if verdict.reached is not None]
    table = RichTable(title="Targets", box=box.SIMPLE, title_justify="left")
    table.add_column("target", overflow="fold")
    table.add_column("contender")
    table.add_column("wanted", justify="right")
    table.add_column("found", justify="right")
    table.add_column("")
    for verdict in judged:
        target = verdict.target
        assert verdict.found is not None
        found = figure(verdict.found, target.unit)
        mark = _MARKS[bool(verdict.reached)]
        table.add_row(target.text, target.contender, _wanted(verdict), found, mark)
    console.print(table)
    reached = sum(1 for verdict in judged if verdict.reached)
    others = len(verdicts) - len(judged)
    console.print(f"{reached} of {len(judged)} reached; {others} not measured in this run")


def _wanted(verdict: Verdict) -> str:
    """The bound that counted, and the promised one, if the machine does not allow it."""
    target = verdict.target
    wanted = f"{target.sign} {figure(verdict.bound, target.unit)}"
    if verdict.bound == target.bound:
        return wanted
    return f"{wanted} instead of {figure(target.bound, target.unit)}"


def _table(found: Table) -> RichTable:
    title = f"{found.title}: {found.case}"
    table = RichTable(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for metric in found.metrics:
        table.add_column(metric.title, justify="right", no_wrap=True)
    table.add_column("± rounds", justify="right", style="dim", no_wrap=True)
    table.add_column("queued", justify="right", style="dim", no_wrap=True)
    for reference in ("tuned uvloop", "tuned asyncio"):
        table.add_column(f"× {reference}", justify="right", no_wrap=True)
    with_notes = any(entry.note for entry in found.entries.values())
    if with_notes:
        table.add_column("commonest", style="dim", overflow="fold")
    for entry in found.ranking():
        notes = [entry.note] if with_notes else []
        table.add_row(*_row(found, entry), *notes, style=_STYLES[entry.family])
    return table


def _row(table: Table, entry: Entry) -> list[str]:
    cells = [entry.contender]
    for metric in table.metrics:
        median = entry.median(metric.key)
        cells.append("failed" if median is None else figure(median, metric.unit))
    spread = entry.spread(table.metrics[0].key)
    cells.append("" if spread is None else f"{spread / 2:.0%}")
    cells.append(f"{entry.queued:.0%}")
    for reference in (UVLOOP_REFERENCE, ASYNCIO_REFERENCE):
        ratio = table.ratio(entry.contender, reference, table.metrics[0])
        cells.append("" if ratio is None else factor(ratio))
    return cells
