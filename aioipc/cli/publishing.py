"""``aioipc pub``: publish values from arguments or lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem, is_watched, tell
from aioipc.cli.session import insist
from aioipc.cli.standard import Input
from aioipc.errors import IPCError
from aioipc.kernel.credentials import same_user
from aioipc.kernel.descriptors import plug_holes
from aioipc.pubsub import Publisher, publisher
from aioipc.wire.topics import check_topic

__all__ = ["Publishing", "publish_values"]


@dataclass(frozen=True, slots=True)
class Publishing:
    """What ``aioipc pub`` was asked to do.

    Attributes:
        address: Where subscribers connect to.
        topic: What the values are about.
        notation: How they are written.
        values: What to publish; None for the standard input.
        subscribers: How many to wait for first.
        retain: How many values late subscribers still get.
    """

    address: Address
    topic: str
    notation: Notation
    values: Sequence[object] | None = None
    subscribers: int = 1
    retain: int = 0


async def publish_values(wanted: Publishing) -> None:
    """Publish everything, once there are enough subscribers.

    Raises:
        UsageProblem: The topic or the address makes no sense.
        MessageError: A value cannot be published as asked; those before it were.

    Cancellation:
        Undoes: subscribers see a clean end behind what was published so far.
    """
    _check(wanted)
    async with await insist(lambda: _open(wanted), 0) as opened:
        plug_holes()
        _say_where(opened, wanted)
        await opened.ready(wanted.subscribers)
        if wanted.values is None:
            await _publish_input(opened, wanted)
        else:
            for value in wanted.values:
                await opened.publish(wanted.topic, value)


async def _open(wanted: Publishing) -> Publisher[Any]:
    # Any user can reach an abstract socket; a publisher in a shell is for its user.
    allow: Allow | None = same_user if wanted.address.abstract is not None else None
    codec, retain = wanted.notation.codec, wanted.retain
    return await publisher(wanted.address, codec=codec, retain=retain, allow=allow)


def _check(wanted: Publishing) -> None:
    try:
        check_topic(wanted.topic)
    except (ValueError, IPCError) as error:
        raise UsageProblem(error.strerror if isinstance(error, OSError) else str(error)) from None
    address = wanted.address
    if wanted.values is None and (address.scheme == "stdio" or 0 in address.fds):
        raise UsageProblem(
            f"{address} takes the standard input for subscribers; give values as arguments"
        )


def _say_where(opened: Publisher[Any], wanted: Publishing) -> None:
    tell(f"publishing on {opened.address}")
    if is_watched() and wanted.address.scheme not in ("fd", "stdio"):
        call = f"aioipc sub {shlex.quote(opened.address)}{wanted.notation.options} {wanted.topic}"
        tell(f"subscribe from another terminal: {call}")


async def _publish_input(opened: Publisher[Any], wanted: Publishing) -> None:
    if sys.stdin is not None and sys.stdin.isatty() and is_watched():
        tell("one value per line, Ctrl-D to end")
    async with Input.open(wanted.notation) as source:
        while lines := await source.next_lines():
            for line in lines:
                await opened.publish(wanted.topic, wanted.notation.parse(line))
