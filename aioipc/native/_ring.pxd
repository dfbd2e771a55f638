# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from aioipc.native._memory cimport Mapping
from aioipc.native._frames cimport FramePort
from aioipc.native._pacer cimport Borrowed

cdef extern from "ring.h" nogil:
    ctypedef enum RingAnswer:
        RING_QUEUED
        RING_RETIRED
        RING_WAKE
        RING_RECORD
        RING_EMPTY
        RING_AGAIN
        RING_FULL
        RING_BUSY
        RING_TOO_LARGE
        RING_SLEEP
        RING_RETRY
        RING_END
        RING_POISONED
    enum:
        RING_DATA
        RING_PAD
        RING_HELLO
        RING_GOODBYE
        RING_PING
        RING_PONG
        RING_MORE
        RING_SHARED
        RING_HEADER
        RING_MAX_LEASES
        RING_DATA_OFFSET
        RING_SOUND
        RING_BAD_HEAD
        RING_BAD_TAIL
        RING_BAD_RECORD
    ctypedef struct RingShared:
        pass
    ctypedef struct Ring:
        RingShared* shared
        uint64_t capacity
    ctypedef struct RingFault:
        int reason
        uint64_t value
    ctypedef struct RingLeases:
        pass
    ctypedef struct RingProducer:
        Ring ring
        uint64_t cursor
        uint64_t published
        uint64_t head_seen
        uint64_t needed
        RingFault fault
        RingLeases leases
    ctypedef struct RingConsumer:
        Ring ring
        uint64_t cursor
        uint64_t retired
        uint64_t tail_seen
        RingFault fault
        RingLeases leases
    ctypedef struct RingRecord:
        const unsigned char* payload
        uint32_t length
        uint32_t tag
    ctypedef struct RingLease:
        unsigned char* payload
        size_t length
        uint32_t ticket
    void ring_copy(void*, const void*, size_t)
    uint32_t ring_tag(uint8_t, uint8_t, uint16_t)
    void ring_allow(RingConsumer*, uint32_t, uint8_t, uint16_t)
    size_t ring_memory_bytes(uint64_t)
    uint64_t ring_max_record(const Ring*)
    uint64_t ring_span(uint64_t)
    bint ring_attach_producer(RingProducer*, void*, uint64_t, uint64_t, uint64_t)
    bint ring_attach_consumer(RingConsumer*, void*, uint64_t, uint64_t)
    RingAnswer ring_claim(RingProducer*, uint32_t, size_t, unsigned char**)
    RingAnswer ring_put(RingProducer*, uint32_t, const void*, size_t)
    RingAnswer ring_publish(RingProducer*)
    RingAnswer ring_reserve(RingProducer*, size_t, RingLease*)
    RingAnswer ring_commit(RingProducer*, const RingLease*, uint32_t, size_t)
    RingAnswer ring_abort(RingProducer*, const RingLease*)
    void ring_drop_leases(RingProducer*)
    bint ring_writable(const RingProducer*)
    RingAnswer ring_wait_space(RingProducer*)
    RingAnswer ring_close(RingProducer*)
    uint64_t ring_recall(RingProducer*, uint64_t, uint64_t)
    bint ring_begin(RingConsumer*, uint64_t)
    RingAnswer ring_pop(RingConsumer*, RingRecord*)
    RingAnswer ring_retire(RingConsumer*)
    bint ring_leases_are_out(const RingLeases*)
    bint ring_any_lease(const RingLeases*)
    uint32_t ring_open_lease(RingLeases*, uint64_t, uint64_t)
    RingAnswer ring_borrow(RingConsumer*, RingRecord*, uint32_t*)
    RingAnswer ring_release(RingConsumer*, uint32_t)
    bint ring_readable(const RingConsumer*)
    uint64_t ring_backlog(const RingConsumer*)
    RingAnswer ring_arm(RingConsumer*)
    bint ring_unconsumed(RingProducer*, RingConsumer*)


cdef extern from "again.h":
    ctypedef struct AgainBytes:
        pass
    PyObject* again_room(AgainBytes*, Py_ssize_t)
    PyObject* again_bytes(AgainBytes*, const char*, Py_ssize_t)
    void again_clear(AgainBytes*)


cdef enum:
    FRAGMENT = 32768             # of a message that is too long for one record
    GATHER = 32768               # shown at the latest, even within a turn
    MOST_RECORDS = 64            # without a message, before the clock is looked at


cdef class WriteLease:
    """Room in the ring for a message that is being written."""
    cdef RingPort port
    cdef Mapping memory
    cdef RingLease lease
    cdef uint64_t end            # where the record behind it begins
    cdef bint is_open


