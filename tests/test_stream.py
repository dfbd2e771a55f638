"""connect_stream and listen_stream: bytes without boundaries, as anyio has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import anyio.abc
import pytest
import pytest_asyncio
from anyio.streams.buffered import BufferedByteReceiveStream

import aioipc
from aioipc import (
    AddressError,
    BusyError,
    ByteStream,
    Capability,
    ClosedError,
    EndOfStream,
    IPCAttribute,
    Limits,
    PeerCrashed,
)
from aioipc.address import Address
from tests.certificates import client_context, server_context
from tests.children import PATIENCE_S, Peers
from tests.links import SMALL_RING, steps

pytestmark = pytest.mark.asyncio

LIMITS = Limits(ring_bytes=SMALL_RING)
ADDRESSES = ["unix:", "tcp://127.0.0.1:0", "shm:", "memory:"]

Ends = tuple[ByteStream, ByteStream]
Streams = Callable[[], AbstractAsyncContextManager[Ends]]


@pytest.fixture(params=ADDRESSES)
def streams(request: pytest.FixtureRequest) -> Streams:
    """``async with streams() as (left, right)``: two connected streams."""

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Ends]:
        async with aioipc.listen_stream(request.param, limits=LIMITS) as listener:
            accepting = asyncio.create_task(listener.accept())
            left = await aioipc.connect_stream(listener.address, limits=LIMITS)
            right = await accepting
        async with left, right:
            yield left, right

    return connected


async def read_all(stream: ByteStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 3_000_000])
async def test_every_byte_once_and_in_order(
    streams: Streams, size: int, chance: random.Random
) -> None:
    data = random.Random(size).randbytes(size)

    async def send_all(stream: ByteStream) -> None:
        start = 0
        while start < size:
            length = chance.choice([1, 7, 8, 1_000, 32_768, 200_000])
            await stream.send(data[start : start + length])
            start += length
        await stream.send_eof()

    async def receive_all(stream: ByteStream) -> bytes:
        got = bytearray()
        while True:
            try:
                got += await stream.receive(chance.choice([1, 8, 1_000, 65_536]))
            except EndOfStream:
                return bytes(got)

    async with streams() as (left, right), asyncio.timeout(PATIENCE_S):
        tasks = [asyncio.create_task(send_all(end)) for end in (left, right)]
        assert await receive_all(right) == data
        assert await receive_all(left) == data
        await asyncio.gather(*tasks)


async def test_wrong_use(streams: Streams) -> None:
    async with streams() as (left, _):
        with pytest.raises(ValueError, match="at least 1, not 0"):
            await left.receive(0)


async def test_it_is_what_anyio_calls_a_byte_stream(streams: Streams) -> None:
    async with streams() as (left, right):
        assert isinstance(left, anyio.abc.ByteStream)
        await left.send(b"one\ntwo\n")
        lines = BufferedByteReceiveStream(right)
        assert await lines.receive_until(b"\n", 100) == b"one"
        assert await lines.receive_exactly(3) == b"two"
        assert left.extra(IPCAttribute.address) == left.address
        assert left.extra(IPCAttribute.peer) == left.peer
        assert left.extra(IPCAttribute.limits) == LIMITS
        assert Capability.STREAM in left.extra(IPCAttribute.capabilities)


async def test_a_server(streams: Streams) -> None:
    async def echo(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async with aioipc.listen_stream("unix:") as listener:
        serving = asyncio.create_task(listener.serve(echo))
        connectable = aioipc.connect_stream(listener.address)
        assert isinstance(connectable, anyio.abc.ByteStreamConnectable)
        for _ in range(3):
            async with await connectable.connect() as stream:
                await stream.send(b"echo")
                assert await stream.receive() == b"echo"
        serving.cancel()
        await asyncio.wait([serving])
    with pytest.raises(ClosedError):
        await listener.accept()


async def test_what_has_only_messages_or_no_server_is_refused() -> None:
    with pytest.raises(AddressError, match="has no listen"):
        await aioipc.listen_stream("exec:cat")
    with pytest.raises(AddressError, match="no transport is called"):
        await aioipc.connect_stream("pigeon:post")


async def test_a_child_and_inherited_descriptors() -> None:
    async with aioipc.connect_stream("exec:cat") as stream:
        await stream.send(b"meow")
        assert await stream.receive() == b"meow"
        await stream.send_eof()
        with pytest.raises(EndOfStream):
            await stream.receive()
    read_fd, write_fd = os.pipe()
    async with (
        await aioipc.connect_stream(f"fd:{write_fd}") as writer,
        await aioipc.connect_stream(f"fd:{read_fd}") as reader,
    ):
        await writer.send(b"through a pipe")
        assert await reader.receive() == b"through a pipe"


async def test_through_a_fifo(tmp_path: Path) -> None:
    address = f"fifo:{tmp_path}/fifo"
    async with (
        aioipc.listen_stream(address) as listener,
        aioipc.connect_stream(address) as writer,
        await listener.accept() as reader,
    ):
        await writer.send(b"one way")
        assert await reader.receive() == b"one way"


@pytest.mark.parametrize("how", ["aclose", "abort", "drop"])
@pytest.mark.parametrize("address", ADDRESSES)
async def test_whoever_is_too_many_waits_until_a_stream_is_closed(address: str, how: str) -> None:
    limits = Limits(max_connections=2)
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(aioipc.listen_stream(address, limits=limits))
        for _ in range(2):
            await stack.enter_async_context(aioipc.connect_stream(listener.address))
        inside = [await listener.accept(), await listener.accept()]
        third = asyncio.create_task(aioipc.connect_stream(listener.address).connect())
        accepting = asyncio.create_task(listener.accept())
        await steps(20)
        assert not accepting.done()
        if how == "aclose":
            await inside.pop().aclose()
        elif how == "abort":
            inside.pop().abort()
        else:
            with pytest.warns(ResourceWarning, match="unclosed <ByteStream"):
                inside.pop()
        async with asyncio.timeout(PATIENCE_S):
            inside.append(await accepting)
            await stack.enter_async_context(await third)
        for stream in inside:
            await stream.aclose()


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_a_peer_that_is_killed(address: str, peers: Peers) -> None:
    async with aioipc.listen_stream(address) as listener:
        peer = peers.script(
            """
            import asyncio, sys, aioipc
            async def main():
                stream = await aioipc.connect_stream(sys.argv[1])
                await stream.send(b"before")
                await stream.receive()
            asyncio.run(main())
            """,
            listener.address,
        )
        async with await listener.accept() as stream:
            assert await stream.receive() == b"before"
            peer.kill()
            with pytest.raises((PeerCrashed, EndOfStream)) as caught:
                await asyncio.wait_for(stream.receive(), PATIENCE_S)
            # Without messages only the ring knows whether that was a clean end.
            assert isinstance(caught.value, PeerCrashed) == (address == "shm:")


async def test_a_channel_and_a_stream_do_not_mix() -> None:
    async with aioipc.listen("shm:") as listener:
        accepting = asyncio.create_task(listener.accept())
        async with aioipc.connect_stream(listener.address) as stream:
            with pytest.raises(aioipc.CodecMismatch):
                await asyncio.wait_for(stream.receive(), PATIENCE_S)
        accepting.cancel()
        await asyncio.wait([accepting])


async def test_dropped_open_it_warns_and_is_closed() -> None:
    async with aioipc.listen_stream("unix:") as listener:
        stream = await aioipc.connect_stream(listener.address)
        await (await listener.accept()).aclose()
    dropped = [stream]
    del stream
    with pytest.warns(ResourceWarning, match="unclosed <ByteStream unix:"):
        dropped.clear()


@pytest.mark.parametrize("address", ADDRESSES)
async def test_who_connects_first_is_accepted_later(address: str) -> None:
    async with (
        aioipc.listen_stream(address) as listener,
        await aioipc.connect_stream(listener.address) as left,
        await listener.accept() as right,
    ):
        await left.send(b"in one task")
        assert await right.receive() == b"in one task"


def fails(_: aioipc.PeerCredentials) -> bool:
    raise ZeroDivisionError


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_an_allow_that_fails_says_no(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async with aioipc.listen_stream(address) as listener:
        listener._entrance._allow = fails
        accepting = asyncio.create_task(listener.accept())
        with pytest.raises((aioipc.AccessDenied, PeerCrashed, EndOfStream)):
            async with aioipc.connect_stream(listener.address) as stream:
                await asyncio.wait_for(stream.receive(), PATIENCE_S)
        assert not accepting.done()
        assert "allow= failed" in caplog.text
        accepting.cancel()
        await asyncio.wait([accepting])


class Nothing:
    """A codec that calls itself what byte streams call themselves."""

    name = "stream"
    format = None

    def encode(self, obj: bytes) -> bytes:
        return obj

    decode = encode


async def test_records_of_nothing_are_passed_over() -> None:
    """As many as a ring holds: neither the stack nor the loop may mind."""
    async with (
        aioipc.listen_stream("shm:") as listener,
        aioipc.connect(listener.address, codec=Nothing()) as left,
        await listener.accept() as right,
    ):
        for _ in range(100_000):
            left.send_nowait(b"")
        await left.send(b"at last")
        assert await asyncio.wait_for(right.receive(), PATIENCE_S) == b"at last"


async def test_all_arrives_of_a_peer_that_reset_the_connection() -> None:
    """It closes with something unread (unix(7)), of which the loop may tell once only."""
    async with await aioipc.listen_stream("unix:") as listener:
        stream = await aioipc.connect_stream(listener.address)
        async with stream, anyio.create_task_group() as tasks:
            received = bytearray()

            async def receive() -> None:
                with contextlib.suppress(PeerCrashed):
                    while True:
                        received.extend(await stream.receive(1))
                        await steps(2)

            tasks.start_soon(receive)
            await steps(3)
            async with await listener.accept() as other:
                await stream.send(b"unread")
                await other.send(b"last words")
                other.abort()
        assert received == b"last words"


# --- ending while something waits for room ---------------------------------------------------

PATIENT = Limits(linger_s=1000)
"""A test that waits for the end of this takes too long."""


@contextlib.asynccontextmanager
async def tls(limits: Limits) -> AsyncIterator[Ends]:
    here = Address.parse("tls://127.0.0.1:0").with_tls(server_context())
    async with aioipc.listen_stream(here, limits=limits) as listener:
        there = Address.parse(listener.address).with_tls(client_context())
        accepting = asyncio.create_task(listener.accept())
        left = await aioipc.connect_stream(there, limits=limits)
        yield left, await accepting


@contextlib.asynccontextmanager
async def of_asyncio(limits: Limits) -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    pair = await asyncio.open_connection(sock=ours)
    yield aioipc.wrap_stream(pair, limits=limits), aioipc.wrap_stream(theirs, limits=limits)


@pytest_asyncio.fixture(params=[tls, of_asyncio])
async def fed(request: pytest.FixtureRequest) -> AsyncIterator[tuple[ByteStream, ByteStream, int]]:
    """Two streams, and how many bytes the left one accepted, which did not leave yet."""
    async with request.param(PATIENT) as (left, right):
        sent = 0
        while left.transport.try_flush():
            await left.send(bytes(65536))
            sent += 65536
        yield left, right, sent
        left.abort()
        right.abort()
        await steps(3)


async def test_a_cancelled_end_and_a_close_lose_nothing(
    fed: tuple[ByteStream, ByteStream, int],
) -> None:
    left, right, sent = fed
    ending = asyncio.create_task(left.send_eof())
    await steps(3)
    assert not ending.done()
    ending.cancel()
    await asyncio.wait([ending])
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_all(right))
        await left.aclose()
    assert len(reading.result()) == sent


async def test_an_end_that_was_cancelled_is_waited_for_again(
    fed: tuple[ByteStream, ByteStream, int],
) -> None:
    left, right, sent = fed
    for _ in range(2):
        ending = asyncio.create_task(left.send_eof())
        await steps(3)
        assert not ending.done()
        with pytest.raises(BusyError):
            await left.send_eof()
        ending.cancel()
        await asyncio.wait([ending])
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_all(right))
        await left.send_eof()
    assert len(reading.result()) == sent


@pytest.mark.parametrize("how", ["abort", "aclose"])
async def test_an_end_that_waits_as_the_stream_is_closed(
    how: str, fed: tuple[ByteStream, ByteStream, int]
) -> None:
    left, right, _ = fed
    ending = asyncio.create_task(left.send_eof())
    await steps(3)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        if how == "abort":
            left.abort()
        else:
            tasks.create_task(left.aclose())
        with pytest.raises(ClosedError):
            await ending
        tasks.create_task(read_to_any_end(right))


async def test_a_close_that_waits_as_the_stream_is_aborted(
    fed: tuple[ByteStream, ByteStream, int],
) -> None:
    left, _, _ = fed
    closing = asyncio.create_task(left.aclose())
    await steps(3)
    assert not closing.done()
    left.abort()
    async with asyncio.timeout(PATIENCE_S):
        await closing


async def test_a_send_that_is_cancelled_just_before_a_close(
    fed: tuple[ByteStream, ByteStream, int],
) -> None:
    """It takes back its callback, and not that of the close."""
    left, right, sent = fed
    sending = asyncio.create_task(left.send(bytes(10_000_000)))
    await steps(3)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_to_any_end(right))
        sending.cancel()
        await left.aclose()
    assert reading.result() >= sent


async def read_to_any_end(stream: ByteStream) -> int:
    size = 0
    with contextlib.suppress(EndOfStream, PeerCrashed):
        while True:
            size += len(await stream.receive())
    return size
