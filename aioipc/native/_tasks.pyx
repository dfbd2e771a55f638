# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""What stands in for a task and for a future where each call would need one."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from aioipc.native._core cimport Waiter

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject**) except PYGEN_ERROR
    object PyContext_Copy(object)
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1
    object PyContextVar_Set(object, object)


cdef object ENDED = object()


cdef object go_on(object coroutine, object context):
    """Run a coroutine up to where it suspends, in its context: what it yields, or `ENDED`."""
    cdef PyObject* result = NULL
    cdef PySendResult status
    PyContext_Enter(context)
    try:
        status = PyIter_Send(coroutine, None, &result)
    finally:
        PyContext_Exit(context)
    value = <object>result
    Py_DECREF(value)
    return value if status == PYGEN_NEXT else ENDED


def first_step(coroutine, context, variable, value):
    """Run a coroutine in a context of its own up to its first suspension; None if it has none.

    One that never suspends costs no task, and what it does to context variables ends with it. One
    that does goes on in the task that is running, which then has to await the remaining steps, so
    that ``asyncio.current_task``, timeouts and cancel scopes mean what they say: whoever was to do
    something else in that task has to go on in another.

    Args:
        coroutine: What to run. It returns None.
        context: What its context is a copy of.
        variable: A context variable.
        value: Its value inside.

    Returns:
        `Steps` or None.
    """
    own = PyContext_Copy(context)
    PyContext_Enter(own)
    try:
        PyContextVar_Set(variable, value)
    finally:
        PyContext_Exit(own)
    waits_for = go_on(coroutine, own)
    if waits_for is ENDED:
        return None
    cdef Steps steps = Steps.__new__(Steps)
    steps.coroutine = coroutine
    steps.context = own
    steps.waits_for = waits_for
    return steps


cdef class Steps:
    """Awaits a coroutine that has suspended already, in its own context."""

    cdef object coroutine
    cdef object context
    cdef object waits_for

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.waits_for is not ENDED:  # it has suspended before anybody awaited this
            waits_for, self.waits_for = self.waits_for, ENDED
            return waits_for
        waits_for = go_on(self.coroutine, self.context)
        if waits_for is ENDED:
            raise StopIteration
        return waits_for

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        error = kind if value is None else value
        self.waits_for = ENDED
        return self.context.run(self.coroutine.throw, error)

    def close(self):
        self.context.run(self.coroutine.close)


cdef class News(Waiter):
    """A future that says no more than "look again", and that one task awaits, once."""

    cdef bint is_awaited

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_done or self.is_awaited:
            self.result()  # raises if it was cancelled
            raise StopIteration
        self.is_awaited = True
        return self

    def send(self, value):
        return self.__next__()

    def wake(self):
        """Let who awaits it look again. False if it was woken, or cancelled, before."""
        if self.is_done:
            return False
        self.c_wake(False)
        return True
