/* The broadcast ring: one writer, many readers, one copy in whatever their number.

   The writer puts records into a ring and says of each whom it is for. Each reader takes its own
   out at its own pace. Like ring.h, which it builds on, these functions make no system call, take
   no lock, allocate nothing and answer at once; where somebody must be woken they say so.
   docs/broadcast-ring.md describes the protocol for other languages, and how it was verified:
   tests/broadcast includes this very file.

   Writer                                         Reader
     cast_seat        let a reader in               cast_next      the next record for this reader
     cast_hold        hold, or hold no more         cast_copy      its payload, if it is still whole
     cast_leave       a reader is gone              cast_resume    go on elsewhere
     cast_put         a record of a batch           cast_retire    say how far this reader is
     cast_publish     show the batch                cast_readable  look, for polling
     cast_wait_room   before going to sleep         cast_arm       before going to sleep
     cast_close       no more records
     cast_untaken     what a reader has not taken

   Four rules carry everything else:

   1. `tail` is the only place where records come into being, and `floor` the only one where they
      end. The writer moves `floor` before it writes over anything, and a reader looks at `floor`
      after it has read something: what begins at `floor` or behind it was whole.
   2. Nobody waits for a reader, unless it was let in as one that holds. Such a one keeps a record
      that is for it from being written over until its cursor is behind it.
   3. Readers cannot write to the ring. Each has a page of its own, shared with the writer alone,
      and the writer believes nothing that it reads there. The writer is not trusted either.
   4. Who goes to sleep first says so and then looks again; who makes a change first makes it and
      then looks for sleepers. */

#ifndef AIOIPC_BROADCAST_H
#define AIOIPC_BROADCAST_H

#include "ring.h"

/* --- the bytes -----------------------------------------------------------------------------

   A slow reader reads what the writer is writing over at the same time, finds out, and throws it
   away. C11 allows that for atomics only, so all of data[] is read and written in atomic words.
   Release and acquire make rule 1 true: who read a word that was written after `floor` moved will
   see that it moved. On x86-64 these are plain moves. */

typedef _Atomic uint64_t CastWord;

#ifndef CAST_READ  /* a model checker may bring its own */
#define CAST_READ(word) atomic_load_explicit((word), memory_order_acquire)
#define CAST_WRITE(word, value) atomic_store_explicit((word), (value), memory_order_release)
#endif

/* --- layout --------------------------------------------------------------------------------

   Zeroed memory is an empty ring and a page of a reader that has taken nothing. Positions are u64,
   count bytes for ever and wrap modulo 2^64; all of them are multiples of 8. */

#define CAST_DATA_OFFSET 0x1000u
#define CAST_PAGE_BYTES 0x1000u

#ifndef CAST_MAX_WORDS
#define CAST_MAX_WORDS 16u  /* 1,024 readers */
#endif
#define CAST_MAX_SEATS (64u * CAST_MAX_WORDS)

typedef struct {  /* of the writer; readers map it read-only */
    alignas(128) _Atomic uint64_t tail;    /* end of the published records */
    alignas(128) _Atomic uint64_t floor;   /* position of the oldest record; bit 0 is the era */
    alignas(128) _Atomic uint32_t closed;  /* 1: there will be no more records */
    alignas(CAST_DATA_OFFSET) CastWord data[];
} CastShared;

typedef struct {  /* of one reader, mapped by it and by the writer */
    alignas(128) _Atomic uint64_t cursor;     /* reader: end of what it is done with */
    alignas(128) _Atomic uint32_t sleeps;     /* reader sets 1, the writer swaps to 0 */
    alignas(128) _Atomic uint64_t wanted;     /* writer sets a position, with bit 0, that it waits
                                                 for the cursor to reach; the reader swaps to 0 */
    alignas(128) _Atomic uint64_t passed[2];  /* writer, for each era: how many records for this
                                                 reader are below `floor` */
} CastPage;

