"""Watches that last: a descriptor with an error (EPOLLERR) is watched on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from aioipc.loop.fd import FdWatch
from aioipc.loop.waiting import wait_fd
from tests.links import steps

pytestmark = pytest.mark.asyncio

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def reset() -> Iterator[socket.socket]:
    """What was sent can be read, and then that the peer reset the connection."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.send(b"last words")
            ours.send(b"unread")
        ours.setblocking(False)
        yield ours


@pytest.fixture
def datagrams() -> Iterator[Pair]:
    """Two connected sockets on the loopback; the second one is closed already."""
    ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with ours, theirs:
        for end in (ours, theirs):
            end.bind(("127.0.0.1", 0))
            end.setblocking(False)
        ours.connect(theirs.getsockname())
        yield ours, theirs


class Reader:
    """Reads a byte whenever it is called, and says what came of it."""

    def __init__(self, sock: socket.socket, watch: FdWatch) -> None:
        self.found: asyncio.Queue[bytes | int] = asyncio.Queue()
        self._socket = sock
        self._watch = watch
        watch.watch_reading(sock.fileno(), self.read)

    def read(self) -> None:
        try:
            data = self._socket.recv(1)
        except OSError as error:
            self.found.put_nowait(error.errno or 0)
        else:
            self.found.put_nowait(data)
            if not data:
                self._watch.unwatch_reading()


async def test_all_is_read_of_a_connection_that_was_reset(reset: socket.socket) -> None:
    reader = Reader(reset, FdWatch())
    read = [await reader.found.get() for _ in range(12)]
    assert read[:10] == [b"%c" % byte for byte in b"last words"]
    assert read[10:] == [errno.ECONNRESET, b""]


async def test_an_error_that_is_over_ends_no_watch(datagrams: Pair) -> None:
    ours, theirs = datagrams
    port = theirs.getsockname()
    theirs.close()
    watch = FdWatch()
    reader = Reader(ours, watch)
    for message in (b"1", b"2"):
        ours.send(b"nobody is there")
        assert await reader.found.get() == errno.ECONNREFUSED
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(port)
            again.sendto(message, ours.getsockname())
        assert await reader.found.get() == message
    watch.close()


async def test_both_directions_last(datagrams: Pair) -> None:
    ours, theirs = datagrams
    port = theirs.getsockname()
    theirs.close()
    watch = FdWatch()
    reader = Reader(ours, watch)
    room: asyncio.Queue[None] = asyncio.Queue()
    watch.watch_writing(ours.fileno(), lambda: room.put_nowait(None))
    ours.send(b"nobody is there")
    assert await reader.found.get() == errno.ECONNREFUSED
    await steps(3)
    while not room.empty():
        room.get_nowait()
    await room.get()
    watch.unwatch_writing()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(port)
        again.sendto(b"3", ours.getsockname())
    assert await reader.found.get() == b"3"
    watch.close()


async def test_a_descriptor_with_an_error_can_be_watched_anew(datagrams: Pair) -> None:
    ours, theirs = datagrams
    theirs.close()
    watch = FdWatch()
    reader = Reader(ours, watch)
    ours.send(b"nobody is there")
    room: asyncio.Queue[None] = asyncio.Queue()

    def read_and_write() -> None:
        reader.read()
        watch.watch_writing(ours.fileno(), lambda: room.put_nowait(None))

    watch.unwatch_reading()
    watch.watch_reading(ours.fileno(), read_and_write)
    assert await reader.found.get() == errno.ECONNREFUSED
    for _ in range(3):
        await room.get()
    watch.unwatch_writing()
    watch.unwatch_reading()
    ours.send(b"nobody is there")
    await wait_fd(ours.fileno())
    reader.read()
    assert reader.found.get_nowait() == errno.ECONNREFUSED


async def test_a_watch_that_ended_does_not_come_back(reset: socket.socket) -> None:
    watch = FdWatch()
    called: asyncio.Queue[None] = asyncio.Queue()

    def once() -> None:
        called.put_nowait(None)
        watch.close()

    watch.watch_reading(reset.fileno(), once)
    await called.get()
    reset.close()
    taken = os.open("/dev/null", os.O_RDONLY)  # has its number now, and cannot be watched
    try:
        await steps(5)
        assert called.empty()
    finally:
        os.close(taken)
