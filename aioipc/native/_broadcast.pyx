# cython: language_level=3, boundscheck=False, wraparound=False
"""The two sides of a broadcast ring: broadcast.h has the protocol."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from aioipc.native._memory cimport Mapping

from aioipc.errors import RingCorrupted

cdef extern from "broadcast.h" nogil:
    bint cast_attach_writer(CastWriter*, void*, CastGeometry, uint64_t)
    uint64_t cast_seat(CastWriter*, uint32_t, CastPage*, bint)
    void cast_hold(CastWriter*, uint32_t, bint)
    void cast_leave(CastWriter*, uint32_t)
    CastAnswer cast_put(CastWriter*, const uint64_t*, uint32_t, const void*, size_t)
    CastAnswer cast_publish(CastWriter*, uint64_t*)
    const CastWord* cast_untaken(CastWriter*, uint32_t, uint64_t*, const CastWord*, uint32_t*)
    bint cast_attach_reader(CastReader*, const void*, CastPage*, CastGeometry, uint32_t, uint64_t)
    CastAnswer cast_next(CastReader*, CastRecord*)
    bint cast_copy(CastReader*, const CastRecord*, unsigned char*)
    bint cast_resume(CastReader*, uint64_t, uint64_t)
    CastAnswer cast_retire(CastReader*)
    CastAnswer cast_arm(CastReader*)

HEAD_BYTES = CAST_DATA_OFFSET
PAGE_BYTES = CAST_PAGE_BYTES


cdef class BroadcastWriter:
    """The writing side of a ring in fresh memory; see broadcast.h.

    Args:
        memory: ``HEAD_BYTES`` and the capacity, writable.
        words: Of a mask: for 64 readers each.
    """

    def __init__(self, Mapping memory not None, uint32_t words):
        cdef CastGeometry geometry = CastGeometry(memory.size - CAST_DATA_OFFSET, words)
        if not memory.writable or memory.size <= CAST_DATA_OFFSET or not cast_attach_writer(
            &self.writer, memory.address, geometry, 0
        ):
            raise ValueError(f"{memory.size:,} bytes and {words} words are no broadcast ring")
        self.memory = memory
        self.words = words
        self.pages = {}

    @property
    def position(self):
        """Where the next record begins."""
        return self.writer.cursor

    def seat(self, uint32_t slot, Mapping page not None):
        """Let a reader in, which holds; returns where it begins."""
        if slot >= 64 * self.words or slot in self.pages:
            raise ValueError(f"slot {slot} is taken, or there is none")
        if page.size < CAST_PAGE_BYTES or not page.writable:
            raise ValueError(f"{page.size:,} bytes are no page of a reader")
        self.pages[slot] = page
        return cast_seat(&self.writer, slot, <CastPage*>page.address, True)

    def leave(self, uint32_t slot):
        """A reader is gone. Idempotent."""
        if self.pages.pop(slot, None) is not None:
            cast_leave(&self.writer, slot)

    def hold(self, uint32_t slot, bint holds):
        """Change whether a reader holds."""
        if slot in self.pages:
            cast_hold(&self.writer, slot, holds)

    def mask(self, slots):
        """Whom a message is for, as `put` wants it."""
        cdef uint64_t words[CAST_MAX_WORDS]
        cdef uint32_t slot
        memset(words, 0, sizeof(words))
        for slot in slots:
            if slot in self.pages:
                words[slot // 64] |= <uint64_t>1 << slot % 64
        return PyBytes_FromStringAndSize(<const char*>words, 8 * self.words)

    def put(self, bytes data not None, bytes mask not None):
        """Put a message in, to be shown by `publish`.

        Args:
            data: The message.
            mask: Whom it is for.

        Returns:
            None, or the slot of a reader that holds what it would be written over, -1 if that
            is not even published: call again when that is changed.

        Raises:
            ValueError: It is longer than a quarter of the ring.
        """
        cdef int answer = self.c_put(data, mask)
        return None if answer == PUT else answer

    cdef int c_put(self, bytes data, bytes mask) except -3:
        """As `put`; PUT where that says None."""
        cdef CastAnswer answer
        cdef uint64_t words[CAST_MAX_WORDS]
        if PyBytes_GET_SIZE(mask) != 8 * self.words:
            raise ValueError(f"a mask of {len(mask)} bytes, {8 * self.words} are due")
        memcpy(words, PyBytes_AS_STRING(mask), 8 * self.words)
        answer = cast_put(
            &self.writer, words, RING_DATA, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        )
        if answer == CAST_TOO_LARGE:
            raise ValueError(f"a message of {len(data):,} bytes is too long for the ring")
        return PUT if answer == CAST_DONE else self.writer.blocker

    def publish(self):
        """Show what was put. Returns the slots of readers that sleep and are to be woken."""
        cdef uint32_t slot
        if not self.c_publish():
            return ()
        return [
            slot for slot in range(64 * self.words) if self.bells[slot // 64] >> slot % 64 & 1
        ]

    cdef bint c_publish(self) noexcept:
        """Show what was put: whether somebody is to be woken, as ``bells`` says."""
        return cast_publish(&self.writer, self.bells) == CAST_WAKE

    def untaken(self, uint32_t slot):
        """Copies of the messages that a reader has not taken, as far as it said."""
        cdef uint64_t position = 0
        cdef uint32_t length = 0
        cdef const CastWord* payload = NULL
        messages = []
        if slot not in self.pages:
            return messages
        while True:
            payload = cast_untaken(&self.writer, slot, &position, payload, &length)
            if payload is NULL:
                return messages
            messages.append(PyBytes_FromStringAndSize(<const char*>payload, length))


cdef class BroadcastReader:
    """The reading side; see broadcast.h.

    Args:
        memory: The ring; it need not be writable.
        page: The reader's own.
        words: Of a mask.
        slot: The reader's.
        start: Where it begins.

    Attributes:
        taken: How many messages for it came by the ring.
        is_on: Whether one came since `resume`.
        is_overrun: Whether some were written over before they were taken.
    """

    def __init__(
        self,
        Mapping memory not None,
        Mapping page not None,
        uint32_t words,
        uint32_t slot,
        uint64_t start,
    ):
        cdef CastGeometry geometry = CastGeometry(memory.size - CAST_DATA_OFFSET, words)
        if (
            memory.size <= CAST_DATA_OFFSET
            or page.size < CAST_PAGE_BYTES
            or not page.writable
            or not cast_attach_reader(
                &self.reader, memory.address, <CastPage*>page.address, geometry, slot, start
            )
        ):
            raise ValueError("that is no broadcast ring, or no place in it")
        self.memory = memory
        self.page = page
        self.patience = geometry.capacity // 8

    def take(self):
        """The next message as bytes, or None.

        There is none either, until `resume`, after some were written over before they were taken.

        Raises:
            RingCorrupted: The writer broke the protocol.
        """
        return self.c_take()

    cdef object c_take(self):
        cdef CastRecord record
        cdef CastAnswer answer
        while not self.is_overrun:
            answer = cast_next(&self.reader, &record)
            if answer == CAST_RECORD:
                data = PyBytes_FromStringAndSize(NULL, record.length)
                if not cast_copy(&self.reader, &record, <unsigned char*>PyBytes_AS_STRING(data)):
                    break  # by who might do so again and again
                if self.reader.cursor - self.reader.retired >= self.patience:
                    cast_retire(&self.reader)
                self.taken += 1
                self.is_on = True
                return data
            if answer == CAST_GAP:
                self.is_overrun = True
            elif answer == CAST_POISONED:
                self.c_complain()
            else:
                break
        return None

    def resume(self, uint64_t position, uint64_t taken):
        """Go on elsewhere.

        Raises:
            RingCorrupted: That is nowhere.
        """
        if not cast_resume(&self.reader, position, taken):
            self.c_complain()
        cast_retire(&self.reader)
        self.taken = taken
        self.is_on = self.is_overrun = False

    def arm(self):
        """Before sleeping: whether to sleep; else there may be something already.

        Raises:
            RingCorrupted: The writer broke the protocol.
        """
        cdef CastAnswer answer = cast_arm(&self.reader)
        if answer == CAST_POISONED:
            self.c_complain()
        return answer != CAST_RETRY and answer != CAST_WAKE

    cdef int c_complain(self) except -1:
        raise RingCorrupted(
            f"the publisher broke the rules of the broadcast ring (reason "
            f"{self.reader.fault.reason}, value {self.reader.fault.value:#x})"
        )
