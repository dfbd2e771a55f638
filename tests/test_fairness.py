"""A long message lets the loop turn; that many short ones do is a rule of `aioipc.testing`."""

from __future__ import annotations

import asyncio

import pytest

import aioipc
from aioipc.testing._turns import Turns

pytestmark = pytest.mark.asyncio


async def test_a_long_message_does_not_keep_the_loop() -> None:
    size = 32 * 1024 * 1024
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right, Turns() as turns:
        before = turns.count
        sending = asyncio.create_task(left.send(bytes(size)))
        assert len(await right.receive()) == size
        await sending
        # A socket holds a few hundred KiB, so there is no other way than many turns; what
        # counts is that neither side does more than a few reads or writes per turn.
        calls = left.statistics().write_calls + right.statistics().read_calls
        assert turns.count - before >= calls / 64
