"""Looking at what processes share by name, and removing what belongs to nobody."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from aioipc.cli.commands.common import STATUSES
from aioipc.cli.problems import FAILED, OK, print_out, tell

if TYPE_CHECKING:
    from aioipc.kernel.inventory import Item

__all__ = ["clean", "ls"]


@click.command(epilog=STATUSES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def ls(*, as_json: bool) -> int:
    """Show what your programs share by name, and who uses it.

    Endpoints and mailboxes with who serves them, locks and the like with who holds them and who
    waits, values, and memory, queues and semaphores of POSIX and System V. What nobody has open is
    marked: its owner is gone. `aioipc clean` removes that, except for what POSIX and System V
    keep, which may be meant to stay.
    """
    from aioipc.kernel.inventory import list_items  # noqa: PLC0415 - takes a while

    items = list_items()
    if as_json:
        for item in items:
            print_out(json.dumps({**asdict(item), "in_use": item.is_used}) + "\n")
    elif items:
        _show(items)
    return OK


@click.command(epilog=STATUSES)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(*, yes: bool, dry_run: bool) -> int:
    """Remove what killed programs left in the runtime directory.

    That is what nobody has open: sockets that nobody serves, and the files of locks, values and
    the like. The next one to take such a lock is then not told that its owner died. What is used
    is never removed, also if that began just now.
    """
    from aioipc.kernel.inventory import list_items, remove_item  # noqa: PLC0415 - the same

    items = [item for item in list_items() if item.is_removable and not item.is_used]
    for item in items:
        print_out(f"{item.kind} {item.name}\n")
    if dry_run or not items:
        return OK
    if not yes and not click.confirm(f"Remove {len(items)}?", err=True):
        return FAILED
    for item in items:
        if not remove_item(item):
            tell(f"{item.kind} {item.name}: kept, somebody has come to use it")
    return OK


def _show(items: list[Item]) -> None:
    from rich.console import Console  # noqa: PLC0415 - as long as the rest
    from rich.table import Table  # noqa: PLC0415 - the same

    table = Table("KIND", "NAME", "OWNERS", "WAITING", "USERS", box=None, pad_edge=False)
    for item in items:
        owners, waiters = _pids(item.owners), _pids(item.waiters)
        users = "unknown" if item.users is None else _pids(item.users) or "nobody"
        table.add_row(item.kind, item.name, owners, waiters, users)
    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as capture:
        console.print(table)
    print_out(capture.get())


def _pids(pids: tuple[int, ...]) -> str:
    return " ".join(map(str, pids))
