# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the ports between two aioipc peers share, whatever their frames travel in."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE

from aioipc.errors import EncodeError, FrameTooLarge, PeerCrashed


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
        self.ending = error

    def end_sending(self, error):
        """Let every further send raise ``error``, and those that wait for room."""
        self.send_failure = error
        self.c_call_writer()

    def end_writing(self):
        """Refuse further sends; what was accepted still leaves."""
        self.write_ended = True

    cdef object c_refuse(self, object error):
        self.ending = error
        self._refused(error)
        raise error

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
            self.turn = self.pacer.turn
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
        cdef Py_buffer view
        cdef Py_ssize_t size = 0
        cdef list pieces = []
        for part in parts:
            get_buffer(part, &view)
            size += view.len
            if view.len:
                pieces.append(part)
            PyBuffer_Release(&view)
        if size > self.max_send_bytes:
            raise FrameTooLarge(size, self.max_send_bytes)
        if size <= self.join_bytes or len(pieces) >= MOST_PARTS:
            joined = b"".join(pieces)
            return self.c_send_one(joined, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))
        return self.c_send_large(pieces, size)

    cdef bint c_rest(self) noexcept:
        return self.rest is not None

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
