/* The two sides at work: everything the ring offers, in random order, and each message checked.

   Whoever includes this says how to ring, how to sleep, and what to note. */

#ifndef AIOIPC_RING_SIDES_H
#define AIOIPC_RING_SIDES_H

#include "harness.h"
#include <sched.h>

typedef enum { CONSUMER, PRODUCER } Who;

/* Wake that side. */
static void ring_bell(Who sleeper);

/* Sleep until the bell rings: true, or until the other side is gone: false. has_work says whether
   the ring has something to do for the sleeper, who should have been woken then. */
static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side);

/* So many messages were published, or taken and checked, or given back. */
static void note_published(uint64_t messages);
static void note_handled(uint64_t messages);
static void note_retired(uint64_t messages);

/* COPY: one at a time. BATCH: several are published or retired together. LEASE: several are open
   at a time, and end in any order; a reserved one is shortened, and sometimes aborted. */
typedef enum { COPY, BATCH, LEASE } Mode;

__attribute__((unused))
static Mode mode_named(const char *name, Mode usual)
{
    static const char *const names[] = {"copy", "batch", "lease"};
    for (Mode mode = COPY; mode <= LEASE; mode++)
        if (strcmp(name, names[mode]) == 0)
            return mode;
    return usual;
}

#define MAX_OUT 8
#define MAX_BATCH 64

typedef struct {
    Messages messages;
    uint64_t count;
    uint64_t capacity;
    uint64_t start;
    uint64_t spin;  /* look so often, at most, before sleeping */
    bool in_step;   /* copies: send the next one when the consumer is done with this one */
    bool unclosed;  /* the stream does not end, and so no close wakes whom nobody woke before */
    Mode send_mode;
    Mode receive_mode;
} Work;

/* Both sides know which reservations are given up. */
static bool is_aborted(const Work *work, uint64_t number)
{
    return work->send_mode == LEASE && mix(work->messages.seed ^ ~number) % 8 == 0;
}

/* --- producer -------------------------------------------------------------------------------- */

static void tell_consumer(RingAnswer answer)
{
    CHECK(answer == RING_QUEUED || answer == RING_WAKE);
    if (answer == RING_WAKE)
        ring_bell(CONSUMER);
}

static bool has_room(const void *producer) { return ring_writable(producer); }

/* Returns false if the consumer is gone. */
static bool wait_for_room(const Work *work, RingProducer *producer, Dice *dice)
{
    for (uint64_t looks = below(dice, work->spin + 1); looks > 0; looks--)
        if (ring_writable(producer))
            return true;
    RingAnswer answer = ring_wait_space(producer);
    if (answer == RING_SLEEP)
        return hear_bell(PRODUCER, has_room, producer);
    CHECK(answer == RING_WAKE || answer == RING_RETRY);
    if (answer == RING_WAKE)
        ring_bell(CONSUMER);
    return true;
}

/* Returns how many messages were published. */
static uint64_t send_copies(const Work *work, RingProducer *producer, Dice *dice)
{
    unsigned char bytes[1024];
    uint64_t number, left_in_batch = 0;
    CHECK(work->messages.max_bytes <= sizeof bytes);
    for (number = 0; number < work->count; number++) {
        size_t length = message_length(&work->messages, number);
        RingAnswer answer;
        message_fill(&work->messages, number, bytes, length);
        while ((answer = ring_put(producer, RING_DATA, bytes, length)) != RING_QUEUED) {
            CHECK(answer == RING_FULL);
            if (!wait_for_room(work, producer, dice))
                goto gone;
        }
        if (left_in_batch-- == 0) {
            tell_consumer(ring_publish(producer));
            note_published(number + 1);
            left_in_batch = work->send_mode == BATCH ? below(dice, MAX_BATCH) : 0;
        }
        while (work->in_step && RING_LOAD(&producer->ring.shared->head) != producer->published)
            sched_yield();
    }
gone:
    tell_consumer(ring_publish(producer));
    note_published(number);
    return number;
}

typedef struct {
    RingLease lease;
    uint64_t number;
} Slot;

static void finish_slot(const Work *work, RingProducer *producer, Slot *slots, uint64_t *open,
                        uint64_t chosen)
{
    Slot *slot = &slots[chosen];
    size_t length = message_length(&work->messages, slot->number);
    if (is_aborted(work, slot->number))
        tell_consumer(ring_abort(producer, &slot->lease));
    else {
        message_fill(&work->messages, slot->number, slot->lease.payload, length);
        tell_consumer(ring_commit(producer, &slot->lease, RING_DATA, length));
    }
    CHECK(ring_abort(producer, &slot->lease) == RING_QUEUED);  /* does nothing any more */
    slots[chosen] = slots[--*open];
}

/* Returns how many messages were published. */
static uint64_t send_leases(const Work *work, RingProducer *producer, Dice *dice)
{
    Slot slots[MAX_OUT];
    uint64_t number = 0, open = 0;
    while (number < work->count || open > 0) {
        if (open == 0)
            note_published(number);
        if (open == MAX_OUT || number == work->count || (open > 0 && below(dice, 2) == 0)) {
            finish_slot(work, producer, slots, &open, below(dice, open));
            continue;
        }
        size_t most = (size_t)ring_max_record(&producer->ring);
        size_t length = message_length(&work->messages, number);
        RingAnswer answer = ring_reserve(producer, length + below(dice, most - length + 1),
                                         &slots[open].lease);
        CHECK(answer == RING_QUEUED || answer == RING_FULL || answer == RING_BUSY);
        if (answer == RING_QUEUED)
            slots[open++].number = number++;
        else if (open > 0)
            finish_slot(work, producer, slots, &open, below(dice, open));
        else if (!wait_for_room(work, producer, dice))
            break;
    }
    note_published(number);
    return number;
}