_Static_assert(offsetof(CastShared, tail) == 0x000, "layout is the protocol");
_Static_assert(offsetof(CastShared, floor) == 0x080, "layout is the protocol");
_Static_assert(offsetof(CastShared, closed) == 0x100, "layout is the protocol");
_Static_assert(offsetof(CastShared, data) == 0x1000, "layout is the protocol");
_Static_assert(offsetof(CastPage, cursor) == 0x000, "layout is the protocol");
_Static_assert(offsetof(CastPage, sleeps) == 0x080, "layout is the protocol");
_Static_assert(offsetof(CastPage, wanted) == 0x100, "layout is the protocol");
_Static_assert(offsetof(CastPage, passed) == 0x180, "layout is the protocol");
_Static_assert(sizeof(CastPage) <= CAST_PAGE_BYTES, "one page for each reader");

/* A record is a header word as in ring.h, a mask of one bit for each seat, and a payload filled up
   to a multiple of 8. It never crosses the end of data[]; a PAD, which has no mask, fills what
   would be too short. */

#define CAST_MAX_SKIPPED 1024  /* records for others; they must not hold up the caller */

/* --- answers ------------------------------------------------------------------------------- */

typedef enum {
    CAST_DONE,       /* done, and nobody sleeps */
    CAST_WAKE,       /* done, and somebody sleeps: ring */
    CAST_RECORD,     /* reader: here is a record */
    CAST_GAP,        /* reader: `lost` records for it were written over before it took them */
    CAST_EMPTY,      /* reader: there is none */
    CAST_AGAIN,      /* reader: none so far; come back after somebody else had a turn */
    CAST_FULL,       /* writer: somebody holds what would be written over */
    CAST_TOO_LARGE,  /* writer: longer than cast_max_record */
    CAST_SLEEP,      /* a bell will ring; sleep until then, or until the other side dies */
    CAST_RETRY,      /* something changed just now: try again instead of sleeping */
    CAST_END,        /* reader: closed by the writer, and everything was taken */
    CAST_POISONED,   /* reader: the writer broke the protocol; see fault */
} CastAnswer;

typedef struct {
    enum { CAST_SOUND, CAST_BAD_TAIL, CAST_BAD_FLOOR, CAST_BAD_RECORD } reason;
    uint64_t value;
} CastFault;

/* --- geometry: agreed between the processes before, and private ------------------------------ */

typedef struct {
    uint64_t capacity;  /* bytes of data[], a power of two */
    uint32_t words;     /* of a mask: for 64 readers each */
} CastGeometry;

static inline bool cast_is_valid(CastGeometry geometry)
{
    uint64_t capacity = geometry.capacity;
    return geometry.words >= 1 && geometry.words <= CAST_MAX_WORDS
        && (capacity & (capacity - 1)) == 0 && capacity >= 256u * geometry.words
        && capacity <= RING_MAX_CAPACITY;
}

/* A quarter of the ring: a record and the PAD before it always fit beside other records. */
static inline uint64_t cast_max_record(CastGeometry geometry) { return geometry.capacity / 4; }

static inline uint64_t cast_header_bytes(CastGeometry geometry)
{
    return RING_HEADER + 8u * (uint64_t)geometry.words;
}

/* From the beginning of a record to that of the next one. */
static inline uint64_t cast_span(CastGeometry geometry, uint32_t tag, uint64_t length)
{
    return (tag == RING_PAD ? RING_HEADER : cast_header_bytes(geometry)) + ring_align(length);
}

static inline uint64_t cast_index(CastGeometry geometry, uint64_t position)
{
    return (position & (geometry.capacity - 1)) / 8;
}

/* Bytes from a position to the end of data[]. */
static inline uint64_t cast_room(CastGeometry geometry, uint64_t position)
{
    return geometry.capacity - (position & (geometry.capacity - 1));
}

/* Positions are compared by their distance, which is far below 2^63. */
static inline bool cast_is_before(uint64_t one, uint64_t other)
{
    return (int64_t)(one - other) < 0;
}

/* === writer ================================================================================== */

typedef struct {
    CastPage *page;
    uint64_t start;        /* records before are not for it, whatever their mask says */
    uint64_t cursor_seen;  /* its last valid `cursor` */
    uint64_t passed;       /* how many records for it are below the floor */
    bool is_hostile;       /* wrote what no reader writes; it holds nobody up any more */
} CastSeat;

