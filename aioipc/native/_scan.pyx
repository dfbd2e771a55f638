# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""A look at a message before it is decoded: how deep it nests, how many elements it holds.

A decoder allocates as it goes, and what it allocates can be seventy times what it reads. So the
core first walks over the message: iteratively, without memory of its own, and without touching
what strings and blobs contain. msgpack is checked completely (a message that passes has no
structural fault); for json only brackets, commas and colons count, syntax is left to the decoder.

Elements are the values in arrays and the keys and values in maps, counted over the whole message.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t
from libc.string cimport memchr

from aioipc.errors import DecodeError

__all__ = ["MAX_DEPTH", "error_of", "scan"]

cdef enum:
    FINE = 0
    TRUNCATED
    TRAILING
    RESERVED
    WRONG_KEY
    TOO_DEEP
    TOO_MANY

cdef enum:
    DEPTH_MAX = 1024
    SHORT_STRING = 32

MAX_DEPTH = DEPTH_MAX

cdef extern from *:
    """
    /* How many bytes a msgpack value has, where its first byte tells; 0 where more is to be read.
       https://github.com/msgpack/msgpack/blob/master/spec.md */
    static const unsigned char aioipc_msgpack_size[256] = {
        [0x00 ... 0x7f] = 1,                                    /* positive fixint */
        [0xa0] = 1,  [0xa1] = 2,  [0xa2] = 3,  [0xa3] = 4,      /* fixstr */
        [0xa4] = 5,  [0xa5] = 6,  [0xa6] = 7,  [0xa7] = 8,
        [0xa8] = 9,  [0xa9] = 10, [0xaa] = 11, [0xab] = 12,
        [0xac] = 13, [0xad] = 14, [0xae] = 15, [0xaf] = 16,
        [0xb0] = 17, [0xb1] = 18, [0xb2] = 19, [0xb3] = 20,
        [0xb4] = 21, [0xb5] = 22, [0xb6] = 23, [0xb7] = 24,
        [0xb8] = 25, [0xb9] = 26, [0xba] = 27, [0xbb] = 28,
        [0xbc] = 29, [0xbd] = 30, [0xbe] = 31, [0xbf] = 32,
        [0xc0] = 1, [0xc2] = 1, [0xc3] = 1,                     /* nil, false, true */
        [0xca] = 5, [0xcb] = 9,                                 /* float */
        [0xcc] = 2, [0xcd] = 3, [0xce] = 5, [0xcf] = 9,         /* uint */
        [0xd0] = 2, [0xd1] = 3, [0xd2] = 5, [0xd3] = 9,         /* int */
        [0xd4] = 3, [0xd5] = 4, [0xd6] = 6, [0xd7] = 10, [0xd8] = 18,  /* fixext */
        [0xe0 ... 0xff] = 1,                                    /* negative fixint */
    };

    static const unsigned char aioipc_json_mark[256] = {
        ['"'] = 1, ['['] = 1, ['{'] = 1, [']'] = 1, ['}'] = 1, [','] = 1, [':'] = 1,
    };
    """
    const unsigned char* msgpack_size "aioipc_msgpack_size"
    const unsigned char* json_mark "aioipc_json_mark"


# --- msgpack ---------------------------------------------------------------------------


