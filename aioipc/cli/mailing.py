"""``aioipc mailbox``: send to a mailbox, and own one, from a shell."""

from __future__ import annotations

import collections
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aioipc.cli.notation import Notation
from aioipc.cli.problems import PeerFailed, explain, is_watched, tell
from aioipc.cli.session import first_of
from aioipc.cli.standard import Input, Output
from aioipc.errors import IPCError
from aioipc.kernel.descriptors import plug_holes
from aioipc.queues import Mailbox, Message, mailbox

__all__ = ["Owning", "Writing", "own_mailbox", "write_letters"]


@dataclass(frozen=True, slots=True)
class Writing:
    """What ``aioipc mailbox send`` was asked to do.

    Attributes:
        to: The mailbox.
        sender: The name of the own one.
        notation: How messages are written, and replies printed.
        messages: What to send; None for the lines of the standard input.
        ask: Whether each message is a question, whose reply is printed.
    """

    to: str
    sender: str
    notation: Notation
    messages: Sequence[object] | None = None
    ask: bool = False


@dataclass(frozen=True, slots=True)
class Owning:
    """What ``aioipc mailbox listen`` was asked to do.

    Attributes:
        name: Of the mailbox.
        notation: How messages are printed, and replies written.
        count: How many messages to receive; None for no end.
        size: How many may wait in it.
        echo: Whether a question is answered with itself.
        reply: Whether questions are answered with the lines of the standard input.
    """

    name: str
    notation: Notation
    count: int | None = None
    size: int = 128
    echo: bool = False
    reply: bool = False


async def write_letters(wanted: Writing) -> None:
    """Send messages, each once the one before lies in the mailbox or is answered.

    Raises:
        ConnectError: There is no such mailbox, or it was closed.
        MessageError: A message cannot be sent as asked; those before it were.
        OutputClosed: Nobody reads the replies.

    Cancellation:
        Undoes: those before the one that waits have arrived.
    """
    async with mailbox(wanted.sender, codec=wanted.notation.codec) as box:
        plug_holes()
        if not wanted.ask:
            await _write(box, wanted, None)
            return
        async with Output.open(wanted.notation) as output:
            await first_of(_write(box, wanted, output), output.wait_closed())


async def _write(box: Mailbox[Any], wanted: Writing, output: Output | None) -> None:
    if wanted.messages is not None:
        await _write_all(box, wanted, output, wanted.messages)
        return
    if sys.stdin is not None and sys.stdin.isatty() and is_watched():
        tell("one message per line, Ctrl-D to end")
    async with Input.open(wanted.notation) as source:
        while lines := await source.next_lines():
            for line in lines:
                await _write_all(box, wanted, output, [wanted.notation.parse(line)])


async def _write_all(
    box: Mailbox[Any], wanted: Writing, output: Output | None, messages: Sequence[object]
) -> None:
    for message in messages:
        if output is None:
            await box.send(wanted.to, message, confirmed=True)
        else:
            await output.print([await box.ask(wanted.to, message)])


class Answers:
    """Where the replies to questions come from: their own text, or the lines of an input."""

    def __init__(self, notation: Notation, lines: Input | None) -> None:
        self._notation = notation
        self._lines = lines
        self._read: collections.deque[bytes] = collections.deque()

    @classmethod
    @asynccontextmanager
    async def open(cls, wanted: Owning) -> AsyncIterator[Answers | None]:
        """Take the standard input over if lines are wanted; None if nothing is answered."""
        if not wanted.reply:
            yield cls(wanted.notation, None) if wanted.echo else None
            return
        async with Input.open(wanted.notation) as lines:
            yield cls(wanted.notation, lines)

    async def to(self, message: Message[Any]) -> object:
        """Wait for the reply to a message.

        Raises:
            MessageError: The line is not in the notation.
            PeerFailed: There are no more lines.

        Cancellation:
            Safe.
        """
        if self._lines is None:
            return message.value
        if not self._read:
            self._read.extend(await self._lines.next_lines())
        if not self._read:
            raise PeerFailed(f"the input has no line to answer {message.sender} with")
        return self._notation.parse(self._read.popleft())


async def own_mailbox(wanted: Owning) -> None:
    """Print what arrives, until there is enough of it or nobody reads it.

    Raises:
        ResourceExhausted: Another process has that name.
        PeerFailed: A question has no line to answer it with.

    Cancellation:
        Undoes: who waits for a reply sees that the mailbox was closed.
    """
    async with mailbox(wanted.name, size=wanted.size, codec=wanted.notation.codec) as box:
        plug_holes()
        tell(f"listening at mailbox {box.name}")
        if is_watched():
            call = f"aioipc mailbox send {box.name}{wanted.notation.options} hello"
            tell(f"send something from another terminal: {call}")
        async with Output.open(wanted.notation) as output, Answers.open(wanted) as answers:
            await first_of(_receive(box, wanted, output, answers), output.wait_closed())


async def _receive(
    box: Mailbox[Any], wanted: Owning, output: Output, answers: Answers | None
) -> None:
    left = wanted.count
    while left is None or left > 0:
        message = await box.receive()
        await output.print([_shown(message, wanted.notation)])
        if message.wants_reply and answers is not None:
            await _answer(message, answers)
        if left is not None:
            left -= 1


async def _answer(message: Message[Any], answers: Answers) -> None:
    answer = await answers.to(message)
    try:
        await message.reply(answer)
    except IPCError as error:  # who asked has gone; others have not
        tell(f"the reply to {message.sender}: {explain(error)}")


def _shown(message: Message[Any], notation: Notation) -> object:
    if not notation.as_json:
        return notation.labelled(message.sender, message.value)
    who = message.credentials
    return {
        "sender": message.sender,
        "pid": who.pid,
        "uid": who.uid,
        "gid": who.gid,
        "wants_reply": message.wants_reply,
        "value": message.value,
    }