typedef struct {
    CastShared *shared;
    CastGeometry geometry;
    uint64_t cursor;     /* where the next record begins */
    uint64_t published;  /* our last `tail` */
    uint64_t floor;      /* where our last `floor` is */
    uint64_t era;        /* its bit 0 */
    uint64_t blocked;    /* after CAST_FULL: the end of the record that is held */
    int32_t blocker;     /* and by whom; -1: by nobody, it is not published yet */
    uint64_t seated[CAST_MAX_WORDS];
    uint64_t holding[CAST_MAX_WORDS];
    uint64_t fresh[CAST_MAX_WORDS];  /* whom the records since the last publish are for */
    CastSeat seats[CAST_MAX_SEATS];
} CastWriter;

/* Take the writing side of fresh memory; tests begin elsewhere than at 0. Returns whether this
   can be a ring. */
static inline bool cast_attach_writer(CastWriter *writer, void *memory, CastGeometry geometry,
                                      uint64_t start)
{
    if (!cast_is_valid(geometry) || (uintptr_t)memory % alignof(CastShared) != 0 || start % 8 != 0)
        return false;
    memset(writer, 0, sizeof *writer);
    writer->shared = memory;
    writer->geometry = geometry;
    writer->cursor = writer->published = writer->floor = start;
    RING_STORE(&writer->shared->floor, start);
    RING_STORE(&writer->shared->tail, start);
    return true;
}

/* Let a reader in. What is put from now on may be for it; what was put before is shown now, though
   whoever sleeps is woken by the next publish only. Its page is zeroed memory that nobody else has
   seen. Returns where it begins to read. */
static inline uint64_t cast_seat(CastWriter *writer, uint32_t slot, CastPage *page, bool holds)
{
    uint64_t start = writer->cursor, bit = (uint64_t)1 << slot % 64;
    RING_STORE(&writer->shared->tail, start);
    writer->published = start;
    writer->seats[slot] = (CastSeat){page, start, start, 0, false};
    RING_STORE(&page->cursor, start);
    writer->seated[slot / 64] |= bit;
    if (holds)
        writer->holding[slot / 64] |= bit;
    return start;
}

/* Change whether a reader holds. */
static inline void cast_hold(CastWriter *writer, uint32_t slot, bool holds)
{
    uint64_t bit = (uint64_t)1 << slot % 64;
    if (holds && !writer->seats[slot].is_hostile)
        writer->holding[slot / 64] |= bit;
    else
        writer->holding[slot / 64] &= ~bit;
}

/* A reader is gone: nobody touches its page any more. */
static inline void cast_leave(CastWriter *writer, uint32_t slot)
{
    uint64_t others = ~((uint64_t)1 << slot % 64);
    writer->seated[slot / 64] &= others;
    writer->holding[slot / 64] &= others;
    writer->fresh[slot / 64] &= others;
    writer->seats[slot] = (CastSeat){0};
}

static inline bool cast_holds(const CastWriter *writer, uint32_t slot)
{
    return (writer->holding[slot / 64] >> slot % 64 & 1) != 0;
}

/* Read how far a reader is: between what we saw last and what we published. Any other value is a
   lie, and the liar holds nobody up any more. */
static inline void cast_see_cursor(CastWriter *writer, uint32_t slot)
{
    CastSeat *seat = &writer->seats[slot];
    uint64_t cursor = RING_LOAD(&seat->page->cursor);
    if (cursor % 8 == 0 && cursor - seat->cursor_seen <= writer->published - seat->cursor_seen) {
        seat->cursor_seen = cursor;
        return;
    }
    seat->is_hostile = true;
    writer->holding[slot / 64] &= ~((uint64_t)1 << slot % 64);
}

static inline uint32_t cast_lowest(uint64_t bits) { return (uint32_t)__builtin_ctzll(bits); }

/* Whether a reader has still to take the record at a position, which is for it. */
static inline bool cast_is_held(CastWriter *writer, uint32_t slot, uint64_t position)
{
    const CastSeat *seat = &writer->seats[slot];
    if (cast_is_before(position, seat->cursor_seen))
        return false;
    cast_see_cursor(writer, slot);
    return cast_holds(writer, slot) && !cast_is_before(position, seat->cursor_seen);
}

