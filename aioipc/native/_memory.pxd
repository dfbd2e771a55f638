# cython: language_level=3

cdef class Mapping:
    cdef char* address
    cdef readonly size_t size
    cdef readonly bint writable
    cdef int pid
    cdef object __weakref__      # whoever lends memory out learns here that it came back
