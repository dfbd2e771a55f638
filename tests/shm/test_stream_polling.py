"""Whoever waits for bytes of a ring looks for them a while, before it has to be woken."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import aioipc
from aioipc.abc import ByteTransport
from aioipc.loop.waiting import pacer_of
from tests.shm.bare import LIMITS

pytestmark = pytest.mark.asyncio

SHORT_NS = 1_000


def bells_waiting() -> int:
    """How often an eventfd of this process was rung, and nobody looked yet (proc(5))."""
    counts = 0
    for entry in list(Path("/proc/self/fdinfo").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # that of this very look
            found = re.search(r"eventfd-count:\s*([0-9a-f]+)", entry.read_text())
            counts += int(found[1], 16) if found else 0
    return counts


class Reader:
    """Waits for bytes of a transport, once."""

    def __init__(self, transport: ByteTransport) -> None:
        self.transport = transport
        self.called = asyncio.Event()
        transport.on_readable(self.called.set)

    def read(self) -> int | None:
        return self.transport.try_read_into(memoryview(bytearray(64)))


@pytest_asyncio.fixture
async def transports() -> AsyncIterator[tuple[ByteTransport, ByteTransport]]:
    """Two ends of a byte stream in shared memory, which greeted each other."""
    async with aioipc.listen_stream("shm:", limits=LIMITS) as listener:
        left = await aioipc.connect_stream(listener.address, limits=LIMITS)
        right = await listener.accept()
        async with left, right:
            for one, other in ((left, right), (right, left)):
                await one.send(b"settled")
                assert await other.receive() == b"settled"
            yield left.transport, right.transport


def grant_a_budget() -> None:
    budget = pacer_of(asyncio.get_running_loop()).budget
    budget.blocked(SHORT_NS)
    budget.blocked(SHORT_NS)


async def test_bytes_that_come_soon_ring_no_bell(
    transports: tuple[ByteTransport, ByteTransport],
) -> None:
    left, right = transports
    grant_a_budget()
    reader = Reader(left)
    before = bells_waiting()
    assert right.try_write((b"soon",)) == 4
    assert bells_waiting() == before
    await reader.called.wait()
    assert reader.read() == 4


async def test_who_has_waited_long_is_woken(
    transports: tuple[ByteTransport, ByteTransport],
) -> None:
    left, right = transports
    grant_a_budget()
    reader = Reader(left)
    for _ in range(8):  # more turns than a budget has polls
        await asyncio.sleep(0)
    before = bells_waiting()
    assert right.try_write((b"late",)) == 4
    assert bells_waiting() > before
    await reader.called.wait()
    assert reader.read() == 4


async def test_without_a_budget_nobody_polls(
    transports: tuple[ByteTransport, ByteTransport],
) -> None:
    left, right = transports
    pacer_of(asyncio.get_running_loop()).budget.blocked(10**9)
    reader = Reader(left)
    before = bells_waiting()
    assert right.try_write((b"x",)) == 1
    assert bells_waiting() > before
    await reader.called.wait()


@pytest.mark.parametrize("turns", [0, 8])
async def test_who_waits_no_more_is_not_called(
    transports: tuple[ByteTransport, ByteTransport], turns: int
) -> None:
    left, right = transports
    grant_a_budget()
    reader = Reader(left)
    for _ in range(turns):
        await asyncio.sleep(0)
    left.on_readable(None)
    assert right.try_write((b"x",)) == 1
    for _ in range(8):
        await asyncio.sleep(0)
    assert not reader.called.is_set()
    assert reader.read() == 1  # and nothing was lost


async def test_an_answer_from_within_the_call_is_waited_for_at_once(
    transports: tuple[ByteTransport, ByteTransport],
) -> None:
    """As a Protocol does that writes in data_received."""
    left, right = transports
    rounds = 20
    done = asyncio.Event()
    counts = {left: 0, right: 0}

    def answer(transport: ByteTransport) -> None:
        buffer = memoryview(bytearray(64))
        if transport.try_read_into(buffer) is not None:
            counts[transport] += 1
            if counts[left] == rounds:
                done.set()
                return
            transport.try_write((b"ping",))
        transport.on_readable(lambda: answer(transport))

    grant_a_budget()
    left.on_readable(lambda: answer(left))
    right.on_readable(lambda: answer(right))
    right.try_write((b"ping",))
    await done.wait()
    right.on_readable(None)
    assert counts[left] == rounds


@pytest.mark.parametrize("turns", [0, 8])
async def test_a_close_while_somebody_waits(
    transports: tuple[ByteTransport, ByteTransport], turns: int
) -> None:
    left, right = transports
    grant_a_budget()
    reader = Reader(left)
    for _ in range(turns):
        await asyncio.sleep(0)
    left.close()
    right.close()
    for _ in range(8):
        await asyncio.sleep(0)
    assert not reader.called.is_set()
