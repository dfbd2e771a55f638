"""The command line: choose, measure in interleaved rounds, print, save."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks import machine, plot, report, targets
from benchmarks.contender import Contender
from benchmarks.harness import RoleFailed
from benchmarks.peers import load_contenders
from benchmarks.results import Results, Table, entry_of, load
from benchmarks.workload import Case, Measurement, Workload
from benchmarks.workloads import WORKLOADS

ROUNDS = 3
INTERRUPTED = 130
WIDTH_OF_A_FILE = 140


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    quick: bool
    workloads: tuple[str, ...]
    cases: tuple[str, ...]
    only: tuple[str, ...]
    rounds: int
    patience: int

    def chosen_workloads(self) -> list[Workload]:
        """The workloads to run, in the order of the table."""
        return [each for each in WORKLOADS if not self.workloads or each.name in self.workloads]

    def chosen_cases(self, workload: Workload) -> list[Case]:
        """The variants of a workload to run."""
        found = workload.cases(quick=self.quick)
        return [case for case in found if not self.cases or case.name in self.cases]

    def wants(self, contender: Contender) -> bool:
        """Whether a contender takes part. The references always do."""
        if contender.family == "reference":
            return True
        if self.only:
            return any(text in contender.name for text in self.only)
        return contender.quick or not self.quick


@dataclass(frozen=True)
class Turn:
    """One round of one contender in one case."""

    table: Table
    workload: Workload
    case: Case
    contender: Contender


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--quick", is_flag=True, help="Fewer messages, rounds and contenders: minutes.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice([each.name for each in WORKLOADS]),
    help="Only this workload. May be repeated.",
)
@click.option(
    "--case",
    "cases",
    multiple=True,
    metavar="NAME",
    help='Only this case of a workload, like "16 B". May be repeated.',
)
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Only contenders whose name contains this; the references stay. May be repeated.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=ROUNDS,
    show_default=True,
    help="Rounds of each measurement.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Repeat a round that neighbours disturbed at most this often; keep the calmest.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    default=".benchmarks/results.json",
    show_default=True,
    help="Where to save the results.",
)
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw an SVG file.")
@click.option("--check-targets", is_flag=True, help="Say which targets were reached.")
@click.option(
    "--load",
    "loaded",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Measure nothing; show the results of an earlier --json.",
)
@click.option("--list", "list_only", is_flag=True, help="List workloads and contenders.")
def main(
    *,
    quick: bool,
    workloads: tuple[str, ...],
    cases: tuple[str, ...],
    only: tuple[str, ...],
    rounds: int,
    patience: int,
    json_file: Path,
    plot_file: Path | None,
    check_targets: bool,
    loaded: Path | None,
    list_only: bool,
) -> None:
    """Measure aioipc beside its peers: same payloads, own CPU for each process, median of rounds.

    Ratios are against the tuned Protocol (asyncio.Protocol with hand-written length framing on a
    Unix socket): above 1 is better than it, whichever direction the figure has. "queued" is the
    share of the time in which a process waited for a CPU that neighbours had: above some percent,
    the figures say more about them.
    """
    console = _console()
    options = Options(quick, workloads, cases, only, rounds, patience)
    if list_only:
        _print_list(console, options)
        return
    results = load(loaded) if loaded else _measure(console, options)
    report.print_results(console, results)
    if check_targets:
        report.print_verdicts(console, targets.judge(results))
    if not loaded:
        results.save(json_file)
        console.print(f"results: {json_file}", highlight=False)
    if plot_file:
        plot.draw(results, plot_file)
        console.print(f"plot: {plot_file}", highlight=False)
    if results.interrupted:
        raise SystemExit(INTERRUPTED)
    if results.failures:
        raise SystemExit(1)


def _console() -> Console:
    """The terminal; a file or a pipe is as wide as the tables need."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    return console


def _measure(console: Console, options: Options) -> Results:
    contenders, skipped = load_contenders()
    results = Results(machine.describe(), asdict(options))
    results.skipped = skipped
    chosen = [each for each in contenders if options.wants(each)]
    turns = list(_turns(options, chosen, results))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways to stop keep results
    try:
        _take(turns, options.patience, results, console)
    except KeyboardInterrupt:
        console.print("interrupted; what was measured so far:", style="yellow")
        results.interrupted = True
    return results


def _turns(options: Options, contenders: Sequence[Contender], results: Results) -> Iterator[Turn]:
    """All turns: round by round, every contender once, each round starting with another one."""
    for workload in options.chosen_workloads():
        for case in options.chosen_cases(workload):
            able = [each for each in contenders if workload.accepts(each, case)]
            if not any(each.family != "reference" for each in able):
                continue
            table = results.open_table(workload, case)
            for number in range(min(options.rounds, workload.rounds)):
                start = number % len(able)
                for contender in able[start:] + able[:start]:
                    yield Turn(table, workload, case, contender)


def _take(turns: Sequence[Turn], patience: int, results: Results, console: Console) -> None:
    """Take every turn. The bar is drawn between turns only, never while a clock runs."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        bar = progress.add_task("", total=len(turns))
        for turn in turns:
            label = f"{turn.workload.name}, {turn.case.name}: {turn.contender.name}"
            progress.update(bar, description=label, refresh=True)
            entry_of(turn.table, turn.contender).rounds.append(_attempt(turn, patience, results))
            progress.advance(bar)


def _attempt(turn: Turn, patience: int, results: Results) -> Measurement | None:
    """One round; repeated where neighbours took too much of the CPU, and the calmest one kept."""
    try:
        calmest = turn.workload.measure(turn.contender, turn.case)
        while not calmest.is_calm and patience:
            patience -= 1
            again = turn.workload.measure(turn.contender, turn.case)
            calmest = min(calmest, again, key=lambda found: found.queued)
        return calmest
    except (RoleFailed, OSError) as error:
        where = f"{turn.workload.name}, {turn.case.name}: {turn.contender.name}"
        results.failures.append(f"{where}: {error}")
        return None


def _print_list(console: Console, options: Options) -> None:
    contenders, skipped = load_contenders()
    console.print("[bold]workloads[/]")
    for workload in WORKLOADS:
        console.print(f"  {workload.name:18} {workload.title}", highlight=False)
    console.print("[bold]contenders[/] (* takes part in this run)")
    for contender in contenders:
        mark = "*" if options.wants(contender) else " "
        console.print(f" {mark} {contender.name}", highlight=False)
    for name, reason in skipped.items():
        console.print(f"   {name}: {reason}", style="dim", highlight=False)
