"""Cancellation (cases 10 to 12): a frame is sent wholly or not at all, and nothing is lost.

The random tests run 20,000 cancels each with ``AIOIPC_TEST_SCALE=1``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import Channel, WouldBlock
from tests.children import Peers
from tests.links import DUPLEX, FRAMED, Link, fill, steps
from tests.programs import program
from tests.scale import patience_s, scaled

pytestmark = pytest.mark.asyncio

duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
links = pytest.mark.parametrize("link", ["unix", "pipe", "tcp", "memory"], indirect=True)
framed = pytest.mark.parametrize(("link", "framing"), FRAMED, indirect=["link"])

MARKER = b"marker"
STEPS = 8
CANCELS = scaled(400, full=20_000)


async def until_marker(channel: Channel[Any]) -> list[bytes]:
    got = []
    while (message := await channel.receive()) != MARKER:
        got.append(message)
    return got


# Sending: case 10


@framed
@pytest.mark.parametrize("crowded", [False, True], ids=["free", "crowded"])
@pytest.mark.parametrize("size", [0, 100, 70_000, 1_000_000])
async def test_a_send_cancelled_at_each_step(
    link: Link, size: int, crowded: bool, framing: str
) -> None:
    async with link(codec="raw", framing=framing) as (left, right):
        await cancel_at_each_step(left, right, b"x" * size, crowded=crowded)


@pytest.mark.parametrize("crowded", [False, True], ids=["free", "crowded"])
@pytest.mark.parametrize(
    ("option", "size"), [("", 0), ("", 4_088), ("?single", 4_089), ("?single", 1_000_000)]
)
async def test_a_send_to_a_fifo_cancelled_at_each_step(
    option: str, size: int, crowded: bool, tmp_path: Path
) -> None:
    address = f"fifo:{tmp_path}/fifo{option}"
    async with (
        aioipc.listen(address, codec="raw") as listener,
        await listener.accept() as right,
        aioipc.connect(address, codec="raw") as left,
    ):
        await cancel_at_each_step(left, right, b"x" * size, crowded=crowded)


async def cancel_at_each_step(
    left: Channel[Any], right: Channel[Any], message: bytes, *, crowded: bool
) -> None:
    for step in itertools.count():
        filled = fill(left) if crowded else []
        sending = asyncio.create_task(left.send(message))
        receiving = asyncio.create_task(until_marker(right))
        await steps(step)
        finished = sending.done()
        sending.cancel()
        await asyncio.wait([sending])
        await left.send(MARKER)
        got = await receiving
        assert got[: len(filled)] == filled
        if sending.cancelled():
            assert got[len(filled) :] in ([], [message])
        else:
            assert got[len(filled) :] == [message]
        if finished:
            break


@pytest.mark.parametrize("link", ["unix", "pipe", "fd-pipes", "memory"], indirect=True)
async def test_a_message_half_written_belongs_to_the_channel(link: Link) -> None:
    """Its sender may do what it likes with its memory once it was cancelled."""
    async with link(codec="raw") as (left, right):
        for step in range(1, STEPS):
            message = bytearray(b"%08d" % step * 250_000)
            before = bytes(message)
            sending = asyncio.create_task(left.send(message))
            await steps(step)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            message[:] = bytes(len(message))
            receiving = asyncio.create_task(until_marker(right))
            await left.send(MARKER)
            assert await receiving == [before]


@links
async def test_flush_and_send_eof_cancelled_lose_nothing(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for finish in (left.flush, left.flush, left.send_eof):
            filled = fill(left)
            finishing = asyncio.create_task(finish())
            await steps(2)
            finishing.cancel()
            await asyncio.wait([finishing])
            assert finishing.cancelled()
            assert [await right.receive() for _ in filled] == filled
        await left.send(MARKER)
        assert await right.receive() == MARKER
        await left.send_eof()


# Receiving: case 11


@framed
@pytest.mark.parametrize("size", [9, 300_000])
async def test_a_receive_cancelled_at_each_step(link: Link, size: int, framing: str) -> None:
    async with link(codec="raw", framing=framing) as (left, right):
        for send_at, cancel_at in itertools.product(range(STEPS), repeat=2):
            message = b"%d%d%7d" % (send_at, cancel_at, 0) * (size // 9)
            receiving = asyncio.create_task(right.receive())
            for step in range(STEPS):
                if step == send_at:
                    left.send_nowait(message)
                if step == cancel_at:
                    receiving.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([receiving])
            got = await right.receive() if receiving.cancelled() else receiving.result()
            assert got == message
            await left.flush()
        with pytest.raises(WouldBlock):
            right.receive_nowait()


@framed
@pytest.mark.parametrize("receive", ["receive", "receive_many", "__anext__"])
async def test_a_receive_cancelled_in_the_tick_of_the_arrival(
    link: Link, receive: str, framing: str
) -> None:
    loop = asyncio.get_running_loop()

    def just_before(cancel: Callable[[], object]) -> None:
        loop.call_soon(cancel)  # what is scheduled runs before what the poll finds

    def just_after(cancel: Callable[[], object]) -> None:
        loop.call_at(loop.time(), cancel)  # timers run after it

    async with link(codec="raw", framing=framing) as (left, right):
        for number, cancel_in in enumerate([just_before, just_after] * 20):
            message = b"%d" % number
            receiving = asyncio.create_task(getattr(right, receive)())
            await steps(2)
            left.send_nowait(message)
            cancel_in(receiving.cancel)
            await asyncio.wait([receiving])
            if receiving.cancelled():
                assert await right.receive() == message
            else:
                assert receiving.result() in (message, [message])


@duplex
async def test_a_receive_that_is_closed_or_thrown_into_lets_go(link: Link) -> None:
    async with link() as (left, right):

        async def iterate() -> Any:
            async for obj in right:
                yield obj

        await left.send(1)
        iterator = iterate()
        assert await anext(iterator) == 1
        waiting = asyncio.create_task(anext(iterator))
        await steps(2)
        waiting.cancel()
        await asyncio.wait([waiting])
        await iterator.aclose()

        operation = right.receive()
        operation.send(None)
        with pytest.raises(ValueError, match="thrown"):
            operation.throw(ValueError("thrown"))
        operation = right.receive()
        operation.send(None)
        operation.close()

        await left.send(2)
        assert await right.receive() == 2


# Deadlines: case 12


async def by_timeout(receive: Awaitable[Any], limit_s: float) -> Any:
    async with asyncio.timeout(limit_s):
        return await receive


async def by_wait_for(receive: Awaitable[Any], limit_s: float) -> Any:
    return await asyncio.wait_for(receive, limit_s)


async def by_fail_after(receive: Awaitable[Any], limit_s: float) -> Any:
    with anyio.fail_after(limit_s):
        return await receive


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("limited", [by_timeout, by_wait_for, by_fail_after])
@links
async def test_deadlines_that_race_with_arrivals(
    link: Link, limited: Callable[[Awaitable[Any], float], Awaitable[Any]], chance: random.Random
) -> None:
    """The pauses are the race, not a synchronisation: any timing is right."""

    async def send() -> None:
        for number in range(CANCELS):
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.0005)
            await left.send(number)

    async with link() as (left, right), asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        got: list[int] = []
        while len(got) < CANCELS:
            with contextlib.suppress(TimeoutError):
                got.append(await limited(right.receive(), chance.random() * 0.0003))
        assert got == list(range(CANCELS))


@pytest.mark.timeout(patience_s(60))
@links
async def test_a_cancel_is_never_swallowed(link: Link, chance: random.Random) -> None:
    async def receive_for_ever(got: list[int]) -> None:
        while True:
            got.append(await right.receive())

    async with link() as (left, right):
        for number in range(CANCELS):
            got: list[int] = []
            receiving = asyncio.create_task(receive_for_ever(got))
            await steps(chance.randrange(3))
            acts: list[Callable[[], object]] = [
                lambda number=number: left.send_nowait(number),  # type: ignore[misc]
                receiving.cancel,
            ]
            chance.shuffle(acts)
            for act in acts:
                act()
                await steps(chance.randrange(3))
            await asyncio.wait([receiving])
            assert receiving.cancelled()
            if not got:
                got.append(await right.receive())
            assert got == [number]


@pytest.mark.timeout(patience_s(60))
@links
async def test_a_cancel_of_a_sender_is_never_swallowed(link: Link, chance: random.Random) -> None:
    async def send_for_ever() -> None:
        for number in itertools.count():
            await left.send(b"%8000d" % number)
            sent.append(number)

    async with link(codec="raw") as (left, right):
        for _ in range(CANCELS // 10):
            sent: list[int] = []
            sending = asyncio.create_task(send_for_ever())
            receiving = asyncio.create_task(until_marker(right))
            await steps(chance.randrange(30))
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            await left.send(MARKER)
            got = [int(message) for message in await receiving]
            assert got == list(range(len(got)))
            assert got[: len(sent)] == sent
            assert len(got) <= len(sent) + 1


# Everything at once


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("framing", ["length", "lines"])
@links
async def test_random_cancels_lose_nothing_and_duplicate_nothing(
    link: Link, framing: str, chance: random.Random
) -> None:
    sizes = [10, 10, 10, 1_000, 70_000, 300_000]

    async def receive_all() -> list[bytes]:
        got: list[bytes] = []
        while not got or got[-1] != MARKER:
            receiving = asyncio.create_task(right.receive())
            await steps(chance.randrange(4))
            if chance.random() < 0.5:
                receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled():
                got.append(receiving.result())
        return got[:-1]

    async with link(codec="raw", framing=framing) as (left, right):
        receiver = asyncio.create_task(receive_all())
        sends: dict[asyncio.Task[None], bytes] = {}
        running: list[asyncio.Task[None]] = []
        for number in range(CANCELS):
            message = b"%010d" % number * (chance.choice(sizes) // 10)
            sending = asyncio.create_task(left.send(message))
            sends[sending] = message
            running.append(sending)
            await steps(chance.randrange(3))
            if len(running) > 10 or chance.random() < 0.5:
                chosen = running.pop(chance.randrange(len(running)))
                if chance.random() < 0.7:
                    chosen.cancel()
                await asyncio.wait([chosen])
        if running:
            await asyncio.wait(running)
        await left.send(MARKER)
        got = await receiver
        numbers = [int(message[:10]) for message in got]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
        attempted = set(sends.values())
        assert all(message in attempted for message in got), "torn"
        completed = {message for task, message in sends.items() if not task.cancelled()}
        assert completed <= set(got), "lost"
        assert len(completed) < len(sends), "nothing was cancelled"


SHORT_OF_MEMORY = """
    from tests.links import steps
    from tests.shortage import little_memory

    size = 2**27
    left, right = aioipc.pair("unix", codec="raw", limits=aioipc.Limits(max_message_bytes=size))
    async with left, right:
        first = asyncio.create_task(left.send(bytearray(size)))
        second = asyncio.create_task(left.send(b"second"))
        await steps(20)
        assert not first.done()
        first.cancel()
        with little_memory():
            await asyncio.wait([first])
        say(type(first.exception()).__name__)
        assert await right.receive() == bytes(size)  # which had begun
        assert await right.receive() == b"second"
        await second
"""


async def test_a_send_that_is_cancelled_without_memory_for_its_rest_holds_nobody_up(
    peers: Peers,
) -> None:
    short = program(peers, SHORT_OF_MEMORY)
    assert await short.next_line() == "MemoryError"
    assert await short.ended() == 0
