/* Two threads over one mapping: order, bytes and wake-ups, with and without ThreadSanitizer.

   ThreadSanitizer tells addresses apart, not bytes of a file, hence threads and one mapping. The
   bell is a futex behind relaxed atomics: it wakes, but orders nothing, so that only the ring's
   own operations can make the bytes visible. A sleeper looks at the ring from time to time; if
   there is something to do, a wake-up was lost. */

#include "sides.h"
#include "delays.h"
#include <pthread.h>

static Work work;
static RingShared *shared;
static _Atomic uint32_t rung[2];

static void ring_bell(Who sleeper) { strike(&rung[sleeper]); }

static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side)
{
    if (!await_strike(&rung[sleeper], has_work, side))
        fail("lost wake-up of the %s", sleeper == PRODUCER ? "producer" : "consumer");
    return true;
}

static void note_published(uint64_t messages) { (void)messages; }
static void note_handled(uint64_t messages) { (void)messages; }
static void note_retired(uint64_t messages) { (void)messages; }

static void *produce_in_thread(void *unused)
{
    RingProducer producer;
    delays.state = work.messages.seed + 3;
    CHECK(produce(&work, &producer, shared) == work.count);
    return unused;
}

int main(int count, char **words)
{
    read_options(count, words);
    work.count = option("records", 1000000);
    work.capacity = option("capacity", 4096);
    work.start = option("start", 0);
    work.spin = option("spin", 256);
    work.send_mode = work.receive_mode = mode_named(option_word("mode", ""), COPY);
    work.messages.seed = option("seed", 1);
    work.messages.max_bytes = option("max_bytes", work.capacity / 4);
    work.in_step = option("in_step", 0) != 0;
    delay_one_in = option("delay_one_in", 0);
    patience_ms = option("patience_ms", 1000);
    shared = map_ring(-1, work.capacity, work.start);

    uint64_t begun = now_ns();
    pthread_t thread;
    RingConsumer consumer;
    delays.state = work.messages.seed + 4;
    pthread_create(&thread, NULL, produce_in_thread, NULL);
    CHECK(consume(&work, &consumer, shared) == work.count);
    pthread_join(thread, NULL);
    printf("{\"records\": %llu, \"bells\": %llu, \"sleeps\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)work.count, (unsigned long long)bells, (unsigned long long)sleeps,
           (double)(now_ns() - begun) / 1e9);
    return 0;
}
