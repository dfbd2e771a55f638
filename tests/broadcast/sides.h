/* The writer and its readers at work, in random order, with each message checked.

   Whoever includes this says how to ring, how to sleep, and what to note. */

#ifndef AIOIPC_BROADCAST_SIDES_H
#define AIOIPC_BROADCAST_SIDES_H

#include "tools.h"
#include "broadcast.h"
#include <sched.h>

#define MAX_READERS 64
#ifndef MAX_BYTES
#define MAX_BYTES 4096
#endif
#define WRITER (-1)

/* Wake a reader, or the writer. */
static void ring_bell(int sleeper);

/* Sleep until the bell rings: -1; or until another side is gone: which one (a reader, or, for a
   reader, 0). has_work says whether the ring has something to do for the sleeper, who should have
   been woken then. */
static int hear_bell(int sleeper, bool (*has_work)(const void *side), const void *side);

/* So many messages were published; a reader took or lost one of these. */
static void note_published(uint64_t messages);
static void note_taken(int reader, uint64_t messages);

/* Whether the writer goes on with the next message. */
static bool goes_on(void);

typedef struct {
    Messages messages;
    uint64_t count;
    CastGeometry geometry;
    uint64_t start;
    uint64_t spin;     /* look so often, at most, before sleeping */
    uint64_t batch;    /* at most so many are published together */
    bool in_step;      /* wait until a message was taken before the next one; with batch=1 */
    uint64_t lag;      /* one in so many messages a reader dawdles; 0: never */
    uint64_t readers;
    uint64_t holding;  /* bit by bit */
} Work;

static uint32_t slot_of(const Work *work, int reader)
{
    return (uint32_t)reader * 37 % (64 * work->geometry.words);
}

static bool holds(const Work *work, int reader) { return (work->holding >> reader & 1) != 0; }

/* Whom a message is for: some, sometimes nobody or all. */
static bool is_for(const Work *work, uint64_t number, int reader)
{
    uint64_t chance = mix(work->messages.seed ^ ~number);
    switch (chance >> 61) {
    case 0: return false;
    case 1: case 2: return true;
    default: return (mix(chance) >> reader & 1) != 0;
    }
}

/* The first message from a number on that is for a reader; or work->count. */
static uint64_t next_for(const Work *work, uint64_t number, int reader)
{
    while (number < work->count && !is_for(work, number, reader))
        number++;
    return number;
}

static void mask_of(const Work *work, uint64_t number, uint64_t *mask)
{
    memset(mask, 0, 8 * CAST_MAX_WORDS);
    for (int reader = 0; reader < (int)work->readers; reader++)
        if (is_for(work, number, reader)) {
            uint32_t slot = slot_of(work, reader);
            mask[slot / 64] |= (uint64_t)1 << slot % 64;
        }
}

static size_t cast_memory_bytes(CastGeometry geometry)
{
    return CAST_DATA_OFFSET + (size_t)geometry.capacity;
}

/* --- writer ---------------------------------------------------------------------------------- */

static void ring_bells(const Work *work, const uint64_t *bells)
{
    for (int reader = 0; reader < (int)work->readers; reader++) {
        uint32_t slot = slot_of(work, reader);
        if (bells[slot / 64] >> slot % 64 & 1)
            ring_bell(reader);
    }
}

static void let_in(const Work *work, CastWriter *writer, CastPage *pages[])
{
    for (int reader = 0; reader < (int)work->readers; reader++)
        CHECK(cast_seat(writer, slot_of(work, reader), pages[reader], holds(work, reader))
              == work->start);
}

static bool has_room(const void *side)
{
    const CastWriter *writer = side;
    const CastSeat *seat = &writer->seats[writer->blocker];
    return !cast_is_before(RING_LOAD(&seat->page->cursor), writer->blocked);
}

