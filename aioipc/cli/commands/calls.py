"""Calls of methods."""

from __future__ import annotations

import click

from aioipc.cli.commands.common import ADDRESSES, STATUSES, address_of
from aioipc.cli.importing import import_object
from aioipc.cli.session import run_session

__all__ = ["call", "serve"]


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("method", required=False)
@click.argument("arguments", metavar="[NAME=VALUE]...", nargs=-1)
def call(address: str, method: str | None, arguments: tuple[str, ...]) -> int:
    """Call METHOD of the service at ADDRESS, or list what can be called there.

    A value is JSON, or text as it stands. The result is printed as JSON; the items of a stream are
    printed one a line, as they come.
    """
    from aioipc.cli.calling import Calling, call_method  # noqa: PLC0415 - only this needs rpc

    return run_session(call_method(Calling(address_of(address), method, arguments)), address)


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("service", metavar="MODULE:CLASS")
def serve(address: str, service: str) -> int:
    """Serve an object of MODULE:CLASS at ADDRESS: its public methods can be called.

    MODULE is looked for in the current directory as well. Ctrl-C lets the calls that run finish.
    """
    from aioipc.cli.calling import serve_forever  # noqa: PLC0415 - the same

    return run_session(serve_forever(address_of(address), import_object(service)), address)
