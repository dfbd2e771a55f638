"""The operations of a byte stream: native awaitables, as those of a channel are."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import inspect
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import BusyError, ByteStream, ClosedError, EndOfStream, Limits
from aioipc.address import Address
from aioipc.loop.waiting import pacer_of
from tests.certificates import client_context, server_context
from tests.children import in_child
from tests.links import SMALL_RING, outcome, steps

pytestmark = pytest.mark.asyncio

LIMITS = Limits(ring_bytes=SMALL_RING)
TLS = "tls://127.0.0.1:0"
ADDRESSES = ["unix:", "shm:", "memory:", TLS]
LARGE = bytes(4_000_000)
"""More than a socket or the ring holds."""
FULL_NS = 75_000
SHORT_NS = 1_000
MOST_TRIES = 1_000

Ends = tuple[ByteStream, ByteStream]
Streams = Callable[[], AbstractAsyncContextManager[Ends]]


@contextlib.asynccontextmanager
async def over(address: str) -> AsyncIterator[Ends]:
    where = Address.parse(address)
    if where.scheme == "tls":
        where = where.with_tls(server_context())
    async with aioipc.listen_stream(where, limits=LIMITS) as listener:
        accepting = asyncio.create_task(listener.accept())
        there = Address.parse(listener.address)
        if where.scheme == "tls":
            there = there.with_tls(client_context())
        left = await aioipc.connect_stream(there, limits=LIMITS)
        right = await accepting
    async with left, right:
        yield left, right


@pytest.fixture(params=ADDRESSES)
def streams(request: pytest.FixtureRequest) -> Streams:
    return lambda: over(request.param)


async def receive_exactly(stream: ByteStream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        got += await stream.receive()
    return bytes(got)


def grant_a_budget() -> None:
    """Let the next wait poll: short sleeps, and no misses."""
    budget = pacer_of(asyncio.get_running_loop()).budget
    budget.hit()
    while budget.next_ns() < FULL_NS:
        budget.blocked(SHORT_NS)


# As coroutines


async def test_whatever_takes_a_coroutine_takes_an_operation(streams: Streams) -> None:
    async with streams() as (left, right):
        operation = right.receive()
        assert inspect.isawaitable(operation)
        receiving = asyncio.create_task(operation)
        assert "Stream.Receive" in repr(receiving)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.send, b"one")
        assert await receiving == b"one"
        assert await asyncio.gather(left.send(b"two"), right.receive()) == [None, b"two"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(right.receive(), 0.001)
        with pytest.raises(RuntimeError, match="awaited only once"):
            await operation


async def test_a_cancelled_receive_takes_nothing(streams: Streams) -> None:
    async with streams() as (left, right):
        for number in range(50):
            receiving = asyncio.ensure_future(right.receive())
            await steps(number % 4)
            await left.send(b"%02d" % number)
            await steps(number % 3)
            if receiving.cancel():
                with contextlib.suppress(asyncio.CancelledError):
                    assert await receiving == b"%02d" % number
                if not receiving.cancelled():
                    continue
            elif receiving.result() == b"%02d" % number:
                continue
            assert await receive_exactly(right, 2) == b"%02d" % number


def forget(operation: Coroutine[Any, Any, Any]) -> None:
    """Drop the last reference to it."""
    del operation
    gc.collect()


async def test_a_forgotten_send_warns(streams: Streams) -> None:
    async with streams() as (left, right):
        with pytest.warns(RuntimeWarning, match="never awaited: nothing was sent"):
            forget(left.send(b"forgotten"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            forget(right.receive())  # loses nothing
        await left.send(b"sent")
        assert await right.receive() == b"sent"


# Who may


async def test_one_task_at_a_time(streams: Streams) -> None:
    async with streams() as (left, right), asyncio.TaskGroup() as tasks:
        receiving = tasks.create_task(right.receive())
        await steps(2)
        with pytest.raises(BusyError, match="another task is receiving from this stream"):
            await right.receive()
        await left.send(b"x")
        assert await receiving == b"x"
        tasks.create_task(left.send(LARGE))
        await steps(2)
        for operation in (left.send(b"y"), left.send_eof()):
            with pytest.raises(BusyError, match="another task is sending to this stream"):
                await operation
        assert await receive_exactly(right, len(LARGE)) == LARGE


async def test_use_from_another_thread_fails_at_once(streams: Streams) -> None:
    def use(stream: ByteStream) -> list[BaseException | None]:
        async def each() -> list[BaseException | None]:
            operations = stream.send(b"1"), stream.receive(), stream.send_eof(), stream.aclose()
            return [await outcome(operation) for operation in operations]

        with asyncio.Runner() as runner:
            failures = runner.run(each())
        try:
            stream.abort()
        except RuntimeError as error:
            failures.append(error)
        return failures

    async with streams() as (left, right):
        await left.send(b"hello")
        assert await right.receive() == b"hello"
        failures = await asyncio.to_thread(use, left)
        assert [str(failure) for failure in failures] == [
            "this stream belongs to the event loop of another thread"
        ] * 5
        await left.send(b"still here")
        assert await right.receive() == b"still here"


async def test_every_use_in_a_forked_child_is_refused(streams: Streams) -> None:
    async with streams() as (left, right):
        await left.send(b"before")

        def look() -> None:
            for operation in (left.send(b"x"), right.receive(), right.send_eof()):
                with pytest.raises(aioipc.ForkError, match="this stream belongs to the parent"):
                    operation.send(None)

        assert in_child(look) == 0
        assert await right.receive() == b"before"


# What may be sent


@pytest.mark.parametrize(
    "item",
    [
        bytearray(b"12345678"),
        memoryview(b"x12345678")[1:],
        memoryview(b"12345678").cast("B", (2, 4)),
        array.array("Q", [0x3837363534333231]),
    ],
    ids=["bytearray", "slice", "matrix", "numbers"],
)
async def test_any_memory_is_sent(streams: Streams, item: Any) -> None:
    async with streams() as (left, right):
        await left.send(item)
        assert await receive_exactly(right, 8) == b"12345678"


async def test_what_is_no_memory_is_refused_and_nothing_is_sent(streams: Streams) -> None:
    async with streams() as (left, right):
        for wrong in ("text", 5, None, memoryview(b"every other")[::2]):
            with pytest.raises(TypeError):
                await left.send(wrong)  # type: ignore[arg-type]
        for wrong in (0, -1):
            with pytest.raises(ValueError, match=f"max_bytes must be at least 1, not {wrong}"):
                await right.receive(wrong)
        await left.send(b"right")
        assert await right.receive(2**40) == b"right"


async def test_the_memory_of_what_was_sent_is_let_go(streams: Streams) -> None:
    async with streams() as (left, right):
        item = bytearray(b"reused")
        await left.send(item)
        item.clear()  # BufferError while somebody looks at it
        sending = asyncio.create_task(left.send(item := bytearray(LARGE)))
        await steps(2)
        sending.cancel()
        await asyncio.wait([sending])
        del sending
        item.clear()
        assert await right.receive()


# Ends


async def test_after_the_end_of_one_direction(streams: Streams) -> None:
    async with streams() as (left, right):
        await left.send_eof()
        await left.send_eof()
        with pytest.raises(ClosedError, match="ended its sending direction"):
            await left.send(b"late")
        with pytest.raises(EndOfStream, match="the peer finished"):
            await right.receive()
        await right.send(b"still open")
        assert await left.receive() == b"still open"


async def test_closing_ends_what_waits(streams: Streams) -> None:
    async with streams() as (left, right):
        receiving = asyncio.create_task(left.receive())
        sending = asyncio.create_task(left.send(LARGE))
        await steps(3)
        left.abort()
        for task in (receiving, sending):
            with pytest.raises(ClosedError, match="this side closed the stream"):
                await task
        for operation in (left.receive(), left.send(b"x"), left.send_eof()):
            with pytest.raises(ClosedError, match="this side closed the stream"):
                await operation
        with contextlib.suppress(EndOfStream, aioipc.PeerCrashed):
            while True:
                await right.receive()


# The pace


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_others_have_their_turn(address: str) -> None:
    """Neither a receiver whose peer is as fast, nor an item without end, keeps the loop."""
    async with over(address) as (left, right), asyncio.TaskGroup() as tasks:
        turns = 0
        done = False

        async def turn() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        turning = tasks.create_task(turn())
        await steps(1)
        for _ in range(2_000):
            await left.send(b"x" * 64)
            assert await right.receive() == b"x" * 64
        assert turns >= 2 * 2_000 // 512
        before = turns
        sending = tasks.create_task(left.send(LARGE))
        assert await receive_exactly(right, len(LARGE)) == LARGE
        await sending
        assert turns > before
        done = True
        await turning


def begin_a_poll(stream: ByteStream) -> Coroutine[Any, Any, bytes]:
    """A receive whose poll missed, so that it lets the loop turn before it sleeps."""
    polls = stream._counters()["polls"]
    for _ in range(
        MOST_TRIES
    ):  # a loop that was crowded, or has not turned for long, does not poll
        grant_a_budget()
        receiving = stream.receive()
        if receiving.send(None) is None and stream._counters()["polls"] > polls:
            return receiving
        receiving.close()
    pytest.fail("it sleeps at once")


def result_after_turns(operation: Coroutine[Any, Any, bytes]) -> bytes:
    """Step it as a loop does: None asks for another turn, a future is a sleep."""
    while True:
        try:
            assert operation.send(None) is None
        except StopIteration as stop:
            result: bytes = stop.value
            return result


@pytest.mark.parametrize("address", ["unix:", "shm:", TLS])
async def test_who_waits_for_bytes_polls_before_it_sleeps(address: str) -> None:
    async with over(address) as (left, right):
        await left.send(b"x")
        assert await right.receive() == b"x"
        receiving = begin_a_poll(right)
        before = right._counters()
        await left.send(b"soon")
        assert result_after_turns(receiving) == b"soon"
        assert right._counters()["receive_waits"] == before["receive_waits"]


async def test_round_trips_make_no_garbage(streams: Streams) -> None:
    async with streams() as (left, right):

        async def rounds(count: int) -> None:
            for _ in range(count):
                await left.send(b"ping")
                assert await right.receive() == b"ping"

        await rounds(200)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await rounds(1_000)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 20_000, f"{grown:,} bytes after a thousand rounds"
