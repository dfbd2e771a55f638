# cython: language_level=3
from libc.stdint cimport int32_t, uint32_t, uint64_t

from aioipc.native._memory cimport Mapping

cdef extern from "broadcast.h" nogil:
    enum:
        CAST_DATA_OFFSET
        CAST_PAGE_BYTES
        CAST_MAX_WORDS
        RING_DATA
    ctypedef enum CastAnswer:
        CAST_DONE
        CAST_WAKE
        CAST_RECORD
        CAST_GAP
        CAST_AGAIN
        CAST_TOO_LARGE
        CAST_RETRY
        CAST_POISONED
    ctypedef struct CastShared:
        pass
    ctypedef struct CastPage:
        pass
    ctypedef struct CastWord:
        pass
    ctypedef struct CastGeometry:
        uint64_t capacity
        uint32_t words
    ctypedef struct CastWriter:
        uint64_t cursor
        int32_t blocker
    ctypedef struct CastFault:
        int reason
        uint64_t value
    ctypedef struct CastReader:
        uint64_t cursor
        uint64_t retired
        CastFault fault
    ctypedef struct CastRecord:
        uint32_t length

# Beside the slots of readers, what `BroadcastWriter.c_put` answers.
cdef enum:
    UNPUBLISHED = -1
    PUT = -2


cdef class BroadcastWriter:
    cdef CastWriter writer
    cdef uint64_t bells[CAST_MAX_WORDS]
    cdef Mapping memory
    cdef dict pages
    cdef uint32_t words

    cdef int c_put(self, bytes data, bytes mask) except -3
    cdef bint c_publish(self) noexcept


cdef class BroadcastReader:
    cdef CastReader reader
    cdef Mapping memory
    cdef Mapping page
    cdef uint64_t patience
    cdef readonly uint64_t taken
    cdef readonly bint is_on
    cdef readonly bint is_overrun

    cdef object c_take(self)
    cdef int c_complain(self) except -1
