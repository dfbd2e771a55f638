"""Who is called when there are bytes: they are looked for a while before a peer has to wake."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import aioipc
from aioipc._bytes import reader_of
from aioipc.loop.waiting import pacer_of
from aioipc.native._bytes import BytePort, PolledReading
from tests.shm.bare import LIMITS

pytestmark = pytest.mark.asyncio

SHORT_NS = 1_000
LONG_NS = 10**9


def bells_waiting() -> int:
    """How often an eventfd of this process was rung, and nobody looked yet (proc(5))."""
    counts = 0
    for entry in list(Path("/proc/self/fdinfo").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # that of this very look
            found = re.search(r"eventfd-count:\s*([0-9a-f]+)", entry.read_text())
            counts += int(found[1], 16) if found else 0
    return counts


class End:
    """One end of a byte stream, as a transport of asyncio has it."""

    def __init__(self, stream: aioipc.ByteStream) -> None:
        self.port = BytePort(stream.transport, reader_of(stream.transport))
        self.port.belong_to(pacer_of(asyncio.get_running_loop()))
        assert self.port.is_pollable
        self.on_readable = PolledReading(self.port).on_readable

    def try_read(self) -> bytes | None:
        return self.port.try_read(64)

    def try_write(self, data: bytes) -> int:
        return self.port.try_write((data,))


class Reader:
    """Waits for bytes of an end, once."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.called = asyncio.Event()
        end.on_readable(self.called.set)

    def read(self) -> bytes | None:
        return self.end.try_read()


Ends = tuple[End, End]
shm = pytest.mark.parametrize("ends", ["shm:"], indirect=True)


async def wake_once(sleeper: End, other: End) -> None:
    """Let the loop forget that it was crowded: it would not poll."""
    pacer_of(asyncio.get_running_loop()).budget.blocked(LONG_NS)
    reader = Reader(sleeper)
    other.try_write(b"wake up")
    await reader.called.wait()
    assert reader.read() == b"wake up"


@pytest_asyncio.fixture(params=["shm:", "unix:"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    """Two ends, which greeted each other."""
    async with aioipc.listen_stream(request.param, limits=LIMITS) as listener:
        left = await aioipc.connect_stream(listener.address, limits=LIMITS)
        right = await listener.accept()
        async with left, right:
            for one, other in ((left, right), (right, left)):
                await one.send(b"settled")
                assert await other.receive() == b"settled"
            ends = End(left), End(right)
            await wake_once(*ends)
            yield ends


def grant_a_budget() -> None:
    budget = pacer_of(asyncio.get_running_loop()).budget
    budget.blocked(SHORT_NS)
    budget.blocked(SHORT_NS)


@shm
async def test_bytes_that_come_soon_ring_no_bell(
    ends: Ends,
) -> None:
    left, right = ends
    grant_a_budget()
    reader = Reader(left)
    before = bells_waiting()
    assert right.try_write(b"soon") == 4
    assert bells_waiting() == before
    await reader.called.wait()
    assert reader.read() == b"soon"


@shm
async def test_who_has_waited_long_is_woken(
    ends: Ends,
) -> None:
    left, right = ends
    grant_a_budget()
    reader = Reader(left)
    for _ in range(8):  # more turns than a budget has polls
        await asyncio.sleep(0)
    before = bells_waiting()
    assert right.try_write(b"late") == 4
    assert bells_waiting() > before
    await reader.called.wait()
    assert reader.read() == b"late"


@shm
async def test_without_a_budget_nobody_polls(
    ends: Ends,
) -> None:
    left, right = ends
    pacer_of(asyncio.get_running_loop()).budget.blocked(LONG_NS)
    reader = Reader(left)
    before = bells_waiting()
    assert right.try_write(b"x") == 1
    assert bells_waiting() > before
    await reader.called.wait()


@pytest.mark.parametrize("turns", [0, 8])
async def test_who_waits_no_more_is_not_called(ends: Ends, turns: int) -> None:
    left, right = ends
    grant_a_budget()
    reader = Reader(left)
    for _ in range(turns):
        await asyncio.sleep(0)
    left.on_readable(None)
    assert right.try_write(b"x") == 1
    for _ in range(8):
        await asyncio.sleep(0)
    assert not reader.called.is_set()
    assert reader.read() == b"x"  # and nothing was lost


async def test_an_answer_from_within_the_call_is_waited_for_at_once(
    ends: Ends,
) -> None:
    """As a Protocol does that writes in data_received."""
    left, right = ends
    rounds = 20
    done = asyncio.Event()
    counts = {left: 0, right: 0}

    def answer(end: End) -> None:
        if end.try_read() is not None:
            counts[end] += 1
            if counts[left] == rounds:
                done.set()
                return
            end.try_write(b"ping")
        end.on_readable(lambda: answer(end))

    grant_a_budget()
    left.on_readable(lambda: answer(left))
    right.on_readable(lambda: answer(right))
    right.try_write(b"ping")
    await done.wait()
    right.on_readable(None)
    assert counts[left] == rounds


@pytest.mark.parametrize("turns", [0, 8])
async def test_a_close_while_somebody_waits(ends: Ends, turns: int) -> None:
    left, right = ends
    grant_a_budget()
    reader = Reader(left)
    for _ in range(turns):
        await asyncio.sleep(0)
    left.port.close()
    right.port.close()
    for _ in range(8):
        await asyncio.sleep(0)
    assert not reader.called.is_set()


async def test_bytes_that_come_soon_are_found(ends: Ends) -> None:
    left, right = ends
    grant_a_budget()
    reader = Reader(left)
    right.try_write(b"soon")
    await reader.called.wait()
    assert reader.read() == b"soon"


async def test_what_is_left_of_a_read_is_told_of_again(ends: Ends) -> None:
    left, right = ends
    right.try_write(bytes(100))
    got = 0
    while got < 100:
        reader = Reader(left)
        await reader.called.wait()
        got += len(left.port.try_read(7) or b"")
    assert left.try_read() is None


async def test_a_waiter_that_gave_up_is_not_called_for_what_was_left(ends: Ends) -> None:
    left, right = ends
    right.try_write(b"12345678")
    await asyncio.sleep(0)
    assert left.port.try_read(4) == b"1234"
    reader = Reader(left)
    left.on_readable(None)
    for _ in range(8):
        await asyncio.sleep(0)
    assert not reader.called.is_set()
    assert left.try_read() == b"5678"
