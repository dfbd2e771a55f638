"""The contract of a channel: whole objects, in order, once, and one of three endings.

A rule takes ``ends()``, an async context manager of two connected channels that carry bytes, as
with ``codec="raw"``. Those in ``ONE_WAY_RULES`` only send from the first to the second, for what
has no way back.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from aioipc.channel import Channel
from aioipc.testing._expect import PATIENCE_S, raises, steps
from aioipc.testing._turns import MOST_OPERATIONS, Turns

__all__ = ["CHANNEL_RULES", "ONE_WAY_RULES", "ChannelRule", "Ends"]

Ends = Callable[[], AbstractAsyncContextManager[tuple[Channel[Any], Channel[Any]]]]
ChannelRule = Callable[[Ends], Awaitable[None]]

_LENGTHS = (0, 1, 7, 8, 1_000, 4_000)
"""Of messages that every transport takes, those of a FIFO and of a message queue too."""
_STEPS = 6
_MANY = 5_000
_BATCH = 100


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
        for receive in (right.receive, right.receive_many, right.__anext__):
            with raises(anyio.BusyResourceError):
                await receive()
        with raises(anyio.BusyResourceError):
            right.receive_nowait()
        await left.send(b"for the first")
        assert await receiving == b"for the first"
        await left.send(b"for anybody")
        assert await right.receive() == b"for anybody"


async def many_at_once_are_as_many_as_asked_for(ends: Ends) -> None:
    """``send_many`` takes any iterable; ``receive_many`` returns what is there, at most so much."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.send_many(b"%d" % number for number in range(4))
        await left.send_many([])
        got = await right.receive_many(1)
        assert got == [b"0"]
        while len(got) < 4:
            got += await right.receive_many(3)
        assert got == [b"0", b"1", b"2", b"3"]
        with raises(ValueError):
            await right.receive_many(0)


async def a_buffer_may_change_once_it_was_sent(ends: Ends) -> None:
    """Also one that is still gathered with others."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        buffer = bytearray(b"before")
        await left.send(b"occupies the write of this turn")
        await left.send(buffer)
        left.send_nowait(buffer)
        buffer[:] = b"AFTER!"
        await right.receive()
        assert [await right.receive() for _ in range(2)] == [b"before", b"before"]


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


async def each_of_many_tasks_keeps_its_order(ends: Ends) -> None:
    """Each sends some after each other, while the others do."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:

        async def send(sender: int) -> None:
            for number in range(20):
                await left.send(b"%d %d %s" % (sender, number, bytes(sender * 50)))

        for sender in range(20):
            tasks.create_task(send(sender))
        got: dict[int, list[int]] = {sender: [] for sender in range(20)}
        for _ in range(400):
            sender, number, _ = (await right.receive()).split(b" ", 2)
            got[int(sender)].append(int(number))
        assert got == {sender: list(range(20)) for sender in range(20)}


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


async def send_eof_needs_no_message_before_it(ends: Ends) -> None:
    """The other direction works all the same."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.send_eof()
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
            await anext(left)
        await _until_it_fails(left)


async def a_receive_that_waits_is_told_of_a_crash(ends: Ends) -> None:
    """At once, and not at the next message."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(right.receive())
        await asyncio.sleep(0)
        left.abort()
        with raises(anyio.BrokenResourceError):
            await waiting


async def a_peer_that_closed_receives_no_more(ends: Ends) -> None:
    """Sending to it fails, and what it had sent is received all the same."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await right.send_many([b"1", b"2", b"3"])
        await right.aclose()
        await _until_it_fails(left)
        with raises(anyio.BrokenResourceError):
            await left.flush()
        assert [await left.receive() for _ in range(3)] == [b"1", b"2", b"3"]
        await _stays(left, anyio.EndOfStream)
        await left.aclose()


async def both_ends_may_close_at_once(ends: Ends) -> None:
    """Each with something that the other has not read."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await left.send(b"1")
        await right.send(b"2")
        await asyncio.gather(left.aclose(), right.aclose())


async def a_receiver_that_does_not_makes_its_sender_wait(ends: Ends) -> None:
    """A cancelled send that waits leaves nothing behind, and then it goes on."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        filled = _fill(left)
        waiting = asyncio.ensure_future(left.send(b"cancelled" * 100))
        await steps(3)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        last = asyncio.ensure_future(left.send(b"last"))
        for message in filled:
            assert await right.receive() == message
        assert await right.receive() == b"last"
        await last


async def who_waits_in_line_to_send_may_leave_it(ends: Ends) -> None:
    """The others keep their places."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        filled = _fill(left)
        waiting = [asyncio.ensure_future(left.send(b"%06d" % n * 200)) for n in range(10)]
        await steps(2)
        leaving = (0, 1, 5, 9)
        for number in leaving:
            waiting[number].cancel()
        await steps(2)
        assert [task.done() for task in waiting] == [n in leaving for n in range(10)]
        for message in filled:
            assert await right.receive() == message
        for number in (2, 3, 4, 6, 7, 8):
            assert await right.receive() == b"%06d" % number * 200
        await asyncio.gather(*waiting, return_exceptions=True)


