/* The shared-memory ring: one producer, one consumer, records of any length.

   Two processes map the same memory. One of them puts records in, the other takes them out, in
   order, and neither ever waits for the other inside these functions: they make no system call,
   take no lock, allocate nothing, and answer at once. Where somebody must be woken they answer
   RING_WAKE ("ring the bell"), and the caller does it. docs/ring.md describes the protocol for
   other languages, and how it was verified: tests/ring includes this very file.

   Producer                                       Consumer
     ring_push        a record, seen at once        ring_pop       the next record, in place
     ring_put         a record of a batch           ring_retire    give back what was popped
     ring_claim       the same, the caller fills    ring_borrow    pop, and keep for a while
     ring_publish     show the batch                ring_release   give back what was kept
     ring_reserve     a lease to write into         ring_readable  look, for polling; also
                                                    ring_backlog
     ring_commit      show it, perhaps shorter      ring_arm       before going to sleep
     ring_abort       drop it                       ring_allow     flags and fds agreed on
     ring_writable    look, for polling
     ring_wait_space  before going to sleep
     ring_close       no more records, all is well
     ring_recall      take tasks back                ring_begin     begin one, unless it was
                                                    taken back
     ring_unconsumed  what a dead consumer left

   Three rules carry everything else:

   1. `tail` is the only place where a record comes into being, and `head` the only one where it
      ends. A process that is killed anywhere leaves the other one whole records only.
   2. The other process is not trusted. The geometry is private; a shared word is read once into a
      local variable and validated before use; what fails poisons the ring for good.
   3. Who goes to sleep first says so and then looks again; who makes a change first makes it and
      then looks for sleepers. Sequential consistency makes one of the two see the other.

   C11, gcc or clang, little or big endian (both sides run on one machine), no threads: each
   side's private struct belongs to one thread at a time. */

#ifndef AIOIPC_RING_H
#define AIOIPC_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* --- atomics -------------------------------------------------------------------------------

   Every access to a word that both sides use is one of these three. All of them are sequentially
   consistent, though release and acquire would do for some: rule 3 needs a total order over
   "store mine, load yours" on both sides, no stress test finds it when it is missing, and one
   order for all of them leaves nothing to get wrong. They are operations and never fences,
   because ThreadSanitizer does not see fences. On x86-64 a load costs what a plain load costs,
   and a store is one xchg. */

#ifndef RING_LOAD  /* a model checker may bring its own */
#define RING_LOAD(word) atomic_load_explicit((word), memory_order_seq_cst)
#define RING_STORE(word, value) atomic_store_explicit((word), (value), memory_order_seq_cst)
#define RING_SWAP(word, value) atomic_exchange_explicit((word), (value), memory_order_seq_cst)
#endif

/* Tests compile in what happens here, a kill or a delay; each id stands for one moment. */
#ifndef AIOIPC_CRASHPOINT
#define AIOIPC_CRASHPOINT(id) ((void)0)
#endif

/* --- layout --------------------------------------------------------------------------------

   Zeroed memory is an empty ring. Positions are u64, count bytes for ever and wrap modulo 2^64;
   a byte lies at data[position % capacity]. Each word has 128 bytes to itself, since processors
   fetch cache lines of 64 bytes in pairs. */

#define RING_DATA_OFFSET 0x1000u
#define RING_MIN_CAPACITY 64u         /* transports ask for more; tests of the wrap do not */
#define RING_MAX_CAPACITY (1u << 30)

typedef struct {
    alignas(128) _Atomic uint64_t tail;    /* producer: end of the published records */
    alignas(128) _Atomic uint64_t head;    /* consumer: end of the records it is done with */
    alignas(128) _Atomic uint32_t c_wait;  /* consumer sets 1: I sleep; producer swaps to 0 */
    alignas(128) _Atomic uint64_t p_wait;  /* producer sets the bytes it sleeps for; consumer
                                              swaps to 0 */
    alignas(128) _Atomic uint32_t closed;  /* producer sets 1: there will be no more records */
    alignas(128) _Atomic uint64_t begun;   /* consumer: the last task that it began */
    alignas(128) _Atomic uint64_t recalled;  /* producer: tasks that are not to be begun */
    alignas(RING_DATA_OFFSET) unsigned char data[];
} RingShared;

