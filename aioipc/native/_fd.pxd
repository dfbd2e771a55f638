# cython: language_level=3

from aioipc.native._fds cimport Arrivals, FdQueue, iovec


# Answers of ByteCore beside a number of bytes.
cdef enum:
    WOULD_BLOCK = -1
    AT_END = 0


cdef class ByteCore:
    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2
    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2
    cdef object c_read_bytes(self, Py_ssize_t most)
    cdef int c_read_fd(self) noexcept
    cdef int c_write_fd(self) noexcept
    cdef Py_ssize_t c_read_nogil(self, char* data, size_t size) noexcept nogil
    cdef Py_ssize_t c_write_fds(
        self, const iovec* parts, int count, const int* numbers, int fd_count
    ) noexcept
    cdef int c_check(self) except -1


cdef class FdStream(ByteCore):
    cdef int read_fd
    cdef int write_fd
    cdef readonly bint is_socket
    cdef bint closed
    cdef readonly object watch
    cdef readonly str address
    cdef readonly object peer
    cdef readonly object capabilities
    cdef dict owners
    cdef object on_close
    cdef object last_word
    cdef FdQueue queue           # where descriptors go that come with the bytes,
    cdef Arrivals* arrivals      # and what is in it; NULL where none may come
    cdef public object wait_closed  # coroutine function: what remains to be awaited after close
    cdef bint at_end
    cdef public bint shared         # many writers share it, as on a FIFO
    cdef public int atomic_bytes    # the longest write that is kept whole among them, or 0
    cdef public bint pads           # frames may be padded to whole pages of as many bytes
    cdef public object heartbeat    # makes what notices, for a port, that the peer fell silent
    cdef public object counterpart  # what /proc calls the file that only the peer writes to, or None
    cdef public bint alone          # there is one at a time, so a message may span such writes
    cdef object read_callback
    cdef object write_callback
    cdef object __weakref__

    cdef object c_error(self, int number, str doing)
    cdef int c_close_fd(self, int fd) except -1
    cdef tuple c_let_go(self)


cdef class AdaptedStream(ByteCore):
    cdef readonly object transport
