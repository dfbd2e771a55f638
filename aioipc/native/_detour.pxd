# cython: language_level=3
from cpython.object cimport PyObject

from aioipc.native._operation cimport Operation
from aioipc.native._pacer cimport Pacer

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject**) except PYGEN_ERROR


cdef class Detour(Operation):
    cdef object way              # the coroutine that goes on

    cdef int c_take_detour(self, object coroutine, PyObject** result) except -1
    cdef int c_follow_detour(self, PyObject** result) except -1


cdef class Straight(Detour):
    cdef Pacer pacer

    cdef object c_go(self, PyObject** result)
    cdef int c_go_on(self, PyObject** result) except -1
    cdef int c_leave_pause(self) except -1
