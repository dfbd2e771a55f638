# cython: language_level=3
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from aioipc.native._fd cimport ByteCore
from aioipc.native._fds cimport iovec
from aioipc.native._frames cimport FramePort

cdef extern from "again.h":
    ctypedef struct AgainBytes:
        pass
    bytes again_bytes(AgainBytes*, const char*, Py_ssize_t)
    void again_clear(AgainBytes*)


cdef class StreamPort(FramePort):
    cdef readonly object stream
    cdef ByteCore io
    # Receiving: unread bytes are block[start:end]; a frame larger than the block is `large`.
    cdef char* block
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef AgainBytes again        # messages that came out of the block
    cdef PyObject* large
    cdef Py_ssize_t large_filled
    cdef Py_ssize_t large_length
    cdef Py_ssize_t last_large   # how long the last of them was
    cdef uint32_t large_word
    cdef bytearray pieces        # of a message whose frames had the flag MORE
    cdef uint32_t flags          # those that a DATA frame may have
    cdef int read_errno          # met while polling without the GIL
    cdef bint timed              # somebody waited with a part of a message there
    cdef bint bereaved           # the peer is dead: what it left is all
    # Sending: out[out_start:out_end], then `rest` from rest_offset on.
    cdef char* out
    cdef Py_ssize_t out_start
    cdef Py_ssize_t out_end
    cdef Py_ssize_t gather_bytes # the most that one write holds
    cdef Py_ssize_t page         # no frame crosses the end of one; 0: there are none
    cdef bint pads               # PADs may come
    cdef bint is_pipe            # whose writes are shorter
    cdef bint fragments          # longer messages leave in frames of so many bytes each
    cdef bint packets            # each read is whole frames, as each write is
    cdef int controls_waiting    # control frames behind `rest`
    cdef object stream_flush     # pushes out what the stream accepted and still has, or None
    cdef bint blocked            # the last write found no room

    cdef object c_frame(self)
    cdef object c_dispatch(self, uint32_t word, object payload)
    cdef Py_ssize_t c_pieces_bytes(self) except -1
    cdef int c_begin_large(self, uint32_t word, Py_ssize_t length) except -1
    cdef int c_fill(self) except -1
    cdef int c_fill_large(self) except -1
    cdef int c_drop_large(self) noexcept
    cdef bint c_is_socket(self) noexcept
    cdef int c_lose_peer(self, object error) except -1
    cdef Py_ssize_t c_read(self, char* data, Py_ssize_t size) except -2
    cdef Py_ssize_t c_read_adapted(self, char* data, Py_ssize_t size) except -2
    cdef bint c_is_inside(self) noexcept
    cdef object c_bereavement(self)
    cdef int c_make_space(self) except -1
    cdef int c_release_block(self) noexcept
    cdef int c_check_sending(self) except -1
    cdef int c_count(self, int answer, Py_ssize_t size) noexcept
    cdef bint c_turn_page(self, Py_ssize_t length) noexcept
    cdef int c_pad(self, Py_ssize_t size) noexcept
    cdef int c_gather(self, Py_ssize_t size) except -1
    cdef int c_send_with_fds(self, object parts, object fds) except -1
    cdef int c_write_message(
        self, list parts, Py_ssize_t size, uint64_t flags, const int* numbers, int fd_count
    ) except -1
    cdef Py_ssize_t c_write_first(
        self, const iovec* iov, int count, const int* numbers, int fd_count
    ) except -2
    cdef int c_pass_first(self, list frames, const int* numbers, int fd_count) except -1
    cdef int c_send_fragments(self, object message, const int* numbers, int fd_count) except -1
    cdef int c_keep_rest(self, list parts, Py_ssize_t written) except -1
    cdef int c_flush_out(self) except -1
    cdef int c_flush_rest(self) except -1
    cdef int c_block(self) except -1
    cdef int c_drop_out(self) noexcept
