# cython: language_level=3, boundscheck=False, wraparound=False
"""The latest value of something, in memory that processes share: value.h."""

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.buffer cimport PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t

cdef extern from "value.h" nogil:
    ctypedef struct ValueShared:
        pass
    enum:
        VALUE_MAX
        VALUE_NONE
        VALUE_LOADED
    uint64_t value_latest(ValueShared*)
    int value_store(ValueShared*, uint64_t*, const void*, size_t)
    int value_load(ValueShared*, uint64_t*, uint64_t*, size_t*)
    void value_arm(ValueShared*)

MAX_BYTES = VALUE_MAX
"""The most that a value may have."""

SHARED_BYTES = sizeof(ValueShared)
"""What the memory of a cell has."""

cdef enum:
    MAX_WORDS = 8192


cdef class ValueCell:
    """One cell in memory, where zeros mean that there is no value yet.

    Args:
        memory: A writable buffer of `SHARED_BYTES`.
    """

    cdef Py_buffer view
    cdef ValueShared* shared
    cdef uint64_t written
    cdef uint64_t copy[MAX_WORDS]

    def __init__(self, memory):
        if self.shared is not NULL:
            raise RuntimeError("a cell is made once")
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        if self.view.len < <Py_ssize_t>sizeof(ValueShared) or <size_t>self.view.buf % 128:
            PyBuffer_Release(&self.view)
            raise ValueError(f"a cell is {SHARED_BYTES:,} aligned bytes, not {len(memory):,}")
        self.shared = <ValueShared*>self.view.buf

    def __dealloc__(self):
        if self.shared is not NULL:
            PyBuffer_Release(&self.view)

    @property
    def latest(self):
        """The number of the latest value, 0 if there is none."""
        return value_latest(self.shared)

    def claim(self):
        """Become the one writer, which somebody else sees to."""
        self.written = value_latest(self.shared)

    def store(self, data):
        """Show a value; say whether somebody sleeps.

        Raises:
            ValueError: It has more than `MAX_BYTES`.
        """
        cdef Py_buffer source
        cdef bint sleeps
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            if source.len > VALUE_MAX:
                raise ValueError(f"{source.len:,} bytes are over the limit of {VALUE_MAX:,}")
            sleeps = value_store(self.shared, &self.written, source.buf, source.len)
        finally:
            PyBuffer_Release(&source)
        return sleeps

    def load(self):
        """The number of the latest value and its bytes; None if there is none.

        Raises:
            ValueError: The memory holds what no writer leaves there.
        """
        cdef uint64_t number = 0
        cdef size_t size = 0
        cdef int answer = value_load(self.shared, &number, self.copy, &size)
        if answer == VALUE_NONE:
            return None
        if answer != VALUE_LOADED:
            raise ValueError("the memory holds no value that a writer left there")
        return number, PyBytes_FromStringAndSize(<char*>self.copy, size)

    def arm(self):
        """Say that somebody will sleep; look at `latest` after this."""
        value_arm(self.shared)
