# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Descriptors as byte streams.

`FdStream` is a ByteTransport over one or two descriptors, with its own system calls;
`AdaptedStream` makes any ByteTransport written in Python look the same to native code.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    Py_buffer,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, EIO, EOPNOTSUPP, errno
from libc.string cimport memset
from posix.stat cimport S_ISCHR, fstat, struct_stat

from aioipc.native._fds cimport FdQueue, iovec, receive_with_fds, send_with_fds

import os

from aioipc.errors import AddressError, ClosedError, ProtocolError, from_os_error

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SHUT_WR
    Py_ssize_t recv(int, void*, size_t, int)
    Py_ssize_t c_send "send"(int, const void*, size_t, int)
    Py_ssize_t sendmsg(int, const msghdr*, int)
    int shutdown(int, int)

cdef extern from "<sys/uio.h>" nogil:
    Py_ssize_t writev(int, const iovec*, int)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t c_read "read"(int, void*, size_t)
    Py_ssize_t c_write "write"(int, const void*, size_t)

cdef extern from "Python.h":
    int PyBUF_READ
    int PyBUF_WRITE

cdef extern from *:
    """
    /* What is read is copied out before the GIL is released, so that one is enough for all.
       It begins at a page, as what the kernel copies from does: see _stream.pyx. */
    static char scratch[262144] __attribute__((aligned(4096)));
    """
    char scratch[262144]

cdef enum:
    LARGE_READ = 262144          # above this a read is worth releasing the GIL for
    MOST_PARTS = 64


cdef bint is_character_device(int fd) noexcept nogil:
    cdef struct_stat status
    return fstat(fd, &status) == 0 and S_ISCHR(status.st_mode)


