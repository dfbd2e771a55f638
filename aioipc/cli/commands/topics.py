"""Publishing and subscribing."""

from __future__ import annotations

import os

import click

from aioipc.cli.commands.common import ADDRESSES, STATUSES, address_of, codec_option, json_option
from aioipc.cli.notation import Notation
from aioipc.cli.session import run_session
from aioipc.wire.pubsub import WhenFull

__all__ = ["pub", "sub"]


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("topic")
@click.argument("value", nargs=-1)
@click.option(
    "--subscribers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Wait for N subscribers first.",
)
@click.option(
    "--retain",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Give the last N values to who subscribes later.",
)
@codec_option
@json_option
def pub(
    address: str,
    topic: str,
    value: tuple[str, ...],
    *,
    subscribers: int,
    retain: int,
    codec: str | None,
    as_json: bool,
) -> int:
    """Publish each VALUE under TOPIC at ADDRESS, or each line of the standard input.

    Lines are published as they come. It ends when the subscribers have everything.
    """
    from aioipc.cli.publishing import (  # noqa: PLC0415 - only this needs pubsub
        Publishing,
        publish_values,
    )

    notation = Notation.of(codec, None, as_json=as_json)
    values = [notation.parse(os.fsencode(text)) for text in value] or None
    wanted = Publishing(address_of(address), topic, notation, values, subscribers, retain)
    return run_session(publish_values(wanted), address)


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("pattern", nargs=-1, required=True)
@click.option(
    "--when-full",
    type=click.Choice([policy.value for policy in WhenFull]),
    default=WhenFull.DROP_OLDEST.value,
    show_default=True,
    help="What happens to messages when whoever reads the output does not keep up.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="How many messages may wait.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option(
    "--wait-publisher",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Keep trying for so long while nobody publishes.",
)
@codec_option
@json_option
def sub(
    address: str,
    pattern: tuple[str, ...],
    *,
    when_full: str,
    queue: int,
    count: int | None,
    wait_publisher: float,
    codec: str | None,
    as_json: bool,
) -> int:
    """Print what is published at ADDRESS under topics that match a PATTERN, one message a line.

    A pattern is a topic, in which * stands for one level and > at the end for the rest: 'eur.*'.
    Each line is the topic and the value. Standard error tells how many messages were lost.
    """
    from aioipc.cli.subscribing import (  # noqa: PLC0415 - the same
        Subscribing,
        print_messages,
    )

    notation = Notation.of(codec, None, as_json=as_json)
    wanted = Subscribing(
        address_of(address), pattern, notation, when_full, queue, count, wait_publisher
    )
    return run_session(print_messages(wanted), address)
