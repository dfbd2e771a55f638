"""A listener whose channels say back what they are told, and whether one is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aioipc
from aioipc import Channel, ConnectError, Listener, PeerCrashed, QuotaExceeded

__all__ = ["echo", "is_served", "served_again", "serving"]


async def echo(channel: Channel[Any]) -> None:
    """Say back what comes."""
    async for obj in channel:
        await channel.send(obj)


@contextlib.asynccontextmanager
async def serving(listener: Listener[Any], handler: Any = echo) -> AsyncIterator[None]:
    """Let the listener serve for as long as the block lasts."""
    task = asyncio.create_task(listener.serve(handler))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def is_served(address: str) -> bool:
    """Whether somebody answers there as `serving` does."""
    try:
        async with aioipc.connect(address) as channel:
            await channel.send("served?")
            answer: bool = await channel.receive() == "served?"
            return answer
    except (ConnectError, PeerCrashed):
        return False


async def served_again(address: str) -> None:
    """Wait until the ends of others were seen, which nothing tells of."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(QuotaExceeded):
                if await is_served(address):
                    return
            await asyncio.sleep(0)
