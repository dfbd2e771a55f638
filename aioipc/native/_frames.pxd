# cython: language_level=3
from cpython.buffer cimport Py_buffer

from aioipc.native._pacer cimport MessagePort

cdef enum:
    CONTROL_LIMIT = 4096         # bytes that a HELLO, GOODBYE, PING or PONG may have
    MOST_PARTS = 64              # of a message that are not joined before it is sent


cdef class FramePort(MessagePort):
    # Receiving
    cdef readonly object ending  # what every further receive raises
    cdef public bint greeted     # the peer's HELLO was accepted, or none is expected
    cdef object read_callback
    cdef public Py_ssize_t max_receive_bytes
    # Sending
    cdef list rest               # views of a message that did not fit yet, from rest_offset on
    cdef Py_ssize_t rest_offset
    cdef Py_ssize_t join_bytes   # up to here the parts of a message are joined
    cdef bint armed              # somebody tells when there is room
    cdef bint write_ended
    cdef readonly object send_failure
    cdef object write_callback
    cdef public Py_ssize_t max_send_bytes

    cdef object c_refuse(self, object error)
    cdef int c_send_one(self, object owner, const char* data, Py_ssize_t size) except -1
    cdef int c_send_large(self, list parts, Py_ssize_t size) except -1
    cdef int c_send_buffers(self, object parts) except -1
    cdef int c_send_parts(self, object parts) except -1
    cdef int c_fail_sending(self, object error) except -1
    cdef int c_drop_unsent(self) except -1
    cdef int c_call_back(self, object callback) except -1
    cdef int c_call_soon(self, object callback) except -1
    cdef int c_call_writer(self) except -1


cdef object hold(object part)
cdef int get_buffer(object part, Py_buffer* view) except -1
