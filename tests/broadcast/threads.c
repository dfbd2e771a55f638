/* A writer and its readers in threads over one mapping: bytes, order, gaps and wake-ups, with and
   without ThreadSanitizer, which tells addresses apart and not bytes of a file.

   A bell is a futex behind relaxed atomics: it wakes, but orders nothing, so that only the ring's
   own operations can make the bytes visible. A sleeper looks at the ring from time to time; if
   there is something to do, a wake-up was lost. */

#include "sides.h"
#include "delays.h"
#include <pthread.h>

static Work work;
static CastShared *shared;
static CastPage *pages[MAX_READERS];
static _Atomic uint32_t rung[MAX_READERS + 1];

static void ring_bell(int sleeper) { strike(&rung[sleeper + 1]); }

static int hear_bell(int sleeper, bool (*has_work)(const void *side), const void *side)
{
    if (!await_strike(&rung[sleeper + 1], has_work, side))
        fail("lost wake-up of %d", sleeper);
    return -1;
}

static void note_published(uint64_t messages) { (void)messages; }
static void note_taken(int reader, uint64_t messages) { (void)reader, (void)messages; }
static bool goes_on(void) { return true; }

static Taker takers[MAX_READERS];

static void *read_in_thread(void *taker)
{
    Taker *mine = taker;
    delays.state = work.messages.seed + 200 + (uint64_t)mine->me;
    CHECK(take_all(mine));
    if (mine->number != work.count)
        fail("reader %d ends before message %llu", mine->me, (unsigned long long)mine->number);
    return NULL;
}

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

int main(int count, char **words)
{
    static CastWriter writer;
    pthread_t threads[MAX_READERS];
    read_options(count, words);
    work.count = option("records", 300000);
    work.geometry = (CastGeometry){option("capacity", 4096), (uint32_t)option("words", 1)};
    work.start = option("start", 0);
    work.spin = option("spin", 256);
    work.batch = option("batch", 16);
    work.lag = option("lag", 0);
    work.in_step = option("in_step", 0) != 0;
    work.readers = option("readers", 3);
    work.holding = option("holding", 1);
    work.messages.seed = option("seed", 1);
    work.messages.max_bytes = option("max_bytes", work.geometry.capacity / 4);
    delay_one_in = option("delay_one_in", 0);
    patience_ms = option("patience_ms", 1000);

    uint64_t begun = now_ns(), taken = 0, lost = 0, gaps = 0;
    shared = map(cast_memory_bytes(work.geometry));
    CHECK(cast_attach_writer(&writer, shared, work.geometry, work.start));
    for (int reader = 0; reader < (int)work.readers; reader++)
        pages[reader] = map(CAST_PAGE_BYTES);
    let_in(&work, &writer, pages);
    for (int reader = 0; reader < (int)work.readers; reader++) {
        attach(&takers[reader], &work, reader, shared, pages[reader]);
        pthread_create(&threads[reader], NULL, read_in_thread, &takers[reader]);
    }
    delays.state = work.messages.seed + 3;
    CHECK(write_all(&work, &writer) == work.count);
    for (int reader = 0; reader < (int)work.readers; reader++) {
        pthread_join(threads[reader], NULL);
        taken += takers[reader].taken;
        lost += takers[reader].lost;
        gaps += takers[reader].gaps;
    }
    printf("{\"records\": %llu, \"taken\": %llu, \"lost\": %llu, \"gaps\": %llu, "
           "\"bells\": %llu, \"sleeps\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)work.count, (unsigned long long)taken, (unsigned long long)lost,
           (unsigned long long)gaps, (unsigned long long)bells, (unsigned long long)sleeps,
           (double)(now_ns() - begun) / 1e9);
    return 0;
}
