"""What it can do, and how fast."""

from __future__ import annotations

import click

from aioipc.cli.commands.common import Seconds

__all__ = ["demo"]


@click.command()
@click.option(
    "--seconds",
    type=Seconds(0.01, 60),
    default=0.3,
    show_default=True,
    help="How long each measurement takes; there are three for each transport.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def demo(seconds: float, as_json: bool) -> int:
    """Let two processes talk over every transport, check every message, and say how fast it was."""
    from aioipc.cli.demo import run_demo  # noqa: PLC0415 - rich takes as long to load as the rest

    return run_demo(seconds, as_json=as_json)
