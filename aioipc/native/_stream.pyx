# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames over byte streams: many frames out of one read, many messages into one write."""

cimport cython
from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from aioipc.native._fd cimport AT_END, AdaptedStream, ByteCore, FdStream, WOULD_BLOCK
from aioipc.native._fds cimport MOST_FDS, iovec, read_numbers
from aioipc.native._frames cimport (
    CONTROL_LIMIT,
    MOST_PARTS,
    NOT_STALLED,
    UNTIL_HELLO,
    FramePort,
    get_buffer,
    hold,
)
from aioipc.native._pacer cimport ACCEPTED, NO_FDS, NO_ROOM

from aioipc.errors import (
    ClosedError,
    EncodeError,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
)

cdef extern from "<stdlib.h>":
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    # The same functions on a reference that is counted by hand, as resizing demands.
    PyObject* PyBytes_New "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    char* PyBytes_Data "PyBytes_AS_STRING"(PyObject*)
    Py_ssize_t PyBytes_Size "PyBytes_GET_SIZE"(PyObject*)
    void Py_XDECREF(PyObject*)

cdef enum:
    HEADER = 8
    BLOCK = 65536                # one read, and one gathered write
    PAGE = 4096
    PIPE_BYTES = 2 * PAGE        # a pipe keeps so many empty pages and need not allocate them
    TOGETHER = 100               # messages that leave together where a block can hold them
    CAPACITY = PAGE + BLOCK      # what one read did not use up stands before the next
    SLACK = 8192                 # room that control frames always find behind `out`
    SPARE_BLOCKS = 32
    MOST_SHOWN = 16              # of what a peer began with that does not speak aioipc
    MOST_WAITING = 16            # control frames behind a message that is on its way
    LONG = 8192                  # bytes whose way takes a time worth looking at the clock
    MOST_FRAMES = 64             # without a message, before the clock is looked at
    LOOKAHEAD_LIMIT = 8388608

# The second half of a header, `u8 kind, u8 flags, u16 fds`, as one little-endian word.
cdef enum:
    DATA = 1
    PAD = 2
    HELLO = 3
    GOODBYE = 4
    PONG = 6
    MORE = 1
    SHARED = 2

# Blocks are borrowed while there is something in them, so an idle connection holds none.
# The kernel keeps most of what it carries at the beginning of pages. Where the other end of
# its copy has nearly, but not quite, the same place in a page, processors mistake the one for
# the other ("4K aliasing") and copy at a fraction of their speed: hence all begins at a page.
cdef char* spare[SPARE_BLOCKS]
cdef int spares = 0


cdef char* take_block() except NULL:
    global spares
    cdef char* block
    if spares:
        spares -= 1
        return spare[spares]
    block = <char*>aligned_alloc(PAGE, BLOCK + SLACK)
    if block is NULL:
        raise MemoryError
    return block


cdef void give_block(char* block) noexcept:
    global spares
    if spares < SPARE_BLOCKS:
        spare[spares] = block
        spares += 1
    else:
        free(block)


cdef inline Py_ssize_t pipe_room(Py_ssize_t frame) noexcept:
    """How many bytes of such frames leave in one write to a pipe: few, but whole pages."""
    cdef Py_ssize_t room = PIPE_BYTES
    while room < TOGETHER * frame:
        room *= 2
    return room if room <= BLOCK else PIPE_BYTES


cdef inline bint fits(Py_ssize_t length, Py_ssize_t room) noexcept:
    """Whether a frame fills the room, or leaves enough of it for a PAD."""
    return length == room or length <= room - HEADER