static void wait_for_room(const Work *work, CastWriter *writer, Dice *dice)
{
    uint64_t bells[CAST_MAX_WORDS] = {0};
    if (writer->blocker >= 0)
        for (uint64_t looks = below(dice, work->spin + 1); looks > 0; looks--)
            if (has_room(writer))
                break;
    CastAnswer answer = cast_wait_room(writer, bells);
    CHECK(answer == CAST_WAKE || answer == CAST_RETRY || answer == CAST_SLEEP);
    ring_bells(work, bells);
    if (answer == CAST_SLEEP) {
        int gone = hear_bell(WRITER, has_room, writer);
        if (gone >= 0)
            cast_leave(writer, slot_of(work, gone));
    }
}

static void publish(const Work *work, CastWriter *writer, uint64_t messages)
{
    uint64_t bells[CAST_MAX_WORDS];
    CastAnswer answer = cast_publish(writer, bells);
    CHECK(answer == CAST_DONE || answer == CAST_WAKE);
    if (answer == CAST_WAKE)
        ring_bells(work, bells);
    note_published(messages);
}

/* Until everybody whom a message is for is done with it, and about to sleep. */
static void wait_for_all(const Work *work, const CastWriter *writer, uint64_t number)
{
    for (int reader = 0; reader < (int)work->readers; reader++) {
        const CastPage *page = writer->seats[slot_of(work, reader)].page;
        uint64_t begun = now_ns();
        while (is_for(work, number, reader) && RING_LOAD(&page->cursor) != writer->published) {
            sched_yield();
            if (now_ns() - begun > 2000000000)
                fail("nobody takes message %llu, which is for reader %d",
                     (unsigned long long)number, reader);
        }
    }
}

/* Sends everything, and closes. Returns how many that were. */
__attribute__((unused))
static uint64_t write_all(const Work *work, CastWriter *writer)
{
    unsigned char bytes[MAX_BYTES] = {0};
    uint64_t mask[CAST_MAX_WORDS], bells[CAST_MAX_WORDS], left_in_batch = 0, number;
    Dice dice = {work->messages.seed + 1};
    CHECK(work->messages.max_bytes <= sizeof bytes);
    mask_of(work, 0, mask);
    CHECK(cast_put(writer, mask, RING_DATA, bytes, work->geometry.capacity / 4 + 1)
          == CAST_TOO_LARGE);
    for (number = 0; number < work->count && goes_on(); number++) {
        size_t length = message_length(&work->messages, number);
        CastAnswer answer;
        message_fill(&work->messages, number, bytes, length);
        mask_of(work, number, mask);
        while ((answer = cast_put(writer, mask, RING_DATA, bytes, length)) != CAST_DONE) {
            CHECK(answer == CAST_FULL);
            wait_for_room(work, writer, &dice);
        }
        if (left_in_batch-- == 0) {
            publish(work, writer, number + 1);
            left_in_batch = below(&dice, work->batch);
        }
        if (work->in_step)
            wait_for_all(work, writer, number);
    }
    publish(work, writer, number);
    if (cast_close(writer, bells) == CAST_WAKE)
        ring_bells(work, bells);
    return number;
}

/* --- reader ---------------------------------------------------------------------------------- */

typedef struct {
    const Work *work;
    CastReader reader;
    int me;
    uint64_t number;  /* the next message for this reader */
    uint64_t taken, lost, gaps;
    Dice dice;
} Taker;

static void tell_writer(CastAnswer answer)
{
    CHECK(answer == CAST_DONE || answer == CAST_WAKE);
    if (answer == CAST_WAKE)
        ring_bell(WRITER);
}

static void check_gap(Taker *taker)
{
    if (holds(taker->work, taker->me))
        fail("reader %d holds, and lost %llu", taker->me, (unsigned long long)taker->reader.lost);
    taker->gaps++;
    taker->lost += taker->reader.lost;
    for (uint64_t lost = taker->reader.lost; lost > 0; lost--) {
        if (taker->number == taker->work->count)
            fail("reader %d lost more than there was", taker->me);
        taker->number = next_for(taker->work, taker->number + 1, taker->me);
    }
}

