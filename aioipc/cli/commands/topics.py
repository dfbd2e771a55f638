"""Publishing and subscribing."""

from __future__ import annotations

import click

from aioipc.cli.commands.common import (
    ADDRESSES,
    STATUSES,
    address_of,
    codec_option,
    count_option,
    json_option,
    number_option,
    parsed,
    seconds_option,
)
from aioipc.cli.notation import Notation
from aioipc.cli.session import run_session
from aioipc.wire.pubsub import WhenFull

__all__ = ["pub", "sub"]


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("topic")
@click.argument("value", nargs=-1)
@number_option("--subscribers", "Wait for N subscribers first.", default=1, least=0)
@number_option("--retain", "Give the last N values to who subscribes later.", default=0, least=0)
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
    wanted = Publishing(
        address_of(address), topic, notation, parsed(value, notation), subscribers, retain
    )
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
@number_option("--queue", "How many messages may wait.", default=1000)
@count_option
@seconds_option("--wait-publisher", "Keep trying for so long while nobody publishes.", default=0)
@click.option("--reconnect", is_flag=True, help="Go on with the next publisher at ADDRESS.")
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
    reconnect: bool,
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
        address_of(address), pattern, notation, when_full, queue, count, wait_publisher, reconnect
    )
    return run_session(print_messages(wanted), address)
