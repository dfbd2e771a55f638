# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Operations: native awaitables, and what those of one endpoint have in common.

An operation is an object that a Task drives. It does its work inside ``am_send``, never
when it is created, so one that is dropped or cancelled has done nothing; what it waits for
carries no data and only says "look again".
"""

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memset

from aioipc.native._pacer cimport (
    ADAPTIVE,
    BLOCK,
    BUSY,
    LOOK,
    TURN,
    MessagePort,
    Pacer,
    Wait,
    clock_ns,
    must_yield,
)

import os
from collections import deque
from types import MethodDescriptorType

from aioipc.errors import BusyError, ForkError, IPCError

cdef extern from "awaiting.h":
    int awaiting_begin() except -1
    void awaiting_set_am_send(PyTypeObject*, PyAsyncMethods*, void*)

cdef extern from *:
    """
    /* The same method, for `self` of another class. */
    static PyObject *aioipc_method_of(PyTypeObject *type, PyObject *method) {
        return PyDescr_NewMethod(type, ((PyMethodDescrObject *)method)->d_method);
    }
    /* A class written in Python gets a slot that looks __anext__ up by name each time. */
    static void aioipc_share_am_anext(PyTypeObject *type, PyTypeObject *base) {
        type->tp_as_async->am_anext = base->tp_as_async->am_anext;
        PyType_Modified(type);
    }
    """
    object aioipc_method_of(PyTypeObject*, object)
    void aioipc_share_am_anext(PyTypeObject*, PyTypeObject*)
    unsigned long Py_TPFLAGS_HEAPTYPE
    object PyContext_CopyCurrent()

cdef dict POLLING = {"adaptive": ADAPTIVE, "block": BLOCK, "busy": BUSY}

NOTHING = object()

# Raised in each child process, so that inherited objects notice (one load per operation).
fork_generation = 1


def _forked():
    global fork_generation
    fork_generation += 1


os.register_at_fork(after_in_child=_forked)

# Whoever shows the stack of a task (Task.print_stack) wants a frame with a line. Native code
# has none, so a generator that never runs lends its own to all operations.
cdef dict names = {}
exec(compile("def operation():\n    yield", "aioipc/native/_operation.pyx", "exec"), names)
cdef object native_code = names["operation"]()


cdef class Waiter:
    """What a sleeping operation yields: the part of asyncio.Future that a Task uses.

    Unlike a Future it can step its task from inside the readiness callback, which saves a
    turn of the loop per wake-up.
    """

    def __cinit__(self, loop):
        self.loop = loop
        self._asyncio_future_blocking = True

    cdef int c_wake(self, bint now) except -1:
        """Let the task go on: within this call, which no task may be making, or soon."""
        if self.is_done:
            return 0
        self.is_done = True
        callback, self.callback = self.callback, None
        if callback is not None:
            if now:
                self.context.run(callback, self)
            else:
                try:
                    self.loop.call_soon(callback, self, context=self.context)
                except RuntimeError:
                    if not self.loop.is_closed():
                        raise
        return 0

    def __await__(self):
        if not self.is_done:
            yield self
        return self.result()

    def wake(self, *, bint now=False):
        """End the wait. Idempotent.

        Args:
            now: Whether to step the waiting task within this call; for callbacks of the loop.
        """
        self.c_wake(now)

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        if self.is_done:
            self.loop.call_soon(callback, self, context=context)
        elif self.callback is not None:
            raise RuntimeError("this wait belongs to another task")
        else:
            self.callback = callback
            self.context = PyContext_CopyCurrent() if context is None else context

    def remove_done_callback(self, callback):
        if self.callback == callback:
            self.callback = None
            return 1
        return 0

    def cancel(self, msg=None):
        if self.is_done:
            return False
        # Only a real Future knows how its loop says CancelledError.
        self.cancelled_future = self.loop.create_future()
        self.cancelled_future.cancel(msg)
        self.c_wake(False)
        return True

    def cancelled(self):
        return self.cancelled_future is not None

    def done(self):
        return self.is_done

    def result(self):
        if self.cancelled_future is not None:
            self.cancelled_future.result()

    def exception(self):
        if self.cancelled_future is not None:
            self.cancelled_future.exception()


cdef class Endpoint:
    """What the operations of one object share: a port, one loop and its thread, and who waits.

    One operation receives at a time; those that send stand in line.

    Args:
        port: The native message port.
        polling: "adaptive", "block" or "busy".
        noun: What messages call it.
    """

    def __init__(self, MessagePort port, str polling, str noun):
        if polling not in POLLING:
            raise ValueError(f"polling must be one of {', '.join(POLLING)}, not {polling!r}")
        self.port = port
        self.polling = POLLING[polling]
        self.noun = noun
        self.senders = deque()
        self.generation = fork_generation

    # What the floor above fills in.

    def _bind(self):
        """Return the Pacer of the running loop. Called once, at the first operation."""
        raise NotImplementedError

    # The gate before each operation

    cdef inline int c_enter(self) except -1:
        return 0 if is_usable(self) else self.c_enter_slow()

    cdef int c_enter_slow(self) except -1:
        if self.generation != fork_generation:
            raise ForkError(f"this {self.noun} belongs to the parent process; open one in the child")
        if self.closed_with is not None:
            raise self.closed_with.with_traceback(None)
        if self.thread == 0:
            self.pacer = self._bind()
            self.port.pacer = self.pacer
            self.thread = this_thread()
            return 0
        self._check_thread()
        return 0

    def _check_thread(self):
        """Refuse a thread that is not the one of the first operation.

        Raises:
            RuntimeError: It is another.
        """
        if self.thread != 0 and self.thread != this_thread():
            raise RuntimeError(f"this {self.noun} belongs to the event loop of another thread")

    # Those who wait

    cdef int c_speak(self) except -1:
        """Let a HELLO leave that waits for a first message: the peer's sender may wait for it."""
        try:
            self.port.c_flush()
        except IPCError:
            pass  # each send raises it; what is to be received is still there
        return 0

    cdef int c_next_sender(self) except -1:
        """The oldest sender left or finished: let the next one try."""
        if self.queued:
            head = <Operation>self.senders[0]
            if head.waiter is not None:
                head.waiter.c_wake(False)
        return 0

    # Readiness, called by the loop and never inside a task

    def _readable(self):
        self.port.turn = 0
        if self.receiver is not None:
            self.c_wake_from_loop(self.receiver)

    def _writable(self):
        if self.queued:
            self.c_wake_from_loop(<Operation>self.senders[0])

    cdef int c_wake_from_loop(self, Operation operation) except -1:
        """Step the task within this callback, whose end is the end of a turn."""
        cdef Pacer pacer = self.pacer
        if operation.waiter is None:
            return 0
        if not self.port.called_by_loop:
            return operation.waiter.c_wake(False)
        pacer.inside_callback = True
        try:
            operation.waiter.c_wake(True)
        finally:
            pacer.inside_callback = False
            pacer.c_turned()
        return 0

    # The end

    def _shut(self, error):
        """Make every operation, waiting or to come, raise ``error``."""
        self.closed_with = error
        if self.receiver is not None and self.receiver.waiter is not None:
            self.receiver.waiter.c_wake(False)
        for operation in self.senders:
            if (<Operation>operation).waiter is not None:
                (<Operation>operation).waiter.c_wake(False)

    @property
    def _closed_with(self):
        """What every operation raises, once this side closed; else None."""
        return self.closed_with

    @property
    def _is_forked(self):
        """Whether this is the copy in a forked child."""
        return self.generation != fork_generation

    def _counters(self):
        """The counters of this endpoint, by name."""
        counters = dict(self.port.counters[0])
        del counters["rows_closed"], counters["spare"]
        return counters


