"""A Channel is an anyio.abc.ObjectStream: what anyio code does with one, it can do with ours."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledObjectStream
from anyio.streams.text import TextReceiveStream, TextSendStream

from aioipc import Channel, IPCAttribute, Limits, PeerCredentials
from tests.links import DUPLEX, Link

pytestmark = pytest.mark.asyncio

duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
unix = pytest.mark.parametrize("link", ["unix"], indirect=True)
links = pytest.mark.parametrize("link", ["unix", "pipe", "memory"], indirect=True)

MOST_OPERATIONS_PER_TURN = 512


async def send_for_ever(channel: Channel[Any], message: Any = "x" * 1_000) -> None:
    while True:
        await channel.send(message)


@unix
async def test_it_says_what_it_is(link: Link) -> None:
    async with link() as (left, _):
        assert isinstance(left, anyio.abc.ObjectStream)
        assert isinstance(left, anyio.abc.ObjectSendStream)
        assert isinstance(left, anyio.abc.ObjectReceiveStream)
        assert isinstance(left, anyio.abc.AsyncResource)


# The contract of an object stream, with anyio's own exceptions


@duplex
async def test_send_receive_and_the_end(link: Link) -> None:
    async with link() as (left, right):
        await left.send("object")
        assert await right.receive() == "object"
        await left.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await right.receive()
        await right.send("still")
        assert await left.receive() == "still"
        await right.aclose()
        with pytest.raises(anyio.EndOfStream):
            await left.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await right.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await right.send("closed")
        with pytest.raises(anyio.ClosedResourceError):
            await left.send("after send_eof")


@duplex
async def test_a_peer_that_is_gone(link: Link) -> None:
    async with link() as (left, right):
        right.abort()
        with pytest.raises(anyio.BrokenResourceError):
            await left.receive()
        with anyio.fail_after(30), pytest.raises(anyio.BrokenResourceError):
            await send_for_ever(left)


@links
async def test_closing_wakes_whoever_waits(link: Link) -> None:
    async with link() as (left, _):

        async def wait() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await left.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await left.aclose()


# Task groups and cancel scopes


@links
async def test_operations_are_started_directly(link: Link) -> None:
    async with link() as (left, right):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(left.send, number)
            got = [await right.receive() for _ in range(100)]
        assert got == list(range(100))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(right.receive)
            tasks.start_soon(left.send_many, [1])
            tasks.start_soon(left.flush)


@links
async def test_an_operation_that_is_a_task_is_cancelled_with_its_group(link: Link) -> None:
    async with link() as (left, right):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(right.receive)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await left.send("for the next")
        assert await right.receive() == "for the next"


@links
async def test_a_failing_neighbour_cancels_a_receive(link: Link) -> None:
    async def fail() -> None:
        raise ValueError("neighbour")

    async def receive_beside_it() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(right.receive)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(fail)

    async with link() as (left, right):
        with pytest.raises(ExceptionGroup) as failure:
            await receive_beside_it()
        assert [type(error) for error in failure.value.exceptions] == [ValueError]
        await left.send(1)
        assert await right.receive() == 1


@links
async def test_deadlines(link: Link) -> None:
    async with link() as (left, right):
        with anyio.move_on_after(0.001) as scope:
            await right.receive()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.001):
            await right.receive_many()
        with pytest.raises(TimeoutError), anyio.fail_after(0.001):
            await anext(right)
        with anyio.fail_after(30):
            await left.send("in time")
            assert await right.receive() == "in time"


@links
async def test_a_deadline_for_a_send_that_has_no_room(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        with anyio.move_on_after(0.001) as scope:
            await send_for_ever(left, bytes(4_000))
        assert scope.cancelled_caught
        sent = left.statistics().messages_sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.send, b"last")
            count = 0
            while await right.receive() != b"last":
                count += 1
        assert count == sent


@links
async def test_a_shield_holds(link: Link) -> None:
    async with link() as (left, right):
        got = []
        async with anyio.create_task_group() as tasks:

            async def receive_shielded() -> None:
                with anyio.CancelScope(shield=True):
                    got.append(await right.receive())

            tasks.start_soon(receive_shielded)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                await left.send("shielded")
        assert got == ["shielded"]


@links
async def test_nested_scopes_cancel_the_right_one(link: Link) -> None:
    async with link() as (_, right):
        with anyio.CancelScope() as outer:
            with anyio.move_on_after(0.001) as inner:
                await right.receive()
            assert inner.cancelled_caught
            assert not outer.cancel_called
            outer.cancel()
            await right.receive()
        assert outer.cancelled_caught


@links
async def test_a_wait_in_a_cancelled_scope_does_not_wait(link: Link) -> None:
    async with link() as (left, right):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await right.receive()
            pytest.fail("not reached")
        await left.send("untouched")
        assert await right.receive() == "untouched"


@links
async def test_what_never_waits_notices_its_cancellation_all_the_same(link: Link) -> None:
    """The documented deviation: a checkpoint per 512 operations, not per operation."""
    async with link(codec="raw") as (left, right):
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(2 * MOST_OPERATIONS_PER_TURN):
                await left.send(b"")
            pytest.fail("sends in a cancelled scope go on")
        sent = left.statistics().messages_sent
        assert sent <= MOST_OPERATIONS_PER_TURN
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(2 * MOST_OPERATIONS_PER_TURN):
                await right.receive()
            pytest.fail("receives in a cancelled scope go on")
        taken = right.statistics().messages_received
        await left.send(b"last")
        while await right.receive() != b"last":
            taken += 1
        assert taken == sent


@links
async def test_a_close_in_a_cancelled_scope_still_closes(link: Link) -> None:
    async with link() as (left, right):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await left.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await left.receive()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await right.receive()


@unix
async def test_aclose_forcefully(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        left.send_nowait(bytes(5_000_000))
        await anyio.aclose_forcefully(left)
        with pytest.raises(anyio.ClosedResourceError):
            await left.send(b"")
        with pytest.raises(anyio.BrokenResourceError):
            await right.receive()


@links
async def test_cancelling_a_task_group_of_senders_that_wait(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(left.send, bytes(100_000))
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        sent = left.statistics().messages_sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.send, b"last")
            count = 0
            while (message := await right.receive()) != b"last":
                assert message == bytes(100_000)
                count += 1
        assert count == sent


# Typed attributes


@unix
async def test_typed_attributes(link: Link) -> None:
    async with link(limits=Limits(max_message_bytes=5)) as (left, _):
        peer: PeerCredentials | None = left.extra(IPCAttribute.peer)
        assert peer == left.peer
        assert set(left.extra_attributes) == {
            IPCAttribute.peer,
            IPCAttribute.address,
            IPCAttribute.codec,
            IPCAttribute.limits,
            IPCAttribute.capabilities,
        }
        with pytest.raises(anyio.TypedAttributeLookupError):
            left.extra(anyio.abc.SocketAttribute.raw_socket)
        assert left.extra(anyio.abc.SocketAttribute.raw_socket, None) is None


# anyio's own wrappers around object streams


@links
async def test_anyio_streams_wrap_it(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        buffered = BufferedByteReceiveStream(right)
        await left.send(b"two li")
        await left.send(b"nes\nand more")
        assert await buffered.receive_until(b"\n", 100) == b"two lines"
        assert await buffered.receive_exactly(3) == b"and"
        assert buffered.extra(IPCAttribute.codec) == "raw"
    async with link(codec="raw") as (left, right):
        text, back = TextSendStream(left), TextReceiveStream(right)
        await text.send("grüße")
        assert await back.receive() == "grüße"
    async with link() as (left, right):
        stapled = StapledObjectStream[Any](left, right)
        await stapled.send("around")
        assert await stapled.receive() == "around"


@links
async def test_a_memory_stream_feeds_a_channel(link: Link) -> None:
    sink, source = anyio.create_memory_object_stream[int](0)

    async def forward(channel: Channel[Any]) -> None:
        async with source, channel:
            async for number in source:
                await channel.send(number)

    async with link() as (left, right), anyio.create_task_group() as tasks:
        tasks.start_soon(forward, left)
        async with sink:
            for number in range(100):
                await sink.send(number)
        assert [number async for number in right] == list(range(100))


@links
async def test_anyio_knows_the_tasks_that_operations_are(link: Link) -> None:
    async with link() as (left, right), anyio.create_task_group() as tasks:
        tasks.start_soon(right.receive, name="our receive")
        await anyio.lowlevel.checkpoint()
        names = {task.name for task in anyio.get_running_tasks()}
        assert "our receive" in names
        assert all(repr(task) for task in anyio.get_running_tasks())
        await left.send(1)
        await asyncio.sleep(0)
