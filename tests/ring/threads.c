/* Two threads over one mapping: order, bytes and wake-ups, with and without ThreadSanitizer.

   ThreadSanitizer tells addresses apart, not bytes of a file, hence threads and one mapping. The
   bell is a futex behind relaxed atomics: it wakes, but orders nothing, so that only the ring's
   own operations can make the bytes visible. A sleeper looks at the ring from time to time; if
   there is something to do, a wake-up was lost. */

#include "sides.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

static Work work;
static RingShared *shared;
static uint64_t delay_one_in, patience_ms;
static _Thread_local Dice delays;
static _Atomic uint64_t bells, sleeps;
static _Atomic uint32_t rung[2];

/* Stretch what lies between two steps, sometimes. */
static void crashpoint(const char *id)
{
    (void)id;
    if (delay_one_in == 0 || below(&delays, delay_one_in) != 0)
        return;
    uint64_t until = now_ns() + below(&delays, 50000);
    while (now_ns() < until)
        ;
}

static void ring_bell(Who sleeper)
{
    atomic_fetch_add_explicit(&bells, 1, memory_order_relaxed);
    atomic_store_explicit(&rung[sleeper], 1, memory_order_relaxed);
    syscall(SYS_futex, &rung[sleeper], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Twice, because the other thread may just not have come to its bell. */
static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side)
{
    struct timespec patience = {(time_t)(patience_ms / 1000), (long)(patience_ms % 1000 * 1000000)};
    int silences = 0;
    atomic_fetch_add_explicit(&sleeps, 1, memory_order_relaxed);
    while (atomic_exchange_explicit(&rung[sleeper], 0, memory_order_relaxed) == 0) {
        long woken = syscall(SYS_futex, &rung[sleeper], FUTEX_WAIT_PRIVATE, 0, &patience, NULL, 0);
        if (woken != 0 && errno == ETIMEDOUT && has_work(side) && ++silences == 2)
            fail("lost wake-up of the %s", sleeper == PRODUCER ? "producer" : "consumer");
    }
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