static void dawdle(Taker *taker)
{
    const Work *work = taker->work;
    if (work->lag == 0 || below(&taker->dice, work->lag) != 0)
        return;
    uint64_t until = now_ns() + below(&taker->dice, 200000);
    while (now_ns() < until)
        sched_yield();
}

static void take_record(Taker *taker, const CastRecord *record)
{
    unsigned char bytes[MAX_BYTES];
    const Work *work = taker->work;
    CHECK(record->length <= sizeof bytes);
    if (!cast_copy(&taker->reader, record, bytes))
        return;
    if (taker->number == work->count)
        fail("reader %d took more than there is", taker->me);
    message_check(&work->messages, taker->number, bytes, record->length);
    taker->number = next_for(work, taker->number + 1, taker->me);
    taker->taken++;
    note_taken(taker->me, taker->number);
    dawdle(taker);
    if (below(&taker->dice, 4) == 0)
        tell_writer(cast_retire(&taker->reader));
}

/* Takes all there is. */
static void take_some(Taker *taker)
{
    CastRecord record;
    for (;;) {
        CastAnswer answer = cast_next(&taker->reader, &record);
        if (answer == CAST_EMPTY)
            return;
        if (answer == CAST_GAP)
            check_gap(taker);
        else if (answer == CAST_RECORD)
            take_record(taker, &record);
        else if (answer != CAST_AGAIN)
            fail("reader %d: answer %d, fault %d: %llx", taker->me, (int)answer,
                 (int)taker->reader.fault.reason, (unsigned long long)taker->reader.fault.value);
    }
}

static bool has_record(const void *side)
{
    const CastReader *reader = side;
    if (RING_LOAD(&reader->shared->closed))
        return true;
    CastReader copy = *reader;  /* a look that changes nothing */
    CastRecord record;
    CastAnswer answer = cast_next(&copy, &record);
    return answer != CAST_EMPTY && answer != CAST_AGAIN;
}

/* Takes everything, until the stream is closed, or the writer is gone: then once more. Returns
   whether it was closed. */
__attribute__((unused))
static bool take_all(Taker *taker)
{
    const Work *work = taker->work;
    bool is_gone = false;
    taker->number = next_for(work, 0, taker->me);
    taker->dice.state = work->messages.seed + 100 + (uint64_t)taker->me;
    for (;;) {
        take_some(taker);
        if (is_gone)
            return RING_LOAD(&taker->reader.shared->closed) != 0;
        for (uint64_t looks = below(&taker->dice, work->spin + 1); looks > 0; looks--)
            if (cast_readable(&taker->reader))
                break;
        CastAnswer answer = cast_arm(&taker->reader);
        if (answer == CAST_END)
            return true;
        if (answer == CAST_WAKE)
            tell_writer(answer);
        else if (answer == CAST_SLEEP)
            is_gone = hear_bell(taker->me, has_record, &taker->reader) >= 0;
        else
            CHECK(answer == CAST_RETRY);
    }
}

/* What a reader knows at its end: everything that was acknowledged, and of a closed stream nothing
   more. */
__attribute__((unused))
static void check_taken(const Taker *taker, uint64_t published, bool is_closed)
{
    uint64_t due = next_for(taker->work, published, taker->me);
    if (taker->number < due && taker->number < published)
        fail("reader %d knows of messages up to %llu, of %llu acknowledged", taker->me,
             (unsigned long long)taker->number, (unsigned long long)published);
    if (is_closed && taker->number != due)
        fail("reader %d ends at %llu, not %llu", taker->me, (unsigned long long)taker->number,
             (unsigned long long)published);
}

__attribute__((unused))
static void attach(Taker *taker, const Work *work, int me, const CastShared *shared, CastPage *page)
{
    memset(taker, 0, sizeof *taker);
    taker->work = work;
    taker->me = me;
    CHECK(cast_attach_reader(&taker->reader, shared, page, work->geometry, slot_of(work, me),
                             work->start));
}

#endif
