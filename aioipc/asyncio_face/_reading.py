"""The half of a transport that reads: what comes, and when the protocol wants it."""

from __future__ import annotations

import asyncio
from typing import Any

from aioipc._bytes import READ_BYTES
from aioipc.abc import ByteTransport
from aioipc.asyncio_face._half import OURS, Half
from aioipc.native._bytes import PolledReading

__all__ = ["Reading"]


class Reading(Half):
    """Reads when there is something, and hands it to the protocol."""

    def _init_reading(self, stream: ByteTransport) -> None:
        self._readable = getattr(stream, "readable", True)
        self._readiness = PolledReading(self._port) if self._port.is_pollable else self._port
        self._try_read = self._port.try_read
        self._started = False
        self._paused = False
        self._at_eof = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another protocol from now on, which may be of the other kind."""
        self._protocol: Any = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What is told of everything; None once the connection is lost."""
        return self._protocol  # type: ignore[no-any-return]

    @property
    def readable(self) -> bool:
        """Whether there is a direction to read."""
        return self._readable

    def is_reading(self) -> bool:
        """Whether data is delivered as it comes."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Deliver nothing; the peer is held back. Idempotent."""
        if self.is_reading():
            self._paused = True
            self._unwatch()

    def resume_reading(self) -> None:
        """Deliver again. Idempotent."""
        if self._paused and not self._closing:
            self._paused = False
            self._watch()

    def _start(self) -> None:
        self._started = True
        self._watch()

    def _watch(self) -> None:
        if (
            self._paused
            or self._closing
            or self._at_eof
            or self._stream is None
            or not (self._started and self._readable)
        ):
            return
        try:
            self._readiness.on_readable(self._read_ready)
        except OSError as error:  # the kernel has no room for it
            self._fatal_error(error, "Fatal error: cannot watch the transport")

    def _unwatch(self) -> None:
        if self._stream is not None and self._readable:
            self._readiness.on_readable(None)

    def _read_ready(self) -> None:
        if self._closing:
            return
        if self._is_buffered:
            self._read_in_place()
            self._watch()
            return
        try:
            data = self._try_read(READ_BYTES)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._fatal_error(error, "Fatal read error on transport")
            return
        if data:
            try:
                self._protocol.data_received(data)
            except OURS:
                raise
            except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
                self._fatal_error(error, "Fatal error: protocol.data_received() call failed.")
        elif data is not None:
            self._end_reading()
        self._watch()

    def _read_in_place(self) -> None:
        try:
            buffer = _buffer_of(self._protocol)
        except OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.get_buffer() call failed.")
            return
        try:
            count = self._port.try_read_into(buffer)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._fatal_error(error, "Fatal read error on transport")
            return
        finally:
            buffer.release()
        if count is None:
            return
        if count == 0:
            self._end_reading()
            return
        try:
            self._protocol.buffer_updated(count)
        except OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.buffer_updated() call failed.")

    def _end_reading(self) -> None:
        self._at_eof = True
        try:
            keep_open = self._protocol.eof_received()
        except OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open or not self._writable:
            self.close()


def _buffer_of(protocol: asyncio.BufferedProtocol) -> memoryview:
    buffer = memoryview(protocol.get_buffer(-1)).cast("B")
    if not buffer:
        raise RuntimeError("get_buffer() returned an empty buffer")
    return buffer
