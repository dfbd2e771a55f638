# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes in shared memory: a ByteTransport over the records of a ring."""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from aioipc.native._fd cimport WOULD_BLOCK, ByteCore
from aioipc.native._fds cimport iovec
from aioipc.native._frames cimport get_buffer
from aioipc.native._ring cimport (
    FRAGMENT,
    GATHER,
    MOST_RECORDS,
    RING_DATA,
    RING_QUEUED,
    ReadLease,
    RingAnswer,
    RingPort,
    ring_copy,
    ring_max_record,
    ring_put,
)

from aioipc.errors import ClosedError, EndOfStream, IPCError


cdef enum:
    # The most that is read at once. From 128 KiB on glibc has memory from the kernel and gives it back
    # each time, which takes longer than to parse what is in it.
    CHUNK = 126976


cdef class RingStream(ByteCore):
    """A ByteTransport over a ring: each write is records, each read as many as are there.

    Args:
        port: Takes care of HELLO, GOODBYE and the peer's death.
        capabilities: What this transport can do.
    """

    def __init__(self, RingPort port, capabilities):
        self.port = port
        self.capabilities = capabilities

    @property
    def address(self):
        return self.port.transport.address

    @property
    def peer(self):
        return self.port.transport.peer

    @property
    def watch(self):
        """What binds it to its loop."""
        return self.port.transport.watch

    @property
    def poll_source(self):
        return None

    cdef Py_ssize_t c_read(self, char* data, size_t size) except -2:
        cdef Py_ssize_t count = 0
        cdef int records
        if not self.port.is_open and self.port.ending is None:
            raise ClosedError(f"{self.address} is closed")
        size = min(size, <size_t>CHUNK)
        try:
            for records in range(MOST_RECORDS):  # of nothing: they must not keep the loop
                if self.record is None:
                    self.record = self.port.c_borrow()
                    self.offset = 0
                if self.record is None:
                    break
                count += self.c_take(data + count, size - count)
                if count == <Py_ssize_t>size:
                    return count
            return count or WOULD_BLOCK
        except EndOfStream:
            return count  # 0 says so
        except IPCError:
            if count == 0:  # else it is raised when this was read
                raise
            return count

    cdef Py_ssize_t c_take(self, char* data, Py_ssize_t size) except -1:
        """Copy the next bytes of the record, and give it back when that was its end."""
        cdef Py_buffer record
        get_buffer(self.record, &record)
        size = min(size, record.len - self.offset)
        ring_copy(data, <char*>record.buf + self.offset, size)
        self.offset += size
        is_read = self.offset == record.len
        PyBuffer_Release(&record)
        if is_read:
            self.c_drop_record()
        return size

    cdef int c_drop_record(self) except -1:
        record, self.record = self.record, None
        if isinstance(record, ReadLease):
            (<ReadLease>record).c_end()
        return 0

    cdef Py_ssize_t c_write(self, const iovec* parts, int count) except -2:
        cdef Py_ssize_t written = 0, sent
        cdef int i
        self.port.c_check_sending()
        if self.port.controls and not self.port.c_flush():
            return WOULD_BLOCK
        for i in range(count):
            sent = self.c_put(<char*>parts[i].iov_base, parts[i].iov_len)
            written += sent
            if sent < <Py_ssize_t>parts[i].iov_len:
                break
        self.port.c_publish()
        return written or WOULD_BLOCK

    cdef Py_ssize_t c_put(self, const char* data, Py_ssize_t size) except -1:
        cdef RingAnswer answer
        cdef Py_ssize_t start = 0, length
        while start < size:
            length = min(size - start, <Py_ssize_t>FRAGMENT, <Py_ssize_t>ring_max_record(&self.port.producer.ring))
            answer = ring_put(&self.port.producer, RING_DATA, data + start, length)
            if answer != RING_QUEUED:
                self.port.c_no_room(answer)
                break
            start += length
            if self.port.producer.cursor - self.port.producer.published >= GATHER:
                self.port.c_publish()
        self.port.counters.bytes_sent += start
        return start

    def on_readable(self, callback):
        if callback is not None and self.record is not None:
            self.reader = callback  # the port knows nothing of what is left
            self.port.c_call_back(self._read_on)
        else:
            self.reader = None
            self.port.on_readable(callback)

    def _read_on(self):
        reader, self.reader = self.reader, None
        if reader is not None:
            reader()

    def on_writable(self, callback):
        self.port.on_writable(callback)

    def try_flush(self):
        """Show what is left, the end of the stream: True when all of it is in the ring."""
        return self.port.c_flush() == 1

    def take_fds(self):
        return []

    def close_write(self):
        if self.port.is_open and not self.port.write_ended:
            self.port.say_goodbye()
            self.port.flush_quietly()

    def close(self):
        self.reader = None
        self.c_drop_record()
        self.port.close()
