# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sockets that keep the boundaries of packets: ``SOCK_SEQPACKET`` in unix(7)."""

from libc.errno cimport EAGAIN, EBADMSG, ECONNRESET, EINTR, EMSGSIZE, errno

from aioipc.native._fd cimport FdStream

from aioipc.errors import ProtocolError

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_PEEK
        MSG_TRUNC
    Py_ssize_t recv(int, void*, size_t, int)

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    """
    cdef struct pollfd:
        int fd
        short events
        short revents
    enum: POLLRDHUP
    int poll(pollfd*, unsigned long, int)


cdef class PacketStream(FdStream):
    """A connected socket of packets, each of which holds whole frames.

    It keeps the ByteTransport contract, with one difference: what one read returns is what one
    write wrote, so a read needs room for the longest packet.
    """

    @property
    def packets(self):
        """Whether reads and writes keep their boundaries."""
        return True

    cdef object c_error(self, int number, str doing):
        if number == EMSGSIZE and doing == "read from":
            return ProtocolError(f"{self.address}: the peer sent a packet over the limit of 65,536 bytes")
        if number == EBADMSG:
            return ProtocolError(f"{self.address}: the peer sent an empty packet")
        return FdStream.c_error(self, number, doing)

    cdef Py_ssize_t c_read_nogil(self, char* data, size_t size) noexcept nogil:
        cdef Py_ssize_t n
        while True:
            n = recv(self.read_fd, data, size, MSG_DONTWAIT | MSG_TRUNC)
            if n > 0:
                return n if n <= <Py_ssize_t>size else -EMSGSIZE
            if n == 0:
                return 0 if self.c_is_end() else -EBADMSG
            # A peer that closed with something unread is reported first, once, and then what it
            # had sent: unlike on a stream, where that order is the other way round.
            if errno != EINTR and errno != ECONNRESET:
                return -errno

    cdef bint c_is_end(self) noexcept nogil:
        """Whether nothing was read because there is no more to come; else it was a packet.

        recv(2) says 0 for both. A peer that sends an empty packet and closes has ended, too.
        """
        cdef pollfd look
        cdef char one
        look.fd = self.read_fd
        look.events = POLLRDHUP
        if poll(&look, 1, 0) != 1:
            return False
        return recv(self.read_fd, &one, 1, MSG_DONTWAIT | MSG_PEEK) <= 0