cdef int scan_msgpack(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil:
    return walk_msgpack(data, size, max_depth, max_elements, False)


cdef int scan_msgpack_any_key(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil:
    return walk_msgpack(data, size, max_depth, max_elements, True)


cdef inline bint is_flat_map(
    const unsigned char* data, Py_ssize_t size, long long max_elements
) noexcept nogil:
    """Whether it is what most messages are: a short map of short strings to plain values."""
    cdef Py_ssize_t at = 1
    cdef int pairs
    cdef unsigned char first
    if size == 0 or not 0x80 <= data[0] < 0x90:
        return False
    for pairs in range(data[0] & 0x0F):
        if at >= size or not 0xA0 <= data[at] < 0xC0:
            return False
        at += data[at] - 0x9F
        if at >= size:
            return False
        first = data[at]
        # These branches keep the table's load out of the chain from one address to the next.
        if first < 0x80 or first >= 0xE0:
            at += 1
        elif 0xA0 <= first < 0xC0:
            at += first - 0x9F
        elif msgpack_size[first]:
            at += msgpack_size[first]
        else:
            return False
    return at == size and 2 * (data[0] & 0x0F) <= max_elements


cdef inline int walk_msgpack(
    const unsigned char* data,
    Py_ssize_t size,
    int max_depth,
    long long max_elements,
    bint any_key,
) noexcept nogil:
    cdef Py_ssize_t at = 0              # beyond the end after a value that is cut off
    cdef long long outer[DEPTH_MAX]     # per open container: 2 * values still due + is_map
    cdef long long due = 1              # values still due in the innermost one
    cdef long long is_map = 0
    cdef long long elements = 0
    cdef int depth = 0
    cdef unsigned char first
    cdef Py_ssize_t length, head

    if max_depth > 0 and is_flat_map(data, size, max_elements):
        return FINE
    max_depth = min(max_depth, DEPTH_MAX)
    while True:
        while due == 0:
            if depth == 0:
                return FINE if at == size else TRUNCATED if at > size else TRAILING
            depth -= 1
            due = outer[depth] >> 1
            is_map = outer[depth] & 1
        if at >= size:
            return TRUNCATED
        first = data[at]
        due -= 1
        if not any_key and is_map & due and not is_key(first):
            return WRONG_KEY
        if first < 0x80 or first >= 0xE0:
            at += 1
            continue
        if 0xA0 <= first < 0xC0:
            at += first - 0x9F
            continue
        if first >= 0xA0:
            length = msgpack_size[first]
            if length:
                at += length
                continue
            if first == 0xC1:
                return RESERVED
        head = head_size(first)
        if head > size - at:
            return TRUNCATED
        if not is_container(first):
            at += head + length_of(data + at, first)
            continue
        length = count_of(data + at, first)
        at += head
        if depth == max_depth:
            return TOO_DEEP
        # Each element has at least one byte: a false claim ends here.
        if length > size - at:
            return TRUNCATED
        elements += length
        if elements > max_elements:
            return TOO_MANY
        outer[depth] = due << 1 | is_map
        depth += 1
        due = length
        is_map = is_map_head(first)


cdef inline bint is_key(unsigned char first) noexcept nogil:
    # str and bin, as msgpack's strict_map_key: ints would allow chosen hash collisions.
    return 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB or 0xC4 <= first <= 0xC6


cdef inline bint is_container(unsigned char first) noexcept nogil:
    return first < 0xA0 or first >= 0xDC


cdef inline bint is_map_head(unsigned char first) noexcept nogil:
    return first < 0x90 or first >= 0xDE


cdef inline Py_ssize_t head_size(unsigned char first) noexcept nogil:
    """Bytes before the contents: type, length, and the code of an ext."""
    if first < 0xA0:                    # fixmap, fixarray
        return 1
    if first >= 0xDC:                   # array and map, 16 and 32
        return 5 if first & 1 else 3
    if first >= 0xD9:                   # str 8, 16, 32
        return 1 + (1 << (first - 0xD9))
    if first >= 0xC7:                   # ext 8, 16, 32
        return 2 + (1 << (first - 0xC7))
    return 1 + (1 << (first - 0xC4))    # bin 8, 16, 32


cdef inline Py_ssize_t count_of(const unsigned char* data, unsigned char first) noexcept nogil:
    """Elements of an array, keys and values of a map."""
    cdef Py_ssize_t count
    if first < 0xA0:
        count = first & 0x0F
    elif first & 1:
        count = big_endian_32(data + 1)
    else:
        count = big_endian_16(data + 1)
    return count << 1 if is_map_head(first) else count


cdef inline Py_ssize_t length_of(const unsigned char* data, unsigned char first) noexcept nogil:
    """Bytes of a str, bin or ext without its head."""
    cdef int width = first - (0xD9 if first >= 0xD9 else 0xC7 if first >= 0xC7 else 0xC4)
    if width == 0:
        return data[1]
    if width == 1:
        return big_endian_16(data + 1)
    return big_endian_32(data + 1)


cdef inline Py_ssize_t big_endian_16(const unsigned char* data) noexcept nogil:
    return data[0] << 8 | data[1]


cdef inline Py_ssize_t big_endian_32(const unsigned char* data) noexcept nogil:
    return <uint32_t>data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]


# --- json ------------------------------------------------------------------------------


cdef int scan_json(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept nogil:
    cdef const unsigned char* end = data + size
    cdef long long elements = 0
    cdef int depth = 0
    cdef unsigned char mark

    while data < end:
        mark = data[0]
        data += 1
        if not json_mark[mark]:
            continue
        if mark == b'"':
            data = after_string(data, end)
        elif mark == b"," or mark == b":":
            elements += 1
            if elements > max_elements:
                return TOO_MANY
        elif mark == b"[" or mark == b"{":
            if depth >= max_depth:
                return TOO_DEEP
            data = after_space(data, end)
            if data < end and (data[0] == b"]" or data[0] == b"}"):
                data += 1
                continue
            depth += 1
            elements += 1
            if elements > max_elements:
                return TOO_MANY
        elif depth > 0:
            depth -= 1
    return FINE


cdef inline const unsigned char* after_space(
    const unsigned char* data, const unsigned char* end
) noexcept nogil:
    while data < end and (
        data[0] == b" " or data[0] == b"\n" or data[0] == b"\r" or data[0] == b"\t"
    ):
        data += 1
    return data


cdef inline const unsigned char* after_string(
    const unsigned char* data, const unsigned char* end
) noexcept nogil:
    """Where a string that started before ``data`` is over; ``end`` if it is not."""
    cdef const unsigned char* begin = data
    cdef const unsigned char* near
    while True:
        # Most strings are too short to be worth a call of memchr.
        near = data + min(SHORT_STRING, end - data)
        while data < near and data[0] != b'"':
            data += 1
        if data == near:
            data = <const unsigned char*>memchr(data, b'"', end - data)
            if data == NULL:
                return end
        data += 1
        if not is_escaped(begin, data - 1):
            return data


cdef inline bint is_escaped(
    const unsigned char* begin, const unsigned char* quote
) noexcept nogil:
    """Whether an odd number of backslashes stands before ``quote``."""
    cdef const unsigned char* data = quote
    while data > begin and (data - 1)[0] == b"\\":
        data -= 1
    return (quote - data) & 1


# --- the face for Python ---------------------------------------------------------------


cdef scanner scanner_of(object format) except? NULL:
    if format is None:
        return NULL
    if format == "msgpack":
        return scan_msgpack
    if format == "msgpack-any-key":
        return scan_msgpack_any_key
    if format == "json":
        return scan_json
    raise ValueError(
        f"a codec's format is 'msgpack', 'msgpack-any-key', 'json' or None, not {format!r}"
    )


def scan(format, buffer, int max_depth, long long max_elements):
    """Check a message before it is decoded.

    Args:
        format: "msgpack" (map keys are str or bytes), "msgpack-any-key", "json", or None, for
            which there is nothing to check.
        buffer: The message.
        max_depth: How deep arrays and maps may nest; at most ``MAX_DEPTH``.
        max_elements: How many elements they may hold together.

    Raises:
        DecodeError: The message is over a limit, or is not msgpack.
        ValueError: The format is unknown.
    """
    cdef scanner walk = scanner_of(format)
    cdef Py_buffer view
    cdef int problem
    if walk == NULL:
        return
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    problem = walk(<const unsigned char*>view.buf, view.len, max_depth, max_elements)
    PyBuffer_Release(&view)
    if problem != FINE:
        raise error_of(problem, max_depth, max_elements)


cdef bint is_over_limit(int problem) noexcept:
    return problem == TOO_DEEP or problem == TOO_MANY


def error_of(int problem, int max_depth, long long max_elements):
    """The exception for what a scanner returned."""
    if problem == TRUNCATED:
        return DecodeError("the msgpack message ends inside a value")
    if problem == TRAILING:
        return DecodeError("the msgpack message goes on after its value")
    if problem == RESERVED:
        return DecodeError("the msgpack message contains the byte 0xC1, which means nothing")
    if problem == WRONG_KEY:
        return DecodeError("a map key in the msgpack message is neither str nor bytes")
    if problem == TOO_DEEP:
        return DecodeError(f"the message nests deeper than the limit of {max_depth:,}")
    assert problem == TOO_MANY, problem
    return DecodeError(f"the message has more elements than the limit of {max_elements:,}")
