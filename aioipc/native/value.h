/* The latest value of something: one writer, any number of readers, nobody waits for anybody.

   A sequence lock over several slots. Value number n lies in slot n % VALUE_SLOTS, and `sequence`
   says which number is the latest. The writer fills the next slot and then shows it. A reader
   copies the slot of the latest, and then looks at `sequence` again: as long as the writer is not
   about to fill that slot once more, the copy is whole. So a writer that is killed anywhere leaves
   the value before; a reader that is stopped anywhere is in nobody's way; and a reader tries again
   only where VALUE_SLOTS - 1 values were shown while it copied one.

   Who goes to sleep says so in `asleep` and then looks once more; the writer shows a value and
   then looks for sleepers. Sequential consistency makes one of the two see the other.

   The other processes are those of one user. All the same, every shared word is read once into a
   local variable, and validated before use.

   The words of a slot are atomic, too, with release and acquire (H.-J. Boehm, "Can seqlocks get
   along with programming language memory models?", MSPC 2012): a reader that copied a word of a
   later value sees the number that was shown before it. On x86-64 both are plain moves. */

#ifndef AIOIPC_VALUE_H
#define AIOIPC_VALUE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef VALUE_LOAD  /* a checker of interleavings brings its own */
#define VALUE_LOAD(word) atomic_load_explicit((word), memory_order_seq_cst)
#define VALUE_STORE(word, value) atomic_store_explicit((word), (value), memory_order_seq_cst)
#define VALUE_SWAP(word, value) atomic_exchange_explicit((word), (value), memory_order_seq_cst)
#define VALUE_COPY_IN(word, value) atomic_store_explicit((word), (value), memory_order_release)
#define VALUE_COPY_OUT(word) atomic_load_explicit((word), memory_order_acquire)
#endif

#ifndef VALUE_SLOTS
#define VALUE_SLOTS 4u
#define VALUE_MAX 65536u  /* bytes of a value */
#endif
#define VALUE_TRIES 1000

typedef struct {
    alignas(128) _Atomic uint64_t size;
    alignas(128) _Atomic uint64_t words[VALUE_MAX / 8];
} ValueSlot;

/* Zeroed memory holds no value yet. */
typedef struct {
    alignas(128) _Atomic uint64_t sequence;  /* the latest value; 0: there is none yet */
    alignas(128) _Atomic uint32_t asleep;    /* readers set 1, the writer swaps to 0 */
    alignas(128) ValueSlot slots[VALUE_SLOTS];
} ValueShared;

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "a lock would not be shared between processes");

typedef enum {
    VALUE_NONE = 0,       /* there is none yet */
    VALUE_LOADED = 1,
    VALUE_CORRUPTED = 2,  /* no writer of ours leaves this behind */
} ValueAnswer;

static inline uint64_t value_latest(ValueShared *shared)
{
    return VALUE_LOAD(&shared->sequence);
}

/* Show a value of at most VALUE_MAX bytes. Only the one writer calls this; `latest` is its own
   count, which it read once when it became the writer. Returns whether somebody is to be woken. */
static inline int value_store(ValueShared *shared, uint64_t *latest, const void *data, size_t size)
{
    uint64_t next = *latest + 1;
    ValueSlot *slot = &shared->slots[next % VALUE_SLOTS];
    const unsigned char *bytes = data;
    uint64_t word;
    size_t at;

    VALUE_COPY_IN(&slot->size, (uint64_t)size);
    for (at = 0; at + 8 <= size; at += 8) {
        memcpy(&word, bytes + at, 8);
        VALUE_COPY_IN(&slot->words[at / 8], word);
    }
    if (at < size) {
        word = 0;
        memcpy(&word, bytes + at, size - at);
        VALUE_COPY_IN(&slot->words[at / 8], word);
    }
    *latest = next;
    VALUE_STORE(&shared->sequence, next);
    return VALUE_SWAP(&shared->asleep, 0) != 0;
}

/* Copy the latest value to `into`, which has room for VALUE_MAX bytes and is aligned for words. */
static inline ValueAnswer value_load(
    ValueShared *shared, uint64_t *number, uint64_t *into, size_t *size)
{
    for (int tries = 0; tries < VALUE_TRIES; tries++) {
        uint64_t before = VALUE_LOAD(&shared->sequence);
        if (before == 0)
            return VALUE_NONE;
        ValueSlot *slot = &shared->slots[before % VALUE_SLOTS];
        uint64_t bytes = VALUE_COPY_OUT(&slot->size);
        if (bytes <= VALUE_MAX)
            for (size_t index = 0; index < (bytes + 7) / 8; index++)
                into[index] = VALUE_COPY_OUT(&slot->words[index]);
        uint64_t after = VALUE_LOAD(&shared->sequence);
        if (after - before >= VALUE_SLOTS - 1)  /* it may have been filled once more meanwhile */
            continue;
        if (bytes > VALUE_MAX)
            return VALUE_CORRUPTED;
        *number = before;
        *size = (size_t)bytes;
        return VALUE_LOADED;
    }
    return VALUE_CORRUPTED;
}

/* Say that somebody will sleep until the next value; look at value_latest() after this. */
static inline void value_arm(ValueShared *shared)
{
    VALUE_STORE(&shared->asleep, 1);
}

#endif