_Static_assert(offsetof(RingShared, tail) == 0x000, "layout is the protocol");
_Static_assert(offsetof(RingShared, head) == 0x080, "layout is the protocol");
_Static_assert(offsetof(RingShared, c_wait) == 0x100, "layout is the protocol");
_Static_assert(offsetof(RingShared, p_wait) == 0x180, "layout is the protocol");
_Static_assert(offsetof(RingShared, closed) == 0x200, "layout is the protocol");
_Static_assert(offsetof(RingShared, begun) == 0x280, "layout is the protocol");
_Static_assert(offsetof(RingShared, recalled) == 0x300, "layout is the protocol");
_Static_assert(offsetof(RingShared, data) == 0x1000, "layout is the protocol");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint32_t) == 4, "plain words");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "a lock would not be shared between processes");

/* A record is a header of 8 bytes and a payload, filled up to a multiple of 8, and never crosses
   the end of data[]; a PAD fills what would be too short. The header is one word, so that one
   fetch takes all of it:

       bits 0-31 length   32-39 kind   40-47 flags   48-63 fds

   The upper half is called the tag; the tag of a plain message is RING_DATA. */

enum {
    RING_DATA = 1,
    RING_PAD = 2,
    RING_HELLO = 3,
    RING_GOODBYE = 4,
    RING_PING = 5,
    RING_PONG = 6,
};

enum {
    RING_MORE = 1,    /* the message continues in the next DATA record */
    RING_SHARED = 2,  /* the payload describes shared buffers */
};

#define RING_HEADER 8u

static inline uint32_t ring_tag(uint8_t kind, uint8_t flags, uint16_t fds)
{
    return (uint32_t)kind | (uint32_t)flags << 8 | (uint32_t)fds << 16;
}

static inline uint8_t ring_kind(uint32_t tag) { return (uint8_t)tag; }
static inline uint8_t ring_flags(uint32_t tag) { return (uint8_t)(tag >> 8); }
static inline uint16_t ring_fds(uint32_t tag) { return (uint16_t)(tag >> 16); }

static inline uint64_t ring_align(uint64_t length) { return (length + 7) & ~(uint64_t)7; }
static inline uint64_t ring_span(uint64_t length) { return RING_HEADER + ring_align(length); }

typedef uint64_t __attribute__((may_alias)) RingWord;

static inline void ring_write_header(unsigned char *at, uint64_t length, uint32_t tag)
{
    *(RingWord *)at = (uint64_t)tag << 32 | length;
}

/* The one fetch of a header. volatile: the compiler must neither repeat nor split it, because
   the other process may change the word between what we check and what we use. */
static inline uint64_t ring_fetch_header(const unsigned char *at)
{
    return *(const volatile RingWord *)at;
}

__attribute__((noinline, unused)) static void ring_copy_by_words(unsigned char *to,
                                                                 const unsigned char *from,
                                                                 size_t length)
{
    for (; length >= 16; length -= 16, to += 16, from += 16) {
        uint64_t words[2];
        memcpy(words, from, 16);
        memcpy(to, words, 16);
    }
    memcpy(to, from, length);
}

/* memcpy of up to 64 bytes: two moves of a known length, which overlap. */
static inline void ring_copy_short(unsigned char *to, const unsigned char *from, size_t length)
{
#define RING_TWO_MOVES(n)                            \
    do {                                             \
        unsigned char first[n], last[n];             \
        memcpy(first, from, n);                      \
        memcpy(last, from + length - (n), n);        \
        memcpy(to, first, n);                        \
        memcpy(to + length - (n), last, n);          \
    } while (0)
    if (length > 32)
        RING_TWO_MOVES(32);
    else if (length > 16)
        RING_TWO_MOVES(16);
    else if (length >= 8)
        RING_TWO_MOVES(8);
    else if (length >= 4)
        RING_TWO_MOVES(4);
    else if (length >= 2)
        RING_TWO_MOVES(2);
    else if (length != 0)  /* `from` may be NULL where it is */
        *to = *from;
#undef RING_TWO_MOVES
}

/* memcpy for payloads, without what is slow about it.

   Where bytes go to a place that lies, within its page, just behind the one that they come from,
   processors take each load for what they have just stored ("4K aliasing"). glibc copies long ones
   by `rep movsb`, which is then 15 times slower
   (https://sourceware.org/bugzilla/show_bug.cgi?id=30994). Each record begins 8 bytes further in its
   page than the last one where messages have a round length, so they meet all such places.

   gcc writes `rep movsq` instead of a call where it sees that a length has a bound. That takes some
   processors longer to begin than a short message takes altogether, so it is not to see it. */
