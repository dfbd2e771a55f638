# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the ports between two aioipc peers share, whatever their frames travel in."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)

from libc.errno cimport EBADF, EINVAL, EPERM, ETOOMANYREFS
from libc.string cimport memcpy

from aioipc.native._fds cimport FdQueue, MOST_FDS
from aioipc.native._memory cimport Mapping
from aioipc.native._pacer cimport ACCEPTED, NO_ROOM

import os

from aioipc.errors import (
    AddressError,
    EncodeError,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    ResourceExhausted,
    from_os_error,
)

cdef enum:
    IN_PLACE = 16384             # shorter messages are copied before they are decoded
    SLICE = 262144               # so much is copied between two looks at the clock

cdef double FIRST_BACKOFF_S = 0.001
cdef double LONGEST_BACKOFF_S = 0.050


@cython.no_gc_clear               # its end needs what was given
cdef class SegmentLease(Borrowed):
    """A message that is read where it lies.

    Args:
        memory: Where it lies, from the beginning.
        length: How many bytes it has.
        give_back: Called, by whatever thread drops the last view, when nobody reads any more.
    """

    def __init__(self, Mapping memory not None, Py_ssize_t length, give_back):
        self.memory = memory
        self.payload = memory.address
        self.length = length
        self.give_back = give_back

    def __dealloc__(self):
        if not self.ended and self.give_back is not None:
            self.c_give_back()

    cdef int c_give_back(self) except -1:
        give_back, self.give_back = self.give_back, None
        self.memory = None
        give_back()
        return 0