cdef class StreamPort(FramePort):
    """Frames with the 8-byte header over a byte stream.

    Args:
        stream: A ByteTransport.
        max_message_bytes: Limit in both directions, until the peer's is known.
        atomic_bytes: Where writers share the stream: the most that one write may hold so
            that the kernel keeps it whole (``PIPE_BUF``, pipe(7)). 0 where it does not
            matter.
        alone: Whether they come one after the other: then a message may take several such
            writes, and one that its writer did not live to finish is forgotten at the HELLO
            of the next.
        packets: Whether the stream keeps the boundaries of writes: then each read has to be
            whole frames.
        pads: Whether PADs may fill pages of ``atomic_bytes``: then one write may hold
            several pages, none of which ends inside a frame.
    """

    def __init__(
        self,
        stream,
        Py_ssize_t max_message_bytes,
        *,
        Py_ssize_t atomic_bytes=0,
        bint alone=False,
        bint packets=False,
        bint pads=False,
    ):
        self.stream = stream
        self.flags = MORE
        self.io = stream if isinstance(stream, ByteCore) else AdaptedStream(stream)
        self.max_receive_bytes = max_message_bytes
        self.max_send_bytes = max_message_bytes
        self.gather_bytes = BLOCK
        self.is_pipe = isinstance(stream, FdStream) and not (<FdStream>stream).is_socket
        self.packets = packets
        self.stream_flush = getattr(stream, "try_flush", None)
        self.pads = pads
        if atomic_bytes:
            self.gather_bytes = atomic_bytes
            self.fragments = alone
            if not alone:
                self.max_send_bytes = min(max_message_bytes, atomic_bytes - HEADER)
        self.join_bytes = self.gather_bytes - HEADER
        if atomic_bytes and pads:
            self.page = atomic_bytes
            self.gather_bytes = PIPE_BYTES
        self.least_lent = BLOCK

    def __dealloc__(self):
        self.c_release_block()
        self.c_drop_large()
        if self.out is not NULL:
            give_block(self.out)

    # For the floor above to fill in

    def _rest_awaited(self):
        """Somebody waits, and a part of a message is there (`part`)."""

    def _rest_looked_for(self):
        """More of it may have come."""

    def _rest_abandoned(self):
        """Nobody waits for it any more."""

    def _rest_came(self):
        """All of it came."""

    # Receiving

    def expect_fds(self, int most):
        FramePort.expect_fds(self, most)
        self.stream.keep_fds(self.queue)

    def refuse_fds(self):
        FramePort.refuse_fds(self)
        self.stream.keep_fds(None)

    cdef object c_receive(self):
        cdef uint64_t header
        cdef Py_ssize_t length, unread
        cdef const char* frame
        cdef int frames = 0
        if self.own_fds:
            self.c_drop_fds()
        if self.incoming is not None:
            return self.c_take_incoming()
        while True:
            unread = self.end - self.start
            if unread >= HEADER:
                frame = self.block + self.start
                memcpy(&header, frame, HEADER)
                length = <Py_ssize_t>(<uint32_t>header)
                if (
                    header >> 32 == DATA
                    and length <= unread - HEADER
                    and length <= self.max_receive_bytes
                    and self.greeted
                    and self.pieces is None
                    and self.ending is None
                ):
                    self.start += HEADER + length
                    self.counters.messages_received += 1
                    self.counters.bytes_received += length
                    return again_bytes(&self.again, frame + HEADER, length)
                message = self.c_frame()
                if message is not None or self.incoming is not None:
                    return message
                if self.end - self.start != unread:
                    # Frames without a message for the caller must not keep the loop, either.
                    frames += 1
                    if frames >= MOST_FRAMES and self.c_must_stop():
                        return None
                    continue
            if self.ending is not None:
                raise self.ending.with_traceback(None)
            if not self.c_fill():
                return None
            if self.large is NULL:
                continue
            if self.large_filled < self.large_length:
                if self.c_must_stop():
                    return None
            else:
                payload = <object>self.large
                self.c_drop_large()
                self.last_large = self.large_length
                message = self.c_dispatch(self.large_word, payload)
                if message is not None:
                    return message

    @cython.final
    cdef object c_frame(self):
        """Take the frame at the start of the block, if it is not an ordinary message.

        Returns a message, or None when there was none in it or more bytes are needed; the
        latter leaves ``start`` where it was, or begins a large frame.
        """
        cdef uint64_t header
        cdef uint32_t word
        cdef Py_ssize_t length, limit
        if self.ending is not None:
            raise self.ending.with_traceback(None)
        memcpy(&header, self.block + self.start, HEADER)
        length = <Py_ssize_t>(<uint32_t>header)
        word = <uint32_t>(header >> 32)
        kind = word & 0xFF
        if not self.greeted and (kind != HELLO or word >> 8 or length > CONTROL_LIMIT):
            began = self.block[self.start:min(self.end, self.start + MOST_SHOWN)]
            self.c_refuse(HandshakeError(f"the peer does not speak aioipc: it began with {began!r}"))
        if kind < DATA or kind > PONG or (kind == PAD and not self.pads):
            self.c_refuse(ProtocolError(f"a frame has the unknown kind {kind}"))
        if word >> 16:
            if not self.greeted or kind != DATA:
                self.c_refuse(ProtocolError(
                    f"a frame of kind {kind} announces {word >> 16} descriptors"
                ))
            self.c_check_fds(word >> 16)
        if (word >> 8) & 0xFF & ~self.flags or (kind != DATA and word >> 8):
            self.c_refuse(ProtocolError(f"a frame has flags {word >> 8:#x} that were not agreed"))
        limit = CONTROL_LIMIT
        if kind == DATA:
            limit = self.max_receive_bytes - self.c_pieces_bytes()
        if length > limit:
            if kind == DATA:
                self.c_refuse(
                    FrameTooLarge(length + self.c_pieces_bytes(), self.max_receive_bytes)
                )
            self.c_refuse(ProtocolError(
                f"a control frame of kind {kind} announces {length:,} bytes, "
                f"over the limit of {limit:,}"
            ))
        if length <= self.end - self.start - HEADER:
            if kind == PAD:
                self.start += HEADER + length
                return None
            payload = PyBytes_FromStringAndSize(self.block + self.start + HEADER, length)
            self.start += HEADER + length
            return self.c_dispatch(word, payload)
        if self.packets:
            self.c_refuse(ProtocolError(
                f"a packet ends inside a frame of {length:,} bytes, after "
                f"{self.end - self.start - HEADER:,} of them"
            ))
        if HEADER + length > BLOCK:
            self.c_begin_large(word, length)
        return None

    cdef object c_borrow(self):
        self.borrowing = True
        try:
            return self.c_receive()
        finally:
            self.borrowing = False

    def share_memory(self):
        FramePort.share_memory(self)
        self.flags = MORE | SHARED

    cdef object c_dispatch(self, uint32_t word, object payload):
        """One whole frame arrived that is not an ordinary message."""
        if word & 0xFF != DATA:
            if word & 0xFF == HELLO:
                self.pieces = None  # of a writer that was alone, and died inside a message
            if word & 0xFF == GOODBYE and self.pieces is not None:
                self.c_refuse(ProtocolError("a GOODBYE came between the parts of a message"))
            try:
                self._control(word & 0xFF, payload)
            except IPCError as error:
                self.c_refuse(error)
            return None
        if (word >> 8) & SHARED:
            if self.pieces is not None or (word >> 8) & MORE:
                self.c_refuse(ProtocolError("a SHARED frame came as a part of a message"))
            self.c_shared_came(payload, word >> 16)
            return None if self.incoming is None else self.c_take_incoming()
        if (word >> 8) & MORE or self.pieces is not None:
            try:
                # Not a list, which would grow with the number of parts, be they ever so short.
                if self.pieces is None:
                    self.pieces = bytearray()
                self.pieces += payload
                if not (word >> 8) & MORE:
                    payload = bytes(self.pieces)
            except MemoryError:  # this part is lost, and with it the message
                self.c_refuse_for_memory(self.c_pieces_bytes() + PyBytes_GET_SIZE(payload))
        if (word >> 8) & MORE:
            if word >> 16:
                self.queue.c_claim(word >> 16)
            return None
        self.pieces = None
        if self.queue is not None:
            self.c_deliver_fds(word >> 16)
        self.counters.messages_received += 1
        self.counters.bytes_received += PyBytes_GET_SIZE(payload)
        return payload

    cdef Py_ssize_t c_pieces_bytes(self) except -1:
        return 0 if self.pieces is None else len(self.pieces)

    @cython.final
    cdef int c_fill(self) except -1:
        """Read more: 1 when something came (bytes, or an ending), 0 when nothing is there."""
        cdef Py_ssize_t n
        if self.large is not NULL:
            return self.c_fill_large()
        if self.queue is not None and self.start == self.end:
            if self.queue.arrivals.count or self.queue.arrivals.cut:
                self.c_refuse_strays()
        if self.packets and self.start != self.end:
            self.c_refuse(ProtocolError(
                f"a packet ends inside a header, after {self.end - self.start} bytes of it"
            ))
        self.c_make_space()
        n = self.c_read(self.block + self.end, self.capacity - self.end)
        if n > 0:
            self.end += n
            if n >= LONG and self.pacer is not None:
                self.pacer.next_look = 0
            return 1
        if n == WOULD_BLOCK:
            if self.start == self.end:
                self.c_release_block()
            return 0
        return 1

    cdef Py_ssize_t c_read(self, char* data, Py_ssize_t size) except -2:
        """Read; the end of the stream and errors become ``ending``."""
        cdef Py_ssize_t n = AT_END
        self.counters.read_calls += 1
        try:
            if self.read_errno:
                number, self.read_errno = self.read_errno, 0
                raise (<FdStream>self.io).c_error(number, "read from")
            n = self.io.c_read(data, size)
        except IPCError as error:
            if self.packets and isinstance(error, ProtocolError):
                self.c_refuse(error)
            self.c_end(self._ended(self.c_is_inside(), error))
            if isinstance(error, PeerCrashed) and self.c_is_socket():
                self.c_lose_peer(error)
            return AT_END
        if n == AT_END:
            self.c_end(self._ended(self.c_is_inside(), None))
        elif n == WOULD_BLOCK and self.bereaved:
            self.c_end(self._ended(self.c_is_inside(), self.c_bereavement()))
            return AT_END
        return n

    cdef bint c_is_socket(self) noexcept:
        """Whether both directions end with a reset, and who waits for room hears of it."""
        return isinstance(self.io, FdStream) and (<FdStream>self.io).is_socket

    cdef int c_lose_peer(self, object error) except -1:
        """Nobody will read what is sent: say so now, not when the next write fails."""
        if self.send_failure is None and not self.write_ended:
            self.c_fail_sending(error)
        return 0

    cdef object c_bereavement(self):
        return PeerCrashed(f"{self.stream.address}: the peer's process has ended")

    def peer_died(self):
        """The process of the peer has ended, although the stream may not."""
        self.bereaved = True
        self.c_lose_peer(self.c_bereavement())
        self.c_call_writer()
        self._readable()

    cdef bint c_is_inside(self) noexcept:
        """Whether the beginning of a message is there and its end is not."""
        return self.large is not NULL or self.end > self.start or self.pieces is not None

    def part(self):
        """The message of which a part is there: its number, and its bytes that came of how many.

        With its headers; of a message in several frames, as far as they were announced.
        """
        cdef uint64_t header
        cdef Py_ssize_t before = self.c_pieces_bytes()
        cdef Py_ssize_t came = self.end - self.start
        cdef Py_ssize_t announced = HEADER
        if self.large is not NULL:
            came = HEADER + self.large_filled
            announced += self.large_length
        elif came >= HEADER:
            memcpy(&header, self.block + self.start, HEADER)
            announced += <Py_ssize_t>(<uint32_t>header)
        return self.counters.messages_received, before + came, before + announced

    def give_up(self, error):
        """The peer broke the protocol by what it did not send: let the receive raise ``error``."""
        callback, self.read_callback = self.read_callback, None
        self.c_end(error)
        self._refused(error)
        if callback is not None:
            callback()

    @cython.final
    cdef int c_make_space(self) except -1:
        """Have a block with room behind the unread bytes, which are less than a frame."""
        cdef Py_ssize_t unread = self.end - self.start
        cdef Py_ssize_t start
        if self.block is NULL:
            self.block = take_block()
            self.capacity = CAPACITY
            self.start = self.end = PAGE
        elif unread == 0:
            self.start = self.end = PAGE
        elif self.end >= self.capacity or (unread <= PAGE and self.end > 2 * PAGE):
            start = -unread & (PAGE - 1)
            memmove(self.block + start, self.block + self.start, unread)
            self.start = start
            self.end = start + unread
        return 0

    cdef int c_release_block(self) noexcept:
        if self.block is not NULL:
            if self.capacity == CAPACITY:
                give_block(self.block)
            else:
                free(self.block)
            self.block = NULL
            again_clear(&self.again)
        self.start = self.end = 0
        return 0

    cdef int c_begin_large(self, uint32_t word, Py_ssize_t length) except -1:
        """Gather a frame that no block can hold in a bytes object that grows as it comes."""
        cdef Py_ssize_t unread = self.end - self.start - HEADER
        # After a look ahead, more than two blocks may be there already.
        self.large = PyBytes_New(NULL, max(unread, min(length, max(2 * BLOCK, self.last_large))))
        memcpy(PyBytes_Data(self.large), self.block + self.start + HEADER, unread)
        self.large_filled = unread
        self.large_length = length
        self.large_word = word
        self.c_release_block()
        return 0

    cdef int c_drop_large(self) noexcept:
        Py_XDECREF(self.large)
        self.large = NULL
        return 0

    cdef int c_fill_large(self) except -1:
        cdef Py_ssize_t size = PyBytes_Size(self.large)
        cdef Py_ssize_t n
        if self.large_filled == size:
            # Memory follows what really came, now or last time, never what was announced.
            size = min(self.large_length, 2 * size)
            try:
                _PyBytes_Resize(&self.large, size)
            except MemoryError:  # which took what came so far along
                self.c_refuse_for_memory(size)
        n = self.c_read(PyBytes_Data(self.large) + self.large_filled, size - self.large_filled)
        if n > 0:
            self.large_filled += n
            return 1
        return n == AT_END

    def try_greet(self):
        """Read until the peer's HELLO was accepted: True when it was, False to wait."""
        while not self.greeted:
            if self.ending is not None:
                raise self.ending.with_traceback(None)
            if self.end - self.start >= HEADER:
                self.c_frame()
                if self.greeted:
                    break
            if not self.c_fill():
                return False
        if self.start == self.end:
            self.c_release_block()
        elif self.read_callback is not None and self.pacer is not None:
            # What is read here makes the descriptor readable no more.
            self.pacer.call_soon(self._readable)
        return True

    # Sending

    cdef int c_send(self, object parts, object fds) except -1:
        if fds is not NO_FDS and (fds or isinstance(fds, int)):
            return self.c_send_with_fds(parts, fds)
        self.c_check_sending()
        if self.blocked or self.rest is not None:
            self.stall = NOT_STALLED
            return NO_ROOM
        if PyBytes_CheckExact(parts):
            return self.c_send_one(parts, PyBytes_AS_STRING(parts), PyBytes_GET_SIZE(parts))
        return self.c_send_buffers(parts)

    @cython.final
    cdef int c_send_one(self, object owner, const char* data, Py_ssize_t size) except -1:
        cdef uint64_t header
        cdef Py_ssize_t room = self.gather_bytes - self.out_end
        if size > self.max_send_bytes:
            raise FrameTooLarge(size, self.max_send_bytes)
        if size > self.join_bytes:
            return self.c_send_large([owner], size)
        if self.is_pipe:
            room = min(room, pipe_room(HEADER + size) - self.out_end)
        if self.page and not self.c_turn_page(HEADER + size):
            room = 0
        if HEADER + size > room and self.out_end:
            if not self.c_flush():
                return NO_ROOM
        if self.out is NULL:
            self.out = take_block()
        header = <uint64_t>size | (<uint64_t>DATA << 32)
        memcpy(self.out + self.out_end, &header, HEADER)
        memcpy(self.out + self.out_end + HEADER, data, size)
        return self.c_gather(size)

    # Linux keeps what is in a pipe in pages, each of which one write filled, and a write that
    # finds no room for all of it ends with a page. So writes of whole pages may be mixed with
    # those of others, and may remain the last of their writer, but only between two pages.

    @cython.final
    cdef bint c_turn_page(self, Py_ssize_t length) noexcept:
        """Let a frame begin where it ends in the same page, and leaves room for a PAD in it.

        Answers whether it does; if not, what is in ``out`` has to leave before.
        """
        cdef Py_ssize_t left = -self.out_end & (self.page - 1)
        if left and not fits(length, left):
            if left < HEADER:
                return False
            self.c_pad(left)
            left = 0
        return left != 0 or self.out_end == 0 or fits(length, self.page)

    @cython.final
    cdef int c_pad(self, Py_ssize_t size) noexcept:
        cdef uint64_t header = <uint64_t>(size - HEADER) | (<uint64_t>PAD << 32)
        memcpy(self.out + self.out_end, &header, HEADER)
        memset(self.out + self.out_end + HEADER, 0, size - HEADER)  # nobody's old messages
        self.out_end += size
        return 0

    @cython.final
    cdef inline int c_gather(self, Py_ssize_t size) except -1:
        """A message of ``size`` bytes stands behind ``out``: write it now, or later."""
        cdef Py_ssize_t before = self.out_end
        self.out_end += HEADER + size
        if self.pacer is not None and self.turn == self.pacer.turn:
            if not self.dirty:
                self.pacer.c_gathered(self)
        else:
            if self.pacer is not None:
                self.pacer.c_begin_sending(self)
            if not self.c_flush() and self.out_start <= before and self.out_end > before:
                # Nothing of it left: it was not accepted, and the caller waits.
                self.out_end = before
                return NO_ROOM
        self.counters.messages_sent += 1
        self.counters.bytes_sent += size
        return ACCEPTED

    cdef int c_send_large(self, list parts, Py_ssize_t size) except -1:
        """Write a message from where it lies; hold on to what did not fit."""
        return self.c_count(self.c_write_message(parts, size, 0, NULL, 0), size)

    cdef int c_send_shared(self, bytes told, object fds) except -1:
        cdef int numbers[MOST_FDS]
        cdef int fd_count = read_numbers(fds, numbers)
        self.c_check_sending()
        if self.blocked or self.rest is not None:
            self.stall = NOT_STALLED
            return NO_ROOM
        return self.c_write_message([told], len(told), SHARED, numbers, fd_count)

    @cython.final
    cdef inline int c_count(self, int answer, Py_ssize_t size) noexcept:
        """Count a message, if it was accepted."""
        if answer == ACCEPTED:
            self.counters.messages_sent += 1
            self.counters.bytes_sent += size
        return answer

    @cython.final
    cdef inline int c_check_sending(self) except -1:
        if self.send_failure is not None:
            raise self.send_failure.with_traceback(None)
        if self.write_ended:
            raise ClosedError("this side ended its sending direction")
        return 0

    cdef int c_send_with_fds(self, object parts, object fds) except -1:
        """Write a message, whose descriptors leave with its first byte, or not at all."""
        cdef int numbers[MOST_FDS]
        cdef int fd_count = read_numbers(fds, numbers)
        cdef list pieces = []
        cdef Py_ssize_t size = self.c_pieces(parts, pieces)
        self.c_check_sending()
        if not self.c_may_pass_fds() or self.blocked or self.rest is not None:
            return NO_ROOM
        if len(pieces) >= MOST_PARTS:
            pieces = [b"".join(pieces)]
        return self.c_count(self.c_write_message(pieces, size, 0, numbers, fd_count), size)

    cdef int c_write_message(
        self, list parts, Py_ssize_t size, uint64_t flags, const int* numbers, int fd_count
    ) except -1:
        cdef iovec iov[MOST_PARTS + 1]
        cdef Py_buffer views[MOST_PARTS]
        cdef uint64_t header = (
            <uint64_t>size | (<uint64_t>DATA << 32) | (flags << 40) | (<uint64_t>fd_count << 48)
        )
        cdef int count = 0
        cdef Py_ssize_t written, held = 0
        parts = [hold(part) for part in parts]
        if not self.c_flush():
            return NO_ROOM
        if self.fragments and size > self.join_bytes:
            return self.c_send_fragments(b"".join(parts), numbers, fd_count)
        iov[0].iov_base = &header
        iov[0].iov_len = HEADER
        try:
            for part in parts:
                get_buffer(part, &views[count])
                iov[count + 1].iov_base = views[count].buf
                iov[count + 1].iov_len = views[count].len
                held += views[count].len
                count += 1
            if held != size:
                raise EncodeError(f"a message of {size:,} bytes suddenly has {held:,}")
            written = self.c_write_first(iov, count + 1, numbers, fd_count)
        finally:
            while count:
                count -= 1
                PyBuffer_Release(&views[count])
        if written == WOULD_BLOCK:
            return NO_ROOM
        if self.pacer is not None:
            self.pacer.next_look = 0
        if written < HEADER:
            if self.out is NULL:
                self.out = take_block()
            memcpy(self.out, <char*>&header + written, HEADER - written)
            self.out_start = 0
            self.out_end = HEADER - written
            written = HEADER
        if written < HEADER + size:
            self.c_keep_rest(parts, written - HEADER)
            self.c_flush()
        return ACCEPTED

    cdef Py_ssize_t c_write_first(
        self, const iovec* iov, int count, const int* numbers, int fd_count
    ) except -2:
        """Write the beginning of a message, with its descriptors; WOULD_BLOCK: nothing left."""
        cdef Py_ssize_t written
        self.counters.write_calls += 1
        if fd_count:
            written = self.io.c_write_fds(iov, count, numbers, fd_count)
            if written >= 0:
                self.backoff_s = 0
            elif written == -EAGAIN:
                self.c_block()
                written = WOULD_BLOCK
            else:
                self.c_fds_failed(-written)
                written = WOULD_BLOCK
            return written
        try:
            written = self.io.c_write(iov, count)
        except IPCError as error:
            self.c_fail_sending(error)
            raise self.send_failure
        if written == WOULD_BLOCK:
            self.c_block()
        return written

    cdef object c_write_error(self, int number):
        return (<FdStream>self.io).c_error(number, "write to")

    cdef int c_pass_first(self, list frames, const int* numbers, int fd_count) except -1:
        """Write the first of several frames, with the descriptors of all: whether it left."""
        cdef bytes first = frames[0]
        cdef iovec iov
        iov.iov_base = PyBytes_AS_STRING(first)
        iov.iov_len = PyBytes_GET_SIZE(first)
        if self.c_write_first(&iov, 1, numbers, fd_count) == WOULD_BLOCK:
            return 0
        del frames[0]  # the kernel takes a packet whole
        return 1

    cdef int c_send_fragments(self, object message, const int* numbers, int fd_count) except -1:
        """Write a message in frames of which the kernel keeps each whole."""
        cdef uint64_t header
        cdef Py_ssize_t most = self.join_bytes
        cdef Py_ssize_t size = len(message)
        cdef Py_ssize_t start
        cdef list frames = []
        for start in range(0, size, most):
            header = <uint64_t>min(most, size - start) | (<uint64_t>DATA << 32)
            if start + most < size:
                header |= <uint64_t>MORE << 40
            if start == 0:
                header |= <uint64_t>fd_count << 48
            frames.append(
                PyBytes_FromStringAndSize(<char*>&header, HEADER) + message[start : start + most]
            )
        if fd_count and not self.c_pass_first(frames, numbers, fd_count):
            return NO_ROOM
        start = len(frames)
        self.rest = frames
        self.rest_offset = 0
        self.controls_waiting = 0
        if not self.c_flush() and len(frames) == start and not fd_count:
            # Nothing of it left: it was not accepted, and the caller waits.
            self.rest = None
            return NO_ROOM
        return ACCEPTED

    cdef int c_keep_rest(self, list parts, Py_ssize_t written) except -1:
        """Remember which bytes of ``parts`` still have to leave."""
        cdef Py_ssize_t size
        self.rest = list(parts)
        self.controls_waiting = 0
        while True:
            size = memoryview(self.rest[0]).nbytes
            if written < size:
                break
            written -= size
            self.rest.pop(0)
        self.rest_offset = written
        return 0

    cdef int c_flush(self) except -1:
        self.blocked = False
        if self.send_failure is not None:
            raise self.send_failure.with_traceback(None)
        try:
            if self.out_end and not self.c_flush_out():
                return self.c_block()
            if self.rest is not None and not self.c_flush_rest():
                return self.c_block()
            if self.stream_flush is not None and not self.stream_flush():
                return self.c_block()
        except IPCError as error:
            self.c_fail_sending(error)
            raise self.send_failure
        return 1

    cdef int c_flush_out(self) except -1:
        cdef iovec iov
        cdef Py_ssize_t n
        if self.page and self.out_end - self.out_start > self.page and self.out_end % self.page:
            self.c_pad(-self.out_end & (self.page - 1))
        while self.out_start < self.out_end:
            iov.iov_base = self.out + self.out_start
            iov.iov_len = self.out_end - self.out_start
            self.counters.write_calls += 1
            n = self.io.c_write(&iov, 1)
            if n == WOULD_BLOCK:
                return 0
            if n >= LONG and self.pacer is not None:
                self.pacer.next_look = 0
            self.out_start += n
        self.c_drop_out()
        return 1

    cdef int c_drop_out(self) noexcept:
        if self.out is not NULL:
            give_block(self.out)
            self.out = NULL
        self.out_start = self.out_end = 0
        return 0

    cdef int c_flush_rest(self) except -1:
        cdef Py_buffer view
        cdef iovec iov
        cdef Py_ssize_t n
        while self.rest:
            get_buffer(self.rest[0], &view)
            try:
                iov.iov_base = <char*>view.buf + self.rest_offset
                iov.iov_len = view.len - self.rest_offset
                self.counters.write_calls += 1
                n = self.io.c_write(&iov, 1)
            finally:
                PyBuffer_Release(&view)
            if n == WOULD_BLOCK:
                return 0
            self.rest_offset += n
            if n == <Py_ssize_t>iov.iov_len:
                self.rest.pop(0)
                self.rest_offset = 0
            if self.rest and self.c_must_stop():
                return 0  # the next part leaves when the loop has turned
        self.rest = None
        return 1

    cdef int c_block(self) except -1:
        """No room: go on when the kernel has some. Always answers 0."""
        self.blocked = True
        self.stall = NOT_STALLED
        if not self.armed:
            try:
                self.stream.on_writable(self._drain)
            except RuntimeError:
                return 0  # not in our loop: who waits for room there is told, and arms it here
            self.armed = True
        return 0

    cdef int c_drop_unsent(self) except -1:
        self.c_drop_out()
        self.rest = None
        return 0

    def _drain(self):
        """The kernel has room again."""
        self.armed = False
        if self.send_failure is None:
            try:
                if not self.c_flush():
                    return
            except IPCError:
                pass  # each send raises it
            except Exception as error:
                self.c_fail_sending(error)
        self.blocked = False
        callback, self.write_callback = self.write_callback, None
        if callback is not None:
            callback()

    def queue_control(self, int kind, bytes payload):
        """Put a control frame behind what was accepted; it leaves with the next write."""
        cdef uint64_t header = <uint64_t>len(payload) | (<uint64_t>kind << 32)
        cdef bytes frame
        if self.send_failure is not None or self.write_ended:
            return
        if len(payload) > CONTROL_LIMIT:
            raise ValueError(f"a control frame holds {CONTROL_LIMIT} bytes, not {len(payload)}")
        frame = PyBytes_FromStringAndSize(<char*>&header, HEADER) + payload
        if (self.rest is not None and self.controls_waiting == MOST_WAITING) or (
            self.rest is None and len(frame) > self.gather_bytes + SLACK - self.out_end
        ):
            raise ProtocolError("the peer does not read: there is no room even for control frames")
        if self.rest is not None:
            self.rest.append(frame)
            self.controls_waiting += 1
            return
        # On a FIFO it is the HELLO, and nothing stands before it: no page ends inside.
        if self.out is NULL:
            self.out = take_block()
        memcpy(self.out + self.out_end, PyBytes_AS_STRING(frame), len(frame))
        self.out_end += len(frame)

    # Readiness

    def on_readable(self, callback):
        if callback is None and self.stall == UNTIL_HELLO:
            callback = self.hear_hello  # for those who want to send
        self.read_callback = callback
        if callback is not None:
            self.stream.on_readable(self._readable)
            if self.c_is_inside():
                self.timed = True
                self._rest_awaited()
            elif self.timed:
                self.timed = False
                self._rest_came()
        elif self.timed:
            self._rest_abandoned()

    def _readable(self):
        cdef uint64_t message = self.counters.messages_received
        callback, self.read_callback = self.read_callback, None
        if self.timed:
            self._rest_looked_for()
        if callback is not None:
            callback()
        if self.timed and self.counters.messages_received != message and self.read_callback is None:
            self.timed = False
            self._rest_came()

    def on_writable(self, callback):
        self.write_callback = callback
        if self.stall:
            self.c_wait_out(callback)
        elif callback is not None and not self.armed:
            self.stream.on_writable(self._drain)
            self.armed = True

    # Polling

    cdef int c_poll_fd(self, bint for_room) noexcept:
        if for_room:
            return -1 if self.stall else self.io.c_write_fd()
        return self.io.c_read_fd()

    cdef int c_begin_poll(self, bint for_room) except -1:
        if for_room or self.large is not NULL or self.ending is not None:
            return 0
        if not isinstance(self.io, FdStream) or self.io.c_read_fd() < 0:
            return 0
        if self.packets and self.start != self.end:
            return 0  # a packet needs the whole block
        self.c_make_space()
        return 1

    cdef bint c_poll_look(self, bint for_room) noexcept nogil:
        cdef Py_ssize_t n = self.io.c_read_nogil(self.block + self.end, self.capacity - self.end)
        self.counters.read_calls += 1
        if n > 0:
            self.end += n
            return True
        if n == -EAGAIN:
            return False
        if n < 0:
            self.read_errno = <int>-n
        return True

    # The end

    def look_ahead(self):
        """Read all that is left, without taking it, and return the payload of a GOODBYE.

        A failed write says only that the peer closed; a GOODBYE that it sent before says
        why. Messages that stand before it stay to be received.
        """
        cdef Py_ssize_t n, at
        cdef uint64_t header
        cdef char* grown
        if self.large is not NULL or self.ending is not None:
            return None
        self.c_make_space()
        if self.read_callback is not None and self.pacer is not None:
            # What is read here makes the descriptor readable no more.
            self.pacer.call_soon(self._readable)
        while self.queue is None or self.queue.c_unclaimed() <= MOST_FDS:
            if self.capacity - self.end < (BLOCK if self.packets else 1):
                if self.capacity >= LOOKAHEAD_LIMIT:
                    break
                grown = <char*>malloc(2 * self.capacity)
                if grown is NULL:
                    break
                memcpy(grown, self.block + self.start, self.end - self.start)
                n = self.end - self.start
                at = 2 * self.capacity
                self.c_release_block()
                self.block, self.capacity, self.end = grown, at, n
            if isinstance(self.io, FdStream):
                n = self.io.c_read_nogil(self.block + self.end, self.capacity - self.end)
            else:
                n = self.c_read_adapted(self.block + self.end, self.capacity - self.end)
            if n <= 0:
                break
            self.end += n
        at = self.start
        while at + HEADER <= self.end:
            memcpy(&header, self.block + at, HEADER)
            n = <Py_ssize_t>(<uint32_t>header)
            if header >> 32 == GOODBYE and n <= self.end - at - HEADER:
                return PyBytes_FromStringAndSize(self.block + at + HEADER, n)
            at += HEADER + n
        return None

    cdef Py_ssize_t c_read_adapted(self, char* data, Py_ssize_t size) except -2:
        try:
            return self.io.c_read(data, size)
        except IPCError:
            return AT_END

    def close(self):
        """Release everything at once. Idempotent."""
        self.read_callback = None
        self.stream.close()
        self.c_release_block()
        self.c_drop_large()
        self.c_drop_unsent()
        self.c_close_fds()
        self.c_close_segments()
        self.blocked = False
        self.write_ended = True
        self.c_call_writer()
