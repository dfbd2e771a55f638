# cython: language_level=3

ctypedef int (*scanner)(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil

# 0, or a problem for error_of.
cdef int scan_msgpack(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil
cdef int scan_msgpack_any_key(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil
cdef int scan_json(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil

# Whether a problem is that it is too deep or has too many elements.
cdef bint is_over_limit(int problem) noexcept

# The scanner of a codec's format; NULL for None, which needs none.
cdef scanner scanner_of(object format) except? NULL
