# cython: language_level=3


cdef class Outgoing:
    cdef public object id
    cdef public bint is_streaming
    cdef public bint is_uploading
    cdef public bint is_cancelled
    cdef public int credit
    cdef public int room


cdef class Incoming:
    cdef public object message
    cdef public bint is_streaming
    cdef public bint is_uploading
    cdef public bint is_cancelled
    cdef public int credit
    cdef public int room


cdef class CallTable:
    cdef readonly dict calls
    cdef readonly dict served
    cdef readonly long long last_id
    cdef readonly long long peer_last_id
    cdef public Py_ssize_t max_calls
    cdef int window

    cdef object c_open(self, Outgoing call)
    cdef Outgoing c_conclude(self, object number)
    cdef object c_pass_item(self, object number)
    cdef bint c_pass(self, long long number) noexcept
