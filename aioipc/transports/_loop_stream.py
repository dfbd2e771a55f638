"""A byte stream over asyncio's StreamReader and StreamWriter, whatever is below them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from aioipc.abc import Buffer, Capability, PeerCredentials
from aioipc.errors import AddressError, ClosedError, PeerCrashed
from aioipc.kernel.credentials import peer_credentials
from aioipc.transports._stream import STREAM

__all__ = ["LoopStream"]

_MOST_BYTES = 64 * 1024
"""What is read ahead before the loop's transport is told to stop."""

_Callback = Callable[[], object]


class LoopStream(asyncio.Protocol):
    """A ByteTransport over a transport of the loop, of which it becomes the protocol.

    Here the loop owns the descriptor. What is written leaves this side's hands at once, and there
    is room again when all of it left.

    Args:
        reader: What it has read already is read first.
        writer: Of the same connection.

    Raises:
        AddressError: The connection is closed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = cast("asyncio.Transport", writer.transport)
        if transport.is_closing():
            raise AddressError(f"{writer!r} is closed")
        self.address = f"asyncio:{_name(transport)}"
        self.peer: PeerCredentials | None = _peer(transport)
        self.capabilities = STREAM
        if _is_remote(transport):
            self.capabilities |= Capability.REMOTE
        if self.peer is not None:
            self.capabilities |= Capability.CREDENTIALS
        self.poll_source: int | None = None
        self._transport = transport
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self._pair = reader, writer  # which close the transport when they are collected
        self._data = bytearray()
        self._ended = False
        self._lost: PeerCrashed | None = None
        self._write_ended = False
        _, high = transport.get_write_buffer_limits()
        self._full = transport.get_write_buffer_size() > high
        self._closed = False
        self._on_readable: _Callback | None = None
        self._on_writable: _Callback | None = None
        self._loop = asyncio.get_running_loop()
        transport.set_protocol(self)
        # With 0 the transports of asyncio's TLS pause whoever has nothing left to write.
        transport.set_write_buffer_limits(high=1, low=0)
        self._take_over(reader)

    def _take_over(self, reader: asyncio.StreamReader) -> None:
        failure = reader.exception()
        if failure is not None:
            self.connection_lost(failure)
        while piece := _read_ahead(reader):
            self._data += piece
        self._ended = reader.at_eof()
        self._pace()

    # What the loop's transport calls

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._pace()
        self._ring_reader()

    def eof_received(self) -> bool:
        self._ended = True
        self._ring_reader()
        return not self._is_tls  # else the other direction goes on

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._ended:
            self._lost = PeerCrashed(f"{self.address}: {exc or 'the connection was lost'}")
        elif exc is not None or not self._closed:
            self._lost = PeerCrashed(f"{self.address}: {exc or 'the connection is closed'}")
        self._ring_reader()
        self._ring_writer()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._ring_writer()

    def _pace(self) -> None:
        """Have no more read than is kept, so that the peer waits."""
        if self._ended or self._lost or self._transport.is_closing():
            return
        if len(self._data) >= _MOST_BYTES:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # The ByteTransport contract

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        self._check()
        if self._data:
            count = min(len(buffer), len(self._data))
            buffer[:count] = self._data[:count]
            del self._data[:count]
            self._pace()
            return count
        if self._ended:
            return 0
        if self._lost is not None:
            raise self._lost.with_traceback(None)
        return None

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        self._check()
        if fds:
            raise AddressError(f"{self.address} carries no descriptors")
        if self._write_ended:
            raise ClosedError(f"{self.address}: this side ended its sending direction")
        if self._lost is not None or self._transport.is_closing():
            raise (self._lost or PeerCrashed(f"{self.address}: the connection is closing"))
        if self._full:
            return 0
        data = b"".join(parts)
        if data:
            self._transport.write(data)
        return len(data)

    def try_flush(self) -> bool:
        """Whether all that was written has left."""
        return not self._full or self._lost is not None

    def on_readable(self, callback: _Callback | None, /) -> None:
        self._on_readable = callback
        if callback is not None and (self._data or self._ended or self._lost):
            self._loop.call_soon(self._ring_reader)

    def on_writable(self, callback: _Callback | None, /) -> None:
        self._on_writable = callback
        if callback is not None and (not self._full or self._lost):
            self._loop.call_soon(self._ring_writer)

    def _ring_reader(self) -> None:
        callback, self._on_readable = self._on_readable, None
        if callback is not None:
            callback()

    def _ring_writer(self) -> None:
        callback, self._on_writable = self._on_writable, None
        if callback is not None:
            callback()

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        if self._write_ended or self._lost is not None:
            return
        self._write_ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._on_readable = self._on_writable = None
        if self._loop.is_closed():
            return
        if self.try_flush():
            self._transport.close()
        else:
            self._transport.abort()  # close() would go on for as long as the peer does not read

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.address} is closed")


def _read_ahead(reader: asyncio.StreamReader) -> bytes:
    """What a reader has, without waiting: its ``read`` waits only if there is nothing."""
    reading = reader.read(_MOST_BYTES)
    try:
        reading.send(None)
    except StopIteration as done:
        return cast("bytes", done.value)
    reading.close()
    return b""


def _socket(transport: asyncio.Transport) -> Any:
    return transport.get_extra_info("socket")


def _name(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername") or transport.get_extra_info("sockname")
    return str(name or type(transport).__name__)


def _peer(transport: asyncio.Transport) -> PeerCredentials | None:
    sock = _socket(transport)
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return peer_credentials(sock.fileno())


def _is_remote(transport: asyncio.Transport) -> bool:
    sock = _socket(transport)
    return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)
