# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Descriptors that travel with frames: ``SCM_RIGHTS`` in unix(7).

Which frame they belong to is said by its header alone. A read takes bytes from before the
descriptors and after them, so where they came in it says nothing.
"""

from libc.errno cimport EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

import os

from aioipc.errors import EncodeError

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    enum:
        MSG_CMSG_CLOEXEC
        MSG_CTRUNC
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SCM_RIGHTS
        SOL_SOCKET
    Py_ssize_t recvmsg(int, msghdr*, int)
    Py_ssize_t sendmsg(int, const msghdr*, int)
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    cmsghdr* CMSG_NXTHDR(msghdr*, cmsghdr*)
    unsigned char* CMSG_DATA(cmsghdr*)
    size_t CMSG_LEN(size_t)
    size_t CMSG_SPACE(size_t)

cdef extern from "<fcntl.h>" nogil:
    enum: F_DUPFD_CLOEXEC
    int fcntl(int, int, int)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int)

cdef enum:
    CONTROL_WORDS = 130          # CMSG_SPACE of MOST_FDS numbers
    LEAST_FD = 3                 # lower ones look like a standard stream


cdef Py_ssize_t receive_with_fds(
    Arrivals* arrivals, int fd, void* data, size_t size, int flags
) noexcept nogil:
    """recvmsg(2) that keeps the descriptors: the number of bytes, or minus the error."""
    cdef unsigned long long control[CONTROL_WORDS]
    cdef msghdr message
    cdef iovec into
    cdef Py_ssize_t n
    into.iov_base = data
    into.iov_len = size
    while True:
        memset(&message, 0, sizeof(message))
        message.msg_iov = &into
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        n = recvmsg(fd, &message, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        if n >= 0:
            break
        if errno != EINTR:
            return -errno
    if message.msg_controllen:
        keep_fds(arrivals, &message)
    if message.msg_flags & MSG_CTRUNC:
        arrivals.cut = True
    return n


cdef int keep_fds(Arrivals* arrivals, msghdr* message) noexcept nogil:
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef int numbers[MOST_FDS + 2]
    cdef int count, i
    while header is not NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_RIGHTS:
            count = <int>((header.cmsg_len - CMSG_LEN(0)) // sizeof(int))
            memcpy(numbers, CMSG_DATA(header), count * sizeof(int))
            for i in range(count):
                keep_fd(arrivals, numbers[i])
        header = CMSG_NXTHDR(message, header)
    return 0


cdef int keep_fd(Arrivals* arrivals, int number) noexcept nogil:
    if arrivals.numbers is NULL:
        arrivals.numbers = <int*>malloc(MOST_WAITING_FDS * sizeof(int))
    if arrivals.numbers is NULL or arrivals.count == MOST_WAITING_FDS:
        arrivals.cut = True
        c_close(number)
        return 0
    if arrivals.first + arrivals.count == MOST_WAITING_FDS:
        memmove(
            arrivals.numbers, arrivals.numbers + arrivals.first, arrivals.count * sizeof(int)
        )
        arrivals.first = 0
    arrivals.numbers[arrivals.first + arrivals.count] = number
    arrivals.count += 1
    return 0


cdef Py_ssize_t send_with_fds(
    int fd, const iovec* parts, int count, const int* numbers, int fd_count
) noexcept nogil:
    """sendmsg(2) with descriptors: the number of bytes, or minus the error.

    They leave with the first byte, so they have left unless this is negative.
    """
    cdef unsigned long long control[CONTROL_WORDS]
    cdef msghdr message
    cdef cmsghdr* header
    cdef Py_ssize_t n
    memset(&message, 0, sizeof(message))
    memset(control, 0, sizeof(control))
    message.msg_iov = <iovec*>parts
    message.msg_iovlen = count
    message.msg_control = control
    message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int))
    header = CMSG_FIRSTHDR(&message)
    header.cmsg_level = SOL_SOCKET
    header.cmsg_type = SCM_RIGHTS
    header.cmsg_len = CMSG_LEN(fd_count * sizeof(int))
    memcpy(CMSG_DATA(header), numbers, fd_count * sizeof(int))
    while True:
        n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n >= 0:
            return n
        if errno != EINTR:
            return -errno


cdef int read_numbers(object fds, int* numbers) except -1:
    """The descriptors that a caller wants to send, which are numbers or have a ``fileno()``."""
    cdef int count = 0
    if isinstance(fds, (str, bytes, bytearray)) or not hasattr(fds, "__len__"):
        raise TypeError(f"fds= is a sequence of descriptors, not {type(fds).__name__}")
    fds = tuple(fds)  # to which no ``fileno()`` adds
    if len(fds) > MOST_FDS:
        raise EncodeError(f"a message takes at most {MOST_FDS} descriptors along, not {len(fds)}")
    for fd in fds:
        if not isinstance(fd, int) and not hasattr(fd, "fileno"):
            raise TypeError(f"a descriptor is an int or has a fileno(), not {type(fd).__name__}")
        numbers[count] = fd if isinstance(fd, int) else fd.fileno()
        if numbers[count] < 0:
            raise EncodeError(f"{fd!r} is closed, so it cannot be sent")
        count += 1
    return count


cdef class FdQueue:
    """The descriptors that came over one connection. What nobody took is closed with it."""

    def __dealloc__(self):
        self.c_close()
        free(self.arrivals.numbers)

    cdef int c_unclaimed(self) noexcept:
        """How many wait for their frame."""
        return self.arrivals.count - self.arrivals.own - self.arrivals.claimed

    cdef int c_claim(self, int count) noexcept:
        """The frame that is being read owns the next ``count``, which are there."""
        self.arrivals.claimed += count
        return 0

    cdef int c_deliver(self) noexcept:
        """What was claimed belongs to the message that is received now; say how many."""
        self.arrivals.own += self.arrivals.claimed
        self.arrivals.claimed = 0
        return self.arrivals.own

    cdef int c_close_own(self) noexcept:
        """Close what came with the last message and was not taken."""
        while self.arrivals.own:
            c_close(self.arrivals.numbers[self.arrivals.first])
            self.c_drop_first()
        return 0

    cdef int c_drop_first(self) noexcept:
        self.arrivals.own -= 1
        self.arrivals.count -= 1
        self.arrivals.first = self.arrivals.first + 1 if self.arrivals.count else 0
        return 0

    cdef int c_close(self) noexcept:
        """Close all."""
        self.arrivals.own = self.arrivals.count
        self.arrivals.claimed = 0
        return self.c_close_own()

    cdef list c_take(self, int most):
        """Give what came with the last message to the caller: all, or the first of it."""
        cdef list taken = []
        cdef int number
        while self.arrivals.own and len(taken) != most:
            number = self.arrivals.numbers[self.arrivals.first]
            if number < LEAST_FD:
                number = fcntl(number, F_DUPFD_CLOEXEC, LEAST_FD)
                if number < 0:
                    raise OSError(errno, os.strerror(errno))
                c_close(self.arrivals.numbers[self.arrivals.first])
            taken.append(number)
            self.c_drop_first()
        return taken