/* Who holds the record at a position; -1: nobody. */
static inline int32_t cast_holder(CastWriter *writer, uint64_t position)
{
    const CastWord *mask = &writer->shared->data[cast_index(writer->geometry, position) + 1];
    for (uint32_t word = 0; word < writer->geometry.words; word++) {
        uint64_t bits = CAST_READ(&mask[word]) & writer->holding[word];
        for (; bits != 0; bits &= bits - 1) {
            uint32_t slot = 64 * word + cast_lowest(bits);
            if (cast_is_held(writer, slot, position))
                return (int32_t)slot;
        }
    }
    return -1;
}

/* Where the record behind the one at a position begins. Our own memory: nobody else writes it. */
static inline uint64_t cast_behind(const CastWriter *writer, uint64_t position, uint32_t *tag)
{
    CastGeometry geometry = writer->geometry;
    uint64_t header = CAST_READ(&writer->shared->data[cast_index(geometry, position)]);
    *tag = (uint32_t)(header >> 32);
    return position + cast_span(geometry, *tag, (uint32_t)header);
}

/* How far the floor could move towards a goal: to the first record that is held. */
static inline uint64_t cast_reach(CastWriter *writer, uint64_t goal)
{
    uint64_t position = writer->floor;
    while (cast_is_before(position, goal)) {
        uint32_t tag;
        uint64_t next = cast_behind(writer, position, &tag);
        if (tag != RING_PAD && (writer->blocker = cast_holder(writer, position)) >= 0) {
            writer->blocked = next;
            return position;
        }
        position = next;
    }
    return position;
}

/* Count, for each reader, its records between the floor and a position. */
static inline void cast_count(CastWriter *writer, uint64_t end)
{
    uint64_t position = writer->floor;
    while (position != end) {
        const CastWord *mask = &writer->shared->data[cast_index(writer->geometry, position) + 1];
        uint32_t tag;
        uint64_t next = cast_behind(writer, position, &tag);
        for (uint32_t word = 0; tag != RING_PAD && word < writer->geometry.words; word++) {
            uint64_t bits = CAST_READ(&mask[word]) & writer->seated[word];
            for (; bits != 0; bits &= bits - 1) {
                CastSeat *seat = &writer->seats[64 * word + cast_lowest(bits)];
                seat->passed += !cast_is_before(position, seat->start);
            }
        }
        position = next;
    }
}

/* End all records before a position. The counts of the coming era are written beside those of the
   present one, so that a reader finds the right one with the floor that it saw, whatever happens
   to us in between. */
static inline void cast_raise_floor(CastWriter *writer, uint64_t position)
{
    uint64_t era = writer->era ^ 1;
    cast_count(writer, position);
    for (uint32_t word = 0; word < writer->geometry.words; word++)
        for (uint64_t bits = writer->seated[word]; bits != 0; bits &= bits - 1) {
            CastSeat *seat = &writer->seats[64 * word + cast_lowest(bits)];
            RING_STORE(&seat->page->passed[era], seat->passed);
        }
    AIOIPC_CRASHPOINT(floor_counted);
    RING_STORE(&writer->shared->floor, position | era);
    AIOIPC_CRASHPOINT(floor_raised);
    writer->floor = position;
    writer->era = era;
}

/* Make so many bytes free behind the cursor. An eighth of the ring more is given up at a time, so
   that a reader that was overrun has a start. CAST_DONE or CAST_FULL. */
static inline CastAnswer cast_make_room(CastWriter *writer, uint64_t needed)
{
    uint64_t capacity = writer->geometry.capacity;
    uint64_t least = writer->cursor + needed - capacity;
    if (!cast_is_before(writer->floor, least))
        return CAST_DONE;
    writer->blocker = -1;
    if (cast_is_before(writer->published, least))
        return CAST_FULL;
    uint64_t goal = least + capacity / 8;
    uint64_t reach = cast_reach(writer, cast_is_before(writer->published, goal)
                                            ? writer->published : goal);
    if (cast_is_before(reach, least))
        return CAST_FULL;
    cast_raise_floor(writer, reach);
    return CAST_DONE;
}

