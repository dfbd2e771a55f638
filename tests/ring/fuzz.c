/* Hostile shared memory: whatever stands there, a side stays inside data[] and inside its limits.

   what=headers: one thread, everything in the memory made up anew for each case.
   what=mutator: another thread rewrites words and headers all the time, while this one works.

   Meant for AddressSanitizer and UndefinedBehaviorSanitizer: the memory comes from the heap and
   ends where data[] ends. Every payload byte is read, or written, to the end. */

#include "harness.h"
#include "lies.h"
#include <pthread.h>

static void crashpoint(const char *id) { (void)id; }

static uint64_t attempts, accepted, poisoned, touched;

/* The header of an empty message: it fits wherever it stands. */
static const uint64_t true_header = (uint64_t)RING_DATA << 32;

static RingShared *heap_ring(uint64_t capacity)
{
    void *memory;
    if (posix_memalign(&memory, RING_DATA_OFFSET, ring_memory_bytes(capacity)) != 0)
        fail("no memory");
    memset(memory, 0, ring_memory_bytes(capacity));
    return memory;
}

static void check_bounds(const Ring *ring, const unsigned char *payload, size_t length)
{
    const unsigned char *data = ring->shared->data;
    if (length > ring_max_record(ring) || payload < data + RING_HEADER
        || payload > data + ring->capacity || length > (size_t)(data + ring->capacity - payload))
        fail("a payload of %zu bytes at %td of %llu", length, payload - data,
             (unsigned long long)ring->capacity);
}

static void read_payload(const Ring *ring, const RingRecord *record)
{
    unsigned char copy[RING_MIN_CAPACITY * 64];
    check_bounds(ring, record->payload, record->length);
    memcpy(copy, record->payload, record->length);
    touched += record->length;
    accepted++;
}

/* --- the two sides, doing whatever they can -------------------------------------------------- */

static RingAnswer take(RingConsumer *consumer, RingRecord *record, Dice *dice)
{
    uint32_t ticket;
    if (below(dice, 4) != 0)
        return ring_pop(consumer, record);
    RingAnswer answer = ring_borrow(consumer, record, &ticket);
    if (answer == RING_RECORD && below(dice, 2) == 0)
        ring_release(consumer, ticket);
    return answer;
}

static bool works_on(RingAnswer answer)
{
    return answer == RING_RECORD || answer == RING_AGAIN;
}

/* Pop until there is no more. */
static void be_consumer(RingConsumer *consumer, Dice *dice)
{
    RingRecord record;
    RingAnswer answer;
    int rounds = 0;
    do {
        uint64_t before = consumer->cursor;
        attempts++;
        answer = take(consumer, &record, dice);
        if (answer == RING_RECORD) {
            read_payload(&consumer->ring, &record);
            if (record.tag != RING_DATA)
                CHECK(ring_is_welcome(&consumer->allowed, record.tag));
        }
        CHECK(consumer->cursor - before <= consumer->ring.capacity);
        CHECK(consumer->tail_seen - consumer->cursor <= consumer->ring.capacity);
        CHECK(consumer->cursor - consumer->retired <= consumer->ring.capacity);
        if (below(dice, 4) == 0)
            ring_retire(consumer);
    } while (works_on(answer) && ++rounds < 64);
    if (answer == RING_POISONED) {
        poisoned++;
        CHECK(consumer->fault.reason != RING_SOUND);
        CHECK(ring_pop(consumer, &record) == RING_POISONED);
        CHECK(ring_arm(consumer) == RING_POISONED);
    } else
        ring_arm(consumer);
    ring_retire(consumer);
}

static void fill(unsigned char *bytes, size_t length)
{
    for (size_t at = 0; at < length; at += 8)
        memcpy(bytes + at, &true_header, length - at < 8 ? length - at : 8);
}

static void write_payload(const Ring *ring, unsigned char *payload, size_t length)
{
    check_bounds(ring, payload, length);
    fill(payload, length);
    touched += length;
    accepted++;
}

static void be_producer_once(RingProducer *producer, Dice *dice)
{
    unsigned char bytes[RING_MIN_CAPACITY * 17];
    const Ring *ring = &producer->ring;
    size_t length = below(dice, ring_max_record(ring) + 2);
    unsigned char *payload;
    RingLease lease;
    attempts++;
    switch (below(dice, 4)) {
    case 0:
        if (ring_claim(producer, RING_DATA, length, &payload) == RING_QUEUED)
            write_payload(ring, payload, length);
        break;
    case 1:
        if (ring_reserve(producer, length, &lease) != RING_QUEUED)
            break;
        write_payload(ring, lease.payload, length);
        if (below(dice, 3) == 0)
            ring_commit(producer, &lease, RING_DATA, below(dice, length + 1));
        else if (below(dice, 2) == 0)
            ring_abort(producer, &lease);
        break;
    case 2:
        fill(bytes, length);
        ring_push(producer, RING_DATA, bytes, length);
        break;
    case 3:
        ring_wait_space(producer);
        break;
    }
    CHECK(producer->cursor - producer->published <= ring->capacity);
}

static void count_unconsumed(RingProducer *producer)
{
    RingConsumer left;
    RingRecord record;
    if (!ring_unconsumed(producer, &left)) {
        poisoned++;
        return;
    }
    RingAnswer answer;
    do {
        answer = ring_pop(&left, &record);
        CHECK(left.tail_seen - left.cursor <= left.ring.capacity);
        if (answer == RING_RECORD) {
            check_bounds(&left.ring, record.payload, record.length);
            accepted++;
        }
    } while (works_on(answer));
}

