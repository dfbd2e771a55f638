# cython: language_level=3
from cpython.object cimport PyObject

from aioipc.native._operation cimport Endpoint, Operation, ReceiveOperation, SendOperation
from aioipc.native._scan cimport scanner


cdef class Shortcut:
    cdef object c_read(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    )


cdef class ChannelCore(Endpoint):
    cdef readonly object codec
    cdef object encode
    cdef object decode
    cdef scanner scan
    cdef Shortcut shortcut       # for some messages, before the codec; or None
    cdef bint shares             # the codec passes memory by descriptor
    cdef object attach           # what the codec has to say about descriptors that came
    cdef object salvage          # and what about messages that are over the limits
    cdef object sharing          # while it encodes: the list that takes them
    cdef int max_depth
    cdef long long max_elements
    cdef object deferred         # an error met in the middle of a batch
    cdef Receive spare_receive   # operations that are done, to give out again
    cdef ReceiveNext spare_next
    cdef Send spare_send
    cdef Slot spare_slot         # two in turns: a program has the last one in a variable
    cdef Slot next_spare_slot

    cdef Receive c_receiving(self)
    cdef object c_take(self)
    cdef object c_take_borrowed(self)
    cdef object c_decode(self, object message)
    cdef object c_decode_view(self, object message)
    cdef object c_decode_memory(self, object message, const char* data, Py_ssize_t size)
    cdef object c_refuse(self, object message, int problem)
    cdef object c_encode(self, object obj)
    cdef object c_encoded(self, object parts)
    cdef object c_encode_sharing(self, object obj, list fds)
    cdef int c_send_nowait(self, object obj, object fds) except -1
    cdef int c_send_encoded(self, object parts, object fds) except -1
    cdef int c_send_sharing(self, object obj, object fds) except -1


cdef class Receive(ReceiveOperation):
    cdef int c_give_back(self, ChannelCore core) except -1


cdef class ReceiveNext(Receive):
    pass


cdef class ReceiveMany(Receive):
    cdef int c_take_more(self, list objects) except -1


cdef class Finished(Operation):
    pass


cdef class SendMessage(SendOperation):
    cdef int c_push_message(self) except -1


cdef class Send(SendMessage):
    cdef int c_encode_sharing(self) except -1


cdef class SendMany(SendOperation):
    pass


cdef class Slot(SendMessage):
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
