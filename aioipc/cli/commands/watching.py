"""Looking at what processes do."""

from __future__ import annotations

import click

from aioipc.cli.commands.common import STATUSES, Seconds
from aioipc.cli.session import run_session

__all__ = ["top"]


@click.command(epilog=STATUSES)
@click.argument("pid", nargs=-1, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One reading: a JSON object per process.")
@click.option(
    "--interval",
    type=Seconds(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long from one table to the next.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N tables.")
def top(pid: tuple[int, ...], *, as_json: bool, interval: float, count: int | None) -> int:
    """Show what your programs that use aioipc do: the busiest first, until Ctrl-C.

    Processes, their channels, served queues and locks, with what they did per second since the
    table before. With PIDs only those processes, until all of them have ended. They are not
    disturbed: each counts on a page of memory, which this command reads.
    """
    from aioipc.cli.watching import Watching, print_once, watch  # noqa: PLC0415 - takes a while

    wanted = Watching(pid, interval, count)
    return run_session(print_once(wanted) if as_json else watch(wanted))