static void be_producer(RingProducer *producer, Dice *dice)
{
    for (uint64_t steps = 1 + below(dice, 12); steps > 0; steps--)
        be_producer_once(producer, dice);
    count_unconsumed(producer);
}

static void some_rules(RingConsumer *consumer, Dice *dice)
{
    if (below(dice, 2) == 0)
        ring_allow(consumer, (uint32_t)roll(dice), (uint8_t)below(dice, 4),
                   (uint16_t)below(dice, 3));
}

/* --- what=headers ---------------------------------------------------------------------------- */

static void one_case(RingShared *shared, uint64_t capacity, Dice *dice)
{
    RingConsumer consumer;
    RingProducer producer;
    uint64_t start = some_start(dice), sent = start + 8 * below(dice, capacity / 8 + 1);
    CHECK(ring_attach_consumer(&consumer, shared, capacity, start));
    CHECK(ring_attach_producer(&producer, shared, capacity, start, sent));
    some_rules(&consumer, dice);
    for (uint64_t at = 0; at < capacity; at += 8 * (1 + below(dice, 8)))
        *(RingWord *)(shared->data + at) = some_header(dice, capacity);
    atomic_store(&shared->tail, some_position(dice, start, capacity));
    atomic_store(&shared->head, some_position(dice, start, capacity));
    atomic_store(&shared->c_wait, (uint32_t)below(dice, 3));
    atomic_store(&shared->p_wait, some_position(dice, 0, capacity));
    atomic_store(&shared->closed, (uint32_t)below(dice, 2));
    if (below(dice, 2) == 0)
        be_consumer(&consumer, dice);
    else
        be_producer(&producer, dice);
}

static void fuzz_headers(uint64_t cases, uint64_t seed)
{
    for (int shift = 6; shift <= 12; shift++) {
        uint64_t capacity = (uint64_t)1 << shift;
        RingShared *shared = heap_ring(capacity);
        Dice dice = {seed + (uint64_t)shift};
        for (uint64_t round = 0; round < cases / 7; round++)
            one_case(shared, capacity, &dice);
        free(shared);
    }
}

/* --- what=mutator ---------------------------------------------------------------------------- */

static RingShared *victim;
static uint64_t victim_capacity;
static _Atomic uint64_t near_start;
static _Atomic bool is_over;

/* Flips headers between what is true and what is not, faster than anybody can check them. */
static void *mutate(void *seed)
{
    Dice dice = {*(uint64_t *)seed};
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        uint64_t start = atomic_load_explicit(&near_start, memory_order_relaxed);
        for (int burst = 0; burst < 4096; burst++) {
            uint64_t at = 8 * below(&dice, victim_capacity / 8);
            volatile RingWord *header = (RingWord *)(victim->data + at);
            *header = true_header;
            if (burst % 8 == 0)
                *header = some_header(&dice, victim_capacity);
        }
        atomic_store(&victim->tail, some_position(&dice, start, victim_capacity));
        atomic_store(&victim->head, some_position(&dice, start, victim_capacity));
        atomic_store(&victim->p_wait, roll(&dice));
        atomic_store(&victim->c_wait, (uint32_t)below(&dice, 2));
    }
    return NULL;
}

/* One pair of sides, until a lie is found. */
static void survive(uint64_t start, Dice *dice)
{
    RingConsumer consumer;
    RingProducer producer;
    CHECK(ring_attach_consumer(&consumer, victim, victim_capacity, start));
    CHECK(ring_attach_producer(&producer, victim, victim_capacity, start, start));
    some_rules(&consumer, dice);
    while (consumer.fault.reason == RING_SOUND) {
        /* something to pop and some room, whatever the other thread says */
        atomic_store_explicit(&victim->tail, consumer.cursor + 8 * below(dice, 32),
                              memory_order_relaxed);
        atomic_store_explicit(&victim->head, producer.published, memory_order_relaxed);
        be_consumer(&consumer, dice);
        if (below(dice, 8) == 0)
            be_producer_once(&producer, dice);
    }
    count_unconsumed(&producer);
}

static void fuzz_under_mutator(uint64_t rounds, uint64_t milliseconds, uint64_t seed)
{
    Dice dice = {seed};
    uint64_t mutator_seed = seed + 1, until = now_ns() + milliseconds * 1000000;
    pthread_t thread;
    victim_capacity = 512;
    victim = heap_ring(victim_capacity);
    for (uint64_t at = 0; at < victim_capacity; at += 8)
        *(RingWord *)(victim->data + at) = true_header;
    pthread_create(&thread, NULL, mutate, &mutator_seed);
    for (int turn = 0; attempts < rounds && (turn % 1024 != 0 || now_ns() < until); turn++) {
        uint64_t start = some_start(&dice);
        atomic_store_explicit(&near_start, start, memory_order_relaxed);
        survive(start, &dice);
    }
    atomic_store(&is_over, true);
    pthread_join(thread, NULL);
    free(victim);
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns(), seed = option("seed", 1), rounds = option("rounds", 1000000);
    if (strcmp(option_word("what", "headers"), "mutator") == 0)
        fuzz_under_mutator(rounds, option("milliseconds", 60000), seed);
    else
        fuzz_headers(rounds, seed);
    printf("{\"attempts\": %llu, \"accepted\": %llu, \"poisoned\": %llu, \"bytes\": %llu, "
           "\"seconds\": %.2f}\n",
           (unsigned long long)attempts, (unsigned long long)accepted, (unsigned long long)poisoned,
           (unsigned long long)touched, (double)(now_ns() - begun) / 1e9);
    return accepted == 0;
}