@cython.freelist(32)
cdef class Operation:
    """One call of a method of an endpoint, awaited by one task."""

    cdef int c_step(self, PyObject** result) except -1:
        cdef Endpoint core = self.core
        cdef int state = self.state
        self.c_check_idle()
        try:
            if state == NEW:
                core.c_enter()
                self.state = RUNNING
                self.c_begin_wait()
                self.c_claim()
                if must_yield(core.pacer):
                    if not self.queued:
                        self.c_join()
                    return self.c_yield(core.pacer, result)
            elif state == SLEEPING:
                if not self.waiter.is_done:
                    raise RuntimeError("another task is already awaiting this operation")
                self.c_awake(core)
                core.c_enter()
            elif state == YIELDED:
                if not self.c_has_turned(core.pacer):
                    return self.c_let_turn(core.pacer, result)
                core.pacer.c_has_turned(&self.wait, core.port)
                core.c_enter()
                self.c_turned()
            else:
                raise RuntimeError("an operation can be awaited only once")
            return self.c_attempt(result)
        except BaseException:
            if self.state != DONE and not (state == SLEEPING and self.state == SLEEPING):
                self.c_finish()
            raise

    cdef inline int c_check_idle(self) except -1:
        """An operation is not to be touched from within itself, as by a codec."""
        if self.state == RUNNING:
            raise RuntimeError("this operation is running")
        return 0

    cdef int c_awake(self, Endpoint core) except -1:
        cdef Pacer pacer = core.pacer
        self.state = RUNNING
        self.waiter = None
        if core.receiver is self:
            pacer.waiting.discard(core.port)
        pacer.c_awake(&self.wait, core.port)
        self.c_begin_wait()
        return 0

    cdef int c_finish(self) except -1:
        """Leave the endpoint as it would be without this operation."""
        cdef Endpoint core = self.core
        cdef bint claimed = self.state != NEW
        if self.state == SLEEPING:
            if core.receiver is self:
                core.pacer.waiting.discard(core.port)
            self.waiter = None
        elif self.state == YIELDED:
            core.pacer.c_resume()  # the loop has turned; else the next operation would owe it, too
        self.state = DONE
        if claimed:
            self.c_abandon()
        self.core = None
        self.parts = None
        self.objects = None
        return 0

    cdef int c_claim(self) except -1:
        return 0

    cdef int c_turned(self) except -1:
        """The loop has turned, since this operation yielded."""
        return 0

    cdef int c_join(self) except -1:
        """Stand in line, so that calls made while this one waits come after it."""
        return 0

    cdef int c_attempt(self, PyObject** result) except -1:
        raise NotImplementedError

    cdef int c_abandon(self) except -1:
        return 0

    cdef inline int c_return(self, object value, PyObject** result) except -1:
        self.state = DONE
        self.core = None
        self.parts = None
        self.objects = None
        Py_INCREF(value)
        result[0] = <PyObject*>value
        return RETURN

    cdef int c_yield(self, Pacer pacer, PyObject** result) except -1:
        """Let the loop turn, as often as is fair."""
        self.turns = pacer.c_turns()
        self.was_busy = pacer.c_was_busy()
        self.was_crowded = False
        return self.c_let_turn(pacer, result)

    cdef bint c_has_turned(self, Pacer pacer) except -1:
        """Whether the loop, which has turned once more, did so often enough."""
        pacer.c_resume()
        pacer.crowded = self.was_crowded = self.was_crowded or pacer.crowded
        self.turns -= 1
        return self.turns == 0

    cdef int c_let_turn(self, Pacer pacer, PyObject** result) except -1:
        self.state = YIELDED
        pacer.c_yielding()
        Py_INCREF(None)
        result[0] = <PyObject*>None
        return NEXT

    cdef int c_sleep(self, PyObject** result) except -1:
        """Suspend the task until somebody wakes this operation."""
        self.waiter = Waiter.__new__(Waiter, self.core.pacer.loop)
        self.state = SLEEPING
        self.wait.slept_ns = clock_ns()
        Py_INCREF(self.waiter)
        result[0] = <PyObject*>self.waiter
        return NEXT

    cdef inline void c_begin_wait(self) noexcept:
        """What this operation waits for from here on is another thing."""
        memset(&self.wait, 0, sizeof(Wait))

    cdef int c_wait(self, bint for_room, PyObject** result) except -1:
        """Poll if that is worth while (RETRY), else suspend the task (NEXT)."""
        cdef Endpoint core = self.core
        cdef MessagePort port = core.port
        cdef int advice
        if not for_room and not core.has_waited:
            core.has_waited = True
            core.c_speak()
        if port.has_stopped:
            port.has_stopped = False
            return self.c_yield(core.pacer, result)
        advice = core.pacer.c_wait(&self.wait, port, core.polling, for_room)
        if advice == LOOK:
            if for_room:
                port.c_flush()
            self.c_begin_wait()
            return RETRY
        if advice == TURN:
            self.c_yield(core.pacer, result)
            self.turns = max(self.turns, self.wait.turns)
            return NEXT
        if for_room:
            port.counters.send_waits += 1
            port.on_writable(core._writable)
        else:
            port.counters.receive_waits += 1
            port.on_readable(core._readable)
            core.pacer.waiting.add(port)
        return self.c_sleep(result)

    # The coroutine protocol, so that Task, wait_for and gather take an operation as it is.

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Go on; see `collections.abc.Coroutine`."""
        cdef PyObject* result = NULL
        cdef int status = self.c_step(&result)
        obj = <object>result
        Py_DECREF(obj)
        if status == NEXT:
            return obj
        raise StopIteration(obj)

    def throw(self, kind, value=None, traceback=None):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        self.c_check_idle()
        if self.state != DONE and self.core is not None:
            self.c_finish()
        if value is None:
            value = kind if isinstance(kind, BaseException) else kind()
        elif not isinstance(value, BaseException):
            value = kind(value)
        raise value if traceback is None else value.with_traceback(traceback)

    def close(self):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        self.c_check_idle()
        if self.state != DONE and self.core is not None:
            self.c_finish()

    @property
    def cr_running(self):
        return False

    @property
    def cr_suspended(self):
        return self.state == SLEEPING or self.state == YIELDED

    @property
    def cr_state(self):
        """What `inspect.getcoroutinestate` asks for, from Python 3.15 on."""
        if self.state == DONE:
            return "CORO_CLOSED"
        return "CORO_SUSPENDED" if self.cr_suspended else "CORO_CREATED"

    @property
    def cr_frame(self):
        return None if self.state == DONE else native_code.gi_frame

    @property
    def cr_await(self):
        return self.waiter

    @property
    def __name__(self):
        return type(self).__name__

    @property
    def __qualname__(self):
        owner = "" if self.core is None else f"{self.core.noun.capitalize()}."
        return owner + type(self).__name__


cdef class ReceiveOperation(Operation):
    """What is there, as soon as something is: one operation at a time."""

    cdef object c_take(self):
        """What is there, or NOTHING."""
        raise NotImplementedError

    cdef int c_claim(self) except -1:
        if self.core.receiver is not None:
            raise BusyError(f"another task is receiving from this {self.core.noun}")
        self.core.receiver = self
        return 0

    cdef int c_abandon(self) except -1:
        if self.core.receiver is self:
            self.core.receiver = None
            self.core.port.on_readable(None)
        return 0

    cdef int c_attempt(self, PyObject** result) except -1:
        cdef int status
        while True:
            taken = self.c_take()
            if taken is not NOTHING:
                self.core.receiver = None
                return self.c_return(taken, result)
            status = self.c_wait(False, result)
            if status != RETRY:
                return status

    cdef int c_wait_first(self, PyObject** result) except -1:
        """`c_step` after a first try that found nothing."""
        cdef int status
        self.state = RUNNING
        self.c_begin_wait()
        self.core.receiver = self
        try:
            status = self.c_wait(False, result)
            return self.c_attempt(result) if status == RETRY else status
        except BaseException:
            if self.state != DONE:
                self.c_finish()
            raise


cdef class SendOperation(Operation):
    """Whatever needs room: one at a time, in the order of the calls."""

    cdef int c_push(self) except -1:
        """Hand over what there is: 1 when all of it is, 0 when more room is needed."""
        raise NotImplementedError

    cdef int c_attempt(self, PyObject** result) except -1:
        cdef Endpoint core = self.core
        cdef int status
        if not self.queued and core.queued:
            self.c_join()
        while True:
            if self.queued and core.senders[0] is not self:
                return self.c_sleep(result)
            if self.c_push():
                if self.queued:
                    self.c_leave()
                return self.c_return(None, result)
            if not self.queued:
                self.c_join()
            status = self.c_wait(True, result)
            if status != RETRY:
                return status

    cdef int c_join(self) except -1:
        self.queued = True
        self.core.senders.append(self)
        self.core.queued += 1
        self.core.port.counters.senders_waiting = self.core.queued
        return 0

    cdef int c_leave(self) except -1:
        self.queued = False
        self.core.queued -= 1
        self.core.port.counters.senders_waiting = self.core.queued
        self.core.senders.remove(self)
        return self.core.c_next_sender()

    cdef int c_abandon(self) except -1:
        try:
            if self.begun:
                self.core.port.c_own_rest()  # for which there may be no memory
        finally:
            if self.queued:
                self.c_leave()
                if not self.core.queued and self.core.closed_with is None:
                    # Else the loop would hold on to the endpoint; one that closes waits for room
                    # itself.
                    self.core.port.on_writable(None)
        return 0


cdef class Flush(SendOperation):
    """Until everything accepted so far is in the kernel or the ring."""

    cdef int c_push(self) except -1:
        return self.core.port.c_flush() and self.core.port.c_settled()


cdef int step(PyObject* operation, PyObject* value, PyObject** result) except -1:
    result[0] = NULL
    return (<Operation>operation).c_step(result)


cdef int set_step(PyTypeObject* operation, PyAsyncMethods* table, void* step) except -1:
    """Have operations of a type stepped by a function like `step`; each type has its own table."""
    awaiting_set_am_send(operation, table, step)
    return 0


def called_natively(cls):
    """A class decorator: native methods of a base class are called as if they were its own.

    CPython calls a method without a detour only where ``self`` is of the very class that has it,
    and looks up the ``__anext__`` of a class written in Python each time. What the class, or one
    in front of the base, defines itself stays as it is.
    """
    base = next(each for each in cls.__mro__ if not each.__flags__ & Py_TPFLAGS_HEAPTYPE)
    for name, method in vars(base).items():
        if (
            type(method) is MethodDescriptorType
            and not name.startswith("__")  # these have slots
            and getattr(cls, name) is method
        ):
            setattr(cls, name, aioipc_method_of(<PyTypeObject*>cls, method))
    if "__anext__" in vars(base) and cls.__anext__ is base.__anext__:
        aioipc_share_am_anext(<PyTypeObject*>cls, <PyTypeObject*>base)
    return cls


cdef PyAsyncMethods tables[4]

awaiting_begin()
set_step(<PyTypeObject*>Operation, &tables[0], <void*>step)
set_step(<PyTypeObject*>ReceiveOperation, &tables[1], <void*>step)
set_step(<PyTypeObject*>SendOperation, &tables[2], <void*>step)
set_step(<PyTypeObject*>Flush, &tables[3], <void*>step)
