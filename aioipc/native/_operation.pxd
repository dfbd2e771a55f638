# cython: language_level=3
from cpython.object cimport PyObject, PyTypeObject

from aioipc.native._pacer cimport MessagePort, Pacer, Wait

cdef extern from *:
    """
    /* PyThread_get_thread_ident, for each operation: the address of what belongs to the thread. */
    #if defined(__has_builtin)
    #if __has_builtin(__builtin_thread_pointer)
    #define AIOIPC_THREAD_POINTER
    #endif
    #endif
    static inline unsigned long aioipc_thread(void) {
    #ifdef AIOIPC_THREAD_POINTER
        return (unsigned long)__builtin_thread_pointer();
    #else
        return PyThread_get_thread_ident();
    #endif
    }
    """
    ctypedef struct PyAsyncMethods:
        pass
    unsigned long this_thread "aioipc_thread"() nogil
    Py_ssize_t Py_REFCNT(PyObject*)

# What c_step answers: PySendResult of the C API, and one word of our own.
cdef enum:
    RETURN = 0
    NEXT = 1
    RETRY = 2

cdef enum State:
    DONE = 0                     # and never begun: one that nobody made
    NEW = 1
    RUNNING = 2
    YIELDED = 3
    SLEEPING = 4


cdef object NOTHING              # there is no object, not even None
cdef unsigned long fork_generation


cdef class Waiter:
    cdef public bint _asyncio_future_blocking
    cdef object loop
    cdef object callback
    cdef object context
    cdef object cancelled_future
    cdef bint is_done

    cdef int c_wake(self, bint now) except -1


cdef class Endpoint:
    cdef readonly MessagePort port
    cdef str noun                # what it is called in messages
    cdef int polling
    cdef bint has_waited         # for something to receive, at least once
    cdef Pacer pacer
    cdef unsigned long thread
    cdef unsigned long generation
    cdef object closed_with      # what every operation raises once this side closed
    cdef Operation receiver      # the one operation that receives
    cdef Py_ssize_t queued       # how many they are
    cdef object senders          # deque: operations that wait for room, oldest first

    cdef int c_enter(self) except -1
    cdef int c_enter_slow(self) except -1
    cdef int c_speak(self) except -1
    cdef int c_next_sender(self) except -1
    cdef int c_wake_from_loop(self, Operation operation) except -1


cdef inline bint is_usable(Endpoint endpoint) noexcept:
    """Whether it is open, and this is its thread, and not a forked child."""
    return (
        endpoint.closed_with is None
        and endpoint.thread == this_thread()
        and endpoint.generation == fork_generation
    )


# All fields stand in the base, because a free list serves only types of its own size.
cdef class Operation:
    cdef Endpoint core
    cdef Waiter waiter
    cdef int state
    cdef Wait wait               # what it waits for now
    cdef int turns               # of the loop, until it goes on after it yielded
    cdef bint was_busy           # the turn that it let end
    cdef bint was_crowded        # a turn since then
    cdef object parts            # what is sent
    cdef object fds              # Send: the descriptors that go with it
    cdef list objects            # SendMany: the messages. Send: what was encoded with descriptors
    cdef Py_ssize_t index        # how much of it, or how many of them, were accepted
    cdef Py_ssize_t limit        # the most to receive
    cdef bint queued             # stands in core.senders
    cdef bint encoded            # Send: the message is what the codec made of it
    cdef bint begun              # accepted; the rest still leaves from the caller's memory

    cdef int c_step(self, PyObject** result) except -1
    cdef int c_check_idle(self) except -1
    cdef int c_awake(self, Endpoint core) except -1
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
    cdef int c_sleep(self, PyObject** result) except -1
    cdef void c_begin_wait(self) noexcept
    cdef int c_wait(self, bint for_room, PyObject** result) except -1


cdef inline bint is_spare(Operation operation) noexcept:
    """Whether only who made it and the caller's variable still refer to it.

    An endpoint keeps one operation of each usual kind that has done its work, and gives it out
    again: making one costs a quarter of a send.
    """
    return operation is not None and Py_REFCNT(<PyObject*>operation) == 2


cdef class ReceiveOperation(Operation):
    cdef object c_take(self)
    cdef int c_wait_first(self, PyObject** result) except -1


cdef class SendOperation(Operation):
    cdef int c_push(self) except -1
    cdef int c_leave(self) except -1


cdef class Flush(SendOperation):
    pass


cdef int step(PyObject* operation, PyObject* value, PyObject** result) except -1
cdef int set_step(PyTypeObject* operation, PyAsyncMethods* table, void* step) except -1
