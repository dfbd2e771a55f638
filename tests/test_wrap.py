"""wrap: channels and streams over what other libraries opened."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    AddressError,
    ByteStream,
    Capability,
    Channel,
    EndOfStream,
    Limits,
    PeerCrashed,
    TruncatedFrame,
)
from tests.certificates import client_context, server_context
from tests.links import steps

pytestmark = pytest.mark.asyncio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def streams(sock: socket.socket) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        await steps(3)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_sockets(kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    async with aioipc.wrap(ours) as left, aioipc.wrap(theirs) as right:
        assert ours.fileno() == theirs.fileno() == -1
        await left.send({"size": 3})
        assert await right.receive() == {"size": 3}
        assert left.peer is not None
        assert left.peer.pid == os.getpid()
        await right.aclose()
        with pytest.raises(EndOfStream):
            await left.receive()


async def test_a_socket_that_connected_to_a_listener(tmp_path: Path) -> None:
    """The HELLO leaves although nothing is sent, so the listener yields the channel."""
    async with aioipc.listen(f"unix:{tmp_path}/socket") as listener:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "socket"))
        async with aioipc.wrap(sock) as left, await listener.accept() as right:
            await right.send("hello")
            assert await left.receive() == "hello"


async def test_descriptors() -> None:
    right_reads, left_writes = os.pipe()
    left_reads, right_writes = os.pipe()
    left = aioipc.wrap((left_reads, left_writes), codec="json", framing="lines")
    right = aioipc.wrap((right_reads, right_writes), codec="json", framing="lines")
    async with left, right:
        await left.send([1])
        assert await right.receive() == [1]
        assert right.address == f"fd:{right_reads},{right_writes}"
    async with aioipc.wrap(os.open("/dev/null", os.O_RDWR), framing="none", codec="raw") as null:
        await null.send(b"gone")


async def test_streams_of_bytes() -> None:
    ours, theirs = socket.socketpair()
    async with aioipc.wrap_stream(ours) as left, aioipc.wrap_stream(theirs) as right:
        await left.send(b"bytes")
        assert await right.receive() == b"bytes"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        with pytest.raises(AddressError, match="carries messages, not bytes"):
            aioipc.wrap_stream(ours)
        assert ours.fileno() >= 0


# --- multiprocessing -------------------------------------------------------------------------


def echo(connection: Connection[Any, Any]) -> None:
    """What the other process does, with nothing of aioipc in it."""
    while True:
        obj = connection.recv()
        if obj is None:
            break
        connection.send(obj)
    connection.send_bytes(connection.recv_bytes())


async def test_a_process_of_multiprocessing() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=echo, args=(theirs,))
    child.start()
    theirs.close()
    try:
        async with aioipc.wrap(ours) as channel:
            assert ours.closed
            for obj in ("text", {1, 2}, b"x" * 300_000, [float("inf")]):
                await channel.send(obj)
                assert await channel.receive() == obj
            await channel.send(None)
            await channel.send(b"bytes")
            assert await channel.receive()
            with pytest.raises(EndOfStream):
                await channel.receive()
    finally:
        await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    child.close()


async def test_bytes_of_multiprocessing() -> None:
    ours, theirs = multiprocessing.Pipe()
    with theirs:
        async with aioipc.wrap(ours, codec="raw") as channel:
            await channel.send(b"to recv_bytes")
            assert theirs.recv_bytes() == b"to recv_bytes"
            theirs.send_bytes(b"")
            theirs.send_bytes(b"from send_bytes")
            assert [await channel.receive(), await channel.receive()] == [b"", b"from send_bytes"]


async def test_one_way_of_multiprocessing() -> None:
    reads, writes = multiprocessing.Pipe(duplex=False)
    async with aioipc.wrap(reads) as receiver, aioipc.wrap(writes) as sender:
        await sender.send({"one": "way"})
        assert await receiver.receive() == {"one": "way"}
        assert Capability.DUPLEX not in receiver.capabilities
        await sender.aclose()
        with pytest.raises(EndOfStream):
            await receiver.receive()


async def test_half_a_message_of_multiprocessing() -> None:
    ours, theirs = multiprocessing.Pipe()
    async with aioipc.wrap(ours) as channel:
        os.write(theirs.fileno(), b"\0\0\0\x08half")
        theirs.close()
        with pytest.raises(TruncatedFrame, match="after 4 of 8 bytes"):
            await channel.receive()


async def test_a_closed_connection() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    theirs.close()
    with pytest.raises(AddressError, match="handle is closed"):
        aioipc.wrap(ours)


# --- StreamReader and StreamWriter -----------------------------------------------------------


async def test_a_reader_and_its_writer() -> None:
    ours, theirs = socket.socketpair()
    async with streams(ours) as pair, aioipc.wrap(theirs) as right:
        async with aioipc.wrap(pair) as left:
            assert left.peer is not None
            for size in (1, 100_000, 3_000_000):
                sending = asyncio.create_task(left.send(b"x" * size))
                assert await right.receive() == b"x" * size
                await sending
                sending = asyncio.create_task(right.send(b"y" * size))
                assert await left.receive() == b"y" * size
                await sending
        with pytest.raises(EndOfStream):
            await right.receive()


async def test_what_was_read_ahead_comes_first() -> None:
    ours, theirs = socket.socketpair()
    async with streams(ours) as (reader, writer):
        with theirs:
            theirs.sendall(b"a greeting\n1\n2\n")
            assert await reader.readline() == b"a greeting\n"
            channel = aioipc.wrap((reader, writer), codec="json", framing="lines")
            theirs.sendall(b"3\n")
        async with channel:
            assert [number async for number in channel] == [1, 2, 3]


async def test_a_reader_holds_a_fast_peer_back() -> None:
    ours, theirs = socket.socketpair()
    async with streams(ours) as pair:
        left, right = aioipc.wrap_stream(pair), aioipc.wrap_stream(theirs)
        async with left, right:
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        await right.send(bytes(65536))
                        sent += 65536
            right.abort()
            received = 0
            with contextlib.suppress(EndOfStream, PeerCrashed):
                while True:
                    received += len(await left.receive())
            assert sent <= received < 4 * 1024 * 1024


async def test_a_writer_waits_for_a_slow_peer() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with streams(ours) as pair, aioipc.wrap(pair, codec="raw", framing="none") as left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while True:
                        await left.send(bytes(65536))
            assert pair[1].transport.get_write_buffer_size() <= 2 * 65536
            left.abort()


@pytest.mark.parametrize("how", ["abort", "aclose"])
@pytest.mark.parametrize("what", ["channel", "stream"])
async def test_what_did_not_leave_in_time_is_dropped(what: str, how: str) -> None:
    limits = Limits(linger_s=0.01)
    ours, theirs = socket.socketpair()
    left: Channel[bytes] | ByteStream
    async with streams(ours) as pair, aioipc.wrap_stream(theirs) as right:
        if what == "channel":
            left = aioipc.wrap(pair, codec="raw", framing="none", limits=limits)
        else:
            left = aioipc.wrap_stream(pair, limits=limits)
        sent = 0
        while not pair[1].transport.get_write_buffer_size():
            await left.send(bytes(100_000))
            sent += 100_000
        if how == "abort":
            left.abort()
        else:
            await left.aclose()
        await steps(3)  # uvloop cuts off in its next turn
        received = 0
        with contextlib.suppress(EndOfStream, PeerCrashed):
            while True:
                received += len(await right.receive())
        assert received < sent


@pytest.mark.parametrize("size", [1000, 300_000])
async def test_what_was_not_sent_yet_goes_first(size: int) -> None:
    """Whether the writer was told to pause by then, or not."""
    ours, theirs = socket.socketpair()
    async with streams(ours) as (reader, writer):
        sent = 0
        while not writer.transport.get_write_buffer_size():
            writer.write(bytes(size))
            sent += size
        left = aioipc.wrap_stream((reader, writer))
        async with left, aioipc.wrap_stream(theirs) as right:
            sending = asyncio.create_task(left.send(b"x" * 100_000))
            received = b""
            while len(received) < sent + 100_000:
                received += await right.receive()
            await sending
            assert received == bytes(sent) + b"x" * 100_000


async def test_both_over_tcp() -> None:
    async with aioipc.listen("tcp://127.0.0.1:0") as listener:
        host, _, port = listener.address.removeprefix("tcp://").rpartition(":")
        pair = await asyncio.open_connection(host, int(port))
        async with aioipc.wrap(pair) as left, await listener.accept() as right:
            assert Capability.REMOTE in left.capabilities
            await left.send("hello")
            assert await right.receive() == "hello"
            right.abort()
            with pytest.raises(PeerCrashed):
                await left.receive()
    with pytest.raises(AddressError, match="is closed"):
        aioipc.wrap(pair)


async def test_tls_that_asyncio_began() -> None:
    accepted: asyncio.Queue[Streams] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    # By number: to look a name up, libuv starts threads, which stay.
    sock = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(accept, sock=sock, ssl=server_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        pair = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(), server_hostname="localhost"
        )
        left, right = aioipc.wrap(pair), aioipc.wrap(await accepted.get())
        async with left, right:
            sending = asyncio.create_task(left.send(b"x" * 900_000))
            assert await right.receive() == b"x" * 900_000
            await sending
            await right.aclose()
            with pytest.raises(EndOfStream):
                await left.receive()
    await steps(10)


# --- what cannot be taken over ---------------------------------------------------------------


async def test_a_socket_without_a_connection() -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            with pytest.raises(AddressError, match="is not connected"):
                aioipc.wrap(sock)
            assert sock.fileno() >= 0
        with pytest.raises(AddressError, match="is not connected"):
            aioipc.wrap(sock)  # which is closed by now


async def test_a_descriptor_that_is_not_open() -> None:
    reads, writes = os.pipe()
    os.close(writes)
    with pytest.raises(AddressError, match=f"descriptor {writes}: Bad file descriptor"):
        aioipc.wrap((reads, writes))
    os.close(reads)


@pytest.mark.parametrize("obj", [None, "unix:x", True, (1, 2, 3), sys.stdin, subprocess])
async def test_nothing_of_the_kind(obj: Any) -> None:
    with pytest.raises(TypeError, match="wrap takes a socket"):
        aioipc.wrap(obj)


async def test_a_socket_that_encrypts() -> None:
    ours, theirs = socket.socketpair()
    context = ssl.create_default_context()
    with theirs:
        tls = context.wrap_socket(ours, server_hostname="x", do_handshake_on_connect=False)
        with tls, pytest.raises(TypeError, match="SSLSocket"):
            aioipc.wrap(tls)


async def test_a_wrong_option_takes_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match="framing must be one of"):
            aioipc.wrap(ours, framing="no")
        wrong: Any = {}
        for wrap in (aioipc.wrap, aioipc.wrap_stream):
            with pytest.raises(TypeError, match="limits= is a Limits, not dict"):
                wrap(ours, limits=wrong)
        assert ours.fileno() >= 0
