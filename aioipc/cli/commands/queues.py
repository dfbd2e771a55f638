"""Queues: POSIX, System V, and served."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aioipc import codecs
from aioipc.cli.commands.common import STATUSES, address_of, complete
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem
from aioipc.cli.session import run_session

__all__ = ["queue"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def queue() -> None:
    """Put something into a queue, take something out, look at one, serve one.

    A queue is mq:/name (POSIX), sysv:KEY (System V), or where one is served, such as unix:jobs.
    """


def _queue_options(command: F) -> F:
    """Add what put and get have in common."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Messages are written as JSON, here."),
        click.option(
            "--codec",
            metavar="NAME",
            shell_complete=complete(codecs.BUILT_IN),
            help="msgpack (the default), json, text, raw or pickle, as the others do.",
        ),
        click.option("--create", is_flag=True, help="Make the queue if it is not there."),
    ):
        command = option(command)
    return command


@queue.command(epilog=STATUSES)
@click.argument("address")
@click.argument("message", nargs=-1)
@click.option("--priority", type=int, default=0, metavar="N", help="More urgent ones come first.")
@click.option(
    "--ttl",
    type=click.FloatRange(0.001),
    metavar="SECONDS",
    help="How long it may wait.",
)
@_queue_options
def put(
    address: str,
    message: tuple[str, ...],
    *,
    priority: int,
    ttl: float | None,
    create: bool,
    codec: str | None,
    as_json: bool,
) -> int:
    """Put each MESSAGE into the queue at ADDRESS, or each line of the standard input."""
    from aioipc.cli.queueing import Putting, put_jobs  # noqa: PLC0415 - only this needs queues

    notation = Notation.of(codec, None, as_json=as_json)
    messages = [notation.parse(os.fsencode(text)) for text in message] or None
    wanted = Putting(address_of(address), notation, messages, priority, ttl, create)
    return run_session(put_jobs(wanted), address)


@queue.command(epilog=STATUSES)
@click.argument("address")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Take N messages, not one.")
@click.option("--all", "is_endless", is_flag=True, help="Take messages until the queue ends.")
@_queue_options
def get(
    address: str,
    *,
    count: int | None,
    is_endless: bool,
    create: bool,
    codec: str | None,
    as_json: bool,
) -> int:
    """Take a message from the queue at ADDRESS, waiting for one, and print it.

    A job of a served queue is acknowledged once it is printed.
    """
    from aioipc.cli.queueing import Getting, get_jobs  # noqa: PLC0415 - the same

    if is_endless and count is not None:
        raise UsageProblem("--count and --all exclude each other")
    notation = Notation.of(codec, None, as_json=as_json)
    wanted = Getting(address_of(address), notation, None if is_endless else count or 1, create)
    return run_session(get_jobs(wanted), address)


@queue.command(epilog=STATUSES)
@click.argument("address")
def stat(address: str) -> int:
    """Print how full the queue at ADDRESS is, as JSON."""
    from aioipc.cli.queueing import show_queue  # noqa: PLC0415 - the same

    return run_session(show_queue(address_of(address)), address)


@queue.command("serve", epilog=STATUSES)
@click.argument("address")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Remember accepted jobs in FILE, for when this process is killed.",
)
@click.option("--fsync", is_flag=True, help="Accept a job when it is on the disk.")
@click.option("--max-jobs", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--max-attempts", type=click.IntRange(1), default=5, show_default=True)
@click.option("--lease", type=click.FloatRange(0.001), metavar="SECONDS", help="Of each job.")
def serve_queue(
    address: str,
    *,
    journal: Path | None,
    fsync: bool,
    max_jobs: int,
    max_attempts: int,
    lease: float | None,
) -> int:
    """Serve a work queue at ADDRESS, until Ctrl-C."""
    from aioipc.cli import queueing  # noqa: PLC0415 - the same
    from aioipc.queues import Policy  # noqa: PLC0415 - the same

    policy = Policy(max_jobs=max_jobs, max_attempts=max_attempts, lease_s=lease)
    wanted = queueing.Serving(address_of(address), journal, fsync, policy)
    return run_session(queueing.serve_queue(wanted), address)
