"""Sending without waiting, in order: what the peer does not take yet is kept.

The server bounds that: it waits for `Outbox.room` before it reads what it would have to answer. A
client must not, for one of the two has to read always; it keeps no more than it was asked to do.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Any

from aioipc.channel import Channel
from aioipc.errors import FrameTooLarge, IPCError, WouldBlock

__all__ = ["Outbox"]

_MOST_KEPT = 256


class Outbox:
    """What is on its way to one peer.

    `run` has to run as a task for as long as the channel lives.

    Args:
        channel: To whom.
        too_long: Called with a message that is longer than the peer takes, and that it never gets.
    """

    def __init__(self, channel: Channel[Any], too_long: Callable[[Any], object]) -> None:
        self._channel = channel
        self._too_long = too_long
        self._kept: collections.deque[Any] = collections.deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._is_finishing = False

    def post(self, message: object) -> None:
        """Send a message now, or when there is room.

        A peer that is gone is none of our business here: whoever receives from it is told.
        """
        if not self._kept:
            try:
                self._channel.send_nowait(message)
            except WouldBlock:
                pass
            except FrameTooLarge:
                self._too_long(message)
                return
            except IPCError:
                return
            else:
                return
        self._kept.append(message)
        self._filled.set()
        if len(self._kept) >= _MOST_KEPT:
            self._emptied.clear()

    async def room(self) -> None:
        """Wait until little is kept: before more is read that would be answered."""
        await self._emptied.wait()

    def finish(self) -> None:
        """Let `run` end once nothing is kept."""
        self._is_finishing = True
        self._filled.set()

    async def run(self) -> None:
        """Send what is kept, until the channel ends, or nothing is and nothing more is to come."""
        try:
            while self._kept or not self._is_finishing:
                await self._filled.wait()
                while self._kept:
                    message = self._kept[0]
                    try:
                        await self._channel.send(message)
                    except FrameTooLarge:
                        self._too_long(message)
                    self._kept.popleft()
                self._filled.clear()
                self._emptied.set()
        finally:  # who waits for room is to read on, and hear of the end
            self._kept.clear()
            self._emptied.set()
