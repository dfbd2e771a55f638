# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Calls without deadline and metadata, and results: nearly all that a connection carries.

They are the `Call` and `Return` of ``aioipc.wire.rpc``, whose bytes are written and read here without
an object or a decoder in between. What is any other message, or not quite right, is left to those.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from aioipc.native._core cimport Shortcut
from aioipc.native._scan cimport scan_msgpack_any_key

cdef extern from *:
    uint16_t big16 "__builtin_bswap16"(uint16_t)
    uint32_t big32 "__builtin_bswap32"(uint32_t)
    uint64_t big64 "__builtin_bswap64"(uint64_t)

cdef enum:
    FIELDS = 0x90                # an array of up to 15
    CALL_FIELDS = 0x96           # an array of six: tag, number, method, args, and two of
    NIL = 0xc0
    CALL = 1
    RETURN_FIELDS = 0x93         # tag, number, value
    RETURN = 2
    SHORT_STRING = 0xa0          # up to 31 bytes
    STRING8 = 0xd9
    UINT8 = 0xcc
    UINT16 = 0xcd
    UINT32 = 0xce
    UINT64 = 0xcf
    HEAD_MAX = 2 + 9             # all before the value of a result
    SHORT = 4096                 # the bytes of longer values are not copied here

cdef bytes NILS = b"\xc0\xc0"


@cython.freelist(64)
@cython.final
cdef class PlainCall:
    """A `Call` that has a number, a method and arguments, and nothing else.

    Attributes:
        method: A name that the interface declares.
        args: An array of all arguments, in msgpack.
    """

    remaining_ns = None
    metadata = None

    @property
    def id(self):
        """The number of the call."""
        return self.number


@cython.freelist(64)
@cython.final
cdef class PlainReturn:
    """A `Return`.

    Attributes:
        value: The result, in msgpack.
    """

    @property
    def id(self):
        """The number of the call."""
        return self.number


@cython.final
cdef class PlainMessages(Shortcut):
    """Reads them; anything else is for the codec."""

    def read(self, bytes data not None, *, int max_depth, long long max_elements):
        """What some bytes are: a `PlainCall`, a `PlainReturn`, or None."""
        return self.c_read(
            <const unsigned char*>PyBytes_AS_STRING(data), len(data), max_depth, max_elements
        )

    cdef object c_read(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    ):
        cdef long long number
        cdef Py_ssize_t at = 2
        cdef PlainReturn outcome
        if size < 4 or size >= SHORT:
            return None
        if data[0] == RETURN_FIELDS and data[1] == RETURN:
            number = read_number(data, size, &at)
            if number < 0 or not is_value(data + at, size - at, max_depth, max_elements):
                return None
            outcome = PlainReturn.__new__(PlainReturn)
            outcome.number = number
            outcome.value = PyBytes_FromStringAndSize(<const char*>data + at, size - at)
            return outcome
        if data[0] == CALL_FIELDS and data[1] == CALL:
            if data[size - 1] == NIL and data[size - 2] == NIL:
                return self.c_read_call(data, size - 2, max_depth, max_elements)
        return None

    cdef PlainCall c_read_call(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    ):
        cdef Py_ssize_t at = 2
        cdef long long number = read_number(data, size, &at)
        cdef Py_ssize_t length = read_length(data, size, &at)
        cdef const char* name = <const char*>data + at
        cdef PlainCall call
        if number < 0 or length < 0 or length > size - at:
            return None
        if self.last_name is None or not is_same(self.last_name, name, length):
            self.last_name = PyBytes_FromStringAndSize(name, length)
            try:
                self.last_method = self.last_name.decode()
            except UnicodeDecodeError:
                self.last_name = None
                return None
        at += length
        # Exactly one value, or these were not the last two fields.
        if not is_value(data + at, size - at, max_depth, max_elements):
            return None
        call = PlainCall.__new__(PlainCall)
        call.number = number
        call.method = self.last_method
        call.args = PyBytes_FromStringAndSize(<const char*>data + at, size - at)
        return call


@cython.final
cdef class Unreadable:
    """Stands for a value that is over a limit of this side: who decodes it gets the reason.

    Args:
        reason: The exception that it raises.
    """

    cdef object reason

    def __init__(self, reason):
        self.reason = reason

    def __getbuffer__(self, Py_buffer* view, int flags):
        raise self.reason.with_traceback(None)


def read_head(bytes data not None):
    """What stands before the contents of a message that is not to be decoded.

    Returns:
        Its tag, the number of the call, and its third field if that is a short text, else None;
        None if it does not begin so.
    """
    cdef const unsigned char* place = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = len(data)
    cdef Py_ssize_t at = 2
    cdef Py_ssize_t length
    cdef long long number
    if size < 3 or not FIELDS <= place[0] < FIELDS + 16:
        return None
    number = read_number(place, size, &at)
    if number < 0:
        return None
    length = read_length(place, size, &at)
    if length < 0 or length > size - at:
        return place[1], number, None
    try:
        return place[1], number, data[at : at + length].decode()
    except UnicodeDecodeError:
        return None


