"""Two connected transports in one process, over every way that bytes go."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import aioipc
from aioipc import Limits
from aioipc.asyncio_face import Transport
from tests.links import SMALL_RING

KINDS = ("unix", "tcp", "pipe", "shm")
LIMITS = Limits(ring_bytes=SMALL_RING, linger_s=2.0)
ADDRESSES = {"unix": "unix:", "tcp": "tcp://127.0.0.1:0", "shm": "shm:"}


class Recorder(asyncio.Protocol):
    """Writes down what it is told, and checks the order of it."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.transport: Transport = None  # type: ignore[assignment]
        self.events: list[str] = []
        self.data = bytearray()
        self.error: BaseException | None = None
        self.keep_open = keep_open
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.changed = asyncio.Event()

    def note(self, event: str) -> None:
        assert event == "made" or self.events, "nothing comes before connection_made"
        assert self.events[-1:] != ["lost"], "nothing comes after connection_lost"
        if event != "data" or self.events[-1] != "data":
            self.events.append(event)
        self.changed.set()

    def connection_made(self, transport: Any) -> None:
        self.note("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.events[-1] != "eof"
        assert type(data) is bytes
        assert data
        self.note("data")
        self.data += data

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    def connection_lost(self, error: BaseException | None) -> None:
        self.note("lost")
        self.error = error

    def pause_writing(self) -> None:
        assert self.may_write.is_set(), "paused once, until it is resumed"
        self.note("pause")
        self.may_write.clear()

    def resume_writing(self) -> None:
        assert not self.may_write.is_set(), "resumed once, after it was paused"
        self.note("resume")
        self.may_write.set()

    async def until(self, reached: Callable[[], object]) -> None:
        """Wait for something that these events bring about."""
        while not reached():
            self.changed.clear()
            await self.changed.wait()

    async def lost(self) -> BaseException | None:
        await self.until(lambda: "lost" in self.events)
        return self.error

    async def got(self, count: int) -> bytes:
        await self.until(lambda: len(self.data) >= count)
        return bytes(self.data)


class InPlace(Recorder, asyncio.BufferedProtocol):
    """The same, which lends its buffer. The transport must not ask for `data_received`."""

    data_received = None  # type: ignore[assignment]

    def __init__(self, size: int = 4096, **options: Any) -> None:
        super().__init__(**options)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        assert sizehint == -1
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        assert 0 < count <= len(self.buffer)
        self.note("data")
        self.data += self.buffer[:count]


def _itself(protocol: Any) -> Any:
    return protocol


Ends = tuple[Any, Any]


@contextlib.asynccontextmanager
async def joined(kind: str, left: Any = None, right: Any = None) -> AsyncIterator[Ends]:
    """Connect two protocols, `Recorder` unless told otherwise; cut them off when left."""
    left, right = left or Recorder(), right or Recorder()
    if kind == "pipe":
        for end, protocol in zip(aioipc.pair("pipe"), (left, right), strict=True):
            address, _ = end.detach()
            await aioipc.create_connection(functools.partial(_itself, protocol), address)
    else:
        async with contextlib.AsyncExitStack() as undo:
            server = await aioipc.create_server(lambda: right, ADDRESSES[kind], limits=LIMITS)
            undo.callback(server.close)
            await aioipc.create_connection(lambda: left, server.address, limits=LIMITS)
            await right.until(lambda: right.transport)
    try:
        yield left, right
    finally:
        for end in (left, right):
            end.transport.abort()
        for end in (left, right):
            await end.lost()


def fill(end: Recorder) -> bytes:
    """Write until there is something in the buffer."""
    written = b""
    while not end.transport.get_write_buffer_size():
        piece = bytes(range(256)) * 64
        end.transport.write(piece)
        written += piece
    return written


async def until(reached: Callable[[], object]) -> None:
    """Let the loop turn until something is so, which no event tells of."""
    while not reached():  # noqa: ASYNC110
        await asyncio.sleep(0)