async def send_many_that_is_cancelled_has_sent_a_prefix(ends: Ends) -> None:
    """At whatever step, and each message whole."""
    messages = [b"%03d" % number * length for number, length in enumerate([1, 20_000, 7] * 3)]
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        for step in itertools.count():
            sending = asyncio.ensure_future(left.send_many(messages))
            receiving = asyncio.ensure_future(_receive_until(right, b"marker"))
            await steps(step)
            finished = sending.done()
            sending.cancel()
            await asyncio.wait([sending])
            await left.send(b"marker")
            got = await receiving
            assert got == messages[: len(got)]
            if finished:
                assert len(got) == len(messages)
                break


async def a_sender_that_finds_room_lets_others_run(ends: Ends) -> None:
    """At the latest after `MOST_OPERATIONS`."""
    async with ends() as (left, right), Turns() as turns, asyncio.timeout(PATIENCE_S):
        receiving = asyncio.ensure_future(_receive(right, _MANY))
        longest = await turns.longest_run(_MANY, lambda: left.send(b"x"))
        assert longest <= MOST_OPERATIONS, f"{longest} sends in one turn of the loop"
        await receiving


async def a_receiver_that_finds_messages_lets_others_run(ends: Ends) -> None:
    """At the latest after `MOST_OPERATIONS`; batches count their messages."""
    async with ends() as (left, right), Turns() as turns, asyncio.timeout(PATIENCE_S):
        for most, receive in (
            (MOST_OPERATIONS, right.receive),
            # The turn comes with the operation after the limit was reached.
            (MOST_OPERATIONS + _BATCH, lambda: right.receive_many(_BATCH)),
        ):
            sending = asyncio.ensure_future(left.send_many([b"x"] * _MANY))
            longest = await turns.longest_run(_MANY, receive)
            assert longest <= most, f"{longest} messages in one turn of the loop"
            await sending


ONE_WAY_RULES: tuple[ChannelRule, ...] = (
    messages_keep_their_boundaries,
    nothing_to_receive_would_block,
    only_one_task_receives,
    many_at_once_are_as_many_as_asked_for,
    a_buffer_may_change_once_it_was_sent,
    a_receive_cancelled_at_any_step_loses_nothing,
    a_close_tells_who_waits,
)
"""What every channel keeps to that has a direction at all, datagrams included."""

CHANNEL_RULES: tuple[ChannelRule, ...] = (
    *ONE_WAY_RULES,
    several_tasks_send_in_the_order_of_their_calls,
    each_of_many_tasks_keeps_its_order,
    both_directions_go_at_once,
    a_close_is_an_end_after_all_that_was_sent,
    a_close_without_a_message_is_an_end,
    send_eof_leaves_the_other_direction_open,
    send_eof_needs_no_message_before_it,
    a_peer_that_broke_off_has_crashed,
    a_receive_that_waits_is_told_of_a_crash,
    a_peer_that_closed_receives_no_more,
    both_ends_may_close_at_once,
    a_receiver_that_does_not_makes_its_sender_wait,
    who_waits_in_line_to_send_may_leave_it,
    send_many_that_is_cancelled_has_sent_a_prefix,
    a_sender_that_finds_room_lets_others_run,
    a_receiver_that_finds_messages_lets_others_run,
)
"""What every channel between two peers keeps to."""


def _fill(channel: Channel[Any]) -> list[bytes]:
    """Send until there is no room."""
    sent: list[bytes] = []
    try:
        while True:
            message = b"%06d" % len(sent) * 100
            channel.send_nowait(message)
            sent.append(message)
            assert len(sent) < 1_000_000, "nothing ever makes the sender wait"
    except anyio.WouldBlock:
        return sent


async def _receive(channel: Channel[Any], count: int) -> None:
    for _ in range(count):
        await channel.receive()


async def _receive_until(channel: Channel[Any], marker: bytes) -> list[bytes]:
    got = []
    while (message := await channel.receive()) != marker:
        got.append(message)
    return got


async def _until_it_fails(channel: Channel[Any]) -> None:
    with raises(anyio.BrokenResourceError):
        while True:
            await channel.send(bytes(1_000))
            await asyncio.sleep(0)


async def _stays(channel: Channel[Any], kind: type[BaseException]) -> None:
    for _ in range(2):
        with raises(kind):
            await channel.receive()
        with raises(kind):
            await channel.receive_many()
        with raises(kind):
            channel.receive_nowait()
