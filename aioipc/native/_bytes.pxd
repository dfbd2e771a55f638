# cython: language_level=3
from aioipc.native._fd cimport ByteCore
from aioipc.native._operation cimport Endpoint, ReceiveOperation, SendOperation
from aioipc.native._pacer cimport MessagePort, Pacer, Wait
from aioipc.native._ring_stream cimport RingStream


cdef class BytePort(MessagePort):
    cdef readonly object transport
    cdef ByteCore io             # the transport, where it is native,
    cdef RingStream ring         # and where it is a ring; else None
    cdef object read
    cdef bint closed

    cdef object c_take(self, Py_ssize_t most)
    cdef Py_ssize_t c_put(self, object data, Py_ssize_t begin, Py_ssize_t end) except -1
    cdef Py_ssize_t c_write(self, const char* data, Py_ssize_t size) except -1
    cdef int c_begin_sending(self) except -1
    cdef int c_has_sent(self, Py_ssize_t count) noexcept
    cdef int c_has_received(self, Py_ssize_t count) noexcept


cdef class PolledReading:
    cdef BytePort port
    cdef Pacer pacer
    cdef object reader           # whom to call when there are bytes
    cdef Wait wait
    cdef int turns               # of the loop, until the step that is due
    cdef bint is_due             # a step comes in one of the next turns
    cdef bint is_asleep          # the port calls when there are bytes

    cdef int c_begin_wait(self) except -1
    cdef int c_let_turn(self, int turns) except -1
    cdef int c_serve(self) except -1
    cdef int c_sleep(self) except -1
    cdef int c_wake(self) except -1


cdef class ByteStreamCore(Endpoint):
    cdef bint write_ended
    cdef ReceiveBytes spare_receive  # operations that are done, to give out again
    cdef SendBytes spare_send


cdef class ReceiveBytes(ReceiveOperation):
    pass


cdef class SendBytes(SendOperation):
    pass


cdef class FlushBytes(SendOperation):
    pass
