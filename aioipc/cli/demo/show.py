"""What the demo shows: a bar while it works, and then the table or the JSON."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from aioipc.cli.demo.book import TITLE
from aioipc.cli.demo.measure import Row
from aioipc.cli.problems import print_out

__all__ = ["Bar", "show_json", "show_table"]

_FRAME_S = 0.1


class Bar:
    """A progress bar on the standard error, if that is a terminal.

    It draws when it is told to: a thread that does so by itself would disturb what is measured.

    Args:
        steps: How many there will be.
        seconds: How long one takes.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._seconds = seconds
        self._task = self._progress.add_task("starting the other process", total=steps * seconds)
        self._done = -1
        self._begun = self._drawn = time.monotonic()

    def step(self, description: str) -> None:
        """The next step begins."""
        self._done += 1
        self._begun = time.monotonic()
        self._draw(description=description)

    def tick(self) -> None:
        """The step goes on; cheap to call often."""
        if time.monotonic() - self._drawn >= _FRAME_S:
            self._draw()

    def _draw(self, **changes: Any) -> None:
        self._drawn = time.monotonic()
        part = min(self._drawn - self._begun, self._seconds)
        done = self._done * self._seconds + part
        self._progress.update(self._task, completed=done, refresh=True, **changes)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def show_json(rows: list[Row], other_pid: int) -> None:
    """Print one JSON object with everything."""
    report = {**_circumstances(other_pid), "checked": _checked(rows), "transports": rows}
    print_out(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")


def show_table(rows: list[Row], other_pid: int) -> None:
    """Print the table, what it means, and what to try next."""
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(_headline(other_pid))
        console.print(_table(rows))
        console.print(_LEGEND)
        console.print(_verdict(rows))
        console.print(_next_steps(), soft_wrap=True)  # for copying
    print_out(capture.get())


def _circumstances(other_pid: int) -> dict[str, Any]:
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "processes": [os.getpid(), other_pid],
        "python": platform.python_version(),
        "loop": loop,
        "cpus": len(os.sched_getaffinity(0)),
    }


def _checked(rows: list[Row]) -> int:
    return sum(row.checked for row in rows)


def _headline(other_pid: int) -> str:
    about = _circumstances(other_pid)
    cpus = "1 CPU" if about["cpus"] == 1 else f"{about['cpus']} CPUs"
    return (
        f"[bold]Process {os.getpid()} and process {other_pid} have talked[/bold] "
        f"(Python {about['python']}, {about['loop']}, {cpus})"
    )


def _table(rows: list[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("transport", style="bold", no_wrap=True)
    table.add_column("which is")
    for name, style in _FIGURES.items():
        table.add_column(name, justify="right", style=style, no_wrap=True)
    for row in rows:
        table.add_row(row.scheme, *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    if row.rate is None or row.polling is None or row.blocking is None:
        return [row.what, "[red]failed[/red]"]
    return [
        row.what,
        f"{row.rate.per_s:,.0f}",
        f"{row.polling.p50_us:,.1f}",
        f"{row.polling.p99_us:,.1f}",
        f"{row.blocking.p50_us:,.1f}",
    ]


_FIGURES = {"messages/s": "green", "p50 µs": "cyan", "p99 µs": "cyan", "asleep µs": "dim cyan"}

_LEGEND = """[dim]\
messages/s  one way, by: await channel.send(message)
p50, p99    there and back, one at a time; waits poll for a moment, then sleep
asleep      the p50 of waits that sleep at once: polling="block"[/dim]"""


def _verdict(rows: list[Row]) -> str:
    failures = [
        f"[bold red]Failed: {row.scheme}:[/bold red] {escape(row.problem)}"
        for row in rows
        if row.problem
    ]
    checked = (
        f"{_checked(rows):,} messages, {TITLE}, were compared with what they should be. "
        "None was lost, doubled, changed or out of order."
    )
    return "\n" + "\n".join(failures or [f"[bold green]All right:[/bold green] {checked}"])


def _next_steps() -> str:
    aioipc = _program()
    return f"""
[bold]What to try next[/bold]
  in one terminal       {aioipc} listen unix:hello --echo
  in another            {aioipc} send unix:hello "hello, world" --wait-reply
  and from Python       async with aioipc.connect("unix:hello") as channel:
                            await channel.send({{"answer": 42}})
                            print(await channel.receive())
README.md has both sides in Python; {aioipc} --help has the rest."""


def _program() -> str:
    """How to call this program from here, as ``make demo`` does not put it into PATH."""
    if shutil.which("aioipc"):
        return "aioipc"
    program = Path(sys.argv[0])
    if program.name != "aioipc":
        return f"{shlex.quote(sys.executable)} -m aioipc"
    with contextlib.suppress(ValueError):
        program = program.absolute().relative_to(Path.cwd())
    return shlex.quote(str(program))
