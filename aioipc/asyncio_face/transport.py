"""Transport: asyncio's contract over any byte transport."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from aioipc._bytes import reader_of
from aioipc.abc import ByteTransport
from aioipc.asyncio_face._facts import Facts
from aioipc.asyncio_face._reading import Reading
from aioipc.asyncio_face._writing import Writing
from aioipc.kernel.owned import abandon_in_child
from aioipc.kernel.statistics import Kind, open_row
from aioipc.limits import Limits
from aioipc.loop.waiting import pacer_of
from aioipc.native._bytes import BytePort

__all__ = ["Transport"]

log = logging.getLogger("aioipc.asyncio_face")


class Attendance(Protocol):
    """Who is told of transports that come and go: a server."""

    def _attach(self, transport: Transport, /) -> None: ...
    def _detach(self, transport: Transport, /) -> None: ...


class Transport(Reading, Writing):
    """An `asyncio.Transport` over a `ByteTransport`.

    Made by `create_connection`, `create_server` and their kin. It keeps asyncio's contract: the
    order of callbacks, flow control in both directions, buffered protocols, half-close, abort.

    Args:
        loop: The loop that it belongs to.
        stream: What carries the bytes; it belongs to this transport from now on.
        protocol: What is told of everything.
        waiter: Gets a result once ``protocol.connection_made`` was called.
        extra: What `get_extra_info` knows in place of what can be found out.
        server: Told that this transport is there, and when it is not any more.
        limits: ``linger_s`` bounds how long a close may wait for the peer to make room for the
            last word, where a transport has one (``shm:``).
    """

    _start_tls_compatible = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: ByteTransport,
        protocol: asyncio.BaseProtocol,
        *,
        waiter: asyncio.Future[None] | None = None,
        extra: Mapping[str, Any] | None = None,
        server: Attendance | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._facts = Facts(stream, {} if extra is None else extra)
        super().__init__(self._facts.extra, loop)
        self._stream = stream
        peer = stream.peer
        self._port = BytePort(stream, reader_of(stream))
        self._port.belong_to(pacer_of(loop))
        row = open_row(Kind.STREAM, stream.address, peer.pid if peer else 0)
        if row is not None:
            self._port.share(row)
        self._init_reading(stream)
        self._init_writing(stream, (limits or Limits()).linger_s)
        self._closing = False
        self._conn_lost = False
        self._forked = False
        self._program_ends: asyncio.Task[None] | None = None
        self._server = server
        self.set_protocol(protocol)
        self._facts.claim(loop, self)
        abandon_in_child(self)
        if server is not None:
            server._attach(self)
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._start)
        if waiter is not None:
            loop.call_soon(_release, waiter)

    def is_closing(self) -> bool:
        """Whether this side closes it, or it is closed."""
        return self._closing

    def close(self) -> None:
        """Stop reading, let leave what was written, and be lost. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._unwatch()
        if not self._buffer:
            self._finish()

    def abort(self) -> None:
        """Be lost at once; what did not leave yet is dropped. Idempotent."""
        self._force_close(None)

    def _fatal_error(self, error: BaseException, message: str) -> None:
        if isinstance(error, OSError):
            log.debug("%r: %s", self, message, exc_info=error)
        else:
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        """Be lost at once. asyncio's own TLS protocol calls it, too."""
        if self._forked:
            return
        if self._program_ends is not None:
            self._kill_program()
            self._program_ends.cancel()
        if self._conn_lost:
            return
        self._drop_buffer()
        self._kill_program()
        self._lose(error)

    def _kill_program(self) -> None:
        kill = getattr(self._stream, "kill", None)
        if kill is not None:
            kill()

    def _lose(self, error: BaseException | None) -> None:
        if self._conn_lost or self._stream is None:
            return
        self._conn_lost = True
        self._closing = True
        self._port.unshare()
        self._unwatch()
        self._give_up_writing(error)
        wait_closed = getattr(self._stream, "wait_closed", None)
        if wait_closed is None or error is not None:
            self._loop.call_soon(self._call_connection_lost, error)
            return
        # As with asyncio's subprocesses, the connection ends when the program does.
        self._port.close()
        self._program_ends = self._loop.create_task(wait_closed())
        self._program_ends.add_done_callback(self._program_ended)

    def _program_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._call_connection_lost(error)

    def _call_connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._release()
            self._protocol = None
            self._loop = None  # type: ignore[assignment]

    def _release(self) -> None:
        """Close the stream, and no longer be in the server's list."""
        stream, self._stream = self._stream, None
        self._facts.release()
        if stream is not None:
            self._port.unshare()
            self._port.close()
        server, self._server = self._server, None
        if server is not None:
            server._detach(self)

    def abandon(self) -> None:
        """Leave everything to the parent process, in a forked child."""
        self._forked = self._closing = True
        self._facts.release()
        self._drop_buffer()
        self._stream = self._server = None

    def __del__(self) -> None:
        if self._stream is None:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._release()

    def __repr__(self) -> str:
        state = "closed" if self._stream is None else "closing" if self._closing else "open"
        return f"<aioipc transport {self._facts.address} {state}, {self._buffer_bytes} to write>"


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
