"""The contract of a duplex byte stream: that of ``anyio.abc.ByteStream``, and what it leaves open.

A rule takes ``ends()``, an async context manager of two connected streams, and expects anyio's
exceptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from anyio.abc import ByteStream

from aioipc.testing._expect import PATIENCE_S, raises, steps
from aioipc.testing._turns import MOST_OPERATIONS, Turns

__all__ = ["STREAM_RULES", "Ends", "StreamRule"]

Ends = Callable[[], AbstractAsyncContextManager[tuple[ByteStream, ByteStream]]]
StreamRule = Callable[[Ends], Awaitable[None]]

_MORE_THAN_BUFFERS = 20_000_000
"""Bytes that no kernel buffer or ring holds."""
_MANY = 5_000


async def bytes_go_both_ways(ends: Ends) -> None:
    """And ``receive`` returns at most what was asked for."""
    async with ends() as (left, right):
        await left.send(b"hello")
        assert await right.receive() == b"hello"
        await right.send(b"and back")
        assert await left.receive(3) == b"and"
        assert await left.receive() == b" back"


async def nothing_is_not_the_end(ends: Ends) -> None:
    """Sending no bytes sends nothing."""
    async with ends() as (left, right):
        await left.send(b"")
        await left.send(b"x")
        assert await right.receive() == b"x"


async def large_items_arrive_whole(ends: Ends) -> None:
    """Every byte once and in order, also what is more than any buffer holds."""
    data = b"".join(b"%08x" % number for number in range(400_000))
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        sending = asyncio.ensure_future(left.send(data))
        got = bytearray()
        while len(got) < len(data):
            got += await right.receive()
        await sending
        assert got == data


async def the_end_comes_after_everything(ends: Ends) -> None:
    """``send_eof`` ends one direction, and may be repeated; the other one goes on."""
    async with ends() as (left, right):
        await left.send(b"last words")
        await left.send_eof()
        await left.send_eof()
        with raises(anyio.ClosedResourceError):
            await left.send(b"more")
        assert await _all(right) == b"last words"
        with raises(anyio.EndOfStream):
            await right.receive()
        await right.send(b"still")
        assert await left.receive() == b"still"


async def a_close_delivers_what_was_sent(ends: Ends) -> None:
    """And may be repeated; afterwards nothing works."""
    async with ends() as (left, right):
        await left.send(b"y" * 30_000)
        await left.aclose()
        await left.aclose()
        assert await _all(right) == b"y" * 30_000
        with raises(anyio.ClosedResourceError):
            await left.receive()
        with raises(anyio.ClosedResourceError):
            await left.send(b"x")


async def a_peer_that_closed_receives_no_more(ends: Ends) -> None:
    """Sending to it fails sooner or later, and does not wait for ever."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await right.aclose()
        with raises(anyio.BrokenResourceError):
            while True:
                await left.send(b"x" * 10_000)
                await asyncio.sleep(0)


async def one_task_at_a_time_in_each_direction(ends: Ends) -> None:
    """A second one is refused at once."""
    async with ends() as (left, right):
        receiving = asyncio.ensure_future(left.receive())
        await asyncio.sleep(0)
        with raises(anyio.BusyResourceError):
            await left.receive()
        sending = asyncio.ensure_future(left.send(bytes(_MORE_THAN_BUFFERS)))
        await steps(5)
        with raises(anyio.BusyResourceError):
            await left.send(b"x")
        with raises(anyio.BusyResourceError):
            await left.send_eof()
        await _cancel(sending, receiving)
        await anyio.aclose_forcefully(right)


async def a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    """Whether the bytes came before the cancellation or after it."""
    async with ends() as (left, right):
        for number in range(20):
            receiving = asyncio.ensure_future(right.receive())
            await asyncio.sleep(0)
            await left.send(b"%d" % number)
            await steps(number % 5)
            receiving.cancel()
            await asyncio.wait([receiving])
            got = await right.receive() if receiving.cancelled() else receiving.result()
            assert got == b"%d" % number


async def a_close_tells_who_waits(ends: Ends) -> None:
    """Nobody waits for what was closed on this side."""
    async with ends() as (left, _):
        receiving = asyncio.ensure_future(left.receive())
        sending = asyncio.ensure_future(left.send(bytes(_MORE_THAN_BUFFERS)))
        await steps(5)
        closing = asyncio.ensure_future(left.aclose())
        for pending in (receiving, sending):
            with raises(anyio.ClosedResourceError):
                await asyncio.wait_for(pending, PATIENCE_S)
        await _cancel(closing)


async def a_full_stream_makes_its_sender_wait(ends: Ends) -> None:
    """And goes on when the other side receives."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        sending = asyncio.ensure_future(left.send(bytes(_MORE_THAN_BUFFERS)))
        await steps(20)
        assert not sending.done(), "something keeps more than a buffer holds"
        received = 0
        while received < _MORE_THAN_BUFFERS:
            received += len(await right.receive())
        await sending


async def who_never_waits_lets_others_run(ends: Ends) -> None:
    """At the latest after `MOST_OPERATIONS`, in both directions."""
    async with ends() as (left, right), Turns() as turns, asyncio.timeout(PATIENCE_S):
        await left.send(bytes(_MANY))
        longest = await turns.longest_run(_MANY, lambda: right.receive(1))
        assert longest <= MOST_OPERATIONS, f"{longest} receives in one turn of the loop"
        receiving = asyncio.ensure_future(_receive(right, _MANY))
        longest = await turns.longest_run(_MANY, lambda: left.send(b"x"))
        assert longest <= MOST_OPERATIONS, f"{longest} sends in one turn of the loop"
        await receiving


STREAM_RULES: tuple[StreamRule, ...] = (
    bytes_go_both_ways,
    nothing_is_not_the_end,
    large_items_arrive_whole,
    the_end_comes_after_everything,
    a_close_delivers_what_was_sent,
    a_peer_that_closed_receives_no_more,
    one_task_at_a_time_in_each_direction,
    a_cancelled_receive_loses_nothing,
    a_close_tells_who_waits,
    a_full_stream_makes_its_sender_wait,
    who_never_waits_lets_others_run,
)
"""What every byte stream keeps to."""


async def _receive(stream: ByteStream, size: int) -> None:
    while size > 0:
        size -= len(await stream.receive(size))


async def _all(stream: ByteStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
