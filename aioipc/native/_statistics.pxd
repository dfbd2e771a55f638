# cython: language_level=3
from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "statistics.h" nogil:
    enum:
        STATISTICS_LABEL
        STATISTICS_WORDS
    ctypedef struct StatisticsPage:
        char magic[8]
        uint16_t major
        uint16_t minor
        uint32_t pid
        uint32_t first_row
        uint32_t row_bytes
        uint32_t capacity
        uint32_t used
        uint64_t opened_ns
        uint64_t refused
    ctypedef struct StatisticsRow:
        uint64_t serial
        uint32_t kind
        uint32_t peer
        uint64_t opened_ns
        char label[STATISTICS_LABEL]
        uint64_t words[STATISTICS_WORDS]


# What a channel counts: the words of its row.
cdef struct Counters:
    uint64_t messages_sent
    uint64_t bytes_sent
    uint64_t messages_received
    uint64_t bytes_received
    uint64_t read_calls
    uint64_t write_calls
    uint64_t send_waits
    uint64_t receive_waits
    uint64_t polls
    uint64_t poll_hits
    uint64_t bells_rung
    uint64_t bells_saved
    uint64_t lost_wakeups
    uint64_t rows_closed         # in the row of a sum
    uint64_t senders_waiting
    uint64_t spare[3]


cdef class Page:
    cdef Py_buffer view
    cdef StatisticsPage* shared
    cdef int pid
    cdef uint64_t serial
    cdef list free               # numbers of rows that were used before
    cdef StatisticsRow* sums[16] # by kind, where there is one

    cdef StatisticsRow* c_take(self, uint32_t* number) noexcept
    cdef int c_fill(
        self, StatisticsRow* row, uint32_t kind, uint32_t peer, bytes label
    ) except -1


cdef class Row:
    cdef Page page
    cdef StatisticsRow* shared   # NULL once it is closed
    cdef uint32_t number

    cdef Counters* c_counters(self) noexcept
