# cython: language_level=3
from libc.stdint cimport int64_t

from aioipc.native._fd cimport ByteCore
from aioipc.native._pacer cimport Pacer
from aioipc.native._ring cimport RingPort

cdef enum Poll:
    POLL_FAILED = -1
    POLL_MISSED
    POLL_HIT
    POLL_OPEN                    # it was not polled, or not for as long as the budget allows


cdef class RingStream(ByteCore):
    cdef readonly RingPort port
    cdef readonly object capabilities
    cdef object record           # what is being read, from offset on
    cdef Py_ssize_t offset
    cdef object pace
    cdef Pacer pacer
    cdef object reader           # whom to call when there are bytes
    cdef bint is_due             # a poll comes in the next turn of the loop
    cdef bint is_asleep          # the port calls when there are bytes
    cdef int64_t asleep_since_ns
    cdef int64_t unpolled_ns     # of a poll that the end of the turn cut short
    cdef int turns               # of the loop, until the poll that is due

    cdef Py_ssize_t c_take(self, char* data, Py_ssize_t size) except -1
    cdef int c_drop_record(self) except -1
    cdef Py_ssize_t c_put(self, const char* data, Py_ssize_t size) except -1
    cdef bint c_may_poll(self) noexcept
    cdef Poll c_poll(self) except POLL_FAILED
    cdef int c_serve(self) except -1
    cdef int c_sleep(self) except -1
    cdef int c_wake(self) except -1
