# cython: language_level=3
from libc.stdint cimport int64_t, uint64_t

from aioipc.native._statistics cimport Counters, Row

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int, timespec*)


cdef inline int64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


# Answers of MessagePort.c_send.
cdef enum:
    NO_ROOM = 0
    ACCEPTED = 1

cdef object NO_FDS               # what a message without descriptors is sent with

cdef enum Polling:
    ADAPTIVE = 0
    BLOCK = 1
    BUSY = 2

# Answers of Pacer.c_wait.
cdef enum:
    LOOK = 0
    TURN = 1
    SLEEP = 2


# How a wait stands, for a peer or for room. One begins as zeros.
cdef struct Wait:
    int turns                    # of the loop, before c_wait is asked again
    bint has_turned_first        # the loop, before the poll
    bint was_cut                 # the poll, so that the loop turns,
    int64_t unpolled_ns          # and so much of it was left
    bint has_missed              # the poll
    uint64_t sends_before        # the port's, when the loop was let turn last
    int64_t slept_ns             # when who waits fell asleep


cdef class PollBudget:
    cdef readonly bint enabled
    cdef int64_t budget_ns
    cdef int short_waits
    cdef int misses
    cdef int exponent
    cdef int skip
    cdef int excuses

    cdef int64_t c_next_ns(self) noexcept
    cdef void c_hit(self) noexcept
    cdef void c_miss(self) noexcept
    cdef void c_blocked(self, int64_t ns) noexcept
    cdef bint c_is_due(self) noexcept
    cdef void c_excuse(self) noexcept


cdef class TurnsFirst:
    cdef readonly int turns
    cdef int needless

    cdef void c_early(self) noexcept
    cdef void c_needless(self) noexcept


cdef class Borrowed:
    """A message that is read where it lies, until `c_end` and until no view of it is left."""
    cdef const void* payload
    cdef Py_ssize_t length
    cdef Py_ssize_t views
    cdef bint ended

    cdef bint c_end(self) except -1
    cdef int c_give_back(self) except -1


cdef class MessagePort:
    cdef Counters* counters      # `own`, or where others can read them
    cdef Counters own
    cdef Row row                 # where others can read them
    cdef Pacer pacer
    cdef uint64_t turn           # the pacer's turn in which this port last wrote
    cdef uint64_t sends          # in how many turns it did
    cdef TurnsFirst turns_first
    cdef bint dirty              # gathered messages wait for the end of the turn
    cdef bint in_memory          # looking is one load, and changes nothing
    cdef bint may_lend           # `c_receive` may answer with something `c_borrow` would
    cdef bint called_by_loop     # callbacks come from the loop, never from inside a task
    cdef bint has_stopped        # with more to do, because the turn is over
    cdef int own_fds             # how many descriptors came with the last message
    cdef list rest               # what an accepted message still reads from the caller's memory

    cdef object c_receive(self)
    cdef Py_ssize_t c_receive_more(self, list messages, Py_ssize_t most) except -1
    cdef int c_send(self, object parts, object fds) except -1
    cdef Py_ssize_t c_send_more(self, list messages, Py_ssize_t begin, Py_ssize_t end) except -1
    cdef int c_flush(self) except -1
    cdef bint c_settled(self) noexcept
    cdef bint c_must_stop(self) noexcept
    cdef int c_own_rest(self) except -1
    cdef int c_begin_batch(self) except -1
    cdef bint c_takes_fds(self) except -1
    cdef int c_check_size(self, Py_ssize_t size) except -1
    cdef object c_reserve(self, Py_ssize_t size)
    cdef int c_commit(self, object lease, Py_ssize_t size) except -1
    cdef int c_cancel(self, object lease) except -1
    cdef object c_lend(self, Py_ssize_t size)
    cdef int c_send_lent(self, object loan, Py_ssize_t size) except -1
    cdef object c_borrow(self)
    cdef int c_poll_fd(self, bint for_room) noexcept
    cdef int c_begin_poll(self, bint for_room) except -1
    cdef bint c_poll_look(self, bint for_room) noexcept nogil
    cdef bint c_begin(self, uint64_t task) noexcept


cdef class Pacer:
    cdef readonly object loop
    cdef readonly PollBudget budget
    cdef object call_soon
    cdef object end_turn_method
    cdef uint64_t turn
    cdef bint end_scheduled
    cdef bint inside_callback    # a readiness callback runs: its end ends the turn
    cdef bint crowded            # other callbacks took long in the last turn
    cdef list dirty
    cdef set waiting             # ports whose receiver is asleep in this loop
    cdef int ops                 # operations since the loop turned
    cdef int next_look           # at how many of them to look at the clock; 0 after long work
    cdef int64_t resumed_ns      # since when channels work without a turn; 0 before they begin
    cdef int64_t yielded_ns

    cdef bint c_must_yield(self) noexcept
    cdef bint c_overdue(self) noexcept
    cdef bint c_tired(self, bint regular) noexcept
    cdef int64_t c_left_ns(self) noexcept
    cdef int c_turns(self) noexcept
    cdef bint c_was_busy(self) noexcept
    cdef void c_yielding(self) noexcept
    cdef void c_resume(self) noexcept
    cdef int c_begin_sending(self, MessagePort port) except -1
    cdef int c_wrote(self) except -1
    cdef int c_gathered(self, MessagePort port) except -1
    cdef int c_end_turn(self) except -1
    cdef int c_turned(self) except -1
    cdef bint c_may_poll(self) except -1
    cdef int c_wait(self, Wait* wait, MessagePort port, int polling, bint for_room) except -1
    cdef void c_has_turned(self, Wait* wait, MessagePort port) noexcept
    cdef void c_awake(self, Wait* wait, MessagePort port) noexcept
    cdef int c_poll(self, MessagePort port, int64_t budget_ns, bint for_room) except -1


# Inline: each operation asks.
cdef inline bint must_yield(Pacer pacer) noexcept:
    """Whether the operation that begins has to let the loop turn first."""
    pacer.ops += 1
    return pacer.ops >= pacer.next_look and pacer.c_must_yield()