static inline void cast_write_header(CastWriter *writer, uint32_t tag, uint64_t length)
{
    CAST_WRITE(&writer->shared->data[cast_index(writer->geometry, writer->cursor)],
               (uint64_t)tag << 32 | length);
}

static inline void cast_write_payload(CastWord *into, const unsigned char *data, size_t length)
{
    for (; length >= 8; length -= 8, data += 8, into++) {
        uint64_t word;
        memcpy(&word, data, 8);
        CAST_WRITE(into, word);
    }
    if (length != 0) {
        uint64_t word = 0;
        memcpy(&word, data, length);
        CAST_WRITE(into, word);
    }
}

/* Add a record for some readers, a mask of geometry.words, that cast_publish will show together
   with others. CAST_DONE, CAST_FULL or CAST_TOO_LARGE. */
static inline CastAnswer cast_put(CastWriter *writer, const uint64_t *mask, uint32_t tag,
                                  const void *data, size_t length)
{
    CastGeometry geometry = writer->geometry;
    if (length > cast_max_record(geometry))
        return CAST_TOO_LARGE;
    uint64_t span = cast_span(geometry, tag, length);
    uint64_t room = cast_room(geometry, writer->cursor);
    if (cast_make_room(writer, span <= room ? span : room + span) != CAST_DONE)
        return CAST_FULL;
    if (span > room) {
        cast_write_header(writer, RING_PAD, room - RING_HEADER);
        writer->cursor += room;
        AIOIPC_CRASHPOINT(put_padded);
    }
    cast_write_header(writer, tag, length);
    AIOIPC_CRASHPOINT(put_begun);
    CastWord *at = &writer->shared->data[cast_index(geometry, writer->cursor) + 1];
    for (uint32_t word = 0; word < geometry.words; word++) {
        uint64_t bits = mask[word] & writer->seated[word];
        CAST_WRITE(&at[word], bits);
        writer->fresh[word] |= bits;
    }
    cast_write_payload(at + geometry.words, data, length);
    AIOIPC_CRASHPOINT(put_copied);
    writer->cursor += span;
    return CAST_DONE;
}

/* Clear the flags of some readers that sleep. Who cleared a flag must ring that bell, after that. */
static inline CastAnswer cast_take_sleepers(CastWriter *writer, const uint64_t *whom,
                                            uint64_t *bells)
{
    CastAnswer answer = CAST_DONE;
    for (uint32_t word = 0; word < writer->geometry.words; word++) {
        bells[word] = 0;
        for (uint64_t bits = whom[word]; bits != 0; bits &= bits - 1) {
            uint32_t bit = cast_lowest(bits);
            CastPage *page = writer->seats[64 * word + bit].page;
            if (RING_LOAD(&page->sleeps) != 0 && RING_SWAP(&page->sleeps, 0) != 0) {
                bells[word] |= (uint64_t)1 << bit;
                answer = CAST_WAKE;
            }
        }
    }
    return answer;
}

/* Show all records that were put; only those whom one is for are woken. CAST_DONE, or CAST_WAKE
   and whose bells to ring, a mask of geometry.words. */
static inline CastAnswer cast_publish(CastWriter *writer, uint64_t *bells)
{
    if (writer->cursor != writer->published) {
        AIOIPC_CRASHPOINT(publish_begun);
        RING_STORE(&writer->shared->tail, writer->cursor);
        writer->published = writer->cursor;
        AIOIPC_CRASHPOINT(publish_stored);
    }
    CastAnswer answer = cast_take_sleepers(writer, writer->fresh, bells);
    memset(writer->fresh, 0, sizeof writer->fresh);
    AIOIPC_CRASHPOINT(publish_looked);
    return answer;
}

/* Before sleeping after CAST_FULL: publish, say what is waited for, and look again. CAST_SLEEP,
   CAST_RETRY, or CAST_WAKE (ring, then call again). */