cdef class ByteCore:
    """The native form of the ByteTransport contract."""

    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2:
        raise NotImplementedError

    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2:
        raise NotImplementedError

    cdef object c_read_bytes(self, Py_ssize_t most):
        """The bytes that are there, 256 KiB at most; b"" at the end, None if nothing is there."""
        cdef Py_ssize_t n = self.c_read(scratch, min(most, <Py_ssize_t>sizeof(scratch)))
        return None if n == WOULD_BLOCK else PyBytes_FromStringAndSize(scratch, n)

    cdef int c_read_fd(self) noexcept:
        return -1

    cdef int c_write_fd(self) noexcept:
        return -1

    cdef Py_ssize_t c_read_nogil(self, char* data, size_t size) noexcept nogil:
        """As `c_read`, but an error is minus its number, and -EAGAIN is WOULD_BLOCK."""
        return -EAGAIN

    cdef Py_ssize_t c_write_fds(
        self, const iovec* parts, int count, const int* numbers, int fd_count
    ) noexcept:
        """Write, with descriptors that go along with the first byte; an error is minus its number."""
        return -EOPNOTSUPP

    cdef int c_check(self) except -1:
        """Raise ClosedError if it is closed."""
        return 0

    # The ByteTransport contract, for callers in Python

    def try_read_into(self, buffer):
        cdef Py_buffer view
        cdef Py_ssize_t n
        self.c_check()
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            n = self.c_read(<char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        return None if n == WOULD_BLOCK else n

    def try_read(self, Py_ssize_t max_bytes):
        """As `try_read_into`, but the bytes themselves, b"" at the end: 256 KiB at most."""
        self.c_check()
        return self.c_read_bytes(max_bytes)

    def try_write(self, parts, fds=()):
        cdef iovec iov[MOST_PARTS]
        cdef Py_buffer views[MOST_PARTS]
        cdef int count = 0
        cdef Py_ssize_t n
        self.c_check()
        if fds:
            raise AddressError(f"{self.address} carries no descriptors")
        if type(parts) is tuple and len(<tuple>parts) == 1 and type((<tuple>parts)[0]) is bytes:
            part = (<tuple>parts)[0]
            iov[0].iov_base = PyBytes_AS_STRING(part)
            iov[0].iov_len = PyBytes_GET_SIZE(part)
            n = self.c_write(iov, 1)
            return 0 if n == WOULD_BLOCK else n
        if isinstance(parts, (bytes, bytearray, memoryview)):
            parts = (parts,)
        try:
            for part in parts:
                if count == MOST_PARTS:
                    break
                PyObject_GetBuffer(part, &views[count], PyBUF_SIMPLE)
                iov[count].iov_base = views[count].buf
                iov[count].iov_len = views[count].len
                count += 1
            n = self.c_write(iov, count) if count else 0
        finally:
            while count:
                count -= 1
                PyBuffer_Release(&views[count])
        return 0 if n == WOULD_BLOCK else n


cdef class FdStream(ByteCore):
    """A ByteTransport over non-blocking descriptors: a socket, or one or two pipe ends.

    Args:
        read_fd: Where to read, -1 to only write.
        write_fd: Where to write, -1 to only read; may equal ``read_fd``.
        watch: Registers the descriptors with the event loop (`aioipc.loop.fd.FdWatch`).
        is_socket: Whether the socket calls apply.
        address: For messages and `address`.
        capabilities: What this transport can do.
        peer: PeerCredentials, where the kernel told.
        owners: Objects with ``close`` and ``detach`` that close a descriptor in their own
            way, by its number.
        on_close: Called with no arguments before the descriptors are closed.
        last_word: Knows how the peer ends (`aioipc.transports._stream.LastWord`): asked at the
            end of the stream whether that was a clean one, and while there is no end whether
            there will be.
    """

    def __cinit__(self, *args, **options):
        self.closed = True

    def __init__(
        self,
        int read_fd,
        int write_fd,
        watch,
        *,
        bint is_socket,
        str address,
        capabilities,
        peer=None,
        owners=None,
        on_close=None,
        last_word=None,
    ):
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.watch = watch
        self.is_socket = is_socket
        self.address = address
        self.capabilities = capabilities
        self.peer = peer
        self.owners = owners or {}
        self.on_close = on_close
        self.last_word = last_word
        self.closed = False

    def __del__(self):
        """Close what was dropped open, as when opening failed half way."""
        self.close()

    cdef object c_error(self, int number, str doing):
        return from_os_error(OSError(number, os.strerror(number)), f"{doing} {self.address}")

    cdef Py_ssize_t c_read_nogil(self, char* data, size_t size) noexcept nogil:
        cdef Py_ssize_t n
        if self.arrivals is not NULL:
            return receive_with_fds(self.arrivals, self.read_fd, data, size, 0)
        while True:
            if self.is_socket:
                n = recv(self.read_fd, data, size, MSG_DONTWAIT)
            else:
                n = c_read(self.read_fd, data, size)
            if n >= 0:
                return n
            if errno == EIO and is_character_device(self.read_fd):
                return 0  # the other end of a terminal was closed: 0 or EIO, as it happens
            if errno != EINTR:
                return -errno

    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2:
        cdef Py_ssize_t n
        if self.read_fd < 0:
            return AT_END
        if size > LARGE_READ:
            with nogil:
                n = self.c_read_nogil(data, size)
        else:
            n = self.c_read_nogil(data, size)
        if n > 0:
            return n
        if n == 0:
            if size == 0:
                return 0  # all that was asked for
            self.at_end = True
            if self.last_word is not None and not self.last_word():
                return WOULD_BLOCK
            return AT_END
        if n == -EAGAIN:
            if self.last_word is not None:
                self.last_word.check()
            return WOULD_BLOCK
        raise self.c_error(-n, "read from")

    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2:
        cdef Py_ssize_t n
        cdef msghdr message
        if self.write_fd < 0:
            raise ClosedError(f"{self.address}: this side ended its sending direction")
        while True:
            if not self.is_socket:
                if count == 1:
                    n = c_write(self.write_fd, parts[0].iov_base, parts[0].iov_len)
                else:
                    n = writev(self.write_fd, parts, count)
            elif count == 1:
                n = c_send(
                    self.write_fd, parts[0].iov_base, parts[0].iov_len,
                    MSG_DONTWAIT | MSG_NOSIGNAL,
                )
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = <iovec*>parts
                message.msg_iovlen = count
                n = sendmsg(self.write_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return WOULD_BLOCK
            if errno != EINTR:
                raise self.c_error(errno, "write to")

    cdef Py_ssize_t c_write_fds(
        self, const iovec* parts, int count, const int* numbers, int fd_count
    ) noexcept:
        return send_with_fds(self.write_fd, parts, count, numbers, fd_count)

    cdef int c_read_fd(self) noexcept:
        return -1 if self.at_end else self.read_fd  # at the end it is readable for ever

    cdef int c_write_fd(self) noexcept:
        return self.write_fd

    # The ByteTransport contract, for callers in Python

    @property
    def poll_source(self):
        return self.read_fd if self.read_fd >= 0 else None

    def fileno(self):
        """The descriptor that is read, or written where nothing is read."""
        return self.read_fd if self.read_fd >= 0 else self.write_fd

    @property
    def readable(self):
        """Whether there is a direction to read from."""
        return self.read_fd >= 0

    @property
    def writable(self):
        """Whether there is a direction to write to."""
        return self.write_fd >= 0

    @property
    def fds(self):
        """The descriptors that are open, each once: ``(read, write)`` or the one socket."""
        if self.read_fd == self.write_fd >= 0:
            return (self.read_fd,)
        return tuple(fd for fd in (self.read_fd, self.write_fd) if fd >= 0)

    cdef int c_check(self) except -1:
        if self.closed:
            raise ClosedError(f"{self.address} is closed")
        return 0

    def on_readable(self, callback):
        self.read_callback = callback
        if self.last_word is not None:
            self.last_word.on_ready(None if callback is None else self._readable)
            if self.at_end:
                # The descriptor is readable for ever now, and would spin.
                self.watch.unwatch_reading()
                return
        if callback is not None and not self.watch.reading:
            self.watch.watch_reading(self.read_fd, self._readable)

    def on_writable(self, callback):
        self.write_callback = callback
        if callback is not None and not self.watch.writing:
            self.watch.watch_writing(self.write_fd, self._writable)

    # Left registered after a call: a busy descriptor never toggles (a pair of epoll_ctl
    # calls through a loop costs 5 to 7 us), an unread one does not spin.

    def _readable(self):
        callback, self.read_callback = self.read_callback, None
        if callback is None:
            self.watch.unwatch_reading()
        else:
            callback()

    def _writable(self):
        callback, self.write_callback = self.write_callback, None
        if callback is None:
            self.watch.unwatch_writing()
        else:
            callback()

    def take_fds(self):
        return []

    def keep_fds(self, FdQueue queue):
        """Let ``queue`` have the descriptors that come; with None they vanish in the kernel."""
        self.queue = queue
        self.arrivals = NULL if queue is None else &queue.arrivals

    def close_write(self):
        if self.write_fd < 0:
            return
        if self.is_socket:
            shutdown(self.write_fd, SHUT_WR)
            return
        self.watch.unwatch_writing()
        fd, self.write_fd = self.write_fd, -1
        if fd != self.read_fd:
            self.c_close_fd(fd)

    cdef int c_close_fd(self, int fd) except -1:
        owner = self.owners.pop(fd, None)
        if owner is None:
            os.close(fd)
        else:
            owner.close()
        return 0

    def detach(self):
        """Give up the descriptors without closing them; the object is closed afterwards.

        They block, as a program expects that has never heard of us.
        """
        fds = self.c_let_go()
        for fd in fds:
            os.set_blocking(fd, True)
            owner = self.owners.pop(fd, None)
            if owner is not None:
                owner.detach()
        return fds

    cdef tuple c_let_go(self):
        fds = self.fds
        self.closed = True
        self.watch.close()
        self.read_fd = self.write_fd = -1
        self.read_callback = self.write_callback = None
        return fds

    def close(self):
        if self.closed:
            return
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
        for fd in self.c_let_go():
            self.c_close_fd(fd)

    def abandon(self):
        """Close the bare descriptors, in a forked child: the loop is still the parent's."""
        self.watch.abandon()
        if self.queue is not None:
            self.queue.c_close()
        self.on_close = None
        for fd in self.c_let_go():
            if fd not in self.owners:  # owners are abandoned by themselves
                os.close(fd)


cdef class AdaptedStream(ByteCore):
    """Any Python object that keeps the ByteTransport contract, as a native stream."""

    def __init__(self, transport):
        self.transport = transport

    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2:
        n = self.transport.try_read_into(PyMemoryView_FromMemory(data, size, PyBUF_WRITE))
        if n is None:
            return WOULD_BLOCK
        if not 0 <= n <= <Py_ssize_t>size:
            raise ProtocolError(f"{self.transport!r} read {n} bytes into {size}")
        return n

    cdef int c_read_fd(self) noexcept:
        try:
            source = self.transport.poll_source
            return -1 if source is None else source
        except Exception:
            return -1  # closed

    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2:
        cdef list views = []
        cdef int i
        cdef Py_ssize_t size = 0
        for i in range(count):
            size += parts[i].iov_len
            views.append(
                PyMemoryView_FromMemory(<char*>parts[i].iov_base, parts[i].iov_len, PyBUF_READ)
            )
        n = self.transport.try_write(views)
        if not 0 <= n <= size:
            raise ProtocolError(f"{self.transport!r} wrote {n} bytes of {size}")
        return WOULD_BLOCK if n == 0 and size else n
