"""Signals that interrupt system calls all the time cost nothing and lose nothing: case 15."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

import aioipc
from tests.scale import scaled

pytestmark = pytest.mark.asyncio

MESSAGES = scaled(20_000, full=100_000)
LARGE = 300_000


@pytest.fixture
def storm() -> Iterator[list[int]]:
    """SIGALRM a thousand times per second, handled in Python."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["unix", "pipe"])
@pytest.mark.parametrize("polling", ["adaptive", "block"])
async def test_nothing_is_lost_in_a_storm_of_signals(
    kind: str, polling: str, storm: list[int]
) -> None:
    left, right = aioipc.pair(kind, codec="raw", polling=polling)
    async with left, right:

        async def send() -> None:
            for number in range(MESSAGES):
                await left.send(number.to_bytes(4, "big"))
            await left.send(bytes(LARGE))
            while not storm:
                await left.send(b"")
            await left.send_eof()

        sending = asyncio.create_task(send())
        for number in range(MESSAGES):
            assert await right.receive() == number.to_bytes(4, "big")
        assert await right.receive() == bytes(LARGE)
        async for message in right:
            assert message == b""
        await sending
    assert storm
