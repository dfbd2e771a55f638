# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes in shared memory: a ByteTransport over the records of a ring."""

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from libc.stdint cimport int64_t, uint64_t

from aioipc.native._fd cimport WOULD_BLOCK, ByteCore
from aioipc.native._fds cimport iovec
from aioipc.native._frames cimport get_buffer
from aioipc.native._pacer cimport Pacer, clock_ns
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


cdef class RingStream(ByteCore):
    """A ByteTransport over a ring: each write is records, each read as many as are there.

    Whoever waits for a call that there are bytes is polled for as a channel's receiver is, so that
    bytes which are about to come cost neither side a system call.

    Args:
        port: Takes care of HELLO, GOODBYE and the peer's death.
        capabilities: What this transport can do.
        pace: Finds the Pacer of the running loop.
    """

    def __init__(self, RingPort port, capabilities, pace):
        self.port = port
        self.capabilities = capabilities
        self.pace = pace

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

    # Waiting for bytes

    def on_readable(self, callback):
        self.reader = callback
        if callback is None:
            self.c_wake()
            self.port.on_readable(None)
        elif self.record is not None:
            self.port.c_call_back(self._read_on)
        elif not self.is_due and not self.is_asleep:
            if self.pacer is None:
                self.pacer = self.pace()
            if self.c_may_poll():
                # After a turn: who was given the last bytes may be about to answer them.
                self.is_due = True
                self.unpolled_ns = 0
                self.turns = 1
                self.port.c_call_back(self._poll)
            else:
                self.c_sleep()

    def _read_on(self):
        reader, self.reader = self.reader, None
        if reader is not None:
            reader()

    def _poll(self):
        self.is_due = False
        if self.reader is None or self.is_asleep:
            return
        self.pacer.c_resume()
        self.turns -= 1
        if self.turns > 0:
            self.is_due = True
            self.port.c_call_back(self._poll)
        elif self.c_poll() == POLL_HIT:
            self.c_serve()
        else:
            self.c_sleep()

    def _woken(self):
        cdef int64_t slept_since_ns = self.asleep_since_ns
        self.c_wake()
        self.pacer.c_resume()
        self.pacer.budget.c_blocked(self.pacer.resumed_ns - slept_since_ns)
        self.c_serve()

    cdef bint c_may_poll(self) noexcept:
        cdef Pacer pacer = self.pacer
        return self.port.is_open and pacer.budget.budget_ns > 0 and not pacer.crowded

    cdef Poll c_poll(self) except POLL_FAILED:
        """Look for bytes as long as that is worth while, over the end of a turn if `_poll` follows."""
        cdef Pacer pacer = self.pacer
        cdef int64_t left_ns = pacer.c_left_ns()
        cdef int64_t budget_ns = 0
        cdef int found
        if left_ns > 0 and self.c_may_poll():
            budget_ns = self.unpolled_ns if self.unpolled_ns > 0 else pacer.budget.c_next_ns()
        self.unpolled_ns = 0
        if budget_ns == 0:
            return POLL_OPEN
        found = pacer.c_poll(self.port, min(budget_ns, left_ns), False)
        if found == 1:
            pacer.budget.c_hit()
            return POLL_HIT
        if found == 2:
            return POLL_OPEN
        if self.is_due and budget_ns > left_ns:
            self.unpolled_ns = budget_ns - left_ns
            return POLL_OPEN
        pacer.budget.c_miss()
        return POLL_MISSED

    cdef int c_serve(self) except -1:
        """Call who reads: again at once where it answers, and the next bytes come soon."""
        cdef uint64_t sent
        cdef Poll poll
        while self.reader is not None:
            sent = self.port.counters.bytes_sent
            self._read_on()
            if self.port.counters.bytes_sent == sent or self.record is not None:
                break  # others have to turn what was read into an answer
            if self.reader is None or not self.is_due:
                break
            poll = self.c_poll()
            if poll == POLL_MISSED:
                self.c_sleep()  # which `_poll` leaves alone
            elif poll == POLL_OPEN:
                self.turns = self.pacer.c_turns()
            if poll != POLL_HIT:
                break
        return 0

    cdef int c_sleep(self) except -1:
        self.port.counters.receive_waits += 1
        self.is_asleep = True
        self.asleep_since_ns = clock_ns()
        self.pacer.waiting.add(self.port)
        self.port.on_readable(self._woken)
        return 0

    cdef int c_wake(self) except -1:
        if self.is_asleep:
            self.is_asleep = False
            self.pacer.waiting.discard(self.port)
        return 0

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
        self.c_wake()
        self.c_drop_record()
        self.port.close()