static inline void ring_copy(void *to, const void *from, size_t length)
{
    if (length <= 64)
        ring_copy_short((unsigned char *)to, (const unsigned char *)from, length);
    else if (length >= 2048 && ((uintptr_t)to - (uintptr_t)from - 1) % 4096 < 31)
        ring_copy_by_words(to, from, length);
    else {
        __asm__("" : "+r"(length));
        memcpy(to, from, length);
    }
}

/* Ask for the cache line of a place that will be written soon: the consumer's processor has it, and
   to take it over costs more than a short message. Stores wait for that in their order, and so
   does whatever cannot be answered from the store buffer, as CPython's SEND. */
#define RING_AHEAD 256

static inline void ring_own(const unsigned char *at)
{
#ifdef __x86_64__
    __asm__ volatile("prefetchw %0" : : "m"(*at)); /* gcc writes it for some processors only */
#else
    __builtin_prefetch(at, 1);
#endif
}

/* --- answers ------------------------------------------------------------------------------- */

typedef enum {
    RING_QUEUED,     /* producer: done, and nobody sleeps */
    RING_RETIRED,    /* consumer: the same */
    RING_WAKE,       /* done, and the other side sleeps: ring its bell */
    RING_RECORD,     /* here is a record */
    RING_EMPTY,      /* there is none */
    RING_AGAIN,      /* none so far, only PADs: come back after somebody else had a turn */
    RING_FULL,       /* producer->needed bytes must become free */
    RING_BUSY,       /* as many leases are out as the table holds */
    RING_TOO_LARGE,  /* longer than ring_max_record: cut it into several */
    RING_SLEEP,      /* a bell will ring; sleep until then, or until the other side dies */
    RING_RETRY,      /* something changed just now: try again instead of sleeping */
    RING_END,        /* closed by the producer, and everything was popped */
    RING_POISONED,   /* the other side broke the protocol; see fault */
} RingAnswer;

/* Why a ring was poisoned, and by which value. It stays so: from then on it looks full to the
   producer and empty to the consumer, hence the quick paths need not ask. */
typedef struct {
    enum { RING_SOUND, RING_BAD_HEAD, RING_BAD_TAIL, RING_BAD_RECORD } reason;
    uint64_t value;
} RingFault;

/* --- geometry ------------------------------------------------------------------------------

   Agreed between the two processes before, and private: a capacity that was read from shared
   memory could change between a check and its use. */

typedef struct {
    RingShared *shared;
    uint64_t capacity;  /* bytes of data[], a power of two */
} Ring;

/* A quarter of the ring: whatever the position, a record and the PAD before it fit an empty one. */
static inline uint64_t ring_max_record(const Ring *ring) { return ring->capacity / 4; }

static inline size_t ring_memory_bytes(uint64_t capacity)
{
    return RING_DATA_OFFSET + (size_t)capacity;
}

static inline unsigned char *ring_at(const Ring *ring, uint64_t position)
{
    return ring->shared->data + (position & (ring->capacity - 1));
}

/* Bytes from a position to the end of data[]. */
static inline uint64_t ring_room(const Ring *ring, uint64_t position)
{
    return ring->capacity - (position & (ring->capacity - 1));
}

static inline bool ring_is_valid(const void *memory, uint64_t capacity)
{
    bool is_power_of_two = (capacity & (capacity - 1)) == 0;
    return is_power_of_two && capacity >= RING_MIN_CAPACITY && capacity <= RING_MAX_CAPACITY
        && (uintptr_t)memory % alignof(RingShared) == 0;
}

/* --- leases --------------------------------------------------------------------------------

   A lease keeps a span of the ring out of the other side's reach. Leases may end in any order,
   but tail and head only move past what is done as a whole: up to the oldest open lease. Tickets
   count for ever, and so a ticket that was given back already is recognised. */

#define RING_MAX_LEASES 64u

typedef struct {
    uint64_t begin;
    uint64_t end;
    bool is_open;
} RingSpan;

typedef struct {
    uint32_t oldest;
    uint32_t next;
    RingSpan spans[RING_MAX_LEASES];
} RingLeases;

static inline bool ring_leases_are_out(const RingLeases *leases)
{
    return leases->next - leases->oldest == RING_MAX_LEASES;
}

static inline bool ring_any_lease(const RingLeases *leases)
{
    return leases->next != leases->oldest;
}

