"""``aioipc send``: messages from arguments or lines, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aioipc.abc import Capability
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.cli.notation import Notation
from aioipc.cli.problems import PeerFailed, UsageProblem, is_watched, tell
from aioipc.cli.session import first_of, insist
from aioipc.cli.standard import BATCH, Input, Output
from aioipc.connect import connect
from aioipc.errors import DecodeError, EndOfStream, PeerCrashed
from aioipc.kernel.descriptors import plug_holes
from aioipc.loop.waiting import wait_readable
from aioipc.transports import family_of
from aioipc.transports._session import Session

__all__ = ["Replies", "Sending", "send_messages"]

_SILENCE_S = 1.0


class Replies(enum.Enum):
    """How many replies to wait for, where that is not a number."""

    NONE = "none"
    ONE_EACH = "one for each message"
    ALL = "all, until the peer ends"


@dataclass(frozen=True, slots=True)
class Sending:
    """What ``aioipc send`` was asked to do.

    Attributes:
        address: Where to.
        notation: How messages are written, and replies printed.
        messages: What to send; None for the standard input.
        replies: How many replies to print before the end.
        patience_s: How long to keep trying while nobody listens.
    """

    address: Address
    notation: Notation
    messages: Sequence[object] | None = None
    replies: Replies | int = Replies.NONE
    patience_s: float = 0.0


async def send_messages(wanted: Sending) -> None:
    """Send everything, and print the replies that were asked for.

    Raises:
        PeerFailed: The peer ended before it gave all replies, or never answered.
        MessageError: A message cannot be sent as asked; those before it were.
        OutputClosed: Nobody reads the replies.

    Cancellation:
        Undoes: the peer sees a clean end behind what was sent so far.
    """
    _check(wanted)
    async with await insist(lambda: _connect(wanted), wanted.patience_s) as channel:
        plug_holes()
        conversation = _Conversation(channel, wanted)
        if wanted.replies is Replies.NONE:
            await conversation.send_and_part()
        else:
            async with Output.open(wanted.notation) as output:
                await first_of(
                    conversation.send_and_wait(),
                    conversation.print_replies(output),
                    output.wait_closed(),
                )


def _check(wanted: Sending) -> None:
    address = wanted.address
    takes_stdin = address.scheme == "stdio" or 0 in address.fds
    if wanted.messages is None and takes_stdin:
        raise UsageProblem(
            f"{address} takes the standard input for the channel; give messages as arguments"
        )
    capabilities: Capability = family_of(address, able_to="connect").CAPABILITIES
    if wanted.replies is not Replies.NONE and Capability.DUPLEX not in capabilities:
        raise UsageProblem(f"{address} is one way, so there can be no replies")


async def _connect(wanted: Sending) -> Channel[Any]:
    notation = wanted.notation
    return await connect(wanted.address, codec=notation.codec, framing=notation.framing)


class _Conversation:
    """One channel: what is sent over it, and what comes back meanwhile."""

    def __init__(self, channel: Channel[Any], wanted: Sending) -> None:
        self._channel = channel
        self._wanted = wanted
        self._sent = 0
        self._received = 0
        self._all_sent = False
        self._broken: PeerCrashed | None = None
        self._satisfied = asyncio.Event()

    # Sending

    async def send_and_wait(self) -> None:
        """Send everything, then wait for as many replies as were asked for.

        A peer that stops to listen may have said all it has to say, as ``head -1`` would. So
        it is its own end that tells whether that is a failure, not this side's broken pipe.
        """
        try:
            await self._send()
            self._all_sent = True
        except PeerCrashed as error:
            self._broken = error
        self._look()
        await self._satisfied.wait()

    async def send_and_part(self) -> None:
        """Send everything, and let the peer finish with it.

        What the peer answers is taken from it, or it would wait for us to read. It has read
        everything when it ends too; one that stays silent for a second is left alone.
        """
        if not _can_receive(self._channel):
            await self._send()
            return
        await first_of(self._send(), self._discard())
        await _greeted(self._channel)
        with contextlib.suppress(TimeoutError, EndOfStream):
            while True:
                async with asyncio.timeout(_SILENCE_S):
                    await self._receive()

    async def _send(self) -> None:
        if self._wanted.messages is None:
            await self._send_input()
        else:
            await self._send_batch(self._wanted.messages)
        try:
            await self._channel.send_eof()
        except PeerCrashed:
            if not _can_receive(self._channel):
                raise
            # It got everything and left, as after --once; how it left, the receiver sees.

    async def _send_input(self) -> None:
        if sys.stdin is not None and sys.stdin.isatty() and is_watched():
            tell(f"connected to {self._wanted.address}; one message per line, Ctrl-D to end")
        async with Input.open(self._wanted.notation) as source:
            while lines := await source.next_lines():
                batch: list[object] = []
                try:
                    batch.extend(map(self._wanted.notation.parse, lines))
                finally:  # those before a wrong one are sent, as if each had come alone
                    await self._send_batch(batch)

    async def _send_batch(self, messages: Sequence[object]) -> None:
        await self._channel.send_many(messages)
        await self._channel.flush()
        self._sent += len(messages)

    # Receiving

    async def print_replies(self, output: Output) -> None:
        """Print what comes back, until the peer ends.

        Raises:
            PeerFailed: It ended too early.
        """
        with contextlib.suppress(EndOfStream):
            while True:
                replies = await self._receive()
                await output.print(self._due(replies))
                self._received += len(replies)
                self._look()
        if self._wanted.replies is Replies.ALL:
            return
        due = self._replies_due()
        if self._received < due:
            raise PeerFailed(
                f"{self._wanted.address}: the peer ended after {self._received} of {due} replies"
            )
        if self._broken is not None:
            raise self._broken
        await self._satisfied.wait()  # it may still listen to the rest

    async def _discard(self) -> None:
        with contextlib.suppress(EndOfStream):
            while True:
                await self._receive()
        await self._satisfied.wait()  # it may still listen to the rest

    async def _receive(self) -> list[Any]:
        try:
            return await self._channel.receive_many(BATCH)
        except DecodeError as error:
            tell(str(error))
            return []

    def _due(self, replies: list[Any]) -> list[Any]:
        wanted = self._wanted.replies
        return replies[: max(0, wanted - self._received)] if isinstance(wanted, int) else replies

    def _look(self) -> None:
        if self._all_sent and self._received >= self._replies_due():
            self._satisfied.set()

    def _replies_due(self) -> float:
        wanted = self._wanted.replies
        if isinstance(wanted, int):
            return wanted
        return self._sent if wanted is Replies.ONE_EACH else math.inf


def _can_receive(channel: Channel[Any]) -> bool:
    """Whether there is a way back: not from a FIFO, nor from the writing end of a pipe."""
    port = channel.port
    if isinstance(port, Session):
        return port.reads
    return getattr(getattr(port.transport, "stream", None), "readable", True)


async def _greeted(channel: Channel[Any]) -> None:
    """Wait for the peer's HELLO, with which it accepts ours and the codec in it.

    Raises:
        HandshakeError: It refused.
        PeerFailed: It says nothing at all.
    """
    port = channel.port
    if not isinstance(port, Session):
        return
    limit_s = channel.limits.handshake_s
    try:
        async with asyncio.timeout(limit_s):
            while not port.try_greet():
                await wait_readable(port)
    except TimeoutError:
        raise PeerFailed(
            f"{channel.address}: connected, but the peer did not answer within {limit_s:g} s"
        ) from None
