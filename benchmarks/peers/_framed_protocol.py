"""Messages with a length in front of each, as an asyncio.Protocol."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import cast

from benchmarks.contender import Buffer

GATHER_BYTES = 64 * 1024
LARGE_BYTES = 32 * 1024

_HEADER = struct.Struct("<I")
_unpack = _HEADER.unpack_from
_pack = _HEADER.pack

_STAGING = memoryview(bytearray(256 * 1024))
"""Where chunks are received, for all connections: the loop fills it and calls back at once."""


class FramedProtocol(asyncio.BufferedProtocol):
    """Length-prefixed messages in both directions.

    A subclass gets each message in ``received``, and ``chunk_ended`` after those that came
    together.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.closed = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._leftover = b""
        self._large: bytearray | None = None
        self._missing = _STAGING

    def received(self, message: Buffer) -> None:
        """Take one message."""
        raise NotImplementedError

    def chunk_ended(self) -> None:
        """Nothing else came with the messages before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Let those go who wait for the end."""
        if not self.closed.done():
            self.closed.set_result(None)

    # --- out

    def send(self, message: bytes) -> None:
        """Write one message at once."""
        self.transport.write(_pack(len(message)) + message)

    async def send_all(self, messages: Iterable[bytes]) -> None:
        """Write many messages, gathered, as fast as the peer takes them."""
        gather = self.gather
        writable = self._writable
        for message in messages:
            gather(message)
            if not writable.is_set():
                await writable.wait()
        self.flush()

    async def send_many(self, messages: list[bytes]) -> None:
        """Write a batch of small messages at once."""
        self.transport.write(b"".join([_pack(len(message)) + message for message in messages]))
        if not self._writable.is_set():
            await self._writable.wait()

    def gather(self, message: bytes) -> None:
        """Accept one message; it is written at the latest by ``flush``."""
        size = len(message)
        if size >= LARGE_BYTES:
            self.flush()
            self.transport.write(_pack(size))
            self.transport.write(message)
            return
        self._gathered.append(_pack(size) + message)
        self._gathered_bytes += size
        if self._gathered_bytes >= GATHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            self.transport.write(b"".join(self._gathered))
            self._gathered.clear()
            self._gathered_bytes = 0

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._writable.set()

    # --- in

    def get_buffer(self, sizehint: int) -> memoryview:
        """The staging buffer, or the missing part of a large message."""
        return _STAGING if self._large is None else self._missing

    def buffer_updated(self, nbytes: int) -> None:
        """Cut the chunk into messages."""
        if self._large is None:
            self._split(self._leftover + bytes(_STAGING[:nbytes]))
            return
        self._missing = self._missing[nbytes:]
        if not self._missing:
            message, self._large = self._large, None
            self.received(message)
            self.chunk_ended()

    def _split(self, data: bytes) -> None:
        received = self.received
        start, end = 0, len(data)
        while end - start >= 4:
            stop = start + 4 + _unpack(data, start)[0]
            if stop > end:
                break
            received(data[start + 4 : stop])
            start = stop
        self._leftover = data[start:]
        if len(self._leftover) >= 4:
            self._expect_large()
        self.chunk_ended()

    def _expect_large(self) -> None:
        size = _unpack(self._leftover)[0]
        if size >= LARGE_BYTES:
            begun = self._leftover[4:]
            self._large = bytearray(size)
            self._large[: len(begun)] = begun
            self._missing = memoryview(self._large)[len(begun) :]
            self._leftover = b""
