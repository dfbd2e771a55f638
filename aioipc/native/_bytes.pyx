# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Bytes without boundaries: the operations of a byte stream, and calls for those who are called."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t
from libc.string cimport memset

from aioipc.native._fd cimport ByteCore, WOULD_BLOCK
from aioipc.native._fds cimport iovec
from aioipc.native._operation cimport (
    DONE,
    NEW,
    NOTHING,
    RETURN,
    Endpoint,
    PyAsyncMethods,
    ReceiveOperation,
    SendOperation,
    is_spare,
    is_usable,
    set_step,
    step,
)
from aioipc.native._pacer cimport (
    ADAPTIVE,
    LOOK,
    SLEEP,
    TURN,
    MessagePort,
    Pacer,
    Wait,
    clock_ns,
    must_yield,
)
from aioipc.native._ring_stream cimport RingStream

from aioipc.errors import BusyError, ClosedError, EndOfStream, ProtocolError

cdef extern from *:
    int PyErr_WarnEx(object, const char*, Py_ssize_t) except -1

cdef enum:
    MOST_WRITTEN = 262144        # in one go, so that the loop turns while more leaves
    LONG = 8192                  # bytes whose way takes a time worth looking at the clock


cdef class BytePort(MessagePort):
    """Bytes without boundaries to and from one peer.

    Nothing is gathered: what is accepted was handed to the transport.

    Args:
        transport: A ByteTransport.
        read: How to read it, unless it is native: a function of the most bytes.
    """

    def __init__(self, transport, read):
        self.transport = transport
        self.read = read
        if isinstance(transport, ByteCore):
            self.io = <ByteCore>transport
        if isinstance(transport, RingStream):
            self.ring = <RingStream>transport
            self.in_memory = True
        self.called_by_loop = self.io is not None

    cdef object c_take(self, Py_ssize_t most):
        """The bytes that are there, b"" at the end, None if nothing is there."""
        data = self.read(most) if self.io is None else self.io.c_read_bytes(most)
        if data is not None:
            if not PyBytes_CheckExact(data):
                data = bytes(data)
            self.c_has_received(PyBytes_GET_SIZE(data))
        return data

    cdef Py_ssize_t c_put(self, object data, Py_ssize_t begin, Py_ssize_t end) except -1:
        """Hand over what there is room for, and no more than takes a moment: how many bytes."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        end = min(end, begin + MOST_WRITTEN)
        self.c_begin_sending()
        if self.io is None:
            count = self.transport.try_write((memoryview(data)[begin:end],))
            if not 0 <= count <= end - begin:
                raise ProtocolError(f"{self.transport!r} wrote {count} bytes of {end - begin}")
        elif PyBytes_CheckExact(data):
            count = self.c_write(PyBytes_AS_STRING(data) + begin, end - begin)
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                count = self.c_write(<char*>view.buf + begin, end - begin)
            finally:
                PyBuffer_Release(&view)
        self.c_has_sent(count)
        return count

    cdef Py_ssize_t c_write(self, const char* data, Py_ssize_t size) except -1:
        cdef iovec part
        cdef Py_ssize_t count
        part.iov_base = <void*>data
        part.iov_len = size
        count = self.io.c_write(&part, 1)
        return 0 if count == WOULD_BLOCK else count

    cdef inline int c_begin_sending(self) except -1:
        if self.pacer is not None and self.turn != self.pacer.turn:
            self.pacer.c_begin_sending(self)
        return 0

    cdef inline int c_has_sent(self, Py_ssize_t count) noexcept:
        self.counters.bytes_sent += count
        if count >= LONG and self.pacer is not None:
            self.pacer.next_look = 0
        return 0

    cdef inline int c_has_received(self, Py_ssize_t count) noexcept:
        self.counters.bytes_received += count
        if count >= LONG and self.pacer is not None:
            self.pacer.next_look = 0
        return 0

    # For those who are called when there are bytes: the calls of the transport, counted

    def belong_to(self, Pacer pacer not None):
        """Keep the pace of a loop from now on."""
        self.pacer = pacer

    @property
    def is_pollable(self):
        """Whether looking whether there are bytes makes no more than a moment."""
        return self.in_memory or self.c_poll_fd(False) >= 0

    def try_read(self, Py_ssize_t max_bytes):
        """The bytes that are there, 256 KiB at most; b"" at the end, None if nothing is there."""
        return self.c_take(max_bytes)

    def try_read_into(self, buffer):
        """Read into a buffer; see `aioipc.abc.ByteTransport`."""
        count = self.transport.try_read_into(buffer)
        if count is not None:
            self.c_has_received(count)
        return count

    def try_write(self, parts):
        """Write as much as fits; see `aioipc.abc.ByteTransport`."""
        self.c_begin_sending()
        count = self.transport.try_write(parts)
        self.c_has_sent(count)
        return count

    def on_readable(self, callback):
        if not self.closed:
            self.transport.on_readable(callback)

    def on_writable(self, callback):
        if not self.closed:
            self.transport.on_writable(callback)

    cdef int c_poll_fd(self, bint for_room) noexcept:
        if self.closed or self.ring is not None:
            return -1
        if self.io is not None:
            return self.io.c_write_fd() if for_room else self.io.c_read_fd()
        try:
            source = None if for_room else self.transport.poll_source
            return -1 if source is None else source
        except Exception:
            return -1  # closed

    cdef int c_begin_poll(self, bint for_room) except -1:
        if self.ring is None or self.closed:
            return 0
        return self.ring.port.c_begin_poll(for_room)

    cdef bint c_poll_look(self, bint for_room) noexcept nogil:
        return not self.closed and self.ring.port.c_poll_look(for_room)

    def close(self):
        """Release everything at once. Idempotent."""
        self.closed = True
        self.transport.close()


cdef class PolledReading:
    """Calls who reads from a port when there are bytes, after a poll where that pays.

    It is for callbacks what an operation is for tasks.

    Args:
        port: The port, which can be polled.
    """

    def __init__(self, BytePort port):
        self.port = port
        self.pacer = port.pacer

    def on_readable(self, callback):
        """Call ``callback`` once when there may be bytes; None: call nobody."""
        cdef bint waits = self.reader is not None
        self.reader = callback
        if callback is None:
            self.c_wake()
            self.port.on_readable(None)
        elif not waits:
            self.c_begin_wait()

    cdef int c_begin_wait(self) except -1:
        memset(&self.wait, 0, sizeof(Wait))
        if self.port.ring is not None and self.port.ring.record is not None:
            self.port.on_readable(self._read_on)
        elif self.pacer.c_may_poll():
            # After a turn: who was given the last bytes may be about to answer them.
            self.wait.has_turned_first = True
            self.wait.sends_before = self.port.sends
            if not self.port.in_memory:  # there it would cost the peer a system call
                self.port.on_readable(self._readable)
            self.c_let_turn(self.port.turns_first.turns)
        else:
            self.c_sleep()
        return 0

    cdef int c_let_turn(self, int turns) except -1:
        self.turns = max(turns, 1)
        self.pacer.c_yielding()
        if not self.is_due:
            self.is_due = True
            self.pacer.call_soon(self._step)
        return 0

    def _step(self):
        cdef Pacer pacer = self.pacer
        cdef int advice
        self.is_due = False
        pacer.c_resume()
        if self.reader is None or self.is_asleep:
            return
        self.turns -= 1
        if self.turns > 0:
            self.c_let_turn(self.turns)
            return
        pacer.c_has_turned(&self.wait, self.port)
        advice = pacer.c_wait(&self.wait, self.port, ADAPTIVE, False)
        if advice == LOOK:
            self.c_serve()
        elif advice == TURN:
            self.c_let_turn(max(pacer.c_turns(), self.wait.turns))
        else:
            self.c_sleep()

    def _read_on(self):
        self.pacer.c_resume()
        self.c_serve()

    def _readable(self):
        if self.is_asleep:
            self.c_wake()
            self.pacer.c_awake(&self.wait, self.port)
        else:
            self.pacer.c_resume()
        self.c_serve()

    cdef int c_serve(self) except -1:
        """Call who reads: again at once where it answers, and the next bytes come soon."""
        cdef Pacer pacer = self.pacer
        cdef uint64_t sends
        cdef int advice = LOOK
        pacer.inside_callback = True
        try:
            while advice == LOOK and self.reader is not None:
                sends = self.port.sends
                reader, self.reader = self.reader, None
                reader()
                if self.port.sends == sends or self.reader is None or self.is_asleep or not self.is_due:
                    break  # others have to turn what was read into an answer
                advice = pacer.c_wait(&self.wait, self.port, ADAPTIVE, False)
                if advice == TURN:
                    self.turns = max(pacer.c_turns(), self.wait.turns)
                elif advice == SLEEP:
                    self.c_sleep()
        finally:
            pacer.inside_callback = False
            pacer.c_turned()  # as the end of this call is
        return 0

    cdef int c_sleep(self) except -1:
        self.port.counters.receive_waits += 1
        self.is_asleep = True
        self.wait.slept_ns = clock_ns()
        self.pacer.waiting.add(self.port)
        self.port.on_readable(self._readable)
        return 0

    cdef int c_wake(self) except -1:
        if self.is_asleep:
            self.is_asleep = False
            self.pacer.waiting.discard(self.port)
        return 0


cdef class ByteStreamCore(Endpoint):
    """A port for bytes, and the operations on it.

    Args:
        port: The port.
    """

    def __init__(self, BytePort port):
        Endpoint.__init__(self, port, "adaptive", "stream")

    def receive(self, Py_ssize_t max_bytes=65536):
        """Wait for bytes and return those that are there.

        Args:
            max_bytes: The most to return.

        Raises:
            EndOfStream: The peer finished, and everything was received.
            PeerCrashed: The peer is gone; everything that arrived was received.
            BusyError: Another task is receiving.
            ClosedError: This side closed the stream.

        Cancellation:
            Safe: nothing is lost.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        cdef ReceiveBytes operation = self.spare_receive
        if is_spare(operation):
            self.spare_receive = None
        else:
            operation = ReceiveBytes.__new__(ReceiveBytes)
        operation.state = NEW
        operation.core = self
        operation.limit = max_bytes
        return operation

    def send(self, item):
        """Send all of ``item``.

        Raises:
            PeerCrashed: Nobody receives any more.
            BusyError: Another task is sending.
            ClosedError: This side closed the stream, or ended this direction.

        Cancellation:
            A part of it may have been sent; nobody knows how much.
        """
        cdef SendBytes operation = self.spare_send
        if not PyBytes_CheckExact(item):
            item = memoryview(item).cast("B")
        if is_spare(operation):
            self.spare_send = None
        else:
            operation = SendBytes.__new__(SendBytes)
        operation.state = NEW
        operation.core = self
        operation.parts = item
        operation.index = 0
        operation.limit = len(item)
        return operation

    def _flush(self):
        """Wait until the transport keeps nothing of what it accepted."""
        cdef FlushBytes operation = FlushBytes.__new__(FlushBytes)
        operation.state = NEW
        operation.core = self
        return operation

    def _end_writing(self):
        """Finish the sending direction. Idempotent.

        Raises:
            BusyError: Another task is sending.
            ClosedError: This side closed the stream.
            ForkError: It belongs to the parent process.
        """
        self.c_enter()
        if self.queued:
            raise BusyError("another task is sending to this stream")
        if not self.write_ended:
            self.write_ended = True
            (<BytePort>self.port).transport.close_write()

    @property
    def _write_ended(self):
        """Whether this side finished its sending direction."""
        return self.write_ended


