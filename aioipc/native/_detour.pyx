# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Operations that are native as long as nothing is in the way, and coroutines from there on."""

from cpython.object cimport PyObject

from aioipc.native._operation cimport DONE, NEW, NEXT, RETURN, RUNNING, SLEEPING, YIELDED, Operation
from aioipc.native._pacer cimport must_yield


cdef class Detour(Operation):
    """An operation that may go on as a coroutine of the floor above."""

    cdef int c_take_detour(self, object coroutine, PyObject** result) except -1:
        self.way = coroutine
        return self.c_follow_detour(result)

    cdef int c_follow_detour(self, PyObject** result) except -1:
        cdef PySendResult status
        self.state = RUNNING
        status = PyIter_Send(self.way, None, result)
        self.state = SLEEPING if status == PYGEN_NEXT else DONE
        return status

    def throw(self, kind, value=None, traceback=None):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        if self.way is None:
            return Operation.throw(self, kind, value, traceback)
        self.c_check_idle()
        return self.way.throw(kind if value is None else value)

    def close(self):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        if self.way is None:
            Operation.close(self)
            return
        self.c_check_idle()
        self.way.close()

    @property
    def __qualname__(self):
        return type(self).__name__


cdef class Straight(Detour):
    """One that tries to do all of it at once, when the pace of its loop allows.

    Who makes one sets ``state`` to NEW, and ``pacer``.
    """

    cdef object c_go(self, PyObject** result):
        """Do it, without waiting: None, and ``result`` is set; else the coroutine that goes on."""
        raise NotImplementedError

    cdef int c_step(self, PyObject** result) except -1:
        cdef int state = self.state
        self.c_check_idle()
        if self.way is not None:
            return self.c_go_on(result)
        if state == NEW:
            if must_yield(self.pacer):
                return self.c_yield(self.pacer, result)
        elif state == YIELDED:
            if not self.c_has_turned(self.pacer):
                return self.c_let_turn(self.pacer, result)
        else:
            raise RuntimeError("an operation can be awaited only once")
        self.state = DONE  # also where this raises
        way = self.c_go(result)
        if way is None:
            return RETURN
        self.way = way
        return self.c_go_on(result)

    cdef int c_go_on(self, PyObject** result) except -1:
        try:
            return self.c_follow_detour(result)
        except BaseException:
            self.state = DONE
            raise

    def throw(self, kind, value=None, traceback=None):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        self.c_leave_pause()
        return Detour.throw(self, kind, value, traceback)

    def close(self):
        """Abandon the operation; see `collections.abc.Coroutine`."""
        self.c_leave_pause()
        Detour.close(self)

    cdef int c_leave_pause(self) except -1:
        if self.way is None:
            self.c_check_idle()
            if self.state == YIELDED:
                self.pacer.c_resume()  # else the next operation would owe the turn, too
            self.state = DONE
        return 0
