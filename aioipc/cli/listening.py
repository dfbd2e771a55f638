"""``aioipc listen``: print what arrives, and send it back if asked to."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from dataclasses import dataclass
from typing import Any

from aioipc._opening import Opening
from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.cli.notation import Notation
from aioipc.cli.problems import FAILED, OK, UsageProblem, explain, is_watched, tell
from aioipc.cli.session import first_of
from aioipc.cli.standard import BATCH, Output
from aioipc.errors import DecodeError, EndOfStream, IPCError
from aioipc.kernel.credentials import same_user
from aioipc.kernel.descriptors import plug_holes
from aioipc.listener import Listener, listen
from aioipc.transports import family_of

__all__ = ["Listening", "receive_messages"]


@dataclass(frozen=True, slots=True)
class Listening:
    """What ``aioipc listen`` was asked to do.

    Attributes:
        address: Where to listen.
        notation: How messages are printed.
        echo: Whether each message is sent back.
        count: How many messages to receive; None for no end.
    """

    address: Address
    notation: Notation
    echo: bool = False
    count: int | None = None


async def receive_messages(wanted: Listening) -> int:
    """Print messages until there are enough, no more can come, or nobody reads them.

    Returns:
        The exit status.

    Cancellation:
        Undoes: peers see a clean end.
    """
    if wanted.echo and Capability.DUPLEX not in _capabilities(wanted.address):
        raise UsageProblem(f"{wanted.address} is one way, so --echo has no way back")
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(_listen(wanted))
        plug_holes()
        output = await stack.enter_async_context(Output.open(wanted.notation))
        _say_where(listener, wanted.notation)
        reception = _Reception(wanted, output)
        await first_of(reception.serve(listener), reception.enough.wait(), output.wait_closed())
        return FAILED if reception.failed and not reception.enough.is_set() else OK


def _capabilities(address: Address) -> Capability:
    capabilities: Capability = family_of(address, able_to="listen").CAPABILITIES
    return capabilities


def _listen(wanted: Listening) -> Opening[Listener[Any]]:
    # Any user can reach an abstract socket; a listener in a shell is for its user.
    allow: Allow | None = same_user if wanted.address.abstract is not None else None
    notation = wanted.notation
    try:
        return listen(wanted.address, codec=notation.codec, framing=notation.framing, allow=allow)
    except ValueError as error:
        if isinstance(error, IPCError):
            raise
        raise UsageProblem(str(error)) from None


def _say_where(listener: Listener[Any], notation: Notation) -> None:
    tell(f"listening on {listener.address}")
    if is_watched() and not _is_inherited(listener.address):
        call = f"aioipc send {shlex.quote(listener.address)}{notation.options} hello"
        tell(f"send something from another terminal: {call}")


def _is_inherited(address: str) -> bool:
    return address.startswith(("fd:", "shm:fd=", "stdio:"))


class _Reception:
    """All peers of one listener, printed to one output."""

    def __init__(self, wanted: Listening, output: Output) -> None:
        self.enough = asyncio.Event()
        self.failed = False
        self._wanted = wanted
        self._left = wanted.count
        self._output = output

    async def serve(self, listener: Listener[Any]) -> None:
        """Receive from every peer, until there can be no other."""
        async with asyncio.TaskGroup() as tasks:
            async for channel in listener:
                tasks.create_task(self._receive(channel))

    async def _receive(self, channel: Channel[Any]) -> None:
        """Receive from one peer; its failure is told, and the others go on."""
        async with channel:
            try:
                while True:
                    await self._receive_some(channel)
            except EndOfStream:
                return
            except IPCError as error:
                self.failed = True
                tell(explain(error, str(self._wanted.address)))

    async def _receive_some(self, channel: Channel[Any]) -> None:
        try:
            messages = await channel.receive_many(min(BATCH, self._left or BATCH))
        except DecodeError as error:
            tell(str(error))
            return
        if self._left is not None:
            del messages[self._left :]
            self._left -= len(messages)
        await self._output.print(messages)
        if self._wanted.echo:
            await channel.send_many(messages)
            await channel.flush()
        if self._left == 0:
            self.enough.set()
