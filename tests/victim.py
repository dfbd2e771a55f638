"""A listener that peers who do not keep to the protocol connect to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aioipc
from aioipc import Channel, EndOfStream
from tests.children import PATIENCE_S
from tests.shortage import open_fds

__all__ = ["Victim", "attacked"]


@dataclass
class Victim:
    """A listener that echoes, and how its channels ended."""

    address: str
    options: dict[str, Any]
    endings: asyncio.Queue[BaseException] = field(default_factory=asyncio.Queue)
    channels: asyncio.Queue[Channel[bytes]] = field(default_factory=asyncio.Queue)

    async def echo(self, channel: Channel[bytes]) -> None:
        """Send back what comes."""
        self.channels.put_nowait(channel)
        try:
            while True:
                await channel.send(await channel.receive())
        except BaseException as error:
            self.endings.put_nowait(error)
            raise

    async def assert_serves(self) -> None:
        """Check that a good client is served, and ends well."""
        async with aioipc.connect(self.address, **self.options) as good:
            await good.send(b"still served?")
            assert await good.receive() == b"still served?"
        assert type(await self.endings.get()) is EndOfStream

    async def assert_settled(self, fds: int) -> None:
        """Wait until every connection of this test is closed on the victim's side too."""
        async with asyncio.timeout(PATIENCE_S):
            while open_fds() > fds:  # noqa: ASYNC110 - nothing tells of a close
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def attacked(address: str, **options: Any) -> AsyncIterator[Victim]:
    """Yield a listener that echoes; the options are also those of the good client."""
    async with aioipc.listen(address, **options) as listener:
        victim = Victim(listener.address, options)
        task = asyncio.create_task(listener.serve(victim.echo))
        try:
            yield victim
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