static inline uint32_t ring_open_lease(RingLeases *leases, uint64_t begin, uint64_t end)
{
    leases->spans[leases->next % RING_MAX_LEASES] = (RingSpan){begin, end, true};
    return leases->next++;
}

static inline RingSpan *ring_find_lease(RingLeases *leases, uint32_t ticket)
{
    RingSpan *span = &leases->spans[ticket % RING_MAX_LEASES];
    bool is_known = ticket - leases->oldest < leases->next - leases->oldest;
    return is_known && span->is_open ? span : NULL;
}

/* How far everything is done: to the oldest open lease, or else to the cursor. */
static inline uint64_t ring_settle(RingLeases *leases, uint64_t cursor)
{
    while (leases->oldest != leases->next) {
        const RingSpan *span = &leases->spans[leases->oldest % RING_MAX_LEASES];
        if (span->is_open)
            return span->begin;
        leases->oldest++;
    }
    return cursor;
}

/* === producer ============================================================================== */

typedef struct {
    Ring ring;
    uint64_t cursor;     /* where the next record begins */
    uint64_t published;  /* our last `tail` */
    uint64_t head_seen;  /* the consumer's last valid `head` */
    uint64_t needed;     /* what the last RING_FULL would have taken */
    RingFault fault;
    RingLeases leases;
} RingProducer;

/* Take the writing side. Of fresh memory head and tail are 0; tests begin elsewhere. Returns
   whether memory and capacity can be a ring. */
static inline bool ring_attach_producer(RingProducer *producer, void *memory, uint64_t capacity,
                                        uint64_t head, uint64_t tail)
{
    if (!ring_is_valid(memory, capacity))
        return false;
    memset(producer, 0, sizeof *producer);
    producer->ring = (Ring){memory, capacity};
    producer->cursor = producer->published = tail;
    producer->head_seen = head;
    return true;
}

static inline uint64_t ring_free(const RingProducer *producer)
{
    return producer->ring.capacity - (producer->cursor - producer->head_seen);
}

/* Read how far the consumer is. It can only be between what we saw last and what we published. */
static inline bool ring_see_head(RingProducer *producer)
{
    if (producer->fault.reason != RING_SOUND)
        return false;
    uint64_t head = RING_LOAD(&producer->ring.shared->head);
    if (head % 8 != 0 || head - producer->head_seen > producer->published - producer->head_seen) {
        producer->fault = (RingFault){RING_BAD_HEAD, head};
        producer->head_seen = producer->cursor - producer->ring.capacity;  /* looks full */
        return false;
    }
    producer->head_seen = head;
    return true;
}

/* The slow half of ring_claim: what we saw last does not leave enough room. */
static inline RingAnswer ring_find_room(RingProducer *producer, uint64_t needed)
{
    if (!ring_see_head(producer))
        return RING_POISONED;
    if (ring_free(producer) >= needed)
        return RING_QUEUED;
    producer->needed = needed;
    return RING_FULL;
}

/* Write a record's header and leave its payload to the caller, who fills it before the next
   ring_publish. For what is gathered from several places, or encoded straight into the ring.
   RING_QUEUED, RING_FULL, RING_TOO_LARGE or RING_POISONED. */
static inline RingAnswer ring_claim(RingProducer *producer, uint32_t tag, size_t length,
                                    unsigned char **payload)
{
    const Ring *ring = &producer->ring;
    if (length > ring_max_record(ring))
        return RING_TOO_LARGE;
    uint64_t span = ring_span(length);
    uint64_t room = ring_room(ring, producer->cursor);
    uint64_t needed = span <= room ? span : room + span;
    if (ring_free(producer) < needed) {
        RingAnswer answer = ring_find_room(producer, needed);
        if (answer != RING_QUEUED)
            return answer;
    }
    if (span > room) {
        ring_write_header(ring_at(ring, producer->cursor), room - RING_HEADER, RING_PAD);
        producer->cursor += room;
        AIOIPC_CRASHPOINT(claim_padded);
    }
    unsigned char *at = ring_at(ring, producer->cursor);
    ring_write_header(at, length, tag);
    producer->cursor += span;
    AIOIPC_CRASHPOINT(claim_begun);
    *payload = at + RING_HEADER;
    return RING_QUEUED;
}

/* Add a record that ring_publish will show, together with others. RING_QUEUED, RING_FULL,
   RING_TOO_LARGE or RING_POISONED. */
