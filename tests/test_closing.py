"""Closing while things are under way (cases 13 and 14): everybody is told, nobody hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aioipc import (
    Channel,
    ClosedError,
    EndOfStream,
    IPCError,
    Limits,
    PeerCrashed,
)
from aioipc.wire.hello import Hello
from tests.children import PATIENCE_S
from tests.links import DUPLEX, FRAMED, Link, fill

pytestmark = pytest.mark.asyncio

duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
links = pytest.mark.parametrize("link", ["unix", "pipe", "tcp", "memory"], indirect=True)
framed = pytest.mark.parametrize(("link", "framing"), FRAMED, indirect=["link"])

FOR_EVER = Limits(linger_s=3_600)
"""A test with these limits would never end if the close did not end by itself."""
HARDLY = Limits(linger_s=0.02)
NOT_AT_ALL = Limits(linger_s=0)


def registered() -> int | None:
    """How many descriptors the loop watches, where it tells."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    return None if selector is None else len(selector.get_map())


async def rest_of(channel: Channel[Any]) -> tuple[list[Any], type[IPCError]]:
    """All that arrives, and what comes after it."""
    got = []
    while True:
        try:
            got.append(await channel.receive())
        except IPCError as ending:
            return got, type(ending)


# Case 13


@framed
async def test_whatever_is_pending_is_told(link: Link, framing: str) -> None:
    before = registered()
    async with link(codec="raw", framing=framing, limits=HARDLY) as (left, right):
        fill(left)
        pending = [asyncio.create_task(left.send(b"%4000d" % number)) for number in range(8)]
        pending += [
            asyncio.create_task(left.send(bytes(1_000_000))),
            asyncio.create_task(left.send_many([b"x" * 4_000, b"y"])),
            asyncio.create_task(left.flush()),
            asyncio.create_task(left.send_eof()),
            asyncio.create_task(left.receive()),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await left.aclose()
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClosedError] * len(pending)
        right.abort()
    assert registered() == before


@framed
async def test_what_was_accepted_is_delivered_before_the_end(link: Link, framing: str) -> None:
    async with link(codec="raw", framing=framing, limits=FOR_EVER) as (left, right):
        sent = fill(left)
        closing = asyncio.create_task(left.aclose())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await left.send(b"too late")
        got, ending = await rest_of(right)
        assert got == sent
        assert ending is EndOfStream
        await closing


@duplex
async def test_a_message_begun_is_delivered_although_its_sender_was_told(link: Link) -> None:
    message = b"0123456789abcdef" * 500_000
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        sending = asyncio.create_task(left.send(message))
        await asyncio.sleep(0)
        closing = asyncio.create_task(left.aclose())
        got, ending = await rest_of(right)
        assert ending is EndOfStream
        assert got == [message]
        await closing
        with pytest.raises(ClosedError):
            await sending


@pytest.mark.parametrize("limits", [HARDLY, NOT_AT_ALL], ids=["20 ms", "0"])
@duplex
async def test_a_peer_that_does_not_read_is_not_waited_for_longer(
    link: Link, limits: Limits
) -> None:
    async with link(codec="raw", limits=limits) as (left, right):
        sent = fill(left)
        left_over = asyncio.create_task(left.send(b"x" * 1_000_000))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await left.aclose()
        with pytest.raises(ClosedError):
            await left_over
        got, ending = await rest_of(right)
        assert got == sent[: len(got)]
        assert issubclass(ending, PeerCrashed)


@links
async def test_an_idle_channel_closes_without_waiting(link: Link) -> None:
    async with link(limits=FOR_EVER) as (left, right):
        closing = left.aclose()
        with pytest.raises(StopIteration):
            closing.send(None)
        with pytest.raises(EndOfStream):
            await right.receive()


@links
async def test_a_second_close_changes_nothing(link: Link) -> None:
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        sent = fill(left)
        first = asyncio.create_task(left.aclose())
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await left.aclose()
        assert (await rest_of(right)) == (sent, EndOfStream)
        await first
        await left.aclose()
        left.abort()


@links
async def test_both_ends_close_with_much_to_say(link: Link) -> None:
    before = registered()
    async with link(codec="raw", limits=HARDLY) as (left, right):
        fill(left)
        fill(right)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(left.aclose(), right.aclose())
    assert registered() == before


# A close that is cut short