cdef class ReceiveBytes(ReceiveOperation):
    """``await stream.receive()``"""

    cdef object c_take(self):
        data = (<BytePort>self.core.port).c_take(self.limit)
        if data is None:
            return NOTHING
        if PyBytes_GET_SIZE(data) == 0:
            raise EndOfStream(f"{(<BytePort>self.core.port).transport.address}: the peer finished")
        return data


cdef class SendBytes(SendOperation):
    """``await stream.send(item)``"""

    cdef int c_claim(self) except -1:
        if self.core.queued:
            raise BusyError("another task is sending to this stream")
        if (<ByteStreamCore>self.core).write_ended:
            address = (<BytePort>self.core.port).transport.address
            raise ClosedError(f"{address}: this side ended its sending direction")
        return 0

    cdef int c_push(self) except -1:
        cdef BytePort port = <BytePort>self.core.port
        cdef Py_ssize_t count
        while self.index < self.limit:
            count = port.c_put(self.parts, self.index, self.limit)
            if count == 0:
                return 0
            self.index += count
            if self.index < self.limit and port.c_must_stop():
                return 0  # the next part leaves when the loop has turned
        return 1

    def __dealloc__(self):
        if self.state == NEW and self.core is not None:
            PyErr_WarnEx(RuntimeWarning, "stream.send() was never awaited: nothing was sent", 1)


