# cython: language_level=3

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


# Answers of ByteCore beside a number of bytes.
cdef enum:
    WOULD_BLOCK = -1
    AT_END = 0


cdef class ByteCore:
    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2
    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2
    cdef int c_read_fd(self) noexcept
    cdef int c_write_fd(self) noexcept
    cdef Py_ssize_t c_read_nogil(self, char* data, size_t size) noexcept nogil


cdef class FdStream(ByteCore):
    cdef int read_fd
    cdef int write_fd
    cdef bint is_socket
    cdef bint closed
    cdef readonly object watch
    cdef readonly str address
    cdef readonly object peer
    cdef readonly object capabilities
    cdef object on_close
    cdef object read_callback
    cdef object write_callback
    cdef object __weakref__

    cdef object c_error(self, int number, str doing)
    cdef int c_check(self) except -1


cdef class AdaptedStream(ByteCore):
    cdef readonly object transport
