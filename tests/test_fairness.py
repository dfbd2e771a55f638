"""A long message lets the loop turn; that many short ones do is a rule of `aioipc.testing`."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

import aioipc
from aioipc.testing._turns import Turns
from tests.children import PATIENCE_S
from tests.links import until

pytestmark = pytest.mark.asyncio

LONGER_THAN_A_TURN_NS = 150_000
LONGEST_TURN_NS = 1_000_000


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


LONG_MESSAGE = "so long that the clock is looked at" * 20
both = pytest.mark.parametrize("kind", ["unix", "shm"])


def work() -> None:
    """Keep the loop for longer than is fair."""
    end_ns = time.monotonic_ns() + LONGER_THAN_A_TURN_NS
    while time.monotonic_ns() < end_ns:
        pass


@both
async def test_after_a_long_turn_the_others_come_first(kind: str) -> None:
    """Even who has to be told by a callback that its descriptor became ready."""
    messages = 40
    undisturbed = []
    loop = asyncio.get_running_loop()
    left, right = aioipc.pair(kind, codec="json")
    readable, writable = os.pipe()
    bells = asyncio.Queue[bytes]()
    loop.add_reader(readable, lambda: bells.put_nowait(os.read(readable, 1)))
    done = 0
    heard: list[int] = []

    async def other() -> None:
        while True:
            await bells.get()
            heard.append(done)

    async with asyncio.timeout(PATIENCE_S), left, right:
        listening = asyncio.create_task(other())
        await left.send_many([LONG_MESSAGE] * messages)
        for _ in range(messages):
            await right.receive()
            begin_ns = time.monotonic_ns()
            work()
            done += 1
            os.write(writable, b"!")
            if time.monotonic_ns() - begin_ns < LONGEST_TURN_NS / 2:
                undisturbed.append(done)
        await until(lambda: len(heard) == messages)
        listening.cancel()
        loop.remove_reader(readable)
    os.close(readable)
    os.close(writable)
    assert undisturbed, "no turn was a turn: others had the processor"
    missed = set(undisturbed) - set(heard)
    assert len(missed) <= messages / 10, "others may have the processor after the look at the clock"


@both
async def test_who_computes_sends_at_once(kind: str) -> None:
    """A message does not wait for the end of the turn because its sender had to yield."""
    left, right = aioipc.pair(kind, codec="json")
    async with asyncio.timeout(PATIENCE_S), left, right:
        await left.send("hello")
        assert await right.receive() == "hello"
        for number in range(10):
            work()
            await left.send([number, LONG_MESSAGE])
            assert right.receive_nowait() == [number, LONG_MESSAGE]
