# cython: language_level=3
cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


cdef enum:
    MOST_FDS = 253               # that one sendmsg(2) takes: SCM_MAX_FD in the kernel
    MOST_WAITING_FDS = 2 * 253   # of the frame that is being read, and of one behind it


# Descriptors that arrived, oldest first: numbers[first : first + count]. The first `own` of them
# belong to the message that was received last, the next `claimed` to the one that is being read.
cdef struct Arrivals:
    int* numbers
    int first
    int count
    int own
    int claimed
    bint cut                     # some were lost: this process had no room for them


cdef Py_ssize_t receive_with_fds(
    Arrivals* arrivals, int fd, void* data, size_t size, int flags
) noexcept nogil
cdef Py_ssize_t send_with_fds(
    int fd, const iovec* parts, int count, const int* numbers, int fd_count
) noexcept nogil
cdef int read_numbers(object fds, int* numbers) except -1


cdef class FdQueue:
    cdef Arrivals arrivals

    cdef int c_unclaimed(self) noexcept
    cdef int c_claim(self, int count) noexcept
    cdef int c_deliver(self) noexcept
    cdef int c_close_own(self) noexcept
    cdef int c_drop_first(self) noexcept
    cdef int c_close(self) noexcept
    cdef list c_take(self, int most)
