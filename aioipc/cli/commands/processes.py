"""Running other programs: while holding a lock, and as workers."""

from __future__ import annotations

import click

from aioipc.cli.commands.common import STATUSES, number_option, seconds_option
from aioipc.cli.session import run_session

__all__ = ["lock", "run"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-n", "--nonblock", is_flag=True, help="Do not wait: the same as --timeout 0.")
@seconds_option("--timeout", "Wait no longer than this.", short="-w")
@click.option(
    "-E",
    "--conflict-exit-code",
    type=click.IntRange(0, 255),
    default=1,
    show_default=True,
    metavar="N",
    help="The exit status if the lock was not to be had.",
)
def lock(
    name: str,
    command: tuple[str, ...],
    *,
    nonblock: bool,
    timeout: float | None,
    conflict_exit_code: int,
) -> int:
    """Run COMMAND while holding the lock NAME, as flock(1) does with files.

    It is the lock of aioipc.sync.Lock(NAME) in Python; a NAME with a slash is a path. The exit
    status is that of the command. Write -- before a command with options.
    """
    from aioipc.cli.locking import Locking, run_locked  # noqa: PLC0415 - only this needs sync

    wanted = Locking(name, command, 0.0 if nonblock else timeout, conflict_exit_code)
    return run_session(run_locked(wanted))


@click.command(epilog=STATUSES)
@click.argument("target", metavar="MODULE:FUNCTION")
@number_option("--workers", "How many processes.", default=1, most=1024)
@seconds_option(
    "--grace",
    "How long each may take to end after it was told to, before it is killed.",
    default=5.0,
)
@click.option(
    "--restart",
    is_flag=True,
    help="Start those that die again, until one dies six times in a minute. SIGHUP replaces all.",
)
def run(target: str, workers: int, grace: float, restart: bool) -> int:
    """Run FUNCTION in N worker processes, each with a channel as its first argument.

    The module is looked for in the current directory, too. What a worker writes is printed with
    its name before each line, and so is what it sends, as JSON. SIGINT and SIGTERM end all of
    them; when one dies the others are ended, and the exit status is 1, unless --restart is given.
    """
    from aioipc.cli.running import Running, run_workers  # noqa: PLC0415 - brings subprocess

    return run_session(run_workers(Running(target, workers, grace, restart)))
