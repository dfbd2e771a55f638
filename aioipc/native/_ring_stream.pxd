# cython: language_level=3
from aioipc.native._fd cimport ByteCore
from aioipc.native._ring cimport RingPort


cdef class RingStream(ByteCore):
    cdef readonly RingPort port
    cdef readonly object capabilities
    cdef object record           # what is being read, from offset on
    cdef Py_ssize_t offset
    cdef object reader           # whom to call because something is left of it

    cdef Py_ssize_t c_take(self, char* data, Py_ssize_t size) except -1
    cdef int c_drop_record(self) except -1
    cdef Py_ssize_t c_put(self, const char* data, Py_ssize_t size) except -1