static inline RingAnswer ring_put(RingProducer *producer, uint32_t tag, const void *data,
                                  size_t length)
{
    unsigned char *payload;
    RingAnswer answer = ring_claim(producer, tag, length, &payload);
    if (answer != RING_QUEUED)
        return answer;
    ring_own(payload + RING_AHEAD);
    ring_copy(payload, data, length);
    AIOIPC_CRASHPOINT(put_copied);
    return RING_QUEUED;
}

/* Clear the consumer's flag if it is set. Who cleared it must ring, after that: a bell before
   could be heard and answered while the flag still says that somebody will ring. */
static inline bool ring_take_consumer(RingProducer *producer)
{
    RingShared *shared = producer->ring.shared;
    return RING_LOAD(&shared->c_wait) != 0 && RING_SWAP(&shared->c_wait, 0) != 0;
}

/* Show the consumer all records that are whole. This store of `tail` is their birth. RING_QUEUED
   or RING_WAKE. */
static inline RingAnswer ring_publish(RingProducer *producer)
{
    uint64_t tail = ring_settle(&producer->leases, producer->cursor);
    if (tail == producer->published)
        return RING_QUEUED;
    AIOIPC_CRASHPOINT(publish_begun);
    RING_STORE(&producer->ring.shared->tail, tail);
    producer->published = tail;
    AIOIPC_CRASHPOINT(publish_stored);
    bool wake = ring_take_consumer(producer);
    AIOIPC_CRASHPOINT(publish_looked);
    return wake ? RING_WAKE : RING_QUEUED;
}

/* Add one record and show it. RING_QUEUED, RING_WAKE, RING_FULL, RING_TOO_LARGE or
   RING_POISONED. */
static inline RingAnswer ring_push(RingProducer *producer, uint32_t tag, const void *data,
                                   size_t length)
{
    RingAnswer answer = ring_put(producer, tag, data, length);
    return answer == RING_QUEUED ? ring_publish(producer) : answer;
}

/* Room for a record that is written at leisure. Records that are put after it wait behind it. */
typedef struct {
    unsigned char *payload;
    size_t length;  /* at most so much may be committed */
    uint32_t ticket;
} RingLease;

/* RING_QUEUED, RING_FULL, RING_BUSY, RING_TOO_LARGE or RING_POISONED. */
static inline RingAnswer ring_reserve(RingProducer *producer, size_t length, RingLease *lease)
{
    if (ring_leases_are_out(&producer->leases))
        return RING_BUSY;
    RingAnswer answer = ring_claim(producer, RING_PAD, length, &lease->payload);
    if (answer != RING_QUEUED)
        return answer;
    uint64_t begin = producer->cursor - ring_span(length);
    lease->length = length;
    lease->ticket = ring_open_lease(&producer->leases, begin, producer->cursor);
    AIOIPC_CRASHPOINT(reserve_leased);
    return RING_QUEUED;
}

/* Take back the end of a span: for good if nothing was put behind it, else as a PAD. */
static inline void ring_give_back(RingProducer *producer, const RingSpan *span, uint64_t from)
{
    if (span->end == producer->cursor)
        producer->cursor = from;
    else if (span->end != from)
        ring_write_header(ring_at(&producer->ring, from), span->end - from - RING_HEADER, RING_PAD);
}

/* Finish a lease with a record of the given length, and show what is whole now. RING_QUEUED,
   RING_WAKE, RING_POISONED, or RING_TOO_LARGE (the lease stays open). A lease that ended before
   is left alone. */
static inline RingAnswer ring_commit(RingProducer *producer, const RingLease *lease, uint32_t tag,
                                     size_t length)
{
    RingSpan *span = ring_find_lease(&producer->leases, lease->ticket);
    if (producer->fault.reason != RING_SOUND)
        return RING_POISONED;
    if (span == NULL)
        return RING_QUEUED;
    if (length > span->end - span->begin - RING_HEADER)
        return RING_TOO_LARGE;
    ring_write_header(ring_at(&producer->ring, span->begin), length, tag);
    ring_give_back(producer, span, span->begin + ring_span(length));
    span->is_open = false;
    AIOIPC_CRASHPOINT(commit_closed);
    return ring_publish(producer);
}

/* Finish a lease without a record, and show what is whole now. RING_QUEUED, RING_WAKE or
   RING_POISONED. A lease that ended before is left alone. */
static inline RingAnswer ring_abort(RingProducer *producer, const RingLease *lease)
{
    RingSpan *span = ring_find_lease(&producer->leases, lease->ticket);
    if (producer->fault.reason != RING_SOUND)
        return RING_POISONED;
    if (span == NULL)
        return RING_QUEUED;
    ring_give_back(producer, span, span->begin);
    span->is_open = false;
    AIOIPC_CRASHPOINT(abort_closed);
    return ring_publish(producer);
}

