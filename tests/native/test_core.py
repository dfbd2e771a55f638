"""The native core where memory, wake-ups and fairness are at stake."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

import aioipc
from aioipc import (
    ClosedError,
    EncodeError,
    IPCError,
    Limits,
    PeerCrashed,
    ProtocolError,
    WouldBlock,
)
from aioipc.abc import Buffer
from aioipc.channel import Channel
from aioipc.native._stream import StreamPort
from aioipc.transports import memory
from aioipc.transports._framed import PeerPort
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import Hello

pytestmark = pytest.mark.asyncio

LARGE = 4 * 1024 * 1024
"""More than the kernel takes from a sender at once."""
SOON_S = 10.0
HELLO = Hello("raw", 2**26).pack()
GREETING = pack_header(len(HELLO), Kind.HELLO) + HELLO


async def waiting(operation: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start an operation that has to wait."""
    task = asyncio.ensure_future(operation)
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


@pytest.mark.parametrize("obj", [None, 7, ("a", "b"), (), ValueError("x"), StopIteration(1)])
async def test_the_result_of_an_operation_without_am_send(obj: object) -> None:
    """CPython 3.12 and later takes it from ``tp_iternext``, as ``next`` does."""
    left, right = aioipc.pair("memory", codec="pickle")
    async with left, right:
        for operation, result in ((left.send(obj), None), (right.receive(), obj)):
            with pytest.raises(StopIteration) as stop:
                next(operation)  # type: ignore[call-overload]
            assert type(stop.value.value) is type(result)
            assert repr(stop.value.value) == repr(result)
        with pytest.raises(WouldBlock):
            right.receive_nowait()


class Thing:
    """Something that can be missed."""


async def test_a_result_that_was_taken_is_held_by_nobody() -> None:
    left, right = aioipc.pair("memory", codec="pickle")
    async with left, right:
        kept = []
        for number in range(6):
            await left.send((number, Thing()))
            await left.flush()
            if number % 2:
                assert next(right.receive(), "it is over") == "it is over"  # type: ignore[call-overload]
            else:
                with pytest.raises(StopIteration) as stop:
                    next(right.receive())  # type: ignore[call-overload]
                kept.append(stop.value)
        assert [stop.value[0] for stop in kept] == [0, 2, 4]
        gc.collect()
        alive = [thing for thing in gc.get_objects() if type(thing) is Thing]
        assert len(alive) == len(kept)


class Codec:
    """The raw codec, through Python."""

    name = "python"
    format = None

    def encode(self, obj: Buffer) -> Buffer:
        return obj

    def decode(self, buffer: Buffer) -> Buffer:
        return buffer


def channel_over(stream: Any, codec: Any = Codec) -> Channel[Any]:
    port = PeerPort(stream, codec.name, 2**26)
    return Channel(port, codec(), limits=Limits(), polling="adaptive")


# What is still to be read from the caller's memory


async def test_a_bytearray_keeps_its_length_while_it_is_sent() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right:
        data = bytearray(os.urandom(LARGE))
        sending = await waiting(left.send(data))
        with pytest.raises(BufferError):
            data.clear()
        assert await right.receive() == data
        await sending
        data.clear()


async def test_a_cancelled_send_gives_the_bytearray_back() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right:
        data = bytearray(os.urandom(LARGE))
        copy = bytes(data)
        sending = await waiting(left.send(data))
        sending.cancel()
        await asyncio.wait([sending])
        data.clear()
        assert await right.receive() == copy


async def test_a_memoryview_may_be_released_while_it_is_sent() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right:
        data = os.urandom(LARGE)
        view = memoryview(data)
        sending = await waiting(left.send(view))
        view.release()
        assert await right.receive() == data
        await sending
        with pytest.raises(EncodeError):
            await left.send(view)
        await left.send(b"next")
        assert await right.receive() == b"next"


# Nobody sleeps for ever


async def test_messages_read_by_a_failed_send_wake_the_receiver() -> None:
    reads, peer_writes = os.pipe()
    peer_reads, writes = os.pipe()
    async with await aioipc.connect(f"fd:{reads},{writes}", codec="raw") as channel:
        os.write(peer_writes, GREETING)
        receiving = await waiting(channel.receive())
        os.close(peer_reads)
        os.write(peer_writes, pack_header(5, Kind.DATA) + b"still")
        with pytest.raises(PeerCrashed):
            channel.send_nowait(b"x")
        assert await asyncio.wait_for(receiving, SOON_S) == b"still"
    os.close(peer_writes)


async def test_the_failure_of_one_channel_does_not_keep_what_others_gathered() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    other, far = aioipc.pair("unix", codec="raw")
    async with right, other, far:
        await asyncio.sleep(0.01)
        for channel in (left, other):
            channel.send_nowait(b"written")
            channel.send_nowait(b"gathered")
        left.abort(ValueError("its handler failed"))
        assert await asyncio.wait_for(far.receive(), SOON_S) == b"written"
        assert await asyncio.wait_for(far.receive(), SOON_S) == b"gathered"
        with pytest.raises(ClosedError):
            await left.send(b"")


class Broken(memory.MemoryStream):
    """A transport with an error of its own."""

    error: Exception | None = None

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        if self.error is not None:
            raise self.error
        return super().try_write(parts)