cdef class FramePort(MessagePort):
    """Messages, and the rare frames between them, to and from a peer that speaks aioipc.

    A subclass moves them. Another one below it decides what control frames, endings and
    refusals mean (`_control`, `_ended`, `_refused`, `_send_failed`); those are rare, so they
    are Python.
    """

    # For the floor above to fill in

    def _control(self, int kind, bytes payload):
        """A HELLO, GOODBYE, PING or PONG arrived."""

    def _ended(self, bint inside_message, error):
        """There is no more to come: return the exception that a receive raises from now on."""
        return error or PeerCrashed("the peer is gone")

    def _refused(self, error):
        """The peer broke the protocol: say so to it, and close."""

    def _send_failed(self, error):
        """Sending failed: return the exception that a send raises from now on."""
        return error

    # Endings

    def end_receiving(self, error):
        """Let every further receive raise ``error``."""
        self.c_end(error)

    def end_sending(self, error):
        """Let every further send raise ``error``, and those that wait for room."""
        self.send_failure = error
        self.c_call_writer()

    def end_writing(self):
        """Refuse further sends; what was accepted still leaves."""
        self.write_ended = True

    cdef int c_end(self, object ending) except -1:
        self.ending = ending
        if self.stall == UNTIL_HELLO:
            self._stall_ended()
        return 0

    cdef object c_refuse(self, object error):
        self.c_end(error)
        self._refused(error)
        raise error

    cdef int c_refuse_for_memory(self, Py_ssize_t size) except -1:
        self.c_refuse(ResourceExhausted(f"no memory for {size:,} bytes of a message"))

    cdef int c_fail_sending(self, object error) except -1:
        self.c_drop_unsent()
        self.send_failure = error
        self.send_failure = self._send_failed(error)
        return 0

    cdef int c_drop_unsent(self) except -1:
        """Forget what did not leave yet."""
        self.rest = None
        return 0

    # Sending

    cdef int c_check_size(self, Py_ssize_t size) except -1:
        if size > self.max_send_bytes:
            raise FrameTooLarge(size, self.max_send_bytes)
        return 0

    cdef int c_begin_batch(self) except -1:
        if self.pacer is not None:
            self.pacer.c_begin_sending(self)
        return 0

    cdef int c_send_one(self, object owner, const char* data, Py_ssize_t size) except -1:
        """Accept a message that lies in one piece, or not."""
        raise NotImplementedError

    cdef int c_send_large(self, list parts, Py_ssize_t size) except -1:
        """Accept a message that is not worth joining, or not."""
        raise NotImplementedError

    cdef int c_send_buffers(self, object parts) except -1:
        """Send a message that is no bytes object: any buffer, or several."""
        cdef Py_buffer view
        if isinstance(parts, (tuple, list)):
            return self.c_send_parts(parts)
        get_buffer(parts, &view)
        try:
            return self.c_send_one(parts, <const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int c_send_parts(self, object parts) except -1:
        """A message in several pieces: joined when small, else each from where it lies."""
        cdef list pieces = []
        cdef Py_ssize_t size = self.c_pieces(parts, pieces)
        if size <= self.join_bytes or len(pieces) >= MOST_PARTS:
            joined = b"".join(pieces)
            return self.c_send_one(joined, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))
        return self.c_send_large(pieces, size)

    cdef Py_ssize_t c_pieces(self, object parts, list pieces) except -1:
        """Add the buffers of a message that hold something to ``pieces``; return its size."""
        cdef Py_buffer view
        cdef Py_ssize_t size = 0
        for part in parts if isinstance(parts, (tuple, list)) else (parts,):
            get_buffer(part, &view)
            size += view.len
            if view.len:
                pieces.append(part)
            PyBuffer_Release(&view)
        if size > self.max_send_bytes:
            raise FrameTooLarge(size, self.max_send_bytes)
        return size

    # Descriptors that came

    def expect_fds(self, int most):
        """Take the descriptors that come with messages from now on: at most so many each."""
        self.queue = FdQueue()
        self.announces_fds = True
        self.max_receive_fds = min(most, MOST_FDS)

    def refuse_fds(self):
        """The peer does not speak of descriptors: close what came, and drop what comes."""
        self.queue.c_close()
        self.queue = None

    def take_fds(self, int most=-1):
        if self.queue is None:
            return []
        taken = self.queue.c_take(most)
        self.own_fds = self.queue.arrivals.own
        return taken

    cdef int c_check_fds(self, int count) except -1:
        """Refuse a frame that announces ``count`` descriptors which are not there."""
        cdef int came
        if self.queue is None or not self.passes_fds:
            self.c_refuse(ProtocolError(f"a frame announces {count} descriptors, none were agreed"))
        came = self.queue.c_unclaimed()
        if self.queue.arrivals.cut:
            self.c_refuse(ProtocolError("descriptors came, and this process has no room for them"))
        if came < count:
            self.c_refuse(ProtocolError(f"a frame announces {count} descriptors, and {came} came"))
        if count + self.queue.arrivals.claimed > self.max_receive_fds:
            self.c_refuse(ProtocolError(
                f"a message brings {count + self.queue.arrivals.claimed} descriptors, "
                f"over the limit of {self.max_receive_fds}"
            ))
        return 0

    cdef int c_refuse_strays(self) except -1:
        """Refuse descriptors that no frame has announced."""
        cdef str what = "descriptors came, and this process has no room for them"
        if not self.queue.arrivals.cut:
            if self.queue.c_unclaimed() == 0:
                return 0
            what = f"{self.queue.c_unclaimed()} descriptors came that no frame announces"
        self.c_refuse(ProtocolError(what) if self.greeted else HandshakeError(what))
        return 0

    cdef int c_deliver_fds(self, int count) except -1:
        """A message is complete whose last frame brought ``count``."""
        self.queue.c_claim(count)
        self.own_fds = self.queue.c_deliver()
        return 0

    cdef int c_drop_fds(self) except -1:
        """Close what came with the last message, since the next one is asked for."""
        self.own_fds = 0
        self.queue.c_close_own()
        return 0

    cdef int c_close_fds(self) except -1:
        """Close all that came, and stop waiting to send some."""
        self.own_fds = 0
        if self.queue is not None:
            self.queue.c_close()
        self.stall = NOT_STALLED
        if self.backoff is not None:
            self.backoff.cancel()
            self.backoff = None
        return 0

    # Descriptors that leave

    cdef bint c_takes_fds(self) except -1:
        return self.announces_fds and (self.passes_fds or not self.greeted)

    cdef bint c_may_pass_fds(self) except -1:
        """Whether the peer takes them; False as long as it has not said so."""
        address = self.transport.address
        if not self.announces_fds:
            raise AddressError(f"{address} carries no descriptors")
        if not self.greeted:
            self._fetch_hello()
        if self.greeted:
            self.stall = NOT_STALLED
            if not self.passes_fds:
                raise AddressError(f"{address}: the peer takes no descriptors")
            return True
        if self.ending is not None:
            raise self.ending.with_traceback(None)
        self.stall = UNTIL_HELLO
        return False

    def _fetch_hello(self):
        """Take in the peer's HELLO if it is there."""

    def hear_hello(self):
        """Take in the peer's HELLO when it comes."""

    def heard_hello(self, bint passes_fds):
        """The peer's HELLO was accepted."""
        self.greeted = True
        self.passes_fds = passes_fds
        if self.stall == UNTIL_HELLO:
            self._stall_ended()

    cdef int c_fds_failed(self, int number) except -1:
        """A message with descriptors was not accepted: raise, or return to try again later."""
        error = OSError(number, os.strerror(number))
        if number == ETOOMANYREFS:
            self.stall = BACKING_OFF
            return 0
        if number == EBADF or number == EINVAL:
            raise EncodeError(f"the descriptors cannot be sent: {error.strerror}")
        if number == EPERM:
            raise from_os_error(error, f"send descriptors to {self.transport.address}")
        self.c_fail_sending(self.c_write_error(number))
        raise self.send_failure

    cdef object c_write_error(self, int number):
        raise NotImplementedError

    cdef int c_wait_out(self, object callback) except -1:
        """Call back when the stall may be over, whatever room there is."""
        if self.backoff is not None:
            self.backoff.cancel()
            self.backoff = None
        if callback is None:
            self.stall = NOT_STALLED
        elif self.stall == BACKING_OFF:
            self.backoff_s = min(max(2 * self.backoff_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)
            self.backoff = self.pacer.loop.call_later(self.backoff_s, self._stall_ended)
        elif self.stall == UNTIL_SOCKET:
            self.transport.when_room(self._stall_ended)
        elif self.stall == UNTIL_RETURNED:
            self.segments.when_returned(self._stall_ended)
        elif self.stall == UNTIL_SLOT_ENDS:
            pass  # whoever ends one calls
        elif self.greeted or self.ending is not None:
            self._stall_ended()
        elif self.read_callback is None:
            self.on_readable(self.hear_hello)
        return 0

    def _stall_ended(self):
        self.stall = NOT_STALLED
        self.backoff = None
        self.c_call_writer()

    # Memory that is lent to the peer, and by it

    def share_memory(self):
        """Both have said that they take part."""
        self.shares_memory = True

    def _open_segments(self):
        """Return what knows which memory is lent."""
        raise NotImplementedError

    cdef object c_segments(self):
        if self.segments is None:
            self.segments = self._open_segments()
        return self.segments

    cdef object c_lend(self, Py_ssize_t size):
        if size <= self.least_lent:
            return False
        if not self.greeted and self.announces_fds:
            self._fetch_hello()
        if not self.shares_memory:
            return False
        if self.send_failure is not None:
            raise self.send_failure.with_traceback(None)
        self.stall = NOT_STALLED
        segments = self.c_segments()
        try:
            loan = segments.lend(size)
        except ProtocolError as error:
            self.c_refuse_sending(error)
        if loan is None:
            self.stall = UNTIL_RETURNED
        if not loan:
            return loan
        try:
            for told, fds in segments.introductions(loan):
                if self.c_send_shared(told, fds) == NO_ROOM:
                    loan.give_back()
                    return None
        except BaseException:
            loan.give_back()
            raise
        return loan

    cdef int c_refuse_sending(self, object error) except -1:
        """The peer has lied about what it was sent."""
        self._refused(error)
        self.c_fail_sending(error)
        raise error

    cdef int c_send_lent(self, object loan, Py_ssize_t size) except -1:
        if self.c_send_shared(self.segments.message(loan, size), ()) == NO_ROOM:
            return NO_ROOM
        self.segments.sent(loan, size)
        self.counters.messages_sent += 1
        self.counters.bytes_sent += size
        return ACCEPTED

    cdef int c_send_shared(self, bytes told, object fds) except -1:
        """Accept a frame about lent memory, which is no message by itself: ACCEPTED or NO_ROOM."""
        raise NotImplementedError

    def tell(self, bytes told):
        """Send a frame about lent memory, if there is room: whether there was."""
        cdef int stall = self.stall
        cdef int answer = self.c_send_shared(told, ())
        self.stall = stall  # what others wait for
        return answer == ACCEPTED

    cdef int c_shared_came(self, bytes told, int fd_count) except -1:
        """Take in a frame about lent memory, whose descriptors are there."""
        fds = ()
        if fd_count:
            self.c_deliver_fds(fd_count)
            fds = self.take_fds()
        try:
            self.incoming = self.c_segments().came(told, fds)
            if self.incoming is not None and self.incoming.length > self.max_receive_bytes:
                raise FrameTooLarge(self.incoming.length, self.max_receive_bytes)
        except IPCError as error:
            self.incoming = None
            self.c_refuse(error)
        return 0

    cdef int c_close_segments(self) except -1:
        """Lend nothing any more, and give back what came and was not taken."""
        self.incoming = None
        self.copy = None
        if self.segments is not None:
            self.segments.close()
        return 0

    cdef object c_take_incoming(self):
        """The message that came in lent memory: where it lies, or as bytes; None to go on later."""
        message = self.incoming
        if not self.borrowing and not (self.may_lend and self.incoming.length >= IN_PLACE):
            message = self.c_copy_incoming()
            if message is None:
                return None
        self.counters.messages_received += 1
        self.counters.bytes_received += self.incoming.length
        self.incoming = None
        self.copy = None
        self.copied = 0
        if self.pacer is not None:
            self.pacer.next_look = 0
        return message

    cdef object c_copy_incoming(self):
        cdef Py_ssize_t size = self.incoming.length
        cdef Py_ssize_t step
        if self.copy is None:
            self.copy = PyBytes_FromStringAndSize(NULL, size)
        while self.copied < size:
            step = min(size - self.copied, <Py_ssize_t>SLICE)
            memcpy(
                PyBytes_AS_STRING(self.copy) + self.copied,
                <const char*>self.incoming.payload + self.copied,
                step,
            )
            self.copied += step
            if self.copied < size and self.c_must_stop():
                return None
        return self.copy

    # What is left of a message

    cdef int c_own_rest(self) except -1:
        if self.rest is None:
            return 0
        for index, part in enumerate(self.rest):
            if not PyBytes_CheckExact(part):
                self.rest[index] = bytes(part)
        return 0

    def try_flush(self):
        """Push out what was gathered: True when all of it left."""
        return self.c_flush() == 1

    # Callbacks

    def _readable(self):
        callback, self.read_callback = self.read_callback, None
        if callback is not None:
            callback()

    cdef int c_call_writer(self) except -1:
        """Let who waits for room look again, from the loop."""
        callback, self.write_callback = self.write_callback, None
        return self.c_call_back(callback)

    cdef int c_call_back(self, object callback) except -1:
        """Call soon, from the loop."""
        if callback is None:
            return 0
        try:
            if self.pacer is not None:
                self.pacer.call_soon(callback)
            else:
                self.c_call_soon(callback)
        except RuntimeError:
            pass  # the loop is closed, so nobody waits
        return 0

    cdef int c_call_soon(self, object callback) except -1:
        """Call from the running loop; as a rule nobody waits before there is a pacer."""
        return 0


cdef object hold(object part):
    """An object whose memory stays where it is, and as long as it is, until it is dropped.

    The caller may resize a bytearray or release a memoryview while it waits for room.
    """
    return part if PyBytes_CheckExact(part) else memoryview(part)


cdef int get_buffer(object part, Py_buffer* view) except -1:
    try:
        return PyObject_GetBuffer(part, view, PyBUF_SIMPLE)
    except (TypeError, BufferError, ValueError) as error:
        raise EncodeError(
            f"a message is made of contiguous buffers, not {type(part).__name__}: {error}"
        ) from None
