"""The contract of a channel: whole objects, in order, once, and one of three endings.

A rule takes ``ends()``, an async context manager of two connected channels that carry bytes, as
with ``codec="raw"``. Those in ``ONE_WAY_RULES`` only send from the first to the second, for what
has no way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from aioipc.channel import Channel
from aioipc.testing._expect import PATIENCE_S, raises, steps

__all__ = ["CHANNEL_RULES", "ONE_WAY_RULES", "ChannelRule", "Ends"]

Ends = Callable[[], AbstractAsyncContextManager[tuple[Channel[Any], Channel[Any]]]]
ChannelRule = Callable[[Ends], Awaitable[None]]

_LENGTHS = (0, 1, 7, 8, 1_000, 4_000)
"""Of messages that every transport takes, those of a FIFO and of a message queue too."""
_STEPS = 6


async def messages_keep_their_boundaries(ends: Ends) -> None:
    """Also those of no bytes, which are no end."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        for length in _LENGTHS:
            await left.send(b"x" * length)
            assert await right.receive() == b"x" * length
        sending = asyncio.ensure_future(left.send_many([b"a", b"", b"b", b""]))
        assert [await right.receive() for _ in range(4)] == [b"a", b"", b"b", b""]
        await sending


async def nothing_to_receive_would_block(ends: Ends) -> None:
    """``receive_nowait`` says so, and takes what is there."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        with raises(anyio.WouldBlock):
            right.receive_nowait()
        await left.send(b"x")
        await left.flush()
        while True:
            try:
                assert right.receive_nowait() == b"x"
                break
            except anyio.WouldBlock:
                await asyncio.sleep(0)


async def only_one_task_receives(ends: Ends) -> None:
    """A second one is refused at once, and the first gets the message."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        receiving = asyncio.ensure_future(right.receive())
        await asyncio.sleep(0)
        with raises(anyio.BusyResourceError):
            await right.receive()
        await left.send(b"for the first")
        assert await receiving == b"for the first"


async def a_receive_cancelled_at_any_step_loses_nothing(ends: Ends) -> None:
    """However the cancellation and the arrival fall together."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        for sent_at in range(_STEPS):
            for cancelled_at in range(_STEPS):
                message = b"%d %d" % (sent_at, cancelled_at)
                receiving = asyncio.ensure_future(right.receive())
                for step in range(_STEPS):
                    if step == sent_at:
                        left.send_nowait(message)
                    if step == cancelled_at:
                        receiving.cancel()
                    await asyncio.sleep(0)
                await asyncio.wait([receiving])
                late = receiving.cancelled()
                assert (await right.receive() if late else receiving.result()) == message


async def a_close_tells_who_waits(ends: Ends) -> None:
    """Whoever receives is told, and afterwards nothing works."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        receiving = asyncio.ensure_future(right.receive())
        await steps(2)
        await right.aclose()
        await right.aclose()
        with raises(anyio.ClosedResourceError):
            await receiving
        with raises(anyio.ClosedResourceError):
            await right.receive()
        await left.aclose()
        with raises(anyio.ClosedResourceError):
            await left.send(b"x")


async def several_tasks_send_in_the_order_of_their_calls(ends: Ends) -> None:
    """Messages are never mixed."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        sending = [asyncio.ensure_future(left.send(b"%04d" % n * 200)) for n in range(50)]
        assert [await right.receive() for _ in range(50)] == [b"%04d" % n * 200 for n in range(50)]
        await asyncio.gather(*sending)


async def both_directions_go_at_once(ends: Ends) -> None:
    """Neither waits for the other."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        for number in range(100):
            await left.send(b"%d" % number)
            await right.send(b"-%d" % number)
        for number in range(100):
            assert await right.receive() == b"%d" % number
            assert await left.receive() == b"-%d" % number


async def a_close_is_an_end_after_all_that_was_sent(ends: Ends) -> None:
    """The peer receives everything, and then EndOfStream as often as it asks."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.send_many([b"%d" % number for number in range(100)])
        await left.send(b"100")
        left.send_nowait(b"101")
        await left.aclose()
        assert [await right.receive() for _ in range(102)] == [b"%d" % n for n in range(102)]
        await _stays(right, anyio.EndOfStream)
        assert [obj async for obj in right] == []


async def a_close_without_a_message_is_an_end(ends: Ends) -> None:
    """It is not a crash."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.aclose()
        await _stays(right, anyio.EndOfStream)
        await right.aclose()


async def send_eof_leaves_the_other_direction_open(ends: Ends) -> None:
    """It may be repeated, and nothing is sent after it."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.send_many([b"last", b"words"])
        await left.send_eof()
        await left.send_eof()
        with raises(anyio.ClosedResourceError):
            await left.send(b"more")
        assert [await right.receive(), await right.receive()] == [b"last", b"words"]
        await _stays(right, anyio.EndOfStream)
        await right.send(b"still")
        assert await left.receive() == b"still"


async def a_peer_that_broke_off_has_crashed(ends: Ends) -> None:
    """What it had sent is received first, and sending to it fails."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await right.send(b"before")
        await right.flush()
        right.abort()
        assert await left.receive() == b"before"
        await _stays(left, anyio.BrokenResourceError)
        with raises(anyio.BrokenResourceError):
            while True:
                await left.send(bytes(1_000))
                await asyncio.sleep(0)


async def a_receiver_that_does_not_makes_its_sender_wait(ends: Ends) -> None:
    """A cancelled send that waits leaves nothing behind, and then it goes on."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        sent = 0
        try:
            while True:
                left.send_nowait(b"%06d" % sent * 100)
                sent += 1
                assert sent < 1_000_000, "nothing ever makes the sender wait"
        except anyio.WouldBlock:
            pass
        waiting = asyncio.ensure_future(left.send(b"cancelled" * 100))
        await steps(3)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        last = asyncio.ensure_future(left.send(b"last"))
        for number in range(sent):
            assert await right.receive() == b"%06d" % number * 100
        assert await right.receive() == b"last"
        await last


ONE_WAY_RULES: tuple[ChannelRule, ...] = (
    messages_keep_their_boundaries,
    nothing_to_receive_would_block,
    only_one_task_receives,
    a_receive_cancelled_at_any_step_loses_nothing,
    a_close_tells_who_waits,
)
"""What every channel keeps to that has a direction at all, datagrams included."""

CHANNEL_RULES: tuple[ChannelRule, ...] = (
    *ONE_WAY_RULES,
    several_tasks_send_in_the_order_of_their_calls,
    both_directions_go_at_once,
    a_close_is_an_end_after_all_that_was_sent,
    a_close_without_a_message_is_an_end,
    send_eof_leaves_the_other_direction_open,
    a_peer_that_broke_off_has_crashed,
    a_receiver_that_does_not_makes_its_sender_wait,
)
"""What every channel between two peers keeps to."""


async def _stays(channel: Channel[Any], kind: type[BaseException]) -> None:
    for _ in range(2):
        with raises(kind):
            await channel.receive()
        with raises(kind):
            await channel.receive_many()
        with raises(kind):
            channel.receive_nowait()