@duplex
async def test_a_close_that_is_cancelled_closes_at_once(link: Link) -> None:
    before = registered()
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        sent = fill(left)
        closing = asyncio.create_task(left.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert "closed" in repr(left)
        got, ending = await rest_of(right)
        assert got == sent[: len(got)]
        assert issubclass(ending, PeerCrashed)
        right.abort()
    assert registered() == before


@links
async def test_a_close_within_a_deadline(link: Link) -> None:
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        fill(left)
        with anyio.move_on_after(0.01) as scope:
            await left.aclose()
        assert scope.cancelled_caught
        with pytest.raises(ClosedError):
            await left.send(b"")
        assert issubclass((await rest_of(right))[1], PeerCrashed)


@links
async def test_abort_ends_a_close_that_lingers(link: Link) -> None:
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        fill(left)
        closing = asyncio.create_task(left.aclose())
        await asyncio.sleep(0)
        left.abort()
        async with asyncio.timeout(PATIENCE_S):
            await closing
        assert issubclass((await rest_of(right))[1], PeerCrashed)


# Half-closing under the same conditions


@links
async def test_half_closes_at_the_same_time(link: Link) -> None:
    async with link(codec="raw", limits=FOR_EVER) as (left, right):
        sent = fill(left)
        finishing = [asyncio.create_task(left.send_eof()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await rest_of(right)) == (sent, EndOfStream)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*finishing)
        await right.send(b"still")
        assert await left.receive() == b"still"


@links
async def test_a_half_close_that_waits_for_room_hears_of_the_close(link: Link) -> None:
    async with link(codec="raw", limits=HARDLY) as (left, _):
        fill(left)
        finishing = asyncio.create_task(left.send_eof())
        for _ in range(3):
            await asyncio.sleep(0)
        await left.aclose()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ClosedError):
                await finishing


CAPACITY = 256 * 1024
"""What one direction of memory: holds."""


async def exactly_full(left: Channel[Any]) -> int:
    """Leave no room, not even for a GOODBYE, and nothing unsent."""
    hello = 8 + len(Hello("raw", 0).pack())
    size = CAPACITY - hello - 8
    async with asyncio.timeout(PATIENCE_S):
        await left.send(bytes(size))
        await left.flush()
    return size


@pytest.mark.parametrize("link", ["memory"], indirect=True)
async def test_half_closes_that_wait_for_the_goodbye_to_leave(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        size = await exactly_full(left)
        finishing = [asyncio.create_task(left.send_eof()) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not finishing[0].done()
        late = asyncio.create_task(left.send(b"after the end"))
        got, ending = await rest_of(right)
        assert ([len(message) for message in got], ending) == ([size], EndOfStream)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*finishing)
            with pytest.raises(ClosedError):
                await late


@pytest.mark.parametrize("link", ["memory"], indirect=True)
async def test_a_half_close_whose_goodbye_waits_hears_of_the_close(link: Link) -> None:
    async with link(codec="raw", limits=HARDLY) as (left, _):
        await exactly_full(left)
        finishing = asyncio.create_task(left.send_eof())
        for _ in range(5):
            await asyncio.sleep(0)
        await left.aclose()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ClosedError):
                await finishing


# Case 14


async def finish(channel: Channel[Any]) -> None:
    await channel.aclose()


async def crash(channel: Channel[Any]) -> None:
    channel.abort()


@framed
@pytest.mark.parametrize("end", [finish, crash])
async def test_the_peer_closes_while_we_drain(
    link: Link, framing: str, end: Callable[[Channel[Any]], Any]
) -> None:
    before = registered()
    async with link(codec="raw", framing=framing, limits=FOR_EVER) as (left, right):
        fill(left)
        closing = asyncio.create_task(left.aclose())
        await asyncio.sleep(0)
        await end(right)
        async with asyncio.timeout(PATIENCE_S):
            await closing
    assert registered() == before


@framed
@pytest.mark.parametrize("end", [finish, crash])
async def test_the_peer_closes_while_we_flush(
    link: Link, framing: str, end: Callable[[Channel[Any]], Any]
) -> None:
    before = registered()
    async with link(codec="raw", framing=framing, limits=FOR_EVER) as (left, right):
        left.send_nowait(b"x" * 5_000_000)
        flushing = asyncio.create_task(left.flush())
        await asyncio.sleep(0)
        await end(right)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PeerCrashed):
                await flushing
            await left.aclose()
    assert registered() == before
