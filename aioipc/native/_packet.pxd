# cython: language_level=3
from aioipc.native._fd cimport FdStream


cdef class PacketStream(FdStream):
    cdef bint c_is_end(self) noexcept nogil