static inline CastAnswer cast_wait_room(CastWriter *writer, uint64_t *bells)
{
    if (cast_publish(writer, bells) == CAST_WAKE)
        return CAST_WAKE;
    if (writer->blocker < 0 || !cast_holds(writer, (uint32_t)writer->blocker))
        return CAST_RETRY;
    uint32_t slot = (uint32_t)writer->blocker;
    const CastSeat *seat = &writer->seats[slot];
    AIOIPC_CRASHPOINT(wait_begun);
    RING_STORE(&seat->page->wanted, writer->blocked | 1);
    AIOIPC_CRASHPOINT(wait_stored);
    cast_see_cursor(writer, slot);
    if (cast_holds(writer, slot) && cast_is_before(seat->cursor_seen, writer->blocked))
        return CAST_SLEEP;
    RING_STORE(&seat->page->wanted, 0);  /* left set, it would only cost the reader a bell */
    return CAST_RETRY;
}

/* End the stream, after the last publish. CAST_DONE, or CAST_WAKE and whose bells to ring. */
static inline CastAnswer cast_close(CastWriter *writer, uint64_t *bells)
{
    AIOIPC_CRASHPOINT(close_begun);
    RING_STORE(&writer->shared->closed, 1);
    AIOIPC_CRASHPOINT(close_stored);
    return cast_take_sleepers(writer, writer->seated, bells);
}

/* What the reader in a slot has not taken, one record after the other: begin with NULL. For who
   sends it another way, to a reader that still holds and that cast_resume will get past it; the
   reader may have taken some of it since it last said so. Returns the payload, NULL at the end.
   A reader may say that it is in the middle of a record: no walk begins where it says. */
static inline const CastWord *cast_untaken(CastWriter *writer, uint32_t slot, uint64_t *position,
                                           const CastWord *last, uint32_t *length)
{
    CastGeometry geometry = writer->geometry;
    if (last == NULL) {
        cast_see_cursor(writer, slot);
        *position = writer->floor;
    }
    while (*position != writer->published) {
        uint64_t here = *position;
        const CastWord *at = &writer->shared->data[cast_index(geometry, here)];
        uint32_t tag;
        *length = (uint32_t)CAST_READ(at);
        *position = cast_behind(writer, here, &tag);
        if (tag != RING_PAD && !cast_is_before(here, writer->seats[slot].cursor_seen)
            && (CAST_READ(&at[1 + slot / 64]) >> slot % 64 & 1) != 0)
            return at + 1 + geometry.words;
    }
    return NULL;
}

/* === reader ================================================================================== */

typedef struct {
    const CastShared *shared;
    CastPage *page;
    CastGeometry geometry;
    uint32_t slot;
    uint64_t cursor;     /* where the next record begins */
    uint64_t retired;    /* our last `cursor` */
    uint64_t tail_seen;  /* the writer's last valid `tail` */
    uint64_t taken;      /* records for us before the cursor, lost ones included */
    uint64_t lost;       /* after CAST_GAP: how many */
    CastFault fault;
} CastReader;

typedef struct {
    uint64_t position;
    const CastWord *payload;
    uint32_t length;
    uint32_t tag;
} CastRecord;

/* Take the reading side, in the place and from the position on that the writer gave us. Returns
   whether this can be a ring. */
static inline bool cast_attach_reader(CastReader *reader, const void *memory, CastPage *page,
                                      CastGeometry geometry, uint32_t slot, uint64_t start)
{
    if (!cast_is_valid(geometry) || (uintptr_t)memory % alignof(CastShared) != 0 || start % 8 != 0
        || slot >= 64 * geometry.words)
        return false;
    *reader = (CastReader){.shared = memory, .page = page, .geometry = geometry, .slot = slot};
    reader->cursor = reader->retired = reader->tail_seen = start;
    return true;
}

static inline CastAnswer cast_poison(CastReader *reader, CastFault fault)
{
    reader->fault = fault;
    reader->tail_seen = reader->cursor;  /* looks empty */
    return CAST_POISONED;
}

/* Read how far the writer is: not behind us. Further than a ring ahead, we were overrun, which
   cast_look finds out. */
