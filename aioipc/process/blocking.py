"""The channel of a worker function that does not await."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from aioipc.channel import Channel
from aioipc.errors import EndOfStream

__all__ = ["BlockingChannel"]


class BlockingChannel:
    """A `Channel` for a plain function: each call lets the loop run until it is done.

    The loop stands still in between, and there are no threads.

    Attributes:
        channel: The channel itself.
    """

    def __init__(self, channel: Channel[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.channel = channel
        self._loop = loop

    def send(self, obj: object) -> None:
        """Send one object; on return it is on its way.

        Raises:
            PeerCrashed: The parent receives no more.
        """
        self._loop.run_until_complete(self._send([obj]))

    def send_many(self, objs: Iterable[object]) -> None:
        """Send several with one system call, where they fit.

        Raises:
            PeerCrashed: The parent receives no more.
        """
        self._loop.run_until_complete(self._send(objs))

    def receive(self) -> Any:
        """Wait for the next object.

        Raises:
            EndOfStream: The parent has closed the channel.
            PeerCrashed: The parent is gone.
        """
        return self._loop.run_until_complete(self._receive())

    def receive_many(self, max_messages: int = 512) -> list[Any]:
        """Wait for at least one object and return all that are there.

        Raises:
            EndOfStream: The parent has closed the channel.
            PeerCrashed: The parent is gone.
        """
        return self._loop.run_until_complete(self._receive_many(max_messages))

    async def _send(self, objs: Iterable[object]) -> None:
        await self.channel.send_many(objs)
        await self.channel.flush()

    async def _receive(self) -> Any:
        return await self.channel.receive()

    async def _receive_many(self, max_messages: int) -> list[Any]:
        return await self.channel.receive_many(max_messages)

    def __iter__(self) -> Iterator[Any]:
        """Receive until the parent closes the channel."""
        while True:
            try:
                obj = self.receive()
            except EndOfStream:
                return
            yield obj
