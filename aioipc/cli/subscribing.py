"""``aioipc sub``: print what is published."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aioipc.address import Address
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem, tell
from aioipc.cli.session import first_of, insist
from aioipc.cli.standard import Output
from aioipc.errors import DecodeError, EndOfStream, QuotaExceeded
from aioipc.kernel.descriptors import plug_holes
from aioipc.pubsub import (
    Gap,
    Interruption,
    Message,
    ReconnectingSubscription,
    Subscription,
    subscriber,
)
from aioipc.wire.topics import check_pattern

__all__ = ["Subscribing", "print_messages"]

AnySubscription = Subscription[Any] | ReconnectingSubscription[Any]


@dataclass(frozen=True, slots=True)
class Subscribing:
    """What ``aioipc sub`` was asked to do.

    Attributes:
        address: Where the publisher is.
        patterns: What topics to match.
        notation: How values are printed.
        when_full: What happens when this command does not keep up.
        queue: How many messages may wait at the publisher.
        count: How many messages to receive; None for no end.
        patience_s: How long to keep trying while nobody publishes.
        reconnects: Whether to go on with the next publisher.
    """

    address: Address
    patterns: Sequence[str]
    notation: Notation
    when_full: str
    queue: int
    count: int | None = None
    patience_s: float = 0.0
    reconnects: bool = False


async def print_messages(wanted: Subscribing) -> None:
    """Print messages until there are enough, the publisher ends, or nobody reads them.

    Raises:
        UsageProblem: A pattern or an option makes no sense.
        IPCError: The publisher died, or refused.

    Cancellation:
        Undoes: the publisher sees a clean end.
    """
    _check(wanted.patterns)
    async with await insist(lambda: _open(wanted), wanted.patience_s) as subscription:
        plug_holes()
        async with Output.open(wanted.notation) as output:
            await first_of(_print(subscription, wanted, output), output.wait_closed())


def _check(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise UsageProblem(str(error)) from None
        except QuotaExceeded as error:
            raise UsageProblem(error.strerror) from None


async def _open(wanted: Subscribing) -> AnySubscription:
    opening = subscriber if not wanted.reconnects else functools.partial(subscriber, reconnect=True)
    return await opening(
        wanted.address,
        *wanted.patterns,
        codec=wanted.notation.codec,
        when_full=wanted.when_full,
        queue=wanted.queue,
    )


async def _print(subscription: AnySubscription, wanted: Subscribing, output: Output) -> None:
    left = wanted.count
    while left is None or left > 0:
        try:
            item = await subscription.receive()
        except EndOfStream:
            return
        except DecodeError as error:
            tell(str(error))
            continue
        if isinstance(item, Gap):
            tell(f"{item.count:,} messages were lost")
            continue
        if isinstance(item, Interruption):
            tell(f"{item.reason}; here is the next publisher, and what was between is missing")
            continue
        await output.print([_shown(item, wanted.notation)])
        if left is not None:
            left -= 1


def _shown(message: Message[Any], notation: Notation) -> object:
    if notation.as_json:
        return {"topic": message.topic, "value": message.value}
    return notation.labelled(message.topic, message.value)
