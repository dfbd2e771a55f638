"""The half of a transport that writes: at once, or when there is room again."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence, Sized

from aioipc.abc import Buffer, ByteTransport
from aioipc.asyncio_face._compat import LOG_THRESHOLD
from aioipc.asyncio_face._sendfile import Sendfile
from aioipc.errors import ForkError, IPCError

__all__ = ["Writing"]

log = logging.getLogger("aioipc.asyncio_face")

_WRITE_BYTES = 256 * 1024
"""At most so much in one go, so that the loop turns while a large item leaves."""
_MOST_PARTS = 64
_SHORT_BYTES = 2048
"""Parts that are shorter on the average are copied together: to go through them takes longer."""
_BUFFERS = (bytes, bytearray, memoryview)


class Writing(Sendfile):
    """Writes at once what fits, and the rest when there is room."""

    _forked: bool

    def _init_writing(self, stream: ByteTransport, linger_s: float) -> None:
        self._writable = getattr(stream, "writable", True)
        self._buffer: collections.deque[memoryview] = collections.deque()
        self._buffer_bytes = 0
        self._empty_waiter = None
        self._write_eof = False
        self._said_end = False
        self._swallowed = 0
        self._linger_s = linger_s
        self._lingering: asyncio.TimerHandle | None = None

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
            self._maybe_pause_protocol()
        else:
            self._write_now(data if type(data) is bytes else _flat(data))

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Send many buffers as one.

        Raises:
            RuntimeError: After `write_eof`, or where nothing can be written.
            ForkError: In a forked child.
        """
        self._check_writing()
        parts = list(list_of_data)
        if sum(map(len, parts)) < len(parts) * _SHORT_BYTES:
            with contextlib.suppress(TypeError):  # of one that is not contiguous
                parts = [b"".join(parts)]
        views = [view for view in map(_flat, parts) if view]
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

    def _write_now(self, data: bytes | memoryview) -> None:
        """Write what fits, while nothing waits to leave; keep the rest, if there is any."""
        size = len(data)
        parts = (data if size <= _WRITE_BYTES else memoryview(data)[:_WRITE_BYTES],)
        try:
            count = self._port.try_write(parts)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._fatal_error(error, "Fatal write error on transport")
            return
        if count < size:
            self._keep(memoryview(data)[count:])
            self._watch_room(self._write_ready)
            self._maybe_pause_protocol()

    def _try_write(self, parts: Sequence[Buffer]) -> int:
        try:
            count = self._port.try_write(parts)
        except Exception as error:  # noqa: BLE001 - the protocol is told of it
            self._drop_buffer()
            self._fatal_error(error, "Fatal write error on transport")
            return 0
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
            self._facts.disclaim(getattr(self._stream, "fds", ()), self)
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

    def _finish(self) -> None:
        """Everything was written: be lost, once the peer was told where that takes words."""
        if not hasattr(self._stream, "try_flush"):
            self._lose(None)
            return
        if self._lingering is None:
            self._lingering = self._loop.call_later(self._linger_s, self._lose, None)
        self._end_writing()

    def _give_up_writing(self, error: BaseException | None) -> None:
        """The connection is lost: nobody waits for room any more."""
        if self._lingering is not None:
            self._lingering.cancel()
        self._tell_lost(error)
        if self._stream is not None and self._writable:
            self._stream.on_writable(None)


def _flat(data: Buffer) -> memoryview:
    """Any buffer as a run of bytes."""
    view = memoryview(data)
    return view.cast("B") if view.contiguous else memoryview(view.tobytes())
