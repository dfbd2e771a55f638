"""The other process of the demo: it receives, checks, says how many it got, and echoes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from aioipc.channel import Channel
from aioipc.cli.demo.book import Check, Message, read_book
from aioipc.connect import connect
from aioipc.errors import IPCError
from aioipc.listener import listen
from aioipc.loop.run import run

__all__ = ["END", "READY", "main", "serve"]

READY = "ready"
"""The first message of this side: it is there, and has the book."""

END = None
"""What follows the last message of a measurement; the reader of a FIFO sees no other end."""

_MANY = 1024


def main(address: str, polling: str) -> None:
    """Take orders over ``address``, or talk at once if that is standard input and output.

    It ends with the process that started it, however that ended.
    """
    with contextlib.suppress(IPCError):
        run(_talk(address, polling) if address == "stdio:" else _take_orders(address))


async def serve(incoming: Channel[Any], outgoing: Channel[Any], book: list[Message]) -> None:
    """Say `READY`, check what comes up to `END`, report, send back what comes up to the next.

    The report is the number of messages, or a text that says what is wrong with them.
    """
    await outgoing.send(READY)
    await outgoing.send(await _check_all(incoming, Check(book)))
    async for message in incoming:
        if message is END:
            return
        await outgoing.send(message)


async def _check_all(incoming: Channel[Any], check: Check) -> int | str:
    problem = ""
    while True:
        messages = await incoming.receive_many(_MANY)
        ended = messages[-1] is END
        if ended:
            messages.pop()
        problem = problem or check.wrong(messages)
        if ended:
            return problem or check.count


async def _talk(address: str, polling: str) -> None:
    async with connect(address, polling=polling) as channel:
        await serve(channel, channel, read_book())


async def _take_orders(address: str) -> None:
    """Open this end of one link after the other, as told: ``[kind, polling, address, ...]``.

    The answer is ``[address, problem]``: where to connect, or why there is nothing.
    """
    book = read_book()
    async with connect(address) as control:
        serving = asyncio.create_task(asyncio.sleep(0))
        try:
            async for order in control:
                await _end(serving)
                serving = asyncio.create_task(_obey(order, control, book))
        finally:
            await _end(serving)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _obey(order: list[str], control: Channel[Any], book: list[Message]) -> None:
    kind, polling, *addresses = order

    async def answer(address: str) -> None:
        await control.send([address, ""])

    async with AsyncExitStack() as stack:
        try:
            link = await _OPEN[kind](stack, answer, polling, *addresses)
        except IPCError as error:
            await control.send(["", str(error)])
            return
        with contextlib.suppress(IPCError):  # the other side sees its end as well
            await serve(*link, book)


_Answer = Callable[[str], Awaitable[None]]
_Link = tuple[Channel[Any], Channel[Any]]


async def _inherit(stack: AsyncExitStack, answer: _Answer, polling: str, address: str) -> _Link:
    channel = await stack.enter_async_context(connect(address, polling=polling))
    await answer(address)
    return channel, channel


async def _listen(stack: AsyncExitStack, answer: _Answer, polling: str, address: str) -> _Link:
    listener = await stack.enter_async_context(listen(address, polling=polling))
    await answer(listener.address)
    channel = await stack.enter_async_context(await listener.accept())
    return channel, channel


async def _read_and_write(
    stack: AsyncExitStack, answer: _Answer, polling: str, read: str, write: str
) -> _Link:
    listener = await stack.enter_async_context(listen(read, polling=polling))
    outgoing = await stack.enter_async_context(connect(write, polling=polling))
    await answer(read)
    return await stack.enter_async_context(await listener.accept()), outgoing


_OPEN: dict[str, Callable[..., Awaitable[_Link]]] = {
    "inherit": _inherit,
    "listen": _listen,
    "read and write": _read_and_write,
}
"""By the first word of an order; the addresses in it are the last arguments."""
