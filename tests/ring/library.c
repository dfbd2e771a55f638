/* ring.h as a library for ctypes: both sides over one piece of memory. */

#include "harness.h"

static void crashpoint(const char *id) { (void)id; }

typedef struct {
    RingProducer producer;
    RingConsumer consumer;
    RingShared *shared;
    uint64_t capacity;
} Pair;

void copy(void *to, const void *from, size_t length) { ring_copy(to, from, length); }

Pair *pair_open(uint64_t capacity, uint64_t start)
{
    Pair *pair = calloc(1, sizeof *pair);
    pair->capacity = capacity;
    pair->shared = map_ring(-1, capacity, start);
    CHECK(ring_attach_producer(&pair->producer, pair->shared, capacity, start, start));
    CHECK(ring_attach_consumer(&pair->consumer, pair->shared, capacity, start));
    return pair;
}

void pair_close(Pair *pair)
{
    munmap(pair->shared, ring_memory_bytes(pair->capacity));
    free(pair);
}

void pair_replace_producer(Pair *pair)
{
    ring_attach_producer(&pair->producer, pair->shared, pair->capacity,
                         atomic_load(&pair->shared->head), atomic_load(&pair->shared->tail));
}

void pair_replace_consumer(Pair *pair)
{
    ring_attach_consumer(&pair->consumer, pair->shared, pair->capacity,
                         atomic_load(&pair->shared->head));
}

const unsigned char *pair_data(const Pair *pair) { return pair->shared->data; }
uint64_t pair_head(const Pair *pair) { return atomic_load(&pair->shared->head); }
uint64_t pair_tail(const Pair *pair) { return atomic_load(&pair->shared->tail); }

int pair_is_sound(const Pair *pair)
{
    return pair->producer.fault.reason == RING_SOUND && pair->consumer.fault.reason == RING_SOUND;
}

/* The producer's side. */

int pair_put(Pair *pair, uint32_t tag, const void *data, size_t length)
{
    return ring_put(&pair->producer, tag, data, length);
}

int pair_publish(Pair *pair) { return ring_publish(&pair->producer); }

int pair_reserve(Pair *pair, size_t length, RingLease *lease)
{
    return ring_reserve(&pair->producer, length, lease);
}

int pair_commit(Pair *pair, const RingLease *lease, uint32_t tag, const void *data, size_t length)
{
    if (length <= ring_align(lease->length) && length != 0)
        memcpy(lease->payload, data, length);
    return ring_commit(&pair->producer, lease, tag, length);
}

int pair_abort(Pair *pair, const RingLease *lease) { return ring_abort(&pair->producer, lease); }
int pair_wait_space(Pair *pair) { return ring_wait_space(&pair->producer); }
int pair_writable(Pair *pair) { return ring_writable(&pair->producer); }
int pair_close_stream(Pair *pair) { return ring_close(&pair->producer); }
uint64_t pair_needed(const Pair *pair) { return pair->producer.needed; }

uint64_t pair_count_unconsumed(Pair *pair)
{
    RingConsumer left;
    RingRecord record;
    uint64_t count = 0;
    RingAnswer answer;
    if (!ring_unconsumed(&pair->producer, &left))
        return UINT64_MAX;
    while ((answer = ring_pop(&left, &record)) == RING_RECORD || answer == RING_AGAIN)
        count += answer == RING_RECORD;
    return answer == RING_EMPTY ? count : UINT64_MAX;
}

/* The consumer's side. */

int pair_pop(Pair *pair, RingRecord *record) { return ring_pop(&pair->consumer, record); }
int pair_retire(Pair *pair) { return ring_retire(&pair->consumer); }

int pair_borrow(Pair *pair, RingRecord *record, uint32_t *ticket)
{
    return ring_borrow(&pair->consumer, record, ticket);
}

int pair_release(Pair *pair, uint32_t ticket) { return ring_release(&pair->consumer, ticket); }
int pair_readable(Pair *pair) { return ring_readable(&pair->consumer); }
int pair_arm(Pair *pair) { return ring_arm(&pair->consumer); }
