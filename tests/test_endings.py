"""How a channel ends: this side closed, the peer finished, the peer crashed. Never a hang."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import (
    AccessDenied,
    Channel,
    ClosedError,
    EndOfStream,
    IPCError,
    PeerCrashed,
    QuotaExceeded,
    ResourceExhausted,
    TruncatedFrame,
)
from tests.links import DUPLEX, KERNEL, STREAMS, Link

pytestmark = pytest.mark.asyncio

duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
streams = pytest.mark.parametrize("link", STREAMS, indirect=True)
kernel = pytest.mark.parametrize("link", KERNEL, indirect=True)
unix = pytest.mark.parametrize("link", ["unix"], indirect=True)

RECEIVES: dict[str, Callable[[Channel[Any]], Awaitable[Any]]] = {
    "receive": lambda channel: channel.receive(),
    "receive_many": lambda channel: channel.receive_many(),
    "receive_nowait": lambda channel: _now(channel.receive_nowait),
}
SENDS: dict[str, Callable[[Channel[Any]], Awaitable[Any]]] = {
    "send": lambda channel: channel.send(b"x"),
    "send_many": lambda channel: channel.send_many([b"x"]),
    "send_nowait": lambda channel: _now(channel.send_nowait, b"x"),
}


async def _now(function: Callable[..., Any], *arguments: object) -> Any:
    return function(*arguments)


async def send_until_it_fails(channel: Channel[Any], message: bytes = bytes(1_000)) -> IPCError:
    """Send until the kernel knows that nobody receives, which may take a few messages."""
    for _ in range(10_000):
        try:
            await channel.send(message)
        except IPCError as error:
            return error
        await asyncio.sleep(0)
    pytest.fail("sends to a peer that is gone go on for ever")


async def assert_ended(channel: Channel[Any], kind: type[IPCError]) -> None:
    """Every way to receive says the same, as often as it is asked."""
    for _ in range(2):
        for receive in RECEIVES.values():
            with pytest.raises(kind) as ended:
                await receive(channel)
            assert type(ended.value) is kind


# The peer finished


@duplex
async def test_half_close_leaves_the_other_direction_open(link: Link) -> None:
    async with link() as (left, right):
        await left.send_many(["last", "words"])
        await left.send_eof()
        await left.send_eof()
        for send in SENDS.values():
            with pytest.raises(ClosedError, match="this side ended its sending direction"):
                await send(left)
        assert await right.receive_many() == ["last", "words"]
        await assert_ended(right, EndOfStream)
        await right.send_many(range(3))
        assert [await left.receive() for _ in range(3)] == [0, 1, 2]
        await right.send_eof()
        await assert_ended(left, EndOfStream)
        await left.aclose()
        await right.aclose()


# The peer crashed


@duplex
async def test_sending_to_a_peer_that_crashed(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await right.send_many([b"1", b"2", b"3"])
        right.abort()
        assert type(await send_until_it_fails(left)) is PeerCrashed
        with pytest.raises(PeerCrashed):
            await left.flush()
        assert [await left.receive() for _ in range(3)] == [b"1", b"2", b"3"]
        await assert_ended(left, PeerCrashed)


@duplex
@pytest.mark.parametrize("how", ["send", "send_many", "flush"])
async def test_a_send_that_waits_for_room_is_told_at_once(link: Link, how: str) -> None:
    async with link(codec="raw") as (left, right):
        message = bytes(5_000_000)
        if how == "flush":
            left.send_nowait(message)
            waiting = asyncio.create_task(left.flush())
        elif how == "send":
            waiting = asyncio.create_task(left.send(message))
        else:
            waiting = asyncio.create_task(left.send_many([message, message]))
        behind = [asyncio.create_task(left.send(b"behind")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        right.abort()
        for task in (waiting, *behind):
            with pytest.raises(PeerCrashed):
                await task


@pytest.mark.parametrize(
    ("error", "sees", "text"),
    [
        (AccessDenied("not you"), AccessDenied, "the peer denied access; it says: 'not you'"),
        (QuotaExceeded("full"), QuotaExceeded, "the peer is at its limit; it says: 'full'"),
        (EndOfStream("elsewhere"), PeerCrashed, "the peer's handler failed"),
        (ResourceExhausted("secret"), PeerCrashed, "the peer's handler failed"),
    ],
    ids=lambda what: type(what).__name__ if isinstance(what, BaseException) else "",
)
@pytest.mark.parametrize("scheme", ["unix", "shm"])
async def test_what_an_abort_tells(
    scheme: str, error: Exception, sees: type[Exception], text: str
) -> None:
    left, right = aioipc.pair(scheme)
    async with right:
        left.abort(error)
        with pytest.raises(sees) as told:
            await right.receive()
    assert type(told.value) is sees
    assert str(told.value) == f"{right.address}: {text}"


@kernel
async def test_the_death_of_one_peer_does_not_concern_another(link: Link) -> None:
    """What a turn gathered for several peers leaves for those that live."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with link(codec="raw") as (doomed, dead), link(codec="raw") as (alive, right):
        await doomed.send(b"1")
        await alive.send(b"1")
        dead.abort()
        doomed.send_nowait(b"2")
        alive.send_nowait(b"2")
        async with asyncio.timeout(30):
            assert [await right.receive() for _ in range(2)] == [b"1", b"2"]
        await send_until_it_fails(doomed)
    assert complaints == []


# This side closed


