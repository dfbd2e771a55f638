"""Standard input and output as channels: awaited, never blocked on."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

from aioipc.channel import Channel
from aioipc.cli.notation import Notation
from aioipc.cli.problems import OutputClosed, OutputFailed, UsageProblem, explain
from aioipc.connect import connect
from aioipc.errors import EndOfStream, IPCError, PeerCrashed
from aioipc.kernel.descriptors import Facts, Kind, find_facts, plug_holes
from aioipc.limits import Limits
from aioipc.loop.fd import FdWatch

__all__ = ["BATCH", "Input", "Output"]

BATCH = 32
"""Messages that go through at once: few system calls, and little memory if they are large."""

_ANY_SIZE = Limits(max_message_bytes=2**32 - 1)


class Input:
    """The standard input, line by line as the lines come, or by the bytes of framing none."""

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, notation: Notation) -> AsyncIterator[Input]:
        """Take descriptor 0 over.

        Raises:
            UsageProblem: It is closed.
        """
        if sys.stdin is None:
            raise UsageProblem("the standard input is closed")
        framing = "none" if notation.is_stream else "lines"
        async with connect("fd:0", codec="raw", framing=framing) as channel:
            plug_holes()
            yield cls(channel)

    async def next_lines(self) -> list[bytes]:
        """Wait for at least one line and return all that are there; none at the end.

        Cancellation:
            Safe.
        """
        try:
            return await self._channel.receive_many(BATCH)
        except EndOfStream:
            return []


class Output:
    """The standard output, to which messages are printed as lines."""

    def __init__(self, channel: Channel[Any], notation: Notation, facts: Facts) -> None:
        self._channel = channel
        self._notation = notation
        self._facts = facts

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, notation: Notation) -> AsyncIterator[Output]:
        """Take descriptor 1 over.

        Raises:
            UsageProblem: It is closed.
        """
        if sys.stdout is None:
            raise UsageProblem("the standard output is closed")
        facts = find_facts(1)
        async with connect("fd:1", codec="raw", framing="none", limits=_ANY_SIZE) as channel:
            plug_holes()
            try:
                yield cls(channel, notation, facts)
            except BaseException:
                channel.abort()  # do not wait for a reader who may never come back
                raise

    async def print(self, objects: Sequence[object]) -> None:
        """Print messages; on return they are in the kernel.

        Raises:
            OutputClosed: Nobody reads them.
            OutputFailed: They cannot be written: a full disk, for example.
        """
        if not objects:
            return
        to_terminal = self._facts.kind is Kind.TERMINAL
        lines = [self._notation.show(obj, to_terminal=to_terminal) for obj in objects]
        try:
            await self._channel.send(b"".join(lines))
            await self._channel.flush()
        except PeerCrashed:
            raise OutputClosed from None
        except IPCError as error:
            raise OutputFailed(f"standard output: {explain(error)}") from None

    async def wait_closed(self) -> NoReturn:
        """Wait until nobody reads the output, so that ``| head -1`` ends a listener at once.

        The writing end of a pipe then reports EPOLLERR, whatever it is watched for: epoll_ctl(2).
        Of other outputs the kernel does not say.

        Raises:
            OutputClosed: Nobody reads it any more.
        """
        closed = asyncio.Event()
        watch = FdWatch()
        if self._facts.kind is Kind.PIPE and not self._facts.readable:
            watch.watch_reading(self._channel.port.transport.stream.fileno(), closed.set)
        try:
            await closed.wait()
        finally:
            watch.close()
        raise OutputClosed