cdef class FlushBytes(SendOperation):
    """Until the transport keeps nothing of what it accepted."""

    cdef int c_claim(self) except -1:
        if self.core.queued:
            raise BusyError("another task is sending to this stream")
        return 0

    cdef int c_push(self) except -1:
        try_flush = getattr((<BytePort>self.core.port).transport, "try_flush", None)
        return try_flush is None or try_flush()


# am_send: as in _core, the usual case claims nothing and so has nothing to undo.

cdef int step_receive(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef ReceiveBytes self = <ReceiveBytes>operation
    cdef ByteStreamCore core = <ByteStreamCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and is_usable(core)
        and core.receiver is None
        and not must_yield(core.pacer)
    ):
        data = self.c_take()
        if data is NOTHING:
            return self.c_wait_first(result)
        self.state = DONE
        self.core = None
        core.spare_receive = self
        Py_INCREF(data)
        result[0] = <PyObject*>data
        return RETURN
    return self.c_step(result)


cdef int step_send(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef SendBytes self = <SendBytes>operation
    cdef ByteStreamCore core = <ByteStreamCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and is_usable(core)
        and core.queued == 0
        and not core.write_ended
        and not must_yield(core.pacer)
    ):
        self.state = DONE  # also where this raises
        if self.c_push():
            self.core = None
            self.parts = None
            core.spare_send = self
            Py_INCREF(None)
            result[0] = <PyObject*>None
            return RETURN
        self.state = NEW
    return self.c_step(result)


cdef PyAsyncMethods tables[3]

set_step(<PyTypeObject*>ReceiveBytes, &tables[0], <void*>step_receive)
set_step(<PyTypeObject*>SendBytes, &tables[1], <void*>step_send)
set_step(<PyTypeObject*>FlushBytes, &tables[2], <void*>step)