static inline CastAnswer cast_see_tail(CastReader *reader)
{
    if (reader->fault.reason != CAST_SOUND)
        return CAST_POISONED;
    uint64_t tail = RING_LOAD(&reader->shared->tail);
    if (tail % 8 != 0 || cast_is_before(tail, reader->tail_seen))
        return cast_poison(reader, (CastFault){CAST_BAD_TAIL, tail});
    reader->tail_seen = tail;
    return tail == reader->cursor ? CAST_EMPTY : CAST_RECORD;
}

/* Rule 1: whether all that was read of a record before this call is as the writer wrote it. */
static inline bool cast_is_whole(const CastReader *reader, uint64_t position)
{
    return !cast_is_before(position, RING_LOAD(&reader->shared->floor) & ~(uint64_t)7);
}

/* We were overrun: go on with the oldest record there is. The floor is loaded twice, and in
   between what belongs to it. CAST_GAP, CAST_RECORD (nothing was for us), CAST_AGAIN (the floor
   moves right now) or CAST_POISONED. */
static inline CastAnswer cast_land(CastReader *reader)
{
    const CastShared *shared = reader->shared;
    uint64_t floor = RING_LOAD(&shared->floor);
    uint64_t passed = RING_LOAD(&reader->page->passed[floor & 1]);
    uint64_t tail = RING_LOAD(&shared->tail);
    if (RING_LOAD(&shared->floor) != floor)
        return CAST_AGAIN;
    uint64_t position = floor & ~(uint64_t)7;
    if ((floor & 6) != 0 || tail % 8 != 0 || cast_is_before(position, reader->cursor)
        || tail - position > reader->geometry.capacity || cast_is_before(passed, reader->taken))
        return cast_poison(reader, (CastFault){CAST_BAD_FLOOR, floor});
    reader->lost = passed - reader->taken;
    reader->taken = passed;
    reader->cursor = position;
    reader->tail_seen = tail;
    return reader->lost != 0 ? CAST_GAP : CAST_RECORD;
}

/* One look at the record at the cursor. CAST_RECORD: it is for us; CAST_EMPTY: it is not, and was
   passed; CAST_AGAIN: it is gone; CAST_POISONED. */
static inline CastAnswer cast_look(CastReader *reader, CastRecord *record)
{
    CastGeometry geometry = reader->geometry;
    const CastWord *at = &reader->shared->data[cast_index(geometry, reader->cursor)];
    uint64_t room = cast_room(geometry, reader->cursor);
    uint64_t header = CAST_READ(at);
    uint32_t length = (uint32_t)header, tag = (uint32_t)(header >> 32);
    bool has_mask = tag != RING_PAD && room >= cast_header_bytes(geometry);
    uint64_t mask = has_mask ? CAST_READ(&at[1 + reader->slot / 64]) : 0;
    if (!cast_is_whole(reader, reader->cursor))
        return CAST_AGAIN;
    if (reader->tail_seen - reader->cursor > geometry.capacity)
        return cast_poison(reader, (CastFault){CAST_BAD_TAIL, reader->tail_seen});
    uint64_t span = cast_span(geometry, tag, length);
    if (span > reader->tail_seen - reader->cursor || span > room
        || (tag != RING_PAD && length > cast_max_record(geometry)))
        return cast_poison(reader, (CastFault){CAST_BAD_RECORD, header});
    if ((mask >> reader->slot % 64 & 1) == 0) {
        reader->cursor += span;
        return CAST_EMPTY;
    }
    *record = (CastRecord){reader->cursor, at + 1 + geometry.words, length, tag};
    return CAST_RECORD;
}

/* Find the next record for us, to be copied by cast_copy at once. CAST_RECORD, CAST_GAP,
   CAST_EMPTY, CAST_AGAIN or CAST_POISONED. */
static inline CastAnswer cast_next(CastReader *reader, CastRecord *record)
{
    for (int skipped = 0; skipped < CAST_MAX_SKIPPED; skipped++) {
        CastAnswer answer;
        if (reader->cursor == reader->tail_seen
            && (answer = cast_see_tail(reader)) != CAST_RECORD)
            return answer;
        answer = cast_look(reader, record);
        if (answer == CAST_AGAIN)
            answer = cast_land(reader);
        else if (answer == CAST_RECORD)
            return CAST_RECORD;
        if (answer == CAST_GAP || answer == CAST_POISONED)
            return answer;
    }
    return CAST_AGAIN;
}

