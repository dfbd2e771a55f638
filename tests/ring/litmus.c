/* "Store mine, load yours" on this machine: how often do both sides miss each other?

   Once with relaxed operations, which the processor may reorder, and once with those of ring.h,
   where it must never happen. Both threads run over many cells without meeting in between, because
   a barrier for each cell would hide what is looked for. */

#include "harness.h"
#include <pthread.h>
#include <sched.h>

static void crashpoint(const char *id) { (void)id; }

#define CELLS 1024

typedef struct {
    alignas(128) _Atomic uint64_t stored;
    uint64_t seen;
} Cell;

static Cell cells[2][CELLS];  /* by side */
static uint64_t batches, missed[2];  /* by order: relaxed, as in ring.h */
static _Atomic uint64_t arrived;

/* Both sides are here; nobody goes on before. */
static void meet(uint64_t *meetings)
{
    uint64_t all = 2 * ++*meetings;
    atomic_fetch_add(&arrived, 1);
    for (int spins = 0; atomic_load(&arrived) < all; spins++)
        if (spins > 20000)  /* we may have to share one processor */
            sched_yield();
}

/* A line that both caches hold is quick to load and slow to store to: the worst case. */
static void read_all(void)
{
    for (int at = 0; at < CELLS; at++)
        CHECK(RING_LOAD(&cells[0][at].stored) + RING_LOAD(&cells[1][at].stored) == 0);
}

static void store_and_load(Cell *mine, Cell *yours, bool as_in_ring)
{
    for (int at = 0; at < CELLS; at++)
        if (as_in_ring) {
            RING_STORE(&mine[at].stored, 1);
            mine[at].seen = RING_LOAD(&yours[at].stored);
        } else {
            atomic_store_explicit(&mine[at].stored, 1, memory_order_relaxed);
            mine[at].seen = atomic_load_explicit(&yours[at].stored, memory_order_relaxed);
        }
}

static void *run_side(void *argument)
{
    int side = argument != NULL;
    uint64_t meetings = 0;
    for (uint64_t batch = 0; batch < batches; batch++) {
        bool as_in_ring = batch % 2 == 1;
        if (side == 0)
            memset(cells, 0, sizeof cells);
        meet(&meetings);
        read_all();
        meet(&meetings);
        store_and_load(cells[side], cells[!side], as_in_ring);
        meet(&meetings);
        for (int at = 0; side == 0 && at < CELLS; at++)
            missed[as_in_ring] += cells[0][at].seen == 0 && cells[1][at].seen == 0;
    }
    return NULL;
}

/* To the n-th of the processors that we may use, if there are so many. */
static void pin(int which)
{
    cpu_set_t mine, one;
    CHECK(sched_getaffinity(0, sizeof mine, &mine) == 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &mine) && which-- == 0)
            CPU_SET(cpu, &one);
    if (CPU_COUNT(&one) == 1)
        sched_setaffinity(0, sizeof one, &one);
}

static void *run_other_side(void *argument)
{
    pin(1);
    return run_side(argument);
}

int main(int count, char **words)
{
    static char other;
    read_options(count, words);
    batches = 2 * (option("rounds", 2000000) / CELLS + 1);
    uint64_t begun = now_ns();
    pthread_t thread;
    pthread_create(&thread, NULL, run_other_side, &other);
    pin(0);
    run_side(NULL);
    pthread_join(thread, NULL);
    printf("{\"rounds\": %llu, \"relaxed\": %llu, \"ring\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)(batches / 2 * CELLS), (unsigned long long)missed[0],
           (unsigned long long)missed[1], (double)(now_ns() - begun) / 1e9);
    return missed[1] != 0;
}