cdef class ReadLease(Borrowed):
    """A message that is read in the ring."""
    cdef RingPort port
    cdef Mapping memory
    cdef uint32_t ticket


cdef class RingPort(FramePort):
    cdef readonly object transport
    cdef Mapping memory
    cdef bint is_open
    cdef RingProducer producer
    cdef RingConsumer consumer
    cdef int own_bell            # what wakes this side: an eventfd, or the socket
    cdef int peer_bell
    cdef bint bells_are_sockets
    cdef bint started            # the loop watches bell and socket
    cdef bint dead               # the peer is gone: what it published is still received
    cdef bint closed_by_peer     # it said that there will be no more
    cdef bint was_late           # the tripwire found somebody asleep who could go on,
    cdef uint64_t late_at        # and where the rings were
    # Receiving
    cdef AgainBytes again        # messages that were copied out of the ring
    cdef PyObject* large         # the parts of a message that came so far
    cdef Py_ssize_t large_filled
    cdef Py_ssize_t last_large   # how long the last such message was
    cdef int patience            # how often a poll may still pass over what is there
    cdef bint answers            # something was sent since the last receive: an answer is awaited
    cdef uint64_t sent_before
    cdef uint64_t received_before
    cdef bint out_of_leases      # a borrow waits until one is given back
    # Sending
    cdef uint64_t armed_for      # so many bytes of room the bell was asked for
    cdef Py_ssize_t rest_bytes
    cdef bint rest_is_new        # nothing of it was put yet
    cdef list larges             # [begin, end] of messages in fragments, where they lie
    cdef list controls           # (tag, payload) that did not fit yet
    cdef bint said_closed
    cdef uint64_t behind         # end of the last message that was put behind an open slot
    cdef int fds_behind          # descriptors of such messages, which the peer takes first
    cdef list rest_fds           # what leaves with the first part of the message
    cdef bint deaf               # so many descriptors wait that no more are taken
    cdef bint in_place           # a message can be read where it lies: the peer is trusted

    cdef int c_check_sending(self) except -1
    cdef int c_end_read(self, ReadLease lease) except -1
    cdef int c_call_from_anywhere(self, object callback) except -1
    cdef int c_abort(self, WriteLease lease) noexcept
    cdef int c_ring_bell(self) noexcept
    cdef int c_publish(self) except -1
    cdef int c_retire(self) except -1
    cdef int c_retire_some(self) except -1
    cdef bint c_may_pop(self) noexcept
    cdef bint c_pop_short(self, RingRecord* record) noexcept
    cdef void c_unpop(self, const RingRecord* record) noexcept
    cdef object c_receive_any(self)
    cdef object c_copy(self, RingRecord* record)
    cdef ReadLease c_open_read(self, RingRecord* record, uint32_t ticket)
    cdef object c_find_ending(self)
    cdef object c_borrow_here(self)
    cdef object c_record(self, RingRecord* record)
    cdef object c_shared_record(self, RingRecord* record)
    cdef object c_gather_part(self, RingRecord* record)
    cdef object c_corrupted(self, RingFault* fault)
    cdef int c_resize_large(self, Py_ssize_t size) except -1
    cdef int c_drop_large(self) noexcept
    cdef bint c_may_put(self) noexcept
    cdef bint c_put_short(self, PyObject* message) noexcept
    cdef int c_send_any(self, object parts, object fds) except -1
    cdef int c_accepted(self, Py_ssize_t size) except -1
    cdef int c_slot_ended(self) except -1
    cdef void c_note_behind(self, uint64_t end) noexcept
    cdef int c_gather_in_turn(self) except -1
    cdef int c_push_rest(self) except -1
    cdef int c_fill(self, unsigned char* payload, Py_ssize_t size) except -1
    cdef int c_push_controls(self) except -1
    cdef int c_send_with_fds(self, object parts, object fds) except -1
    cdef int c_pass_fds(self, object fds, uint64_t before) except -1
    cdef bint c_may_pass(self, int fd_count) noexcept
    cdef int c_allow_fds(self, int most) except -1
    cdef int c_collect_fds(self, int count) except -1
    cdef Py_ssize_t c_hear(self) except -2
    cdef int c_note_large(self, uint64_t begin) except -1
    cdef bint c_is_inside_large(self, uint64_t position) except -1
    cdef int c_block(self) except -1
    cdef int c_no_room(self, RingAnswer answer) except -1
    cdef int c_start(self) except -1
    cdef int c_look(self) except -1
    cdef int c_arm(self) except -1
    cdef object c_gone(self)
    cdef object c_unconsumed(self, list messages)
