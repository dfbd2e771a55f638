# cython: language_level=3, boundscheck=False, wraparound=False
"""The page on which a process counts, and reading that of another one: statistics.h."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cdef extern from "statistics.h" nogil:
    const char* STATISTICS_MAGIC
    enum:
        STATISTICS_CLOSED
        STATISTICS_COUNTS
        STATISTICS_MAJOR
        STATISTICS_MINOR
    void statistics_show(StatisticsRow*, uint64_t)
    void statistics_hide(StatisticsRow*)
    void statistics_set_used(StatisticsPage*, uint32_t)
    void statistics_refuse(StatisticsPage*)
    bint statistics_read(const void*, StatisticsRow*)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int, timespec*)

cdef extern from "<unistd.h>" nogil:
    int getpid()

assert sizeof(Counters) == STATISTICS_WORDS * sizeof(uint64_t)

MAGIC = STATISTICS_MAGIC[:8]
MAJOR = STATISTICS_MAJOR
HEADER_BYTES = sizeof(StatisticsPage)
ROW_BYTES = sizeof(StatisticsRow)
CLOSED = STATISTICS_CLOSED
"""Added to a kind: the sum of the rows of that kind that ended."""

cdef enum:
    KINDS = 16


cdef uint64_t now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef class Page:
    """The page of this process.

    Args:
        memory: A writable buffer of zeros, `HEADER_BYTES` and then rows of `ROW_BYTES`. It is
            held for as long as this or a row of it lives.
    """

    def __init__(self, memory):
        if self.shared is not NULL:
            raise RuntimeError("a page is made once")
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        if self.view.len < HEADER_BYTES + ROW_BYTES or <size_t>self.view.buf % 64:
            PyBuffer_Release(&self.view)
            raise ValueError(f"{len(memory):,} bytes are no memory for a page")
        self.shared = <StatisticsPage*>self.view.buf
        self.pid = getpid()
        self.free = []
        self.shared.major = STATISTICS_MAJOR
        self.shared.minor = STATISTICS_MINOR
        self.shared.pid = self.pid
        self.shared.first_row = HEADER_BYTES
        self.shared.row_bytes = ROW_BYTES
        self.shared.capacity = <uint32_t>((self.view.len - HEADER_BYTES) // ROW_BYTES)
        self.shared.opened_ns = now_ns()
        memcpy(self.shared.magic, STATISTICS_MAGIC, 8)

    def __dealloc__(self):
        if self.shared is not NULL:
            PyBuffer_Release(&self.view)

    def open(self, uint32_t kind, bytes label, uint32_t peer=0):
        """Begin to count something, all from zero.

        Args:
            kind: What it is, 1 to 15.
            label: Its name, cut off after 88 bytes.
            peer: The process at the other end, 0 where there is none.

        Returns:
            Its row, None if there is no more room.
        """
        cdef Row row = Row.__new__(Row)
        if not 1 <= kind < KINDS:
            raise ValueError(f"a kind is 1 to {KINDS - 1}, not {kind}")
        if self.sums[kind] is NULL:
            self.sums[kind] = self.c_take(&row.number)
            if self.sums[kind] is not NULL:
                self.c_fill(self.sums[kind], STATISTICS_CLOSED + kind, 0, b"")
        row.shared = self.c_take(&row.number)
        if row.shared is NULL:
            statistics_refuse(self.shared)
            return None
        row.page = self
        self.c_fill(row.shared, kind, peer, label)
        return row

    cdef StatisticsRow* c_take(self, uint32_t* number) noexcept:
        """A row that says nothing yet, and its number; NULL if there is none."""
        if self.free:
            number[0] = self.free.pop()
        elif self.shared.used < self.shared.capacity:
            number[0] = self.shared.used
            statistics_set_used(self.shared, number[0] + 1)
        else:
            return NULL
        return <StatisticsRow*>(self.shared + 1) + number[0]

    cdef int c_fill(
        self, StatisticsRow* row, uint32_t kind, uint32_t peer, bytes label
    ) except -1:
        row.kind = kind
        row.peer = peer
        row.opened_ns = now_ns()
        memset(row.label, 0, sizeof(row.label))
        memset(row.words, 0, sizeof(row.words))
        memcpy(row.label, <const char*>label, min(len(label), <Py_ssize_t>STATISTICS_LABEL))
        self.serial += 1
        statistics_show(row, self.serial)
        return 0


@cython.no_gc  # it refers to the page alone, and needs it at the end
cdef class Row:
    """What is counted of one thing, until it is closed or nobody has it any more."""

    cdef Counters* c_counters(self) noexcept:
        return <Counters*>&self.shared.words

    def add(self, unsigned int word, int64_t number=1):
        """Add to one of its 18 words; less than 0 only to those that may shrink."""
        if self.shared is not NULL and word < STATISTICS_WORDS:
            self.shared.words[word] += <uint64_t>number

    def put(self, unsigned int word, uint64_t number):
        """Say what one of its words is now."""
        if self.shared is not NULL and word < STATISTICS_WORDS:
            self.shared.words[word] = number

    def close(self):
        """Give the row back; what only grows goes into the sum of its kind. Idempotent."""
        cdef StatisticsRow* row = self.shared
        cdef StatisticsRow* total
        cdef int word
        self.shared = NULL
        if row is NULL or self.page.pid != getpid():
            return  # the parent's, whatever a forked child does with its copies
        statistics_hide(row)
        total = self.page.sums[row.kind]
        for word in range(STATISTICS_COUNTS):
            total.words[word] += row.words[word]
        total.words[STATISTICS_COUNTS] += 1
        self.page.free.append(self.number)

    def __dealloc__(self):
        self.close()


def read_rows(memory, Py_ssize_t first, Py_ssize_t count):
    """Read rows of any page: only what lies in ``memory`` is looked at.

    Args:
        memory: The page, aligned to 8 bytes.
        first: How many bytes from its start the first row is, a multiple of 8.
        count: How many rows to look at.

    Returns:
        Of those that say something: serial, kind, peer, opened_ns, label, and a tuple of words.
    """
    cdef Py_buffer view
    cdef StatisticsRow* at
    cdef StatisticsRow row
    cdef Py_ssize_t number
    rows = []
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    try:
        if first < 0 or first % 8 or <size_t>view.buf % 8:
            raise ValueError(f"rows do not begin at byte {first}")
        at = <StatisticsRow*>(<char*>view.buf + first)
        count = min(count, (view.len - first) // <Py_ssize_t>sizeof(StatisticsRow))
        for number in range(count):
            if statistics_read(&at[number], &row):
                label = PyBytes_FromStringAndSize(row.label, STATISTICS_LABEL)
                words = tuple([row.words[word] for word in range(STATISTICS_WORDS)])
                rows.append((row.serial, row.kind, row.peer, row.opened_ns, label, words))
    finally:
        PyBuffer_Release(&view)
    return rows
