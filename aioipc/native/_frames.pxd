# cython: language_level=3
from cpython.buffer cimport Py_buffer

from aioipc.native._fds cimport FdQueue
from aioipc.native._memory cimport Mapping
from aioipc.native._pacer cimport Borrowed, MessagePort

cdef enum Stall:
    NOT_STALLED = 0
    UNTIL_HELLO = 1              # the peer has not said yet whether it takes descriptors
    BACKING_OFF = 2              # too many are on their way: no event says when that is over
    UNTIL_SOCKET = 3             # over a ring: the socket has no room
    UNTIL_RETURNED = 4           # so much memory is lent that some has to come back first
    UNTIL_SLOT_ENDS = 5          # over a ring: what is reserved in it is in the way


cdef enum:
    CONTROL_LIMIT = 4096         # bytes that a HELLO, GOODBYE, PING or PONG may have
    MOST_PARTS = 64              # of a message that are not joined before it is sent


cdef class SegmentLease(Borrowed):
    """A message that is read in memory which the peer has lent."""
    cdef Mapping memory
    cdef object give_back


cdef class FramePort(MessagePort):
    # Receiving
    cdef readonly object ending  # what every further receive raises
    cdef public bint greeted     # the peer's HELLO was accepted, or none is expected
    cdef object read_callback
    cdef public Py_ssize_t max_receive_bytes
    # Sending
    cdef Py_ssize_t rest_offset
    cdef Py_ssize_t join_bytes   # up to here the parts of a message are joined
    cdef bint armed              # somebody tells when there is room
    cdef bint write_ended
    cdef readonly object send_failure
    cdef object write_callback
    cdef public Py_ssize_t max_send_bytes
    # Descriptors
    cdef FdQueue queue           # those that came, or None where none may
    cdef int max_receive_fds     # that one message may bring along
    cdef bint announces_fds      # this side takes them
    cdef public bint passes_fds  # the peer takes them, too
    cdef int stall               # why descriptors cannot be sent now, whatever room there is
    cdef double backoff_s
    cdef object backoff          # the timer of it

    # Memory that is lent to the peer, and by it
    cdef readonly bint shares_memory  # both take part
    cdef readonly object segments  # what there is of it, once there is some
    cdef Py_ssize_t least_lent   # shorter messages travel better
    cdef SegmentLease incoming   # a message in it that was not taken yet
    cdef bytes copy              # as much of that as was copied, when that takes several turns
    cdef Py_ssize_t copied
    cdef bint borrowing          # it is asked for where it lies

    cdef object c_segments(self)
    cdef int c_refuse_sending(self, object error) except -1
    cdef int c_send_shared(self, bytes told, object fds) except -1
    cdef int c_shared_came(self, bytes told, int fd_count) except -1
    cdef int c_close_segments(self) except -1
    cdef object c_take_incoming(self)
    cdef object c_copy_incoming(self)
    cdef object c_refuse(self, object error)
    cdef int c_refuse_for_memory(self, Py_ssize_t size) except -1
    cdef int c_end(self, object ending) except -1
    cdef int c_check_fds(self, int count) except -1
    cdef int c_refuse_strays(self) except -1
    cdef int c_deliver_fds(self, int count) except -1
    cdef int c_drop_fds(self) except -1
    cdef int c_close_fds(self) except -1
    cdef bint c_may_pass_fds(self) except -1
    cdef int c_fds_failed(self, int number) except -1
    cdef object c_write_error(self, int number)
    cdef int c_wait_out(self, object callback) except -1
    cdef int c_send_one(self, object owner, const char* data, Py_ssize_t size) except -1
    cdef int c_send_large(self, list parts, Py_ssize_t size) except -1
    cdef int c_send_buffers(self, object parts) except -1
    cdef int c_send_parts(self, object parts) except -1
    cdef Py_ssize_t c_pieces(self, object parts, list pieces) except -1
    cdef int c_fail_sending(self, object error) except -1
    cdef int c_drop_unsent(self) except -1
    cdef int c_call_back(self, object callback) except -1
    cdef int c_call_soon(self, object callback) except -1
    cdef int c_call_writer(self) except -1


cdef object hold(object part)
cdef int get_buffer(object part, Py_buffer* view) except -1
