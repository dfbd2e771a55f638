/* The page on which a process counts, for others to read: docs/statistics.md.

   Its only writer is one process, under the interpreter's lock. A count is a 64-bit word that it
   adds to where it lies, so nothing is done for readers and nobody waits for anybody.

   What a row is about changes when the row is given to something else, so each use of a row has
   a serial number. It is zero while the rest is written; a reader copies the row and looks at the
   number again (H.-J. Boehm, "Can seqlocks get along with programming language memory models?",
   MSPC 2012). Each word of the copy is whole; two words may be a moment apart. */

#ifndef AIOIPC_STATISTICS_H
#define AIOIPC_STATISTICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define STATISTICS_MAGIC "AIOIPCst"
#define STATISTICS_MAJOR 1
#define STATISTICS_MINOR 0
#define STATISTICS_LABEL 88   /* bytes */
#define STATISTICS_COUNTS 13  /* words that only grow */
#define STATISTICS_WORDS 18
#define STATISTICS_CLOSED 128 /* added to a kind: the sum of the rows of that kind that ended */

typedef struct {
    char magic[8];
    uint16_t major;
    uint16_t minor;
    uint32_t pid;
    uint32_t first_row;        /* bytes from the start of the page */
    uint32_t row_bytes;
    uint32_t capacity;         /* rows */
    _Atomic uint32_t used;     /* rows that have ever been used; those behind are zeros */
    uint64_t opened_ns;
    _Atomic uint64_t refused;  /* what found no row free */
    uint64_t reserved[2];
} StatisticsPage;

typedef struct {
    _Atomic uint64_t serial;   /* 0: says nothing */
    uint32_t kind;
    uint32_t peer;
    uint64_t opened_ns;
    char label[STATISTICS_LABEL];
    uint64_t words[STATISTICS_WORDS];
} StatisticsRow;

#define STATISTICS_ROW_WORDS (sizeof(StatisticsRow) / 8)

_Static_assert(sizeof(StatisticsPage) == 64 && sizeof(StatisticsRow) == 256, "the layout is fixed");
_Static_assert(offsetof(StatisticsRow, words) == 112, "the layout is fixed");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "a lock would not be shared between processes");

static inline void statistics_show(StatisticsRow *row, uint64_t serial) {
    atomic_store_explicit(&row->serial, serial, memory_order_release);
}

static inline void statistics_hide(StatisticsRow *row) {
    atomic_store_explicit(&row->serial, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static inline void statistics_set_used(StatisticsPage *page, uint32_t used) {
    atomic_store_explicit(&page->used, used, memory_order_release);
}

static inline void statistics_refuse(StatisticsPage *page) {
    atomic_fetch_add_explicit(&page->refused, 1, memory_order_relaxed);
}

/* Copy a row: whether it says something, and is of one use. */
static inline int statistics_read(const void *at, StatisticsRow *copy) {
    const _Atomic uint64_t *from = at;
    uint64_t words[STATISTICS_ROW_WORDS];
    words[0] = atomic_load_explicit(&from[0], memory_order_acquire);
    if (words[0] == 0)
        return 0;
    for (size_t i = 1; i < STATISTICS_ROW_WORDS; i++)
        words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&from[0], memory_order_relaxed) != words[0])
        return 0;
    memcpy(copy, words, sizeof words);
    return 1;
}

#endif
