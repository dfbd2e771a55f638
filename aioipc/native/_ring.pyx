# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Messages in shared memory: one ring for each direction, and the bells of both sides.

The protocol is in ring.h, which makes no system call; here is what it leaves to its caller:
when to show a batch, when to ring and when to sleep, what is too long for one record, and what
becomes of the other side.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    Py_buffer,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from aioipc.native._fds cimport MOST_FDS, iovec, read_numbers, receive_with_fds, send_with_fds
from aioipc.native._frames cimport (
    CONTROL_LIMIT,
    NOT_STALLED,
    UNTIL_HELLO,
    UNTIL_RETURNED,
    UNTIL_SLOT_ENDS,
    UNTIL_SOCKET,
    FramePort,
    get_buffer,
    hold,
)
from aioipc.native._pacer cimport ACCEPTED, NO_FDS, NO_ROOM
from aioipc.native._view cimport fill_view

from aioipc.errors import (
    AddressError,
    ClosedError,
    EndOfStream,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    RingCorrupted,
)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    Py_ssize_t recv(int, void*, size_t, int)
    Py_ssize_t send(int, const void*, size_t, int)

cdef extern from "<sys/uio.h>" nogil:
    enum: RWF_NOWAIT
    Py_ssize_t preadv2(int, const iovec*, int, long, int)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t c_write "write"(int, const void*, size_t)

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    PyObject* PyBytes_New "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    PyObject* PyBytes_TryNew "PyBytes_FromStringAndSize"(const char*, Py_ssize_t)
    PyObject* PyList_GET_ITEM(list, Py_ssize_t)
    void PyErr_Clear()
    char* PyBytes_Data "PyBytes_AS_STRING"(PyObject*)
    Py_ssize_t PyBytes_Size "PyBytes_GET_SIZE"(PyObject*)
    void Py_XDECREF(PyObject*)

cdef enum:
    PATIENCE = 50                # looks of 40 to 80 ns each
    IN_PLACE = 16384             # shorter messages are copied before they are decoded
    RETIRE = 32768               # given back at the latest, so that a sender who waits can go on
    LONG = 8192                  # bytes that take a time worth looking at the clock
    MOST_CONTROLS = 16
    MOST_READS = 64              # of a socket, for bells that came before descriptors


@cython.freelist(16)
@cython.no_gc                     # it is in no cycle
cdef class WriteLease:

    def __getbuffer__(self, Py_buffer* view, int flags):
        fill_view(view, self, self.lease.payload, self.lease.length, True, flags)

    def __dealloc__(self):
        if self.is_open and self.port.is_open:
            # Nobody will finish it, and what was sent after it waits behind it.
            self.port.c_abort(self)
            self.port.c_call_from_anywhere(self.port._slot_dropped)


@cython.no_gc_clear
cdef class ReadLease(Borrowed):

    def __dealloc__(self):
        if not self.ended and self.port is not None:
            self.c_give_back()

    cdef int c_give_back(self) except -1:
        return self.port.c_end_read(self)


