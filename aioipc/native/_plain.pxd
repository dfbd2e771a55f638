# cython: language_level=3
from aioipc.native._core cimport Shortcut


cdef class PlainCall:
    cdef long long number
    cdef readonly str method
    cdef readonly bytes args


cdef class PlainReturn:
    cdef long long number
    cdef readonly bytes value


cdef class PlainMessages(Shortcut):
    cdef bytes last_name         # in UTF-8
    cdef str last_method

    cdef PlainCall c_read_call(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    )


cpdef object write_call(long long number, bytes name, bytes args)
cpdef object write_return(long long number, bytes value)