async def test_a_foreign_error_reaches_the_sender_that_waits() -> None:
    forth, back = memory._Pipe(), memory._Pipe()
    near, far = Broken("memory:", back, forth), memory.MemoryStream("memory:", forth, back)
    left, right = channel_over(near), channel_over(far)
    sending = await waiting(left.send(bytes(LARGE)))
    near.error = OSError("the transport is broken")
    receiving = asyncio.ensure_future(right.receive())
    with pytest.raises(OSError, match="the transport is broken"):
        await asyncio.wait_for(sending, SOON_S)
    receiving.cancel()
    await asyncio.wait([receiving])
    left.abort()
    right.abort()


# Fairness


@pytest.mark.parametrize(
    "frame",
    [pack_header(0, Kind.PING), pack_header(0, Kind.PONG), pack_header(0, Kind.DATA, Flag.MORE)],
    ids=["PING", "PONG", "MORE"],
)
async def test_a_flood_without_messages_does_not_keep_the_loop(frame: bytes) -> None:
    near, far = socket.socketpair()
    flood = frame * 8192

    def pour() -> None:
        with contextlib.suppress(OSError):
            far.sendall(GREETING)
            while True:
                far.sendall(flood)

    def drain() -> None:
        with contextlib.suppress(OSError):
            while far.recv(65536):
                pass

    threads = [threading.Thread(target=work) for work in (pour, drain)]
    channel = await aioipc.connect(f"fd:{near.detach()}", codec="raw")
    receiving = asyncio.ensure_future(channel.receive())
    for thread in threads:
        thread.start()
    turns = 0
    start = time.thread_time()
    while time.thread_time() - start < 0.2:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20
    receiving.cancel()
    await asyncio.wait([receiving])
    channel.abort()
    for thread in threads:
        thread.join()
    far.close()


@pytest.mark.parametrize("how", ["one by one", "many"])
async def test_a_slow_codec_yields_by_the_clock(how: str) -> None:
    class Slow(Codec):
        def encode(self, obj: Buffer) -> Buffer:
            until = time.perf_counter() + 0.0005
            while time.perf_counter() < until:
                pass
            return obj

        def decode(self, buffer: Buffer) -> Buffer:
            return self.encode(buffer)

    left, right = (channel_over(stream, Slow) for stream in memory.pair())
    count = 64
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0)
            others += 1

    task = asyncio.create_task(other())
    messages = [bytes(1000)] * count
    if how == "many":
        await left.send_many(messages)
    else:
        for message in messages:
            await left.send(message)
    assert others >= count // 2
    others = 0
    received = 0
    while received < count:
        if how == "many":
            received += len(await right.receive_many())
        else:
            await right.receive()
            received += 1
    assert others >= count // 2
    task.cancel()
    await asyncio.wait([task])
    left.abort()
    right.abort()


async def test_receive_nowait_finds_the_first_message_in_a_turn_that_took_long() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    async with left, right:
        await left.send(b"data")
        time.sleep(0.001)  # noqa: ASYNC251 - other work
        assert right.receive_nowait() == b"data"


# Memory is safe from what Python code around the core does


class Liar(memory.MemoryStream):
    """A transport that miscounts."""

    added = 0

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        count = super().try_read_into(buffer)
        return count if count is None else count + self.added

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        return super().try_write(parts) + self.added


@pytest.mark.parametrize("added", [2**40, -(2**40)])
async def test_a_transport_that_miscounts_is_caught(added: int) -> None:
    forth, back = memory._Pipe(), memory._Pipe()
    near, far = Liar("memory:", back, forth), Liar("memory:", forth, back)
    left, right = channel_over(near), channel_over(far)
    await left.send(b"well")
    await asyncio.sleep(0)
    near.added = far.added = added
    with pytest.raises(ProtocolError):
        await right.receive()
    with pytest.raises(ProtocolError):
        await left.send(bytes(LARGE))
    left.abort()
    right.abort()


class Meddler(Codec):
    """A codec that touches the operation for which it works."""

    operation: Any = None

    def encode(self, obj: Buffer) -> Buffer:
        for touch in (self.operation.close, lambda: self.operation.send(None)):
            with pytest.raises(RuntimeError, match="running"):
                touch()
        return obj


async def test_an_operation_is_not_touched_from_within_itself() -> None:
    left, right = (channel_over(stream, Meddler) for stream in memory.pair())
    operation: Any = left.send(b"data")
    Meddler.operation = operation
    await operation
    assert await right.receive() == b"data"
    left.abort()
    right.abort()


async def test_ports_without_a_loop_are_refused_and_closed() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1000))
    channel: Any = await aioipc.connect(f"fd:{near.detach()}", codec="raw")
    port: StreamPort = channel.port
    port.on_writable(lambda: None)
    port.end_sending(IPCError("no more"))
    channel.abort()
    far.close()


async def test_sends_after_the_end_of_a_channel_do_not_wait() -> None:
    left, right = aioipc.pair("unix", codec="raw")
    sending = await waiting(left.send(bytes(LARGE)))
    with pytest.raises(WouldBlock):
        left.send_nowait(struct.pack("<I", 1))
    left.abort()
    with pytest.raises(ClosedError):
        await asyncio.wait_for(sending, SOON_S)
    right.abort()
