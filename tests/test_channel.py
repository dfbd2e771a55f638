"""Channels over every transport: what goes in comes out, once, whole and in order."""

from __future__ import annotations

import asyncio
import datetime
import os
from typing import Any

import pytest

import aioipc
from aioipc import (
    Capability,
    Channel,
    ChannelStatistics,
    ClosedError,
    DecodeError,
    EncodeError,
    FrameTooLarge,
    IPCAttribute,
    Limits,
    PeerCrashed,
    WouldBlock,
)
from aioipc.transports import FAMILIES
from tests.children import Peers
from tests.links import DUPLEX, FIFO_LIMIT, KERNEL, SMALL_RING, Link, fill

pytestmark = pytest.mark.asyncio

duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
kernel = pytest.mark.parametrize("link", KERNEL, indirect=True)
unix = pytest.mark.parametrize("link", ["unix"], indirect=True)

OBJECTS = [
    *(None, True, 0, -1, 2**63 - 1, 1.5, "", "grüße", b"", b"\0\xff", [], {}),
    [1, [2, [3, {"four": [b"five"]}]]],
    {"a": 1, "b": {"c": None}},
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.UTC),
]

BLOCK = 65536
HEADER = 8
EDGES = [0, 1, 7, 8, 4080, 4088, 4089, BLOCK - 16, BLOCK - 8, BLOCK - 7, BLOCK, BLOCK + 1]
"""Lengths around what a FIFO holds in one write, and around the core's block."""


def pattern(size: int) -> bytes:
    """Bytes in which a shift, a gap or a repeat shows."""
    return (b"%08x" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]


async def drained(channel: Channel[Any], count: int) -> list[Any]:
    return [await channel.receive() for _ in range(count)]


# Sending and receiving


async def test_objects_arrive_as_they_were_sent(link: Link) -> None:
    async with link() as (left, right):
        for obj in OBJECTS:
            await left.send(obj)
            assert await right.receive() == obj


@pytest.mark.parametrize("codec", ["msgpack", "json", "text", "raw", "pickle"])
@unix
async def test_every_codec(link: Link, codec: str) -> None:
    obj: Any = {"raw": b"bytes", "text": "text"}.get(codec, {"a": [1, 2.5, None]})
    async with link(codec=codec) as (left, right):
        await left.send(obj)
        assert await right.receive() == obj