cdef class RingPort(FramePort):
    """Messages over two rings in one mapping.

    Args:
        transport: Watches the bell and the socket: ``start``, ``stop_lifeline``, ``close``.
        memory: Both rings, the first of which side 0 writes.
        capacity: Bytes of data in each.
        side: 0 or 1.
        own_bell: The descriptor that the peer rings: an eventfd, or the socket.
        peer_bell: The descriptor to ring.
        bells_are_sockets: Whether they are the socket.
        max_message_bytes: Limit in both directions, until the peer's is known.
    """

    def __init__(
        self,
        transport,
        Mapping memory,
        uint64_t capacity,
        *,
        int side,
        int own_bell,
        int peer_bell,
        bint bells_are_sockets,
        Py_ssize_t max_message_bytes,
    ):
        cdef size_t ring_bytes = ring_memory_bytes(capacity)
        if memory.size != 2 * ring_bytes:
            raise ValueError(f"two rings need {2 * ring_bytes:,} bytes, not {memory.size:,}")
        cdef char* written = memory.address + side * ring_bytes
        cdef char* read = memory.address + (1 - side) * ring_bytes
        if not (
            ring_attach_producer(&self.producer, written, capacity, 0, 0)
            and ring_attach_consumer(&self.consumer, read, capacity, 0)
        ):
            raise ValueError(f"a ring cannot have {capacity:,} bytes")
        self.transport = transport
        self.memory = memory
        self.own_bell = own_bell
        self.peer_bell = peer_bell
        self.bells_are_sockets = bells_are_sockets
        self.in_place = not bells_are_sockets
        self.max_receive_bytes = max_message_bytes
        self.max_send_bytes = max_message_bytes
        self.join_bytes = FRAGMENT
        self.in_memory = self.answers = True
        self.is_open = True

    def __dealloc__(self):
        self.c_drop_large()
        again_clear(&self.again)

    def expect_fds(self, int most):
        FramePort.expect_fds(self, most)
        self.c_allow_fds(MOST_FDS)

    def refuse_fds(self):
        FramePort.refuse_fds(self)
        self.c_allow_fds(0)

    cdef int c_allow_fds(self, int most) except -1:
        cdef uint32_t controls = 1 << RING_HELLO | 1 << RING_GOODBYE | 1 << RING_PING | 1 << RING_PONG
        cdef uint32_t flags = RING_MORE | (RING_SHARED if self.shares_memory else 0)
        ring_allow(&self.consumer, 1 << RING_DATA | controls, flags, most)
        return 0

    def share_memory(self):
        FramePort.share_memory(self)
        self.c_allow_fds(MOST_FDS)

    # Receiving

    cdef object c_receive(self):
        cdef PyObject* copy
        cdef RingRecord record
        if not self.own_fds and self.c_may_pop() and self.c_pop_short(&record):
            copy = again_bytes(&self.again, <const char*>record.payload, record.length)
            if copy is not NULL:
                self.counters.messages_received += 1
                self.counters.bytes_received += record.length
                self.c_retire_some()
                message = <object>copy
                Py_DECREF(message)
                return message
            self.c_unpop(&record)
            PyErr_Clear()
        return self.c_receive_any()

    @cython.final
    cdef inline bint c_may_pop(self) noexcept:
        """Whether the next record may be a message, with nothing to be said or done before it."""
        return (
            self.incoming is None
            and self.ending is None
            and self.large is NULL
            and self.is_open
            and self.greeted
        )

    @cython.final
    cdef inline bint c_pop_short(self, RingRecord* record) noexcept:
        """Take the next record if it is a short message: all else `c_receive_any` looks at."""
        if ring_pop(&self.consumer, record) != RING_RECORD:
            return False
        if record.tag == RING_DATA and record.length < LONG and record.length <= self.max_receive_bytes:
            return True
        self.c_unpop(record)
        return False

    @cython.final
    cdef inline void c_unpop(self, const RingRecord* record) noexcept:
        self.consumer.cursor -= ring_span(record.length)

    @cython.final
    cdef object c_receive_any(self):
        cdef RingRecord record
        cdef RingAnswer answer
        cdef int records = 0
        self.out_of_leases = False  # whoever wanted to borrow does so no more
        if self.own_fds:
            self.c_drop_fds()
        if self.incoming is not None:
            return self.c_take_incoming()
        while True:
            if self.ending is not None:
                raise self.ending.with_traceback(None)
            if not self.is_open:
                raise ClosedError(f"this side closed the channel to {self.transport.address}")
            answer = ring_pop(&self.consumer, &record)
            if answer == RING_RECORD:
                if (
                    record.tag == RING_DATA
                    and record.length <= self.max_receive_bytes
                    and self.greeted
                    and self.large is NULL
                ):
                    if (
                        <Py_ssize_t>record.length >= IN_PLACE
                        and self.may_lend
                        and self.in_place
                        and not ring_leases_are_out(&self.consumer.leases)
                    ):
                        return self.c_open_read(&record, ring_open_lease(
                            &self.consumer.leases,
                            self.consumer.cursor - ring_span(record.length),
                            self.consumer.cursor,
                        ))
                    message = self.c_copy(&record)
                    self.counters.messages_received += 1
                    self.counters.bytes_received += record.length
                    if <Py_ssize_t>record.length >= LONG and self.pacer is not None:
                        self.pacer.next_look = 0
                    self.c_retire_some()
                    return message
                message = self.c_record(&record)
                if message is not None or self.incoming is not None:
                    return message
                # Records without a message for the caller must not keep the loop, either.
                records += 1
                if records >= MOST_RECORDS and self.c_must_stop():
                    return None
                continue
            if answer == RING_POISONED:
                self.c_refuse(self.c_corrupted(&self.consumer.fault))
            self.c_retire()
            again_clear(&self.again)
            if self.queue is not None and self.queue.c_unclaimed() > MOST_FDS:
                if answer == RING_EMPTY:
                    self.c_refuse_strays()  # at most those of one message come before it
            if answer == RING_AGAIN or not (self.dead or self.closed_by_peer):
                return None
            # What came before the end was looked for after the end was seen.
            self.c_end(self.c_find_ending())

    cdef Py_ssize_t c_receive_more(self, list messages, Py_ssize_t most) except -1:
        cdef RingRecord record
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t received = 0
        cdef PyObject* copy
        if not self.c_may_pop():
            return 0
        while count < most and received < RETIRE and self.c_pop_short(&record):
            copy = PyBytes_TryNew(<const char*>record.payload, record.length)
            if copy is NULL:
                self.c_unpop(&record)
                PyErr_Clear()  # c_receive says that there is no memory, if that is still so
                break
            message = <object>copy
            Py_DECREF(message)
            messages.append(message)
            count += 1
            received += record.length
        if count:
            self.counters.messages_received += count
            self.counters.bytes_received += received
            if received >= RETIRE and self.pacer is not None:
                self.pacer.next_look = 0
            self.c_retire_some()
        return count

    cdef object c_borrow(self):
        self.borrowing = True
        try:
            return self.c_borrow_here()
        finally:
            self.borrowing = False

    cdef object c_borrow_here(self):
        cdef RingRecord record
        cdef RingAnswer answer
        cdef uint32_t ticket
        cdef int records
        if self.own_fds:
            self.c_drop_fds()
        for records in range(MOST_RECORDS):
            if (
                self.incoming is not None
                or self.ending is not None
                or not self.is_open
                or not self.in_place
                or self.large is not NULL
            ):
                break
            answer = ring_borrow(&self.consumer, &record, &ticket)
            if answer == RING_BUSY:
                self.out_of_leases = True  # the next comes when one is given back
                return None
            if answer != RING_RECORD:
                break
            if (
                record.tag == RING_DATA
                and self.greeted
                and record.length <= self.max_receive_bytes
            ):
                return self.c_open_read(&record, ticket)
            # Something else: it is taken as ever, and nothing of it is held back.
            try:
                message = self.c_record(&record)
            finally:
                if self.is_open and ring_release(&self.consumer, ticket) == RING_WAKE:
                    self.c_ring_bell()
            if message is not None:
                return message
        return self.c_receive()

    cdef ReadLease c_open_read(self, RingRecord* record, uint32_t ticket):
        cdef ReadLease lease = ReadLease.__new__(ReadLease)
        lease.port = self
        lease.memory = self.memory
        lease.payload = record.payload
        lease.length = record.length
        lease.ticket = ticket
        self.counters.messages_received += 1
        self.counters.bytes_received += record.length
        if <Py_ssize_t>record.length >= LONG and self.pacer is not None:
            self.pacer.next_look = 0
        return lease

    cdef int c_end_read(self, ReadLease lease) except -1:
        if lease.memory is None:
            return 0
        lease.memory = None
        if not self.is_open:
            return 0
        if ring_release(&self.consumer, lease.ticket) == RING_WAKE:
            self.c_ring_bell()
        if self.out_of_leases:
            self.out_of_leases = False
            if self.read_callback is not None:
                self.c_call_from_anywhere(self._readable)
        return 0

    cdef int c_call_from_anywhere(self, object callback) except -1:
        """Call soon, from the loop: what is given back last may go in another thread."""
        try:
            self.pacer.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed, so nobody waits
        return 0

    @cython.final
    cdef object c_copy(self, RingRecord* record):
        cdef bint is_long = <Py_ssize_t>record.length >= LONG
        cdef const char* payload = <const char*>record.payload
        cdef PyObject* copy
        if is_long:
            copy = again_room(&self.again, record.length)
        else:
            copy = again_bytes(&self.again, payload, record.length)
        if copy is NULL:  # a `try` would cost each message more than its bytes do
            self.c_unpop(record)
            raise MemoryError
        if is_long:
            ring_copy(PyBytes_Data(copy), payload, record.length)
        message = <object>copy
        Py_DECREF(message)
        return message

    cdef object c_find_ending(self):
        if not self.closed_by_peer and ring_arm(&self.consumer) == RING_END:
            self.closed_by_peer = True
        error = None
        if self.closed_by_peer:
            error = EndOfStream(f"{self.transport.address}: the peer finished")
        return self._ended(self.large is not NULL, error)

    @cython.final
    cdef object c_record(self, RingRecord* record):
        """Take in a record that is not an ordinary message; return a message if it ends one."""
        cdef uint32_t kind = record.tag & 0xFF
        cdef Py_ssize_t limit
        if not self.greeted and kind != RING_HELLO:
            self.c_refuse(
                HandshakeError(f"the peer began with record kind {kind} instead of HELLO")
            )
        if kind == RING_DATA:
            if record.tag >> 16:
                self.c_collect_fds(record.tag >> 16)
            if (record.tag >> 8) & RING_SHARED:
                return self.c_shared_record(record)
            if record.length + self.large_filled > self.max_receive_bytes:
                self.c_refuse(
                    FrameTooLarge(record.length + self.large_filled, self.max_receive_bytes)
                )
            return self.c_gather_part(record)
        if <Py_ssize_t>record.length > CONTROL_LIMIT:
            self.c_refuse(ProtocolError(
                f"a control record of kind {kind} has {record.length:,} bytes, "
                f"over the limit of {CONTROL_LIMIT:,}"
            ))
        if kind == RING_GOODBYE and self.large is not NULL:
            self.c_refuse(ProtocolError("a GOODBYE came between the parts of a message"))
        payload = self.c_copy(record)
        self.c_retire_some()
        try:
            self._control(kind, payload)
        except IPCError as error:
            self.c_refuse(error)
        return None

    cdef object c_shared_record(self, RingRecord* record):
        """Take in a record about lent memory; return the message if it says that one is there."""
        told = self.c_copy(record) if record.length <= CONTROL_LIMIT else b""
        if self.large is not NULL:
            self.c_refuse(ProtocolError("a SHARED record came between the parts of a message"))
        self.c_retire_some()
        self.c_shared_came(told, record.tag >> 16)
        return None if self.incoming is None else self.c_take_incoming()

    cdef object c_gather_part(self, RingRecord* record):
        """Add a part of a message; memory follows what really came, or came last time."""
        cdef Py_ssize_t filled = self.large_filled + record.length
        cdef bint more = (record.tag >> 8) & RING_MORE
        if self.large is NULL:
            try:
                self.large = PyBytes_New(NULL, max(4 * filled, self.last_large) if more else filled)
            except MemoryError:
                self.c_unpop(record)
                raise
        elif filled > PyBytes_Size(self.large):
            self.c_resize_large(max(filled, 2 * PyBytes_Size(self.large)))
        ring_copy(PyBytes_Data(self.large) + self.large_filled, record.payload, record.length)
        self.large_filled = filled
        if self.pacer is not None:
            self.pacer.next_look = 0
        if self.queue is not None:
            self.queue.c_claim(record.tag >> 16)
            if not more:
                self.own_fds = self.queue.c_deliver()
        self.c_retire_some()
        if more:
            return None
        if PyBytes_Size(self.large) != filled:
            self.c_resize_large(filled)
        message = <object>self.large
        self.c_drop_large()
        self.last_large = filled
        self.counters.messages_received += 1
        self.counters.bytes_received += filled
        return message

    cdef int c_resize_large(self, Py_ssize_t size) except -1:
        try:
            _PyBytes_Resize(&self.large, size)
        except MemoryError:  # which took what came so far along
            self.large_filled = 0
            self.c_refuse_for_memory(size)

    cdef int c_drop_large(self) noexcept:
        Py_XDECREF(self.large)
        self.large = NULL
        self.large_filled = 0
        return 0

    cdef object c_corrupted(self, RingFault* fault):
        what = {
            RING_BAD_HEAD: "head position",
            RING_BAD_TAIL: "tail position",
            RING_BAD_RECORD: "record header",
        }.get(fault.reason, "word")
        return RingCorrupted(
            f"{self.transport.address}: the peer wrote an impossible {what}, {fault.value:#x}"
        )

    @cython.final
    cdef inline int c_retire_some(self) except -1:
        """Give back what was taken: all when that was all, or much; else at the end of the turn."""
        cdef uint64_t taken = self.consumer.cursor - self.consumer.retired
        if (
            self.consumer.cursor == self.consumer.tail_seen
            or taken >= RETIRE
            or taken >= self.consumer.ring.capacity // 4
        ):
            return self.c_retire()
        if not self.dirty and self.pacer is not None:
            self.pacer.c_gathered(self)
        return 0

    @cython.final
    cdef int c_retire(self) except -1:
        if ring_retire(&self.consumer) == RING_WAKE:
            self.c_ring_bell()
        return 0

    def try_greet(self):
        """Take records until the peer's HELLO was accepted: True when it was, False to wait."""
        cdef RingRecord record
        cdef RingAnswer answer
        while not self.greeted:
            if self.ending is not None:
                raise self.ending.with_traceback(None)
            if not self.is_open:
                return False
            answer = ring_pop(&self.consumer, &record)
            if answer == RING_RECORD:
                self.c_record(&record)
            elif answer == RING_POISONED:
                self.c_refuse(self.c_corrupted(&self.consumer.fault))
            elif answer == RING_EMPTY and (self.dead or self.closed_by_peer):
                self.c_end(self.c_find_ending())
            else:
                return False
        return True

    def look_ahead(self):
        """Look at all that is left, without taking it, and return the payload of a GOODBYE."""
        cdef RingConsumer left = self.consumer
        cdef RingRecord record
        cdef RingAnswer answer = RING_RECORD
        while self.is_open and answer == RING_RECORD:
            answer = ring_pop(&left, &record)
            if answer == RING_RECORD and record.tag == RING_GOODBYE:
                return PyBytes_FromStringAndSize(
                    <const char*>record.payload, min(<Py_ssize_t>record.length, <Py_ssize_t>CONTROL_LIMIT)
                )
        return None

    # Sending

    @cython.final
    cdef inline int c_check_sending(self) except -1:
        if self.send_failure is not None:
            raise self.send_failure.with_traceback(None)
        if self.write_ended or not self.is_open:
            raise ClosedError("this side ended its sending direction")
        if self.dead:
            self.c_fail_sending(self.c_gone())
            raise self.send_failure
        return 0

    cdef object c_reserve(self, Py_ssize_t size):
        cdef WriteLease lease
        cdef RingAnswer answer
        self.c_check_sending()
        if (self.rest is not None or self.controls) and not self.c_flush():
            return None
        lease = WriteLease.__new__(WriteLease)
        answer = ring_reserve(&self.producer, size, &lease.lease)
        if answer == RING_QUEUED:
            lease.port = self
            lease.memory = self.memory
            lease.end = self.producer.cursor
            lease.is_open = True
            return lease
        if answer == RING_TOO_LARGE:
            return False
        if answer == RING_BUSY:
            self.stall = UNTIL_SLOT_ENDS
            return None
        self.c_no_room(answer)
        return None

    cdef int c_commit(self, object lease, Py_ssize_t size) except -1:
        cdef WriteLease written = <WriteLease>lease
        cdef RingAnswer answer
        try:
            self.c_check_sending()
        except BaseException:
            self.c_cancel(lease)
            raise
        written.is_open = False
        answer = ring_commit(&self.producer, &written.lease, RING_DATA, size)
        if answer == RING_POISONED:
            self.c_no_room(answer)
        if ring_any_lease(&self.producer.leases):
            self.c_note_behind(min(written.end, self.producer.cursor))
        self.c_slot_ended()
        if answer == RING_WAKE:
            self.c_ring_bell()
        else:
            self.counters.bells_saved += 1
        self.counters.messages_sent += 1
        self.counters.bytes_sent += size
        if size >= LONG and self.pacer is not None:
            self.pacer.next_look = 0
        return 0

    cdef int c_cancel(self, object lease) except -1:
        if self.is_open:
            self.c_abort(<WriteLease>lease)
            self.c_slot_ended()
        return 0

    cdef int c_abort(self, WriteLease lease) noexcept:
        lease.is_open = False
        if ring_abort(&self.producer, &lease.lease) == RING_WAKE:
            self.c_ring_bell()
        return 0

    def _slot_dropped(self):
        if self.is_open:
            self.c_slot_ended()

    cdef int c_slot_ended(self) except -1:
        """Let whoever waits for that look again."""
        if self.stall == UNTIL_SLOT_ENDS:
            self.stall = NOT_STALLED
            self.c_call_writer()
        elif self.armed and ring_writable(&self.producer):
            self.c_call_back(self._drain)  # it was the last in the ring: the peer sees no change
        return 0

    @cython.final
    cdef inline void c_note_behind(self, uint64_t end) noexcept:
        if <int64_t>(end - self.behind) > 0:
            self.behind = end

    cdef bint c_settled(self) noexcept:
        if <int64_t>(self.behind - self.producer.published) <= 0:
            return True
        self.stall = UNTIL_SLOT_ENDS
        return False

    cdef int c_send(self, object parts, object fds) except -1:
        if (
            fds is NO_FDS
            and PyBytes_CheckExact(parts)
            and self.c_may_put()
            and self.c_put_short(<PyObject*>parts)
        ):
            self.counters.messages_sent += 1
            self.counters.bytes_sent += PyBytes_GET_SIZE(parts)
            self.c_gather_in_turn()
            return ACCEPTED
        return self.c_send_any(parts, fds)

    @cython.final
    cdef inline bint c_may_put(self) noexcept:
        """Whether a message may just be put behind the others of this turn."""
        return (
            self.send_failure is None
            and not self.write_ended
            and self.is_open
            and not self.dead
            and self.rest is None
            and not self.controls
            and self.pacer is not None
            and self.turn == self.pacer.turn
            and not ring_any_lease(&self.producer.leases)
        )

    @cython.final
    cdef inline bint c_put_short(self, PyObject* message) noexcept:
        """Put a message if it is short and there is room: all else `c_send_any` looks at."""
        cdef Py_ssize_t size = PyBytes_Size(message)
        return (
            size < LONG
            and size <= self.max_send_bytes
            and ring_put(&self.producer, RING_DATA, PyBytes_Data(message), size) == RING_QUEUED
        )

    @cython.final
    cdef int c_send_any(self, object parts, object fds) except -1:
        if fds is not NO_FDS and (fds or isinstance(fds, int)):
            return self.c_send_with_fds(parts, fds)
        if (
            self.send_failure is not None or self.write_ended or not self.is_open or self.dead
        ):
            self.c_check_sending()
        if (self.rest is not None or self.controls) and not self.c_flush():
            return NO_ROOM
        if PyBytes_CheckExact(parts):
            return self.c_send_one(parts, PyBytes_AS_STRING(parts), PyBytes_GET_SIZE(parts))
        return self.c_send_buffers(parts)

    @cython.final
    cdef inline int c_send_one(self, object owner, const char* data, Py_ssize_t size) except -1:
        cdef RingAnswer answer
        if size > self.max_send_bytes:
            raise FrameTooLarge(size, self.max_send_bytes)
        answer = ring_put(&self.producer, RING_DATA, data, size)
        if answer == RING_QUEUED:
            return self.c_accepted(size)
        if answer == RING_TOO_LARGE:
            return self.c_send_large([owner], size)
        return self.c_no_room(answer)

    cdef Py_ssize_t c_send_more(self, list messages, Py_ssize_t begin, Py_ssize_t end) except -1:
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t sent = 0
        cdef PyObject* message
        if not self.c_may_put():
            return 0
        while begin + count < end and sent < GATHER:
            message = PyList_GET_ITEM(messages, begin + count)
            if not PyBytes_CheckExact(<object>message) or not self.c_put_short(message):
                break
            count += 1
            sent += PyBytes_Size(message)
        if count:
            self.counters.messages_sent += count
            self.counters.bytes_sent += sent
            self.c_gather_in_turn()
        return count

    cdef int c_send_with_fds(self, object parts, object fds) except -1:
        """Put a message whose descriptors leave over the socket just before it can be seen."""
        cdef int numbers[MOST_FDS]
        cdef int fd_count = read_numbers(fds, numbers)
        cdef list pieces = []
        cdef Py_ssize_t size = self.c_pieces(parts, pieces)
        self.c_check_sending()
        if not self.c_may_pass_fds():
            return NO_ROOM
        if (self.rest is not None or self.controls) and not self.c_flush():
            return NO_ROOM
        if not self.c_may_pass(fd_count):
            return NO_ROOM
        self.rest_fds = [numbers[i] for i in range(fd_count)]
        try:
            return self.c_send_large(pieces, size)
        except BaseException:
            if self.rest_is_new:
                self.rest = None
            raise
        finally:
            self.rest_fds = None

    cdef int c_pass_fds(self, object fds, uint64_t before) except -1:
        """Send the descriptors of a message whose place in the ring is claimed: 1 if they left.

        It was claimed at ``before``; a failure counts what the peer did not take, without it.
        """
        cdef int numbers[MOST_FDS]
        cdef int fd_count = read_numbers(fds, numbers)
        cdef iovec one
        cdef Py_ssize_t n
        one.iov_base = <void*>b"!"
        one.iov_len = 1
        n = send_with_fds(self.transport.socket_fd, &one, 1, numbers, fd_count)
        if n > 0:
            self.backoff_s = 0
            if ring_any_lease(&self.producer.leases):
                self.fds_behind += fd_count
            return 1
        if n == -EAGAIN:
            self.stall = UNTIL_SOCKET
        else:
            self.producer.cursor = before
            if self.rest_is_new:
                self.rest = None
            self.c_fds_failed(-n)
        return 0

    cdef bint c_may_pass(self, int fd_count) noexcept:
        """Whether the peer takes so many more descriptors before it sees their messages."""
        if <int64_t>(self.behind - self.producer.published) <= 0:
            self.fds_behind = 0
        if self.fds_behind + fd_count <= MOST_FDS:
            return True
        self.stall = UNTIL_SLOT_ENDS
        return False

    cdef object c_write_error(self, int number):
        self.dead = True
        return self.c_gone()

    cdef int c_send_shared(self, bytes told, object fds) except -1:
        cdef uint32_t tag = ring_tag(RING_DATA, RING_SHARED, len(fds))
        cdef uint64_t before
        cdef unsigned char* payload
        cdef RingAnswer answer
        self.c_check_sending()
        if (self.rest is not None or self.controls) and not self.c_flush():
            return NO_ROOM
        if not self.c_may_pass(len(fds)):
            return NO_ROOM
        before = self.producer.cursor
        answer = ring_claim(&self.producer, tag, len(told), &payload)
        if answer != RING_QUEUED:
            return self.c_no_room(answer)
        memcpy(payload, PyBytes_AS_STRING(told), len(told))
        try:
            if fds and not self.c_pass_fds(fds, before):
                self.producer.cursor = before
                return NO_ROOM
        except BaseException:
            self.producer.cursor = before  # nobody saw it
            raise
        self.c_publish()
        if ring_any_lease(&self.producer.leases):
            self.c_note_behind(self.producer.cursor)
        return ACCEPTED

    cdef int c_send_large(self, list parts, Py_ssize_t size) except -1:
        """Put a message in fragments; hold on to what does not fit yet."""
        cdef uint64_t before = self.producer.cursor
        self.rest = [hold(part) for part in parts]
        self.rest_offset = 0
        self.rest_bytes = size
        self.rest_is_new = True
        if not self.c_push_rest():
            if self.producer.cursor == before:
                # Nothing of it was put: it was not accepted, and the caller waits.
                self.rest = None
                if not self.stall:
                    self.c_block()
                return NO_ROOM
            self.c_block()
        return self.c_accepted(size)

    @cython.final
    cdef inline int c_accepted(self, Py_ssize_t size) except -1:
        """A message was put: show it now, or later."""
        self.counters.messages_sent += 1
        self.counters.bytes_sent += size
        if ring_any_lease(&self.producer.leases):
            self.c_note_behind(self.producer.cursor)
        if self.pacer is not None and self.turn == self.pacer.turn:
            self.c_gather_in_turn()
            return ACCEPTED
        if self.pacer is not None:
            self.pacer.c_begin_sending(self)
        self.c_publish()
        return ACCEPTED

    @cython.final
    cdef inline int c_gather_in_turn(self) except -1:
        """Show what was put at the end of the turn, or now if that is much."""
        if not self.dirty:
            self.pacer.c_gathered(self)
        if self.producer.cursor - self.producer.published >= GATHER:
            self.pacer.next_look = 0
            self.c_publish()
        return 0

    cdef int c_no_room(self, RingAnswer answer) except -1:
        if answer == RING_POISONED:
            error = self.c_corrupted(&self.producer.fault)
            self._refused(error)
            self.c_fail_sending(error)
            raise error
        self.stall = NOT_STALLED
        return NO_ROOM

    @cython.final
    cdef int c_publish(self) except -1:
        cdef uint64_t before = self.producer.published
        if ring_publish(&self.producer) == RING_WAKE:
            self.c_ring_bell()
        elif self.producer.published != before:
            self.counters.bells_saved += 1
        return 0

    cdef int c_push_rest(self) except -1:
        """Put what is left of a message in fragments: 1 when all of it is, 0 to go on later."""
        cdef Py_ssize_t most = min(<Py_ssize_t>FRAGMENT, <Py_ssize_t>ring_max_record(&self.producer.ring))
        cdef Py_ssize_t size
        cdef uint32_t flags
        cdef int fd_count
        cdef uint64_t before
        cdef unsigned char* payload
        cdef RingAnswer answer
        while self.rest_bytes or self.rest_is_new:
            size = min(most, self.rest_bytes)
            flags = RING_MORE if size < self.rest_bytes else 0
            before = self.producer.cursor
            fd_count = 0 if self.rest_fds is None or not self.rest_is_new else len(self.rest_fds)
            answer = ring_claim(
                &self.producer, ring_tag(RING_DATA, flags, fd_count), size, &payload
            )
            if answer != RING_QUEUED:
                self.c_publish()
                self.c_no_room(answer)
                return 0
            try:
                if fd_count and not self.c_pass_fds(self.rest_fds, before):
                    self.producer.cursor = before
                    return 0
                self.c_fill(payload, size)
            except BaseException:
                self.producer.cursor = before  # nobody saw it
                raise
            if self.rest_is_new:
                self.rest_is_new = False
                self.c_note_large(self.producer.cursor - RING_HEADER - ((size + 7) & ~7))
            self.c_publish()
            if self.rest_bytes and self.c_must_stop():
                return 0
        self.larges[len(self.larges) - 1][1] = self.producer.cursor  # wraparound is off
        self.rest = None
        return 1

    cdef int c_note_large(self, uint64_t begin) except -1:
        """Remember where a message in fragments begins, until its end was taken."""
        cdef uint64_t end
        if self.larges is None:
            self.larges = []
        while self.larges:
            end = self.larges[0][1]
            if self.producer.head_seen - end >= <uint64_t>1 << 63:  # not taken yet
                break
            self.larges.pop(0)
        self.larges.append([begin, begin - 1])
        return 0

    cdef bint c_is_inside_large(self, uint64_t position) except -1:
        """Whether a position lies between the fragments of one message."""
        cdef uint64_t begin, end
        for begin, end in self.larges or ():
            if 0 < position - begin <= self.producer.cursor - begin and position - begin < end - begin:
                return True
        return False

    cdef int c_fill(self, unsigned char* payload, Py_ssize_t size) except -1:
        """Copy the next bytes of the rest."""
        cdef Py_buffer view
        cdef Py_ssize_t taken
        while size:
            get_buffer(self.rest[0], &view)
            taken = min(size, view.len - self.rest_offset)
            ring_copy(payload, <char*>view.buf + self.rest_offset, taken)
            payload += taken
            size -= taken
            self.rest_bytes -= taken
            self.rest_offset += taken
            if self.rest_offset == view.len:
                self.rest.pop(0)
                self.rest_offset = 0
            PyBuffer_Release(&view)
        return 0

    cdef int c_flush(self) except -1:
        if not self.is_open:
            return 1
        self.c_retire()
        if self.send_failure is not None:
            raise self.send_failure.with_traceback(None)
        if self.dead:
            self.c_fail_sending(self.c_gone())
            raise self.send_failure
        if self.write_ended:
            ring_drop_leases(&self.producer)  # they would hold back what was accepted
            self.c_publish()
        if (self.rest is not None and not self.c_push_rest()) or not self.c_push_controls():
            return self.c_block()
        self.c_publish()
        if self.write_ended and not self.said_closed:
            self.said_closed = True
            if ring_close(&self.producer) == RING_WAKE:
                self.c_ring_bell()
        return 1

    cdef int c_push_controls(self) except -1:
        cdef RingAnswer answer
        while self.controls:
            tag, payload = self.controls[0]
            answer = ring_put(&self.producer, tag, PyBytes_AS_STRING(payload), len(payload))
            if answer != RING_QUEUED:
                self.c_no_room(answer)
                return 0
            self.controls.pop(0)
        return 1

    cdef int c_block(self) except -1:
        """Go on when there is room, or when the loop has turned. Always answers 0."""
        cdef RingAnswer answer = RING_WAKE
        self.stall = NOT_STALLED
        if not self.is_open or (self.armed and self.armed_for <= self.producer.needed):
            return 0
        if self.pacer is None and not self.started:
            return 0  # not in a loop: who waits for room there arms it
        self.c_start()
        while answer == RING_WAKE:
            answer = ring_wait_space(&self.producer)
            if answer == RING_WAKE:
                self.c_ring_bell()
        self.armed = True
        self.armed_for = self.producer.needed  # whoever wanted more may have given up
        if answer != RING_SLEEP or self.dead:
            self.c_call_back(self._drain)
        return 0

    def _drain(self):
        """There is room again."""
        if not self.armed:
            return
        self.armed = False
        if self.send_failure is None:
            try:
                self.c_flush()
            except IPCError:
                pass  # each send raises it
        # Also where something is left: who waits may poll for more room, and need not sleep again.
        callback, self.write_callback = self.write_callback, None
        if callback is not None:
            callback()

    def queue_control(self, int kind, bytes payload):
        """Put a control record behind what was accepted; it is shown with the next message."""
        cdef uint32_t tag = ring_tag(kind, 0, 0)
        if self.send_failure is not None or self.write_ended or not self.is_open:
            return
        if len(payload) > CONTROL_LIMIT:
            raise ValueError(f"a control record holds {CONTROL_LIMIT} bytes, not {len(payload)}")
        if self.controls is not None and len(self.controls) >= MOST_CONTROLS:
            raise ProtocolError("the peer does not read: there is no room even for control records")
        if self.controls is None:
            self.controls = []
        self.controls.append((tag, payload))
        if self.rest is None:
            self.c_push_controls()

    cdef int c_drop_unsent(self) except -1:
        self.rest = None
        self.controls = None
        return 0

    cdef object c_gone(self):
        ring_drop_leases(&self.producer)
        ring_publish(&self.producer)  # what this turn gathered was accepted, so it counts
        return PeerCrashed(
            f"{self.transport.address}: the peer is gone",
            unconsumed=self.unconsumed_count(),
        )

    # Tasks

    cdef bint c_begin(self, uint64_t task) noexcept:
        return ring_begin(&self.consumer, task)

    def recall(self, uint64_t first, uint64_t end):
        return ring_recall(&self.producer, first, end) if self.is_open else end

    # What a dead peer left

    def unconsumed_count(self):
        """How many messages the peer had not taken, whole ones and one that it took in part."""
        return self.c_unconsumed(None)

    def unconsumed(self):
        """The messages that the peer had not taken, as bytes, while the port is open.

        Without one that is not in the ring as a whole.
        """
        messages = []
        self.c_unconsumed(messages)
        return messages

    cdef object c_unconsumed(self, list messages):
        cdef RingConsumer left
        cdef RingRecord record
        cdef RingAnswer answer = RING_RECORD
        cdef Py_ssize_t count = 0
        cdef bint more = False
        cdef bint torn
        if not self.is_open or not ring_unconsumed(&self.producer, &left):
            return 0
        torn = self.c_is_inside_large(self.producer.head_seen)
        parts = []
        lent = {} if self.segments is None else self.segments.unreturned()
        while True:
            answer = ring_pop(&left, &record)
            if answer == RING_AGAIN:
                continue
            if answer != RING_RECORD:
                break
            if record.tag & 0xFF != RING_DATA:
                continue
            if (record.tag >> 8) & RING_SHARED:
                message = lent.pop(PyBytes_FromStringAndSize(<const char*>record.payload, record.length), None)
                if message is not None:
                    count += 1
                    if messages is not None:
                        messages.append(bytes(message))
                continue
            if messages is not None:
                parts.append(PyBytes_FromStringAndSize(<const char*>record.payload, record.length))
            more = (record.tag >> 8) & RING_MORE
            if not more:
                count += 1
                if messages is not None:
                    if not torn:
                        messages.append(b"".join(parts))
                    parts = []
                torn = False
        if more or self.rest is not None:  # the rest of it found no room yet
            count += 1
        if messages is not None:  # what was taken and is still looked at came before
            messages[:0] = [bytes(message) for message in lent.values()]
        return count + len(lent)

    # Bells, and the end of the peer

    @cython.final
    cdef int c_ring_bell(self) noexcept:
        cdef uint64_t one = 1
        self.counters.write_calls += 1
        self.counters.bells_rung += 1
        while True:
            # EAGAIN says that it has been rung and not heard yet; whatever else it is, the peer
            # is gone, which the socket tells.
            if self.bells_are_sockets:
                if send(self.peer_bell, b"!", 1, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0:
                    return 0
            elif c_write(self.peer_bell, &one, sizeof(one)) >= 0:
                return 0
            if errno != EINTR:
                return 0

    def _rung(self):
        """The bell can be heard: silence it first, then look."""
        cdef uint64_t count
        cdef iovec into
        if not self.is_open:
            return
        self.counters.read_calls += 1
        into.iov_base = &count
        into.iov_len = sizeof(count)
        # Never waits, even where the peer has cleared O_NONBLOCK of what both share.
        preadv2(self.own_bell, &into, 1, -1, RWF_NOWAIT)
        self.c_look()

    cdef int c_look(self) except -1:
        """Call those who sleep and need not."""
        if self.armed:
            if self.dead or ring_writable(&self.producer):
                self._drain()
            else:
                # The bell may have been for room that somebody used before it was heard, and
                # rings once for each time that it is asked for.
                self.armed = False
                self.c_block()
        if self.is_open and self.read_callback is not None and self.c_arm() != RING_SLEEP:
            self._readable()
        return 0

    def look_for_lost_wakeup(self):
        """Count and wake whoever could go on, and slept until now and the time before.

        Once is no proof: the bell follows what it is rung for.
        """
        cdef uint64_t place = self.consumer.cursor ^ self.producer.cursor
        cdef bint late = self.is_open and (
            (
                self.read_callback is not None
                and not self.out_of_leases
                and ring_readable(&self.consumer)
            )
            or (self.armed and ring_writable(&self.producer))
        )
        if late and self.was_late and self.late_at == place:
            self.counters.lost_wakeups += 1
            self.c_look()
            late = False
        self.was_late = late
        self.late_at = place

    def _lifeline(self):
        """The socket can be read: a bell, or the end of the peer."""
        cdef Py_ssize_t n
        if not self.is_open:
            return
        if self.queue is not None and self.queue.arrivals.count > MOST_FDS:
            # As many as one message has, and more: they stay where they are until it was received.
            self.deaf = True
            self.transport.pause_lifeline(self)
            return
        n = self.c_hear()
        if n > 0:
            if self.bells_are_sockets:
                self.counters.read_calls += 1
                self.c_look()
            return  # other peers have nothing to say here, and are not heard
        if n != -EAGAIN:
            self.peer_died()

    def look_while_deaf(self):
        """Find out by looking what the socket cannot tell while nothing is read from it."""
        if not self.is_open:
            return
        if self.transport.is_cut():
            self.peer_died()
        else:
            self.c_look()

    def peer_died(self):
        """The peer is gone: what it published is still received."""
        if not self.is_open:
            return
        self.dead = True
        self.transport.stop_lifeline()
        if self.stall != NOT_STALLED:
            self._stall_ended()
        self.c_look()

    cdef Py_ssize_t c_hear(self) except -2:
        """Take bytes and descriptors from the socket: how many bytes, or minus the error."""
        cdef char heard[4096]
        cdef Py_ssize_t n = -1
        if self.queue is not None:
            n = receive_with_fds(
                &self.queue.arrivals, self.transport.socket_fd, heard, sizeof(heard), 0
            )
            return n if n >= 0 or n == -EAGAIN else 0
        while True:
            n = recv(self.transport.socket_fd, heard, sizeof(heard), MSG_DONTWAIT)
            if n >= 0:
                return n
            if errno != EINTR:
                return -EAGAIN if errno == EAGAIN else 0

    cdef int c_collect_fds(self, int count) except -1:
        """Have the descriptors of a record, which were sent before it could be seen."""
        # Descriptors that come together end a read, and no socket holds that many bells before them.
        cdef int reads = 2 * count + MOST_READS
        cdef bint rung = False
        while self.queue is not None and self.queue.c_unclaimed() < count and reads:
            if self.c_hear() <= 0:
                break
            rung = self.bells_are_sockets
            reads -= 1
        if rung:
            self.c_call_back(self._rung_meanwhile)
        self.c_check_fds(count)
        if self.deaf and self.queue.arrivals.count <= MOST_FDS:
            self.deaf = False
            if not self.dead:
                self.transport.resume_lifeline(self)
        return 0

    def _rung_meanwhile(self):
        if self.is_open:
            self.c_look()

    cdef int c_arm(self) except -1:
        """`ring_arm`; RING_SLEEP means that there is nothing but to wait."""
        cdef RingAnswer answer = RING_WAKE
        while answer == RING_WAKE:
            answer = ring_arm(&self.consumer)
            if answer == RING_WAKE:
                self.c_ring_bell()
        if answer == RING_END:
            self.closed_by_peer = True
        return RING_RETRY if self.dead or self.ending is not None else answer

    # Readiness

    cdef int c_start(self) except -1:
        if not self.started:
            self.transport.start(self)
            self.started = True
        return 0

    def started_in(self, loop):
        """Watch bell and socket in the loop that this port belongs to. Idempotent."""
        self.c_start()

    def on_readable(self, callback):
        if callback is None and self.stall == UNTIL_HELLO:
            callback = self.hear_hello  # for those who want to send
        self.read_callback = callback
        if callback is None:
            return
        if self.is_open:
            self.c_start()
            if self.c_arm() == RING_SLEEP or self.out_of_leases:
                return
        self.c_call_back(self._readable)

    def on_writable(self, callback):
        self.write_callback = callback
        if self.stall:
            self.c_wait_out(callback)
            return
        if callback is None:
            return
        if self.is_open and self.send_failure is None:
            self.c_start()
            self.c_block()
        else:
            self.write_callback = None
            self.c_call_back(callback)

    cdef int c_call_soon(self, object callback) except -1:
        self.transport.call_soon(callback)
        return 0

    # Polling

    cdef int c_poll_fd(self, bint for_room) noexcept:
        if self.deaf and self.bells_are_sockets:
            return -1  # what lies in it was heard
        if for_room:
            return -1 if self.stall else self.own_bell
        return -1 if self.out_of_leases else self.own_bell

    cdef int c_begin_poll(self, bint for_room) except -1:
        if self.stall if for_room else self.out_of_leases:
            return 0
        self.patience = PATIENCE
        if self.counters.bytes_received != self.received_before:
            self.answers = self.counters.bytes_sent != self.sent_before
            self.sent_before = self.counters.bytes_sent
            self.received_before = self.counters.bytes_received
        return self.is_open and not self.dead and self.ending is None

    cdef bint c_poll_look(self, bint for_room) noexcept nogil:
        cdef uint64_t there
        if not self.is_open:  # a sleeper may be polled between its end and its waking
            return False
        if for_room:
            return ring_writable(&self.producer)
        there = ring_backlog(&self.consumer)
        if there == 0:
            return False
        # Who only receives does not follow so closely: lines of memory that the producer has just
        # written are slow to get, and a batch is cheaper than its messages one by one.
        if self.answers or there >= GATHER or self.patience == 0:
            return True
        self.patience -= 1
        return False

    # The end

    def close(self):
        """Release everything at once. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self.read_callback = None
        self.transport.close()
        self.memory = None
        self.c_drop_large()
        self.c_close_fds()
        self.c_close_segments()
        self.rest = None
        self.controls = None
        self.write_ended = True
        self.c_call_writer()

    def abandon(self):
        """Forget the memory, which a forked child does not have."""
        self.c_close_fds()
        self.is_open = False
        self.memory = None
