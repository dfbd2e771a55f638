"""The contract of `aioipc.abc.MessageTransport`, for who writes one.

A rule takes ``ends()``, an async context manager of two connected transports. Those in
``ONE_WAY_MESSAGE_RULES`` only send from the first to the second, for what has no way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import anyio

from aioipc.abc import MessageTransport
from aioipc.errors import PeerCrashed
from aioipc.loop.waiting import wait_readable, wait_writable
from aioipc.testing._expect import PATIENCE_S, raises, steps, until

__all__ = ["MESSAGE_RULES", "ONE_WAY_MESSAGE_RULES", "MessageEnds", "MessageRule"]

MessageEnds = Callable[[], AbstractAsyncContextManager[tuple[MessageTransport, MessageTransport]]]
MessageRule = Callable[[MessageEnds], Awaitable[None]]

_LENGTHS = (0, 1, 7, 8, 1_000, 4_000)
"""Of messages that every transport takes, a message queue too."""


async def messages_arrive_whole_and_in_order(ends: MessageEnds) -> None:
    """Those of several parts and those of no bytes, too."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        for length in _LENGTHS:
            await _send(left, b"x" * length)
            assert await _receive(right) == b"x" * length
        await _send(left, b"one ", bytearray(b"and "), memoryview(b"two"))
        await _send(left, b"three")
        assert [await _receive(right) for _ in range(2)] == [b"one and two", b"three"]


async def nothing_there_is_none(ends: MessageEnds) -> None:
    """And neither an end nor a message of no bytes."""
    async with ends() as (_, right):
        assert right.try_receive() is None


async def a_buffer_may_change_once_it_is_accepted(ends: MessageEnds) -> None:
    """Whatever of it has not left yet."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        buffer = bytearray(b"before" * 100)
        await _send(left, buffer)
        buffer[:] = bytes(len(buffer))
        assert await _receive(right) == b"before" * 100


async def a_full_one_accepts_nothing(ends: MessageEnds) -> None:
    """It says so, calls back when there is room, and has lost nothing."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        count = 0
        while left.try_send([b"%07d" % count * 100]):
            count += 1
            assert count < 1_000_000, "it is never full"
        room = asyncio.ensure_future(wait_writable(left))
        await steps(3)
        assert not room.done()
        for number in range(count):
            assert await _receive(right) == b"%07d" % number * 100
        await room
        await _send(left, b"again")
        assert await _receive(right) == b"again"


async def a_message_calls_back_once_and_from_the_loop(ends: MessageEnds) -> None:
    """Never inside of the call that caused it, and not after it was taken back."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        calls: list[str] = []
        right.on_readable(lambda: calls.append("come"))
        await _send(left, b"x")
        await until(lambda: calls)
        await steps(5)
        assert calls == ["come"]
        assert await _receive(right) == b"x"
        right.on_readable(lambda: calls.append("taken back"))
        right.on_readable(None)
        await _send(left, b"y")
        assert await _receive(right) == b"y"
        assert calls == ["come"]


async def a_closed_one_moves_nothing(ends: MessageEnds) -> None:
    """`close` may be repeated, and nothing works afterwards."""
    async with ends() as (left, right):
        for end in (left, right):
            end.close()
            end.close()
        with raises(anyio.ClosedResourceError):
            left.try_send([b"x"])
        with raises(anyio.ClosedResourceError):
            right.try_receive()


async def an_address_and_no_descriptors(ends: MessageEnds) -> None:
    """The address has a scheme; what brought no descriptors has none to take."""
    async with ends() as pair:
        for end in pair:
            assert ":" in end.address
            assert end.take_fds() == []


async def the_end_comes_last_and_stays(ends: MessageEnds) -> None:
    """`close_write` ends one direction after what was sent."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        await _send(left, b"last")
        left.close_write()
        assert await _receive(right) == b"last"
        for _ in range(2):
            with raises(anyio.EndOfStream):
                await _receive(right)
        await _send(right, b"still")
        assert await _receive(left) == b"still"


async def a_peer_that_closed_receives_no_more(ends: MessageEnds) -> None:
    """Sending to it raises PeerCrashed at last."""
    async with ends() as (left, right), asyncio.timeout(PATIENCE_S):
        right.close()
        with raises(PeerCrashed):
            while True:
                left.try_send([b"x"])
                left.try_flush()
                await asyncio.sleep(0)


ONE_WAY_MESSAGE_RULES: tuple[MessageRule, ...] = (
    messages_arrive_whole_and_in_order,
    nothing_there_is_none,
    a_buffer_may_change_once_it_is_accepted,
    a_full_one_accepts_nothing,
    a_message_calls_back_once_and_from_the_loop,
    a_closed_one_moves_nothing,
    an_address_and_no_descriptors,
)
"""What every message transport keeps to that loses nothing."""

MESSAGE_RULES: tuple[MessageRule, ...] = (
    *ONE_WAY_MESSAGE_RULES,
    the_end_comes_last_and_stays,
    a_peer_that_closed_receives_no_more,
)
"""What every message transport between two peers keeps to."""


async def _send(transport: MessageTransport, *parts: bytes | bytearray | memoryview) -> None:
    while not transport.try_send(parts):
        await wait_writable(transport)
    while not transport.try_flush():
        await wait_writable(transport)


async def _receive(transport: MessageTransport) -> bytes:
    while (message := transport.try_receive()) is None:
        await wait_readable(transport)
    return bytes(message)