@duplex
async def test_after_this_side_closed(link: Link) -> None:
    async with link() as (left, right):
        await right.send("unread")
        await left.aclose()
        for operate in (*SENDS.values(), *RECEIVES.values()):
            with pytest.raises(ClosedError, match="this side closed the channel to") as closed:
                await operate(left)
            assert left.address in str(closed.value)
        for finish in (left.flush, left.send_eof):
            with pytest.raises(ClosedError):
                await finish()
        with pytest.raises(ClosedError):
            await anext(left)
        with pytest.raises(ClosedError):
            left.detach()
        await left.aclose()
        left.abort()
        assert "closed" in repr(left)


# The family of exceptions


async def test_every_ending_is_also_what_anyio_and_the_built_ins_call_it() -> None:
    assert issubclass(ClosedError, anyio.ClosedResourceError)
    assert issubclass(EndOfStream, anyio.EndOfStream)
    assert issubclass(EndOfStream, EOFError)
    assert issubclass(PeerCrashed, anyio.BrokenResourceError)
    assert issubclass(PeerCrashed, ConnectionError)
    assert issubclass(TruncatedFrame, PeerCrashed)
    assert issubclass(aioipc.BusyError, anyio.BusyResourceError)
    assert issubclass(aioipc.WouldBlock, anyio.WouldBlock)


# Framings of foreign programs: a byte stream has no goodbye

FRAMINGS = ["lines", "headers", "none"]
STARTS = {"lines": b"one\n", "headers": b"Content-Length: 3\r\n\r\none", "none": b"one"}


@pytest.mark.parametrize("framing", FRAMINGS)
@streams
async def test_a_foreign_framing_ends_cleanly_between_messages(link: Link, framing: str) -> None:
    async with link(codec="raw", framing=framing) as (left, right):
        await left.send(b"one")
        assert await right.receive() == b"one"
        await left.send_eof()
        await assert_ended(right, EndOfStream)
        with pytest.raises(ClosedError):
            await left.send(b"more")
        await right.send(b"two")
        assert await left.receive() == b"two"
        await right.aclose()
        await assert_ended(left, EndOfStream)


@pytest.mark.parametrize("framing", FRAMINGS)
@streams
async def test_a_foreign_peer_that_is_gone_receives_no_more(link: Link, framing: str) -> None:
    async with link(codec="raw", framing=framing) as (left, right):
        await right.send(b"one")
        right.abort()
        assert type(await send_until_it_fails(left)) is PeerCrashed
        for send in SENDS.values():
            with pytest.raises(PeerCrashed):
                await send(left)
        assert await left.receive() == b"one"
        await left.aclose()


async def foreign(framing: str) -> tuple[Channel[Any], socket.socket]:
    near, far = socket.socketpair()
    channel = await aioipc.connect(f"fd:{near.detach()}", codec="raw", framing=framing)
    return channel, far


@pytest.mark.parametrize(
    ("framing", "cut"),
    [("headers", b"Content-Length: 3\r\n\r\non"), ("headers", b"Content-Len")],
)
async def test_an_end_inside_a_message(framing: str, cut: bytes) -> None:
    channel, far = await foreign(framing)
    async with channel:
        far.send(STARTS[framing] + cut)
        far.close()
        assert await channel.receive() == b"one"
        await assert_ended(channel, TruncatedFrame)


@pytest.mark.parametrize("framing", ["lines", "none"])
async def test_the_last_line_needs_no_newline(framing: str) -> None:
    channel, far = await foreign(framing)
    async with channel:
        far.send(STARTS[framing])
        assert await channel.receive() == b"one"
        far.send(b"last")
        far.close()
        assert await channel.receive() == b"last"
        await assert_ended(channel, EndOfStream)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_reset_is_a_crash(framing: str) -> None:
    channel, far = await foreign(framing)
    async with channel:
        far.send(STARTS[framing])
        await channel.send(b"unread")
        await asyncio.sleep(0)
        far.close()  # with unread data: the kernel sends a reset
        assert await channel.receive() == b"one"
        await assert_ended(channel, PeerCrashed)


# What frames look like at the end: case 5


@pytest.mark.parametrize("shutdown", [True, False])
async def test_an_end_inside_header_or_body_is_a_truncated_frame(shutdown: bool) -> None:
    from aioipc.wire.framing import Kind, pack_header
    from aioipc.wire.hello import Hello

    def frame(kind: int, payload: bytes) -> bytes:
        return pack_header(len(payload), kind) + payload

    hello = frame(Kind.HELLO, Hello("raw", 1 << 20).pack())
    whole = frame(Kind.DATA, b"whole")
    for kept in (1, 7, 8, 9, 12):
        near, far = socket.socketpair()
        async with aioipc.connect(f"fd:{near.detach()}", codec="raw") as channel:
            far.send(hello + whole + frame(Kind.DATA, b"cut it")[:kept])
            if shutdown:
                far.shutdown(socket.SHUT_WR)
            else:
                far.close()
            assert await channel.receive() == b"whole"
            await assert_ended(channel, TruncatedFrame)
        far.close()


# What the peer had not taken


@pytest.mark.parametrize("link", ["shm"], indirect=True)
@pytest.mark.parametrize("end", ["aborted", "closed"])
@pytest.mark.parametrize("seen", [True, False])
async def test_what_the_peer_had_not_taken_is_counted(link: Link, end: str, seen: bool) -> None:
    """Also where a receive has learnt of the end before a send did."""
    async with link(codec="raw") as (ours, theirs):
        await theirs.send(b"hello")
        assert await ours.receive() == b"hello"
        await ours.send_many([b"a", b"b", b"c"])
        if end == "aborted":
            theirs.abort()
        else:
            await theirs.aclose()
        if seen:
            with pytest.raises((PeerCrashed, EndOfStream)):
                await ours.receive()
        crash = await send_until_it_fails(ours)
        assert isinstance(crash, PeerCrashed)
        assert crash.unconsumed is not None
        assert crash.unconsumed >= 3
