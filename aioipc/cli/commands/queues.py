"""Queues: POSIX, System V, and served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aioipc.cli.commands.common import (
    STATUSES,
    address_of,
    codec_option,
    json_option,
    number_option,
    parsed,
    seconds_option,
)
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
    create = click.option("--create", is_flag=True, help="Make the queue if it is not there.")
    return create(codec_option(json_option(command)))


@queue.command(epilog=STATUSES)
@click.argument("address")
@click.argument("message", nargs=-1)
@click.option("--priority", type=int, default=0, metavar="N", help="More urgent ones come first.")
@seconds_option("--ttl", "How long it may wait.", least=0.001)
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
    messages = parsed(message, notation)
    wanted = Putting(address_of(address), notation, messages, priority, ttl, create)
    return run_session(put_jobs(wanted), address)


@queue.command(epilog=STATUSES)
@click.argument("address")
@number_option("--count", "Take N messages, not one.")
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
@number_option("--max-jobs", "How many jobs it holds; then producers wait.", default=10_000)
@number_option("--max-attempts", "How often a job is begun.", default=5)
@seconds_option("--lease", "How long a worker may have a job.", least=0.001)
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
