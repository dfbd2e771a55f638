# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from aioipc.native._pacer cimport MessagePort, Pacer
from aioipc.native._scan cimport scanner

cdef extern from *:
    Py_ssize_t Py_REFCNT(PyObject*)

# What c_step answers: PySendResult of the C API, and one word of our own.
cdef enum:
    RETURN = 0
    NEXT = 1
    RETRY = 2

cdef enum State:
    DONE = 0                     # and never begun: one that no channel made
    NEW = 1
    RUNNING = 2
    YIELDED = 3
    SLEEPING = 4


cdef object NOTHING              # there is no object, not even None


cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef object loop
    cdef object callback
    cdef object context
    cdef object cancelled_future
    cdef bint is_done

    cdef int c_wake(self, bint now) except -1


cdef class Shortcut:
    cdef object c_read(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    )


cdef class ChannelCore:
    cdef readonly MessagePort port
    cdef readonly object codec
    cdef object encode
    cdef object decode
    cdef scanner scan
    cdef Shortcut shortcut       # for some messages, before the codec; or None
    cdef bint shares             # the codec passes memory by descriptor
    cdef object attach           # what the codec has to say about descriptors that came
    cdef object sharing          # while it encodes: the list that takes them
    cdef int max_depth
    cdef long long max_elements
    cdef int polling
    cdef bint has_waited         # for an object, at least once
    cdef Pacer pacer
    cdef unsigned long thread
    cdef unsigned long generation
    cdef object closed_with      # what every operation raises once this side closed
    cdef object deferred         # an error met in the middle of a batch
    cdef Receive spare_receive   # operations that are done, to give out again
    cdef ReceiveNext spare_next
    cdef Send spare_send
    cdef Operation receiver      # the one operation that receives
    cdef Py_ssize_t queued       # how many they are
    cdef object senders          # deque: operations that wait for room, oldest first

    cdef int c_enter(self) except -1
    cdef int c_enter_slow(self) except -1
    cdef Receive c_receiving(self)
    cdef object c_take(self)
    cdef object c_take_borrowed(self)
    cdef object c_decode(self, object message)
    cdef object c_decode_view(self, object message)
    cdef object c_decode_memory(self, object message, const char* data, Py_ssize_t size)
    cdef object c_encode(self, object obj)
    cdef object c_encoded(self, object parts)
    cdef object c_encode_sharing(self, object obj, list fds)
    cdef int c_send_nowait(self, object obj, object fds) except -1
    cdef int c_send_encoded(self, object parts, object fds) except -1
    cdef int c_send_sharing(self, object obj, object fds) except -1
    cdef int c_speak(self) except -1
    cdef int c_next_sender(self) except -1
    cdef int c_wake_from_loop(self, Operation operation) except -1


# All fields stand in the base, because a free list serves only types of its own size.
cdef class Operation:
    cdef ChannelCore core
    cdef Waiter waiter
    cdef int state
    cdef int64_t slept_ns
    cdef int turns               # of the loop, until it goes on after it yielded
    cdef bint was_busy           # the turn that it let end
    cdef bint was_crowded        # a turn since then
    cdef bint has_turned_first   # the loop, before the poll of this wait
    cdef bint was_cut            # that poll, so that the loop turns,
    cdef int64_t unpolled_ns     # and so much of it was left
    cdef bint has_missed         # that poll
    cdef uint64_t sends_before   # the port's, when the loop was let turn last
    cdef object parts            # Send: the message
    cdef object fds              # Send: the descriptors that go with it
    cdef list objects            # SendMany: the messages. Send: what was encoded with descriptors
    cdef Py_ssize_t index        # SendMany: how many of them were accepted
    cdef Py_ssize_t limit        # ReceiveMany: the most to return
    cdef bint queued             # stands in core.senders
    cdef bint encoded            # Send: the message is what the codec made of it
    cdef bint begun              # accepted; the rest still leaves from the caller's memory

    cdef int c_step(self, PyObject** result) except -1
    cdef int c_check_idle(self) except -1
    cdef int c_awake(self, ChannelCore core) except -1
    cdef int c_finish(self) except -1
    cdef int c_claim(self) except -1
    cdef int c_turned(self) except -1
    cdef int c_join(self) except -1
    cdef int c_attempt(self, PyObject** result) except -1
    cdef int c_abandon(self) except -1
    cdef int c_return(self, object value, PyObject** result) except -1
    cdef int c_yield(self, Pacer pacer, PyObject** result) except -1
    cdef int c_let_turn(self, Pacer pacer, PyObject** result) except -1
    cdef bint c_has_turned(self, Pacer pacer) except -1
    cdef int c_turn_first(self, Pacer pacer, PyObject** result) except -1
    cdef int c_sleep(self, PyObject** result) except -1
    cdef void c_begin_wait(self) noexcept
    cdef int c_wait(self, bint for_room, PyObject** result) except -1


cdef inline bint is_spare(Operation operation) noexcept:
    """Whether only the channel and the caller's variable still refer to it.

    A channel keeps one operation of each usual kind that has done its work, and gives it out
    again: making one costs a quarter of a send.
    """
    return operation is not None and Py_REFCNT(<PyObject*>operation) == 2


cdef class Receive(Operation):
    cdef int c_wait_first(self, PyObject** result) except -1
    cdef int c_give_back(self, ChannelCore core) except -1


cdef class ReceiveNext(Receive):
    pass


cdef class ReceiveMany(Receive):
    cdef int c_take_more(self, list objects) except -1


cdef class Finished(Operation):
    pass


cdef class SendOperation(Operation):
    cdef int c_push(self) except -1
    cdef int c_push_message(self) except -1
    cdef int c_leave(self) except -1


cdef class Send(SendOperation):
    cdef int c_encode_sharing(self) except -1


cdef class SendMany(SendOperation):
    pass


cdef class Slot(SendOperation):
    cdef ChannelCore channel
    cdef Py_ssize_t size         # what was asked for, then how much of it is the message
    cdef object lease            # room in the port,
    cdef object loan             # or memory that the peer looks at; else it is our own
    cdef object memory           # the view of it
    cdef bint in_port
    cdef int phase

    cdef int c_push_loan(self) except -1


cdef class Borrow(Receive):
    cdef object message
    cdef object memory


cdef class Flush(SendOperation):
    pass