/* Copy what cast_next found; `into` has room for record->length bytes. False: it was written over
   meanwhile, the bytes mean nothing, and cast_next will say how many are lost. */
static inline bool cast_copy(CastReader *reader, const CastRecord *record, unsigned char *into)
{
    const CastWord *from = record->payload;
    size_t length = record->length;
    for (; length >= 8; length -= 8, into += 8, from++) {
        uint64_t word = CAST_READ(from);
        memcpy(into, &word, 8);
    }
    if (length != 0) {
        uint64_t word = CAST_READ(from);
        memcpy(into, &word, length);
    }
    AIOIPC_CRASHPOINT(copy_done);
    if (!cast_is_whole(reader, record->position))
        return false;
    reader->cursor = record->position + cast_span(reader->geometry, record->tag, record->length);
    reader->taken++;
    return true;
}

/* Take nothing before a position, before which there were so many records for us, whatever became
   of them: so says the writer, who has put in none for us since. If we are further, having passed
   what is for others, we stay there. Returns false, and poisons, if that is not before its tail. */
static inline bool cast_resume(CastReader *reader, uint64_t position, uint64_t taken)
{
    uint64_t tail = RING_LOAD(&reader->shared->tail);
    if (reader->fault.reason != CAST_SOUND)
        return false;
    if (position % 8 != 0 || tail % 8 != 0 || cast_is_before(tail, position)
        || cast_is_before(tail, reader->cursor)) {
        cast_poison(reader, (CastFault){CAST_BAD_TAIL, position});
        return false;
    }
    if (cast_is_before(reader->cursor, position))
        reader->cursor = position;
    reader->tail_seen = tail;
    reader->taken = taken;
    return true;
}

/* Say how far we are, once for everything taken. CAST_DONE or CAST_WAKE (ring the writer). */
static inline CastAnswer cast_retire(CastReader *reader)
{
    CastPage *page = reader->page;
    if (reader->cursor == reader->retired)
        return CAST_DONE;
    AIOIPC_CRASHPOINT(retire_begun);
    RING_STORE(&page->cursor, reader->cursor);
    reader->retired = reader->cursor;
    AIOIPC_CRASHPOINT(retire_stored);
    uint64_t wanted = RING_LOAD(&page->wanted);
    bool enough = wanted != 0 && !cast_is_before(reader->cursor, wanted & ~(uint64_t)7);
    bool wake = enough && RING_SWAP(&page->wanted, 0) != 0;
    AIOIPC_CRASHPOINT(retire_looked);
    return wake ? CAST_WAKE : CAST_DONE;
}

/* Whether cast_next may find something: one load and no promise, for polling. */
static inline bool cast_readable(const CastReader *reader)
{
    return RING_LOAD(&reader->shared->tail) != reader->cursor;
}

/* Before sleeping after CAST_EMPTY: say so, then look again. CAST_SLEEP, CAST_RETRY, CAST_END,
   CAST_WAKE (ring, then call again) or CAST_POISONED. */
static inline CastAnswer cast_arm(CastReader *reader)
{
    CastPage *page = reader->page;
    if (reader->fault.reason != CAST_SOUND)
        return CAST_POISONED;
    if (cast_retire(reader) == CAST_WAKE)
        return CAST_WAKE;
    AIOIPC_CRASHPOINT(arm_begun);
    RING_STORE(&page->sleeps, 1);
    AIOIPC_CRASHPOINT(arm_stored);
    if (cast_readable(reader)) {
        RING_STORE(&page->sleeps, 0);  /* left set, it would only cost the writer a bell */
        return CAST_RETRY;
    }
    if (RING_LOAD(&reader->shared->closed) == 0)
        return CAST_SLEEP;
    return cast_readable(reader) ? CAST_RETRY : CAST_END;  /* the last record came before */
}

#endif