@duplex
async def test_messages_of_every_length(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for size in EDGES:
            message = pattern(size)
            sending = asyncio.create_task(left.send(message))
            assert await right.receive() == message
            await sending


@pytest.mark.parametrize("link", ["fifo"], indirect=True)
async def test_messages_of_every_length_that_a_fifo_takes(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for size in (size for size in EDGES if size <= FIFO_LIMIT):
            await left.send(pattern(size))
            assert await right.receive() == pattern(size)


@duplex
async def test_a_message_far_larger_than_any_buffer(link: Link) -> None:
    message = os.urandom(9_999_999)
    async with link(codec="raw") as (left, right):
        sending = asyncio.create_task(left.send(message))
        assert await right.receive() == message
        await sending
        await left.send(b"next")
        assert await right.receive() == b"next"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@unix
async def test_raw_takes_any_buffer_and_gives_bytes(link: Link, kind: type[Any]) -> None:
    async with link(codec="raw") as (left, right):
        for size in (3, BLOCK, 10 * BLOCK):
            sending = asyncio.create_task(left.send(kind(pattern(size))))
            received = await right.receive()
            await sending
            assert type(received) is bytes
            assert received == pattern(size)


@unix
async def test_a_large_buffer_may_change_as_soon_as_send_nowait_returned(link: Link) -> None:
    buffer = bytearray(pattern(4_000_000))
    async with link(codec="raw") as (left, right):
        left.send_nowait(buffer)
        buffer[:] = bytes(len(buffer))
        assert await right.receive() == pattern(4_000_000)


async def test_nowait(link: Link) -> None:
    async with link() as (left, right):
        with pytest.raises(WouldBlock):
            right.receive_nowait()
        left.send_nowait("one")
        left.send_nowait("two")
        await left.flush()
        assert await right.receive() == "one"
        assert right.receive_nowait() == "two"
        with pytest.raises(WouldBlock):
            right.receive_nowait()


async def test_send_nowait_until_there_is_no_room(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        sent = fill(left)
        assert len(sent) > 10
        with pytest.raises(WouldBlock):
            left.send_nowait(b"small")
        sending = asyncio.create_task(left.send(b"last"))
        assert await drained(right, len(sent)) == sent
        assert await right.receive() == b"last"
        await sending


async def test_more_at_once_than_any_buffer_holds(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        sending = asyncio.create_task(left.send_many(b"%1000d" % n for n in range(5_000)))
        got: list[bytes] = []
        while len(got) < 5_000:
            got += await right.receive_many()
        await sending
        assert got == [b"%1000d" % n for n in range(5_000)]


@duplex
async def test_tasks_that_wait_for_room_are_served_in_the_order_of_their_calls(link: Link) -> None:
    async with link(codec="raw") as (left, right), asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(left.send(b"%10000d" % number))
        assert await drained(right, 200) == [b"%10000d" % n for n in range(200)]


@duplex
async def test_large_and_small_messages_of_many_tasks_do_not_mix(link: Link) -> None:
    sizes = [3, 500_000, 0, BLOCK, 1_000_000, 17, BLOCK - 8, 70_000]
    messages = [bytes([n]) * size for n, size in enumerate(sizes)]
    async with link(codec="raw") as (left, right), asyncio.TaskGroup() as tasks:
        for message in messages:
            tasks.create_task(left.send(message))
        assert await drained(right, len(messages)) == messages


@kernel
async def test_flush_returns_when_everything_is_in_the_kernel(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"first")
        await left.send(b"second")
        before = left.statistics()
        await left.flush()
        assert left.statistics().write_calls == before.write_calls + 1
        await left.flush()
        assert left.statistics().write_calls == before.write_calls + 1
        assert await right.receive_many() == [b"first", b"second"]


@kernel
async def test_flush_waits_for_room(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        left.send_nowait(bytes(5_000_000))
        flushing = asyncio.create_task(left.flush())
        receiving = asyncio.create_task(right.receive())
        done, _ = await asyncio.wait(
            [flushing, receiving], return_when=asyncio.FIRST_COMPLETED, timeout=30
        )
        assert done
        assert len(await receiving) == 5_000_000
        await flushing


# What does not fit


class Picky:
    """A codec that takes only what it likes."""

    name = "picky"
    format = None

    @staticmethod
    def encode(obj: str, /) -> bytes:
        if obj == "unspeakable":
            raise RuntimeError("not this")
        return obj.encode()

    @staticmethod
    def decode(buffer: Any, /) -> str:
        if bytes(buffer) == b"unreadable":
            raise KeyError("nor this")
        return bytes(buffer).decode()


async def test_what_cannot_be_decoded_is_consumed_and_the_channel_goes_on(link: Link) -> None:
    async with link(codec=Picky()) as (left, right):
        await left.send_many(["before", "unreadable", "after"])
        assert await right.receive() == "before"
        with pytest.raises(DecodeError, match="the picky codec cannot decode this message of 10"):
            await right.receive()
        assert await right.receive() == "after"


async def test_receive_many_stops_before_what_cannot_be_decoded(link: Link) -> None:
    async with link(codec=Picky()) as (left, right):
        await left.send_many(["a", "b", "unreadable", "c", "unreadable", "unreadable", "d"])
        await left.flush()
        assert await right.receive_many() == ["a", "b"]
        with pytest.raises(DecodeError):
            await right.receive_many()
        assert await right.receive_many() == ["c"]
        with pytest.raises(DecodeError):
            right.receive_nowait()
        with pytest.raises(DecodeError):
            await right.receive()
        assert await right.receive_many() == ["d"]


async def test_what_cannot_be_encoded_is_not_sent(link: Link) -> None:
    async with link(codec=Picky()) as (left, right):
        with pytest.raises(EncodeError, match="the picky codec cannot encode this str: not this"):
            await left.send("unspeakable")
        with pytest.raises(EncodeError):
            left.send_nowait("unspeakable")
        with pytest.raises(EncodeError):
            await left.send_many(["a", "b", "unspeakable", "c"])
        await left.send("d")
        assert await drained(right, 3) == ["a", "b", "d"]


@unix
async def test_msgpack_that_is_nested_too_deep_is_consumed(link: Link) -> None:
    deep: Any = 1
    for _ in range(65):
        deep = [deep]
    async with link(limits=Limits(max_elements=100)) as (left, right):
        await left.send(deep)
        await left.send(list(range(101)))
        await left.send(deep[0])
        with pytest.raises(DecodeError, match="64"):
            await right.receive()
        with pytest.raises(DecodeError, match="100"):
            await right.receive()
        assert await right.receive() == deep[0]


# Limits


@duplex
async def test_a_message_over_the_limit_is_refused_before_a_byte_is_written(link: Link) -> None:
    limits = Limits(max_message_bytes=100_000)
    async with link(codec="raw", limits=limits) as (left, right):
        await left.send(b"hello")
        await left.flush()
        assert await right.receive() == b"hello"
        before = left.statistics()
        for size in (100_001, 200_000, 5_000_000):
            with pytest.raises(FrameTooLarge) as refused:
                await left.send(bytes(size))
            assert (refused.value.size, refused.value.limit) == (size, 100_000)
            with pytest.raises(FrameTooLarge, match=r"over the limit of 100,000 bytes"):
                left.send_nowait(bytearray(size))
        assert left.statistics() == before
        exact = pattern(100_000)
        sending = asyncio.create_task(left.send(exact))
        assert await right.receive() == exact
        await sending


@duplex
async def test_send_many_sends_what_comes_before_the_message_over_the_limit(link: Link) -> None:
    async with link(codec="raw", limits=Limits(max_message_bytes=10)) as (left, right):
        with pytest.raises(FrameTooLarge):
            await left.send_many([b"a", b"b" * 10, b"c" * 11, b"d"])
        await left.send(b"e")
        assert await drained(right, 3) == [b"a", b"b" * 10, b"e"]


@pytest.mark.parametrize("link", ["fifo"], indirect=True)
async def test_on_a_fifo_the_limit_is_one_atomic_write(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(bytes(FIFO_LIMIT))
        with pytest.raises(FrameTooLarge):
            await left.send(bytes(FIFO_LIMIT + 1))
        assert len(await right.receive()) == FIFO_LIMIT


async def test_once_it_is_known_the_limit_of_the_peer_counts() -> None:
    async with (
        aioipc.listen("unix:", codec="raw", limits=Limits(max_message_bytes=1_000)) as listener,
        aioipc.connect(listener.address, codec="raw") as left,
        await listener.accept() as right,
    ):
        await right.send(b"so much for my limits")
        await left.receive()
        with pytest.raises(FrameTooLarge) as refused:
            await left.send(bytes(1_001))
        assert refused.value.limit == 1_000
        await left.send(bytes(1_000))
        assert len(await right.receive()) == 1_000
        with pytest.raises(FrameTooLarge):
            await right.send(bytes(1_001))


async def test_before_it_is_known_the_peer_refuses_by_its_limit() -> None:
    async with (
        aioipc.listen("unix:", codec="raw", limits=Limits(max_message_bytes=1_000)) as listener,
        aioipc.connect(listener.address, codec="raw") as left,
        await listener.accept() as right,
    ):
        await left.send(b"fits")
        await left.send(bytes(1_001))
        assert await right.receive() == b"fits"
        with pytest.raises(FrameTooLarge) as refused:
            await right.receive()
        assert (refused.value.size, refused.value.limit) == (1_001, 1_000)
        with pytest.raises(PeerCrashed, match=r"1,001 bytes is over the limit of 1,000"):
            await left.receive()


# Facts


async def test_statistics_count_what_happened(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send_many([b"four", b"", b"seven77"])
        assert await drained(right, 3) == [b"four", b"", b"seven77"]
        sent, received = left.statistics(), right.statistics()
        assert (sent.messages_sent, sent.bytes_sent) == (3, 11)
        assert (received.messages_received, received.bytes_received) == (3, 11)
        assert (sent.messages_received, received.messages_sent) == (0, 0)
        if Capability.STREAM in left.capabilities:
            assert sent.write_calls in (1, 2), "the HELLO of a connect may have left alone"
            assert received.read_calls >= 1
    assert left.statistics() == sent, "they stay after the end"
    assert type(sent) is ChannelStatistics


@unix
async def test_statistics_count_waits(link: Link) -> None:
    async with link(polling="block") as (left, right):
        receiving = asyncio.create_task(right.receive())
        await asyncio.sleep(0)
        await left.send(1)
        await receiving
        assert right.statistics().receive_waits == 1
        assert right.statistics().polls == 0
        assert left.statistics().send_waits == 0


async def test_facts_as_properties_and_as_typed_attributes(link: Link) -> None:
    limits = Limits(max_message_bytes=1_000, ring_bytes=SMALL_RING)
    async with link(codec="json", limits=limits) as (left, right):
        for end in (left, right):
            assert end.extra(IPCAttribute.address) == end.address
            assert end.extra(IPCAttribute.peer) == end.peer
            assert end.extra(IPCAttribute.codec) == "json" == end.codec.name
            assert end.extra(IPCAttribute.limits) == limits == end.limits
            assert end.extra(IPCAttribute.capabilities) == end.capabilities
            assert end.capabilities & (Capability.STREAM | Capability.MESSAGE)
            scheme = end.address.partition(":")[0]
            assert scheme in FAMILIES
            assert repr(end) == f"<Channel {end.address} json open>"


@pytest.mark.parametrize("link", ["unix", "unix-listen", "fd"], indirect=True)
async def test_the_kernel_says_who_the_peer_is(link: Link) -> None:
    me = aioipc.PeerCredentials(os.getpid(), os.getuid(), os.getgid())
    async with link() as (left, right):
        assert left.peer == right.peer == me
        assert Capability.CREDENTIALS in left.capabilities


@pytest.mark.parametrize("link", ["memory", "pipe", "tcp", "fd-pipes", "fifo"], indirect=True)
async def test_or_cannot_say(link: Link) -> None:
    async with link() as (left, right):
        assert left.peer is None
        assert right.peer is None


# Giving an end to a child process

CHILD = """
    import asyncio, sys, aioipc
    async def main():
        async with aioipc.connect(sys.argv[1]) as channel:
            async for obj in channel:
                await channel.send([obj, obj])
    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["unix", "pipe"])
async def test_detach_gives_an_end_to_a_child(kind: str, peers: Peers) -> None:
    left, right = aioipc.pair(kind)
    address, fds = right.detach()
    assert repr(right) == f"<Channel {kind}:{'pair' if kind == 'unix' else ''} msgpack closed>"
    child = peers.script(CHILD, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with left:
        for number in range(100):
            await left.send(number)
            assert await left.receive() == [number, number]
        await left.send_eof()
        with pytest.raises(aioipc.EndOfStream):
            await left.receive()
    assert await child.ended() == 0


@pytest.mark.parametrize("link", ["unix", "pipe"], indirect=True)
@pytest.mark.parametrize("framing", ["length", "lines"])
async def test_detach_comes_first_or_not_at_all(link: Link, framing: str) -> None:
    async with link(codec="json", framing=framing) as (left, right):
        await left.send(1)
        with pytest.raises(RuntimeError, match="before the first send or receive"):
            left.detach()
        assert await right.receive() == 1
        with pytest.raises(RuntimeError, match="before the first send or receive"):
            right.detach()
        await left.aclose()
        with pytest.raises(ClosedError):
            left.detach()


@pytest.mark.parametrize("link", ["memory"], indirect=True)
async def test_memory_has_nothing_to_detach(link: Link) -> None:
    async with link() as (left, right):
        with pytest.raises(RuntimeError, match="has no descriptors"):
            left.detach()
        await left.send(1)
        assert await right.receive() == 1
