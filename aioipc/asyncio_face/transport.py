"""Transport: asyncio's contract over any byte transport."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, Protocol

from aioipc.abc import Buffer, ByteTransport
from aioipc.asyncio_face._compat import LOG_THRESHOLD
from aioipc.asyncio_face._facts import Facts
from aioipc.asyncio_face._sendfile import Sendfile
from aioipc.errors import ForkError, IPCError
from aioipc.kernel.owned import abandon_in_child
from aioipc.kernel.statistics import Kind, Tally
from aioipc.limits import Limits

__all__ = ["Transport"]

log = logging.getLogger("aioipc.asyncio_face")

_READ_BYTES = 65536
_WRITE_BYTES = 256 * 1024
"""At most so much in one go, so that the loop turns while a large item leaves."""
_MOST_PARTS = 64
_OURS = (SystemExit, KeyboardInterrupt)
_BUFFERS = (bytes, bytearray, memoryview)


class _Scratch(threading.local):
    """One buffer for all that is read in a thread: what it holds is copied out at once."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_BYTES))


_scratch = _Scratch()


class Attendance(Protocol):
    """Who is told of transports that come and go: a server."""

    def _attach(self, transport: Transport, /) -> None: ...
    def _detach(self, transport: Transport, /) -> None: ...


class Transport(Sendfile):
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
    _stream: ByteTransport | None = None

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
        self._tally = Tally(Kind.STREAM, stream.address, peer.pid if peer else 0)
        self._count_received = self._tally.counter("bytes_received")
        self._count_sent = self._tally.counter("bytes_sent")
        self._readable: bool = getattr(stream, "readable", True)
        self._writable: bool = getattr(stream, "writable", True)
        self._linger_s = (limits or Limits()).linger_s
        self._buffer: collections.deque[memoryview] = collections.deque()
        self._buffer_bytes = 0
        self._scratch = _scratch.view
        self._started = False
        self._paused = False
        self._at_eof = False
        self._write_eof = False
        self._said_end = False
        self._closing = False
        self._conn_lost = False
        self._swallowed = 0
        self._forked = False
        self._lingering: asyncio.TimerHandle | None = None
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

    # Facts

    def is_closing(self) -> bool:
        """Whether this side closes it, or it is closed."""
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another protocol from now on, which may be of the other kind."""
        self._protocol: Any = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What is told of everything; None once the connection is lost."""
        return self._protocol  # type: ignore[no-any-return]

    # Reading

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
            self._stream.on_readable(self._read_ready)
        except OSError as error:  # the kernel has no room for it
            self._fatal_error(error, "Fatal error: cannot watch the transport")

    def _unwatch(self) -> None:
        if self._stream is not None and self._readable:
            self._stream.on_readable(None)

    def _read_ready(self) -> None:
        stream = self._stream
        if self._closing or stream is None:
            return
        if self._is_buffered:
            self._read_in_place(stream)
        else:
            self._read(stream)
        self._watch()

    def _read(self, stream: ByteTransport) -> None:
        view = self._scratch
        try:
            count = stream.try_read_into(view)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._fatal_error(error, "Fatal read error on transport")
            return
        if count is None:
            return
        if count == 0:
            self._end_reading()
            return
        self._count_received(count)
        try:
            self._protocol.data_received(bytes(view[:count]))
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.data_received() call failed.")

    def _read_in_place(self, stream: ByteTransport) -> None:
        try:
            buffer = _buffer_of(self._protocol)
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.get_buffer() call failed.")
            return
        try:
            count = stream.try_read_into(buffer)
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
        self._count_received(count)
        try:
            self._protocol.buffer_updated(count)
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.buffer_updated() call failed.")

    def _end_reading(self) -> None:
        self._at_eof = True
        try:
            keep_open = self._protocol.eof_received()
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's; the loop is told
            self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open or not self._writable:
            self.close()

    # Writing

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and did not leave yet."""
        return self._buffer_bytes

    def write(self, data: Buffer) -> None:
        """Send bytes; what does not leave at once leaves when there is room.

        Raises:
            TypeError: It is no bytes.
            RuntimeError: After `write_eof`, or where nothing can be written.
            ForkError: In a forked child.
        """
        if not isinstance(data, _BUFFERS):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if (
            self._write_eof
            or self._closing  # or lost, or left to the parent process
            or not self._writable
            or self._empty_waiter is not None
        ):
            self._check_writing()
            if self._is_deaf:
                self._swallow(data)
                return
        if not data:
            return
        if self._buffer:
            self._keep(_flat(data))
        elif not self._write_now(data if type(data) is bytes else _flat(data)):
            return
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Send many buffers as one.

        Raises:
            RuntimeError: After `write_eof`, or where nothing can be written.
            ForkError: In a forked child.
        """
        self._check_writing()
        views = [view for view in map(_flat, list_of_data) if view]
        if not views:
            return
        if self._is_deaf:
            self._swallow(views)
            return
        was_empty = not self._buffer
        for view in views:
            self._keep(view)
        if was_empty:
            self._write_ready()
        if not self._conn_lost:
            self._maybe_pause_protocol()

    def _check_writing(self) -> None:
        if self._write_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not self._writable:
            raise RuntimeError(f"Cannot call write(): {self._facts.address} is only read")
        if self._forked:
            raise ForkError("this transport belongs to the parent process; open one in the child")

    @property
    def _is_deaf(self) -> bool:
        """Whether nothing that is written can leave any more."""
        return self._conn_lost or (self._closing and self._said_end)

    def _swallow(self, data: Sized) -> None:
        self._swallowed += len(data) > 0
        if self._swallowed >= LOG_THRESHOLD:
            log.warning("%s: write() after the connection was lost", self._facts.address)

    def _write_now(self, data: bytes | memoryview) -> bool:
        """Write what fits, while nothing waits to leave; keep the rest, if there is any."""
        size = len(data)
        try:
            parts = (data if size <= _WRITE_BYTES else memoryview(data)[:_WRITE_BYTES],)
            count = self._stream.try_write(parts)  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._fatal_error(error, "Fatal write error on transport")
            return False
        self._count_sent(count)
        if count == size:
            return False
        self._keep(memoryview(data)[count:])
        self._watch_room(self._write_ready)
        return True

    def _try_write(self, parts: Sequence[Buffer]) -> int:
        assert self._stream is not None, "not lost yet"
        try:
            count = self._stream.try_write(parts)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._drop_buffer()
            self._fatal_error(error, "Fatal write error on transport")
            return 0
        self._count_sent(count)
        return count

    def _keep(self, view: memoryview) -> None:
        """Have bytes leave when there is room; the caller may change what is not immutable."""
        if not isinstance(view.obj, bytes):
            view = memoryview(bytes(view))
        self._buffer.append(view)
        self._buffer_bytes += len(view)

    def _write_ready(self) -> None:
        """There is room: write, and go on with what waits for that."""
        if self._buffer and not self._conn_lost:
            self._written(self._try_write(self._next_parts()))
            if not self._conn_lost:
                self._maybe_resume_protocol()  # which may write
        self._go_on()

    def _go_on(self) -> None:
        if self._conn_lost:
            return
        if self._buffer:
            self._watch_room(self._write_ready)
            return
        self._tell_empty()
        if self._closing:
            self._finish()
        elif self._write_eof:
            self._end_writing()

    def _next_parts(self) -> Sequence[memoryview]:
        """What goes out together: not too many parts, not too many bytes."""
        if len(self._buffer[0]) >= _WRITE_BYTES:
            return (self._buffer[0][:_WRITE_BYTES],)
        return tuple(itertools.islice(self._buffer, _MOST_PARTS))

    def _written(self, count: int) -> None:
        self._buffer_bytes -= min(count, self._buffer_bytes)
        while count and self._buffer:
            view = self._buffer.popleft()
            if count < len(view):
                self._buffer.appendleft(view[count:])
                return
            count -= len(view)

    def _drop_buffer(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0

    def _watch_room(self, callback: Callable[[], object]) -> None:
        assert self._stream is not None, "not lost yet"
        try:
            self._stream.on_writable(callback)
        except OSError as error:  # the kernel has no room for it
            self._fatal_error(error, "Fatal error: cannot watch the transport")

    def can_write_eof(self) -> bool:
        """Whether there is a direction to end."""
        return self._writable

    def write_eof(self) -> None:
        """End this direction behind what was written; the other goes on. Idempotent."""
        if self._closing or self._write_eof:
            return
        self._write_eof = True
        if not self._buffer:
            self._end_writing()

    def _end_writing(self) -> None:
        """Everything was written: end this direction."""
        assert self._stream is not None, "not lost yet"
        if not self._said_end:
            self._said_end = True
            self._stream.close_write()
        self._flush_end()

    def _flush_end(self) -> None:
        """The end itself may have to wait for room, where it takes words to say."""
        if self._conn_lost:
            return
        try_flush = getattr(self._stream, "try_flush", None)
        is_out = True
        with contextlib.suppress(IPCError):  # the peer is gone, and what it was sent arrived
            is_out = try_flush is None or try_flush()
        if not is_out:
            self._watch_room(self._flush_end)
        elif self._closing:
            self._lose(None)

    # The end

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

    def _finish(self) -> None:
        """Everything was written: be lost, once the peer was told where that takes words."""
        if not hasattr(self._stream, "try_flush"):
            self._lose(None)
            return
        if self._lingering is None:
            self._lingering = self._loop.call_later(self._linger_s, self._lose, None)
        self._end_writing()

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
        self._tally.close()
        if self._lingering is not None:
            self._lingering.cancel()
        self._tell_lost(error)
        self._unwatch()
        if self._writable:
            self._stream.on_writable(None)
        wait_closed = getattr(self._stream, "wait_closed", None)
        if wait_closed is None or error is not None:
            self._loop.call_soon(self._call_connection_lost, error)
            return
        # As with asyncio's subprocesses, the connection ends when the program does.
        self._stream.close()
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
            stream.close()
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


def _buffer_of(protocol: asyncio.BufferedProtocol) -> memoryview:
    buffer = memoryview(protocol.get_buffer(-1)).cast("B")
    if not buffer:
        raise RuntimeError("get_buffer() returned an empty buffer")
    return buffer


def _flat(data: Buffer) -> memoryview:
    """Any buffer as a run of bytes."""
    view = memoryview(data)
    return view.cast("B") if view.contiguous else memoryview(view.tobytes())


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