/* End all leases without a record. What was put behind them can be shown; whoever still writes,
   writes into a PAD. */
static inline void ring_drop_leases(RingProducer *producer)
{
    RingLeases *leases = &producer->leases;
    for (uint32_t ticket = leases->oldest; ticket != leases->next; ticket++)
        leases->spans[ticket % RING_MAX_LEASES].is_open = false;
}

/* Whether a record that did not fit may fit now: one load and no promise, for polling. */
static inline bool ring_writable(const RingProducer *producer)
{
    uint64_t head = RING_LOAD(&producer->ring.shared->head);
    return producer->ring.capacity - (producer->cursor - head) >= producer->needed;
}

/* Before sleeping after RING_FULL: ask for `needed` bytes, then look again (rule 3). Shows
   everything whole first, since a consumer that sees nothing frees nothing. RING_SLEEP,
   RING_RETRY, RING_WAKE (ring, then call again) or RING_POISONED. */
static inline RingAnswer ring_wait_space(RingProducer *producer)
{
    RingShared *shared = producer->ring.shared;
    if (ring_publish(producer) == RING_WAKE)
        return RING_WAKE;
    AIOIPC_CRASHPOINT(wait_begun);
    RING_STORE(&shared->p_wait, producer->needed);
    AIOIPC_CRASHPOINT(wait_stored);
    if (!ring_see_head(producer))
        return RING_POISONED;
    if (ring_free(producer) < producer->needed)
        return RING_SLEEP;
    RING_STORE(&shared->p_wait, 0);  /* left set, it would only cost the consumer a bell */
    return RING_RETRY;
}

/* End the stream cleanly, after the last publish. RING_QUEUED or RING_WAKE. */
static inline RingAnswer ring_close(RingProducer *producer)
{
    AIOIPC_CRASHPOINT(close_begun);
    RING_STORE(&producer->ring.shared->closed, 1);
    AIOIPC_CRASHPOINT(close_stored);
    bool wake = ring_take_consumer(producer);
    AIOIPC_CRASHPOINT(close_looked);
    return wake ? RING_WAKE : RING_QUEUED;
}

/* --- tasks ---------------------------------------------------------------------------------

   Records may be tasks with rising numbers, which the consumer begins one after the other. What
   it has not begun the producer can take back, though it lies in the ring already, and whether or
   not the consumer ever looks again: it may hang in a task, or be dead. Rule 3 once more: the
   consumer says what it begins and then looks for a recall, the producer recalls and then looks
   what was begun. A range is two halves of one word, the first number and the one behind the
   last, modulo 2^32: there has to be an end to the recalled ones before others are recalled. */

/* Take back [first, end), fewer than 2^32. Returns the last task that was begun: if that is one
   of them it may run, and so may those before it; those behind it never will. */
static inline uint64_t ring_recall(RingProducer *producer, uint64_t first, uint64_t end)
{
    RING_STORE(&producer->ring.shared->recalled, first << 32 | (end & UINT32_MAX));
    return RING_LOAD(&producer->ring.shared->begun);
}

/* === consumer ============================================================================== */

#define RING_MAX_PADS 64  /* a flood of them must not hold up the caller */

/* What a record may say, beyond a plain message. */
typedef struct {
    uint32_t kinds;  /* bit n: kind n; DATA and PAD need none */
    uint8_t flags;   /* on DATA */
    uint16_t fds;    /* on DATA, at most */
} RingAllowed;

typedef struct {
    Ring ring;
    uint64_t cursor;     /* where the next record begins */
    uint64_t retired;    /* our last `head` */
    uint64_t tail_seen;  /* the producer's last valid `tail` */
    RingAllowed allowed;
    RingFault fault;
    RingLeases leases;
} RingConsumer;

/* A record, in place. A hostile producer may go on changing the payload; kind, length and the
   bounds are safe. */
typedef struct {
    const unsigned char *payload;
    uint32_t length;
    uint32_t tag;
} RingRecord;

/* Say which records are welcome; all others poison the ring. */
static inline void ring_allow(RingConsumer *consumer, uint32_t kinds, uint8_t flags, uint16_t fds)
{
    consumer->allowed = (RingAllowed){kinds, flags, fds};
}