/* Sends everything, and closes unless the consumer is gone. Returns how many were published. */
static uint64_t produce(const Work *work, RingProducer *producer, RingShared *shared)
{
    unsigned char *payload;
    Dice dice = {work->messages.seed + 1};
    CHECK(ring_attach_producer(producer, shared, work->capacity, work->start, work->start));
    CHECK(ring_claim(producer, RING_DATA, work->capacity / 4 + 1, &payload) == RING_TOO_LARGE);
    uint64_t published = work->send_mode == LEASE ? send_leases(work, producer, &dice)
                                                  : send_copies(work, producer, &dice);
    if (published == work->count && !work->unclosed)
        tell_consumer(ring_close(producer));
    return published;
}

/* --- consumer -------------------------------------------------------------------------------- */

static void tell_producer(RingAnswer answer)
{
    CHECK(answer == RING_RETIRED || answer == RING_WAKE);
    if (answer == RING_WAKE)
        ring_bell(PRODUCER);
}

static bool has_record(const void *side)
{
    const RingConsumer *consumer = side;
    return ring_readable(consumer) || atomic_load(&consumer->ring.shared->closed);
}

typedef enum { COMING, GONE, ENDED } Rest;

/* What to expect after the ring was found empty. GONE: drain it once more. */
static Rest wait_for_record(const Work *work, RingConsumer *consumer, Dice *dice)
{
    for (uint64_t looks = below(dice, work->spin + 1); looks > 0; looks--)
        if (ring_readable(consumer))
            return COMING;
    RingAnswer answer = ring_arm(consumer);
    if (answer == RING_SLEEP)
        return hear_bell(CONSUMER, has_record, consumer) ? COMING : GONE;
    CHECK(answer == RING_WAKE || answer == RING_RETRY || answer == RING_END);
    if (answer == RING_WAKE)
        ring_bell(PRODUCER);
    return answer == RING_END ? ENDED : COMING;
}

static uint64_t skip_aborted(const Work *work, uint64_t number)
{
    while (number < work->count && is_aborted(work, number))
        number++;
    return number;
}

static void check_record(const Work *work, uint64_t number, const RingRecord *record)
{
    CHECK(record->tag == RING_DATA);
    message_check(&work->messages, number, record->payload, record->length);
}

typedef struct {
    RingRecord record;
    uint64_t number;
    uint32_t ticket;
} Kept;

typedef struct {
    uint64_t number;  /* of the next message */
    uint64_t left_in_batch;
    uint64_t open;
    Kept kept[MAX_OUT];
} Intake;

/* Take the next record and check it; borrow it, or retire it together with others. */
static RingAnswer take(const Work *work, RingConsumer *consumer, Intake *intake, Dice *dice)
{
    RingRecord record;
    uint32_t ticket = 0;
    bool borrows = work->receive_mode == LEASE;
    if (borrows && intake->open == MAX_OUT)
        return RING_BUSY;
    RingAnswer answer =
        borrows ? ring_borrow(consumer, &record, &ticket) : ring_pop(consumer, &record);
    if (answer != RING_RECORD)
        return answer;
    uint64_t number = skip_aborted(work, intake->number);
    check_record(work, number, &record);
    intake->number = number + 1;
    note_handled(intake->number);
    if (borrows)
        intake->kept[intake->open++] = (Kept){record, number, ticket};
    else if (intake->left_in_batch-- == 0) {
        tell_producer(ring_retire(consumer));
        note_retired(intake->number);
        intake->left_in_batch = work->receive_mode == BATCH ? below(dice, MAX_BATCH) : 0;
    }
    return answer;
}

/* Give back one of the borrowed records, whichever, and check again what it says. */
static void give_back(const Work *work, RingConsumer *consumer, Intake *intake, Dice *dice)
{
    Kept *kept = &intake->kept[below(dice, intake->open)];
    check_record(work, kept->number, &kept->record);
    tell_producer(ring_release(consumer, kept->ticket));
    CHECK(ring_release(consumer, kept->ticket) == RING_RETIRED);  /* does nothing any more */
    *kept = intake->kept[--intake->open];
    if (intake->open == 0)
        note_retired(intake->number);
}

static bool is_all(const Work *work, const Intake *intake)
{
    return work->unclosed && skip_aborted(work, intake->number) == work->count;
}

/* Takes messages until the end, or until the producer is gone and the ring is empty. Returns how
   many there were, aborted ones included. */
static uint64_t consume(const Work *work, RingConsumer *consumer, RingShared *shared)
{
    Intake intake = {0};
    Dice dice = {work->messages.seed + 2};
    Rest rest = COMING;
    CHECK(ring_attach_consumer(consumer, shared, work->capacity, work->start));
    while (rest != ENDED) {
        RingAnswer answer = take(work, consumer, &intake, &dice);
        if (answer == RING_RECORD || answer == RING_AGAIN)
            continue;
        CHECK(answer == RING_EMPTY || answer == RING_BUSY);
        if (intake.open > 0)
            give_back(work, consumer, &intake, &dice);
        else if (rest == GONE || is_all(work, &intake))
            break;
        else
            rest = wait_for_record(work, consumer, &dice);
    }
    return skip_aborted(work, intake.number);
}

#endif
