"""How this process and the other one connect, for each scheme."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aioipc.abc import Capability
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.cli.demo.book import Message
from aioipc.cli.demo.peer import END, READY, serve
from aioipc.cli.demo.process import OtherProcess, immune_to_interrupts, peer_command
from aioipc.cli.problems import PeerFailed
from aioipc.connect import connect, pair
from aioipc.errors import AddressError
from aioipc.listener import listen
from aioipc.transports import FAMILIES, family_of

__all__ = ["Link", "Transport", "transports"]


@dataclass(frozen=True, slots=True)
class Link:
    """Both ways to the other process: one channel, or two that go one way each."""

    outgoing: Channel[Any]
    incoming: Channel[Any]

    async def finish(self) -> None:
        """Let the other side end, too; on FIFOs it would not see this side close."""
        await self.outgoing.send(END)


@dataclass(frozen=True, slots=True)
class Transport:
    """One row of the demo.

    Attributes:
        scheme: Of its addresses.
        what: In a few words.
    """

    scheme: str
    what: str
    _open: Callable[[AsyncExitStack, OtherProcess, str], Awaitable[Link]]

    @contextlib.asynccontextmanager
    async def link(self, other: OtherProcess, polling: str) -> AsyncIterator[Link]:
        """A link to the other process, which serves its end of it.

        Raises:
            IPCError: It cannot be opened.
            PeerFailed: The other process cannot open its end.
        """
        async with AsyncExitStack() as stack:
            link = await self._open(stack, other, polling)
            greeting = await link.incoming.receive()
            if greeting != READY:
                raise PeerFailed(f"the other process began with {greeting!r:.200}")
            yield link


def transports(book: list[Message]) -> list[Transport]:
    """Every transport that can be shown; one that is new in the table shows up by itself."""
    known = [
        Transport("shm", "shared memory", _listening("shm:")),
        Transport("pipe", "two pipes", _inherited("pipe")),
        Transport("fifo", "two named pipes", _two_fifos),
        Transport("unix", "a Unix socket", _listening("unix:")),
        Transport("unix+seqpacket", "Unix packets", _listening("unix+seqpacket:")),
        Transport("fd", "inherited socket", _inherited("fd")),
        Transport("tcp", "TCP over loopback", _listening("tcp://127.0.0.1:0")),
        Transport("exec", "a child's stdio", _program),
    ]
    shown = {"stdio", "memory", *(transport.scheme for transport in known)}
    new = [
        Transport(scheme, "", _listening(f"{scheme}:"))
        for scheme in FAMILIES
        if scheme not in shown and _can_be_shown(f"{scheme}:")
    ]
    return [*known, *new, Transport("memory", "within one process", _in_memory(book))]


def _can_be_shown(address: str) -> bool:
    """Whether the other process can listen there under a name it makes up, and lose nothing."""
    try:
        family_of(Address.parse(address), able_to="connect")
        capabilities = family_of(Address.parse(address), able_to="listen").CAPABILITIES
    except AddressError:
        return False
    return Capability.DUPLEX | Capability.BACKPRESSURE in capabilities


def _listening(address: str) -> Callable[[AsyncExitStack, OtherProcess, str], Awaitable[Link]]:
    async def open_(stack: AsyncExitStack, other: OtherProcess, polling: str) -> Link:
        there = await other.order("listen", polling, address)
        channel = await stack.enter_async_context(connect(there, polling=polling))
        return Link(channel, channel)

    return open_


def _inherited(scheme: str) -> Callable[[AsyncExitStack, OtherProcess, str], Awaitable[Link]]:
    async def open_(stack: AsyncExitStack, other: OtherProcess, polling: str) -> Link:
        channel, address = other.inherited[scheme, polling]
        await other.order("inherit", polling, address)
        await stack.enter_async_context(channel)
        return Link(channel, channel)

    return open_


async def _two_fifos(stack: AsyncExitStack, other: OtherProcess, polling: str) -> Link:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aioipc-demo-")))
    forth, back = f"fifo:{directory / 'forth'}", f"fifo:{directory / 'back'}"
    listener = await stack.enter_async_context(listen(back, polling=polling))
    incoming = await stack.enter_async_context(await listener.accept())
    await other.order("read and write", polling, forth, back)
    outgoing = await stack.enter_async_context(connect(forth, polling=polling))
    return Link(outgoing, incoming)


async def _program(stack: AsyncExitStack, _other: OtherProcess, polling: str) -> Link:
    command = shlex.join(peer_command("stdio:", polling))
    with immune_to_interrupts():
        channel = await connect(f"exec:{command}", polling=polling)
    await stack.enter_async_context(channel)
    return Link(channel, channel)


def _in_memory(
    book: list[Message],
) -> Callable[[AsyncExitStack, OtherProcess, str], Awaitable[Link]]:
    async def open_(stack: AsyncExitStack, _other: OtherProcess, polling: str) -> Link:
        near, far = pair("memory", polling=polling)
        await stack.enter_async_context(near)
        await stack.enter_async_context(far)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(serve(far, far, book))
        return Link(near, near)

    return open_