/* Take the reading side. Of fresh memory head is 0; tests begin elsewhere. Welcome are all kinds
   and RING_MORE, but no fds. Returns whether memory and capacity can be a ring. */
static inline bool ring_attach_consumer(RingConsumer *consumer, void *memory, uint64_t capacity,
                                        uint64_t head)
{
    if (!ring_is_valid(memory, capacity))
        return false;
    memset(consumer, 0, sizeof *consumer);
    consumer->ring = (Ring){memory, capacity};
    consumer->cursor = consumer->retired = consumer->tail_seen = head;
    ring_allow(consumer,
               1u << RING_DATA | 1u << RING_HELLO | 1u << RING_GOODBYE | 1u << RING_PING
                   | 1u << RING_PONG,
               RING_MORE, 0);
    return true;
}

/* Begin a task. Returns whether it was not taken back. */
static inline bool ring_begin(RingConsumer *consumer, uint64_t number)
{
    RING_STORE(&consumer->ring.shared->begun, number);
    uint64_t recalled = RING_LOAD(&consumer->ring.shared->recalled);
    uint32_t first = (uint32_t)(recalled >> 32);
    return (uint32_t)number - first >= (uint32_t)recalled - first;
}

static inline RingAnswer ring_poison_consumer(RingConsumer *consumer, RingFault fault)
{
    consumer->fault = fault;
    consumer->tail_seen = consumer->cursor;  /* looks empty */
    return RING_POISONED;
}

/* Read how far the producer is. It can only move forward, and by no more than the ring holds. */
static inline RingAnswer ring_see_tail(RingConsumer *consumer)
{
    if (consumer->fault.reason != RING_SOUND)
        return RING_POISONED;
    uint64_t tail = RING_LOAD(&consumer->ring.shared->tail);
    uint64_t used = tail - consumer->retired;
    if (tail % 8 != 0 || used > consumer->ring.capacity
        || used < consumer->tail_seen - consumer->retired)
        return ring_poison_consumer(consumer, (RingFault){RING_BAD_TAIL, tail});
    consumer->tail_seen = tail;
    return tail == consumer->cursor ? RING_EMPTY : RING_RECORD;
}

static inline bool ring_is_welcome(const RingAllowed *allowed, uint32_t tag)
{
    if (tag == RING_DATA)
        return true;
    if (ring_kind(tag) == RING_DATA)
        return (ring_flags(tag) & ~allowed->flags) == 0 && ring_fds(tag) <= allowed->fds;
    return tag < 32 && (allowed->kinds >> tag & 1) != 0;  /* other kinds carry no flags, no fds */
}

/* Whether a header can be true: inside the published bytes, not across the end of data[]. */
static inline bool ring_is_sound(const RingConsumer *consumer, uint32_t length, uint32_t tag)
{
    uint64_t span = ring_span(length);
    if (span > consumer->tail_seen - consumer->cursor
        || span > ring_room(&consumer->ring, consumer->cursor))
        return false;
    return tag == RING_PAD
        || (length <= ring_max_record(&consumer->ring) && ring_is_welcome(&consumer->allowed, tag));
}

/* The next record, in place until ring_retire; pop several and retire once. RING_RECORD,
   RING_EMPTY, RING_AGAIN or RING_POISONED. */
static inline RingAnswer ring_pop(RingConsumer *consumer, RingRecord *record)
{
    for (int pads = 0; pads < RING_MAX_PADS; pads++) {
        if (consumer->cursor == consumer->tail_seen) {
            RingAnswer answer = ring_see_tail(consumer);
            if (answer != RING_RECORD)
                return answer;
            AIOIPC_CRASHPOINT(pop_seen);
        }
        const unsigned char *at = ring_at(&consumer->ring, consumer->cursor);
        uint64_t header = ring_fetch_header(at);
        uint32_t length = (uint32_t)header;
        uint32_t tag = (uint32_t)(header >> 32);
        if (!ring_is_sound(consumer, length, tag))
            return ring_poison_consumer(consumer, (RingFault){RING_BAD_RECORD, header});
        consumer->cursor += ring_span(length);
        if (tag != RING_PAD) {
            *record = (RingRecord){at + RING_HEADER, length, tag};
            AIOIPC_CRASHPOINT(pop_taken);
            return RING_RECORD;
        }
    }
    return RING_AGAIN;
}

/* Give back everything popped and not borrowed. This store of `head` is where records end; their
   payloads may be overwritten from here on. RING_RETIRED or RING_WAKE. */