cdef inline bint is_same(bytes name, const char* other, Py_ssize_t length) noexcept:
    return PyBytes_GET_SIZE(name) == length and (
        memcmp(PyBytes_AS_STRING(name), other, length) == 0
    )


cdef inline bint is_value(
    const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
) noexcept:
    """Whether it is one value within the limits, of which the fields take a level and six."""
    return size > 0 and scan_msgpack_any_key(data, size, max_depth - 1, max_elements - 6) == 0


cdef inline long long read_number(
    const unsigned char* data, Py_ssize_t size, Py_ssize_t* at
) noexcept:
    """A number from 0 on; -1 if there is none."""
    cdef const unsigned char* place = data + at[0]
    cdef Py_ssize_t left = size - at[0] - 1
    cdef uint16_t two
    cdef uint32_t four
    cdef uint64_t eight
    if left < 0:
        return -1
    if place[0] < 0x80:
        at[0] += 1
        return place[0]
    if place[0] == UINT8 and left >= 1:
        at[0] += 2
        return place[1]
    if place[0] == UINT16 and left >= 2:
        memcpy(&two, place + 1, 2)
        at[0] += 3
        return big16(two)
    if place[0] == UINT32 and left >= 4:
        memcpy(&four, place + 1, 4)
        at[0] += 5
        return big32(four)
    if place[0] == UINT64 and left >= 8:
        memcpy(&eight, place + 1, 8)
        at[0] += 9
        return <long long>big64(eight)  # beyond 2^63 negative, and so left to the codec
    return -1


cdef inline Py_ssize_t read_length(
    const unsigned char* data, Py_ssize_t size, Py_ssize_t* at
) noexcept:
    """The length of a short text; -1 if there is none."""
    cdef Py_ssize_t left = size - at[0] - 1
    cdef unsigned char first
    if left < 0:
        return -1
    first = data[at[0]]
    if first & 0xe0 == SHORT_STRING:
        at[0] += 1
        return first & 0x1f
    if first == STRING8 and left >= 1:
        at[0] += 2
        return data[at[0] - 1]
    return -1


cdef inline Py_ssize_t write_number(unsigned char* place, uint64_t number) noexcept:
    """Write a number as msgpack does; how many bytes that took."""
    cdef uint16_t two
    cdef uint32_t four
    if number < 0x80:
        place[0] = <unsigned char>number
        return 1
    if number < 0x100:
        place[0] = UINT8
        place[1] = <unsigned char>number
        return 2
    if number < 0x10000:
        place[0] = UINT16
        two = big16(<uint16_t>number)
        memcpy(place + 1, &two, 2)
        return 3
    if number < 0x100000000:
        place[0] = UINT32
        four = big32(<uint32_t>number)
        memcpy(place + 1, &four, 4)
        return 5
    place[0] = UINT64
    number = big64(number)
    memcpy(place + 1, &number, 8)
    return 9


cdef inline Py_ssize_t write_head(
    unsigned char* head, unsigned char fields, unsigned char tag, uint64_t number
) noexcept:
    """Write what every message begins with; how many bytes that took, ``HEAD_MAX`` at most."""
    head[0] = fields
    head[1] = tag
    return 2 + write_number(head + 2, number)


cpdef object write_call(long long number, bytes name, bytes args):
    """The bytes of a call, or, where these are many, parts of them.

    Args:
        number: Its number.
        name: The name of the method, in msgpack.
        args: The array of its arguments, in msgpack.
    """
    cdef unsigned char head[HEAD_MAX]
    cdef Py_ssize_t length = write_head(head, CALL_FIELDS, CALL, number)
    cdef Py_ssize_t names = PyBytes_GET_SIZE(name)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(args)
    if size >= SHORT:
        return PyBytes_FromStringAndSize(<char*>head, length) + name, args, NILS
    cdef bytes message = PyBytes_FromStringAndSize(NULL, length + names + size + 2)
    cdef char* place = PyBytes_AS_STRING(message)
    memcpy(place, head, length)
    memcpy(place + length, PyBytes_AS_STRING(name), names)
    memcpy(place + length + names, PyBytes_AS_STRING(args), size)
    place[length + names + size] = <char>NIL
    place[length + names + size + 1] = <char>NIL
    return message


cpdef object write_return(long long number, bytes value):
    """The bytes of a result, or, where these are many, two parts of them."""
    cdef unsigned char head[HEAD_MAX]
    cdef Py_ssize_t length = write_head(head, RETURN_FIELDS, RETURN, number)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    if size >= SHORT:
        return PyBytes_FromStringAndSize(<char*>head, length), value
    cdef bytes message = PyBytes_FromStringAndSize(NULL, length + size)
    memcpy(PyBytes_AS_STRING(message), head, length)
    memcpy(PyBytes_AS_STRING(message) + length, PyBytes_AS_STRING(value), size)
    return message