static inline RingAnswer ring_retire(RingConsumer *consumer)
{
    RingShared *shared = consumer->ring.shared;
    uint64_t capacity = consumer->ring.capacity;
    uint64_t head = ring_settle(&consumer->leases, consumer->cursor);
    if (head == consumer->retired)
        return RING_RETIRED;
    AIOIPC_CRASHPOINT(retire_begun);
    RING_STORE(&shared->head, head);
    consumer->retired = head;
    AIOIPC_CRASHPOINT(retire_stored);
    uint64_t wanted = RING_LOAD(&shared->p_wait);
    uint64_t vacant = capacity - (consumer->tail_seen - head);  /* or less: then a bell in vain */
    bool enough = wanted != 0 && vacant >= (wanted < capacity ? wanted : capacity);
    bool wake = enough && RING_SWAP(&shared->p_wait, 0) != 0;
    AIOIPC_CRASHPOINT(retire_looked);
    return wake ? RING_WAKE : RING_RETIRED;
}

/* The next record, in place until ring_release(ticket). As ring_pop, or RING_BUSY. */
static inline RingAnswer ring_borrow(RingConsumer *consumer, RingRecord *record, uint32_t *ticket)
{
    if (ring_leases_are_out(&consumer->leases))
        return RING_BUSY;
    RingAnswer answer = ring_pop(consumer, record);
    if (answer != RING_RECORD)
        return answer;
    uint64_t begin = consumer->cursor - ring_span(record->length);
    *ticket = ring_open_lease(&consumer->leases, begin, consumer->cursor);
    AIOIPC_CRASHPOINT(borrow_leased);
    return RING_RECORD;
}

/* Give a borrowed record back, and retire. RING_RETIRED or RING_WAKE. A ticket that was given
   back before is left alone. */
static inline RingAnswer ring_release(RingConsumer *consumer, uint32_t ticket)
{
    RingSpan *span = ring_find_lease(&consumer->leases, ticket);
    if (span == NULL)
        return RING_RETIRED;
    span->is_open = false;
    AIOIPC_CRASHPOINT(release_closed);
    return ring_retire(consumer);
}

/* Whether ring_pop may find something: one load and no promise, for polling. Does not see that
   the stream was closed; ring_arm does. */
static inline bool ring_readable(const RingConsumer *consumer)
{
    return RING_LOAD(&consumer->ring.shared->tail) != consumer->cursor;
}

/* How many bytes of records and PADs ring_pop may find: the same load, for polling with patience.
   Not to be trusted with anything else, since nothing is validated. */
static inline uint64_t ring_backlog(const RingConsumer *consumer)
{
    return RING_LOAD(&consumer->ring.shared->tail) - consumer->cursor;
}

/* Before sleeping after RING_EMPTY: say so, then look again (rule 3). Retires first, since a
   producer that finds no room puts nothing in. RING_SLEEP, RING_RETRY, RING_END, RING_WAKE
   (ring, then call again) or RING_POISONED. */
static inline RingAnswer ring_arm(RingConsumer *consumer)
{
    RingShared *shared = consumer->ring.shared;
    if (consumer->fault.reason != RING_SOUND)
        return RING_POISONED;
    if (ring_retire(consumer) == RING_WAKE)
        return RING_WAKE;
    AIOIPC_CRASHPOINT(arm_begun);
    RING_STORE(&shared->c_wait, 1);
    AIOIPC_CRASHPOINT(arm_stored);
    if (ring_readable(consumer)) {
        RING_STORE(&shared->c_wait, 0);  /* left set, it would only cost the producer a bell */
        return RING_RETRY;
    }
    if (RING_LOAD(&shared->closed) == 0)
        return RING_SLEEP;
    return ring_readable(consumer) ? RING_RETRY : RING_END;  /* the last record came before */
}

/* --- after a death -------------------------------------------------------------------------

   The producer's view of what a dead consumer left: `left` pops every record in [head, tail), to
   be counted or sent again, until RING_EMPTY; it must not retire. The consumer may have worked
   on those that it had popped and not given back. Returns false if the ring is poisoned. */
static inline bool ring_unconsumed(RingProducer *producer, RingConsumer *left)
{
    const Ring *ring = &producer->ring;
    if (!ring_see_head(producer))
        return false;
    ring_attach_consumer(left, ring->shared, ring->capacity, producer->head_seen);
    ring_allow(left, UINT32_MAX, UINT8_MAX, UINT16_MAX);
    return true;
}

#endif
