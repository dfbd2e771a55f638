/* Every interleaving of a consumer that begins tasks and a producer that takes some of them back. */

#include "pauses.h"

#define MAX_SIDES 2
#define STACK_COPIED 12288

#include "harness.h"
#include "interleave.h"

static void crashpoint(const char *id) { (void)id; }

#define MAX_TASKS 16
#define RECALLS 2

typedef struct {
    uint64_t first, end, begun;
    bool was_made;
} Recall;

static struct {
    RingProducer producer;
    RingConsumer consumer;
    Recall recalls[RECALLS];
    bool began[MAX_TASKS];
    _Atomic uint64_t answered;  /* so many tasks ran, or were refused */
} world;

static RingShared *shared;
static uint64_t first_number, tasks, refused;

static void run_consumer(void)
{
    CHECK(ring_attach_consumer(&world.consumer, shared, 64, 0));
    for (uint64_t task = 0; task < tasks; task++) {
        world.began[task] = ring_begin(&world.consumer, first_number + task);
        RING_STORE(&world.answered, task + 1);
    }
}

/* The second range is stored only where all of the first one was answered: that is the rule. */
static void run_producer(void)
{
    CHECK(ring_attach_producer(&world.producer, shared, 64, 0, 0));
    for (int at = 0; at < RECALLS; at++) {
        Recall *recall = &world.recalls[at];
        if (at > 0 && RING_LOAD(&world.answered) < world.recalls[at - 1].end)
            return;
        recall->begun = ring_recall(&world.producer, first_number + recall->first,
                                    first_number + recall->end);
        recall->was_made = true;
    }
}

static uint64_t shared_state(void)
{
    uint64_t state = add(0, atomic_load(&shared->begun));
    state = add(state, atomic_load(&shared->recalled));
    return add(state, atomic_load(&world.answered));
}

/* Whether the producer was told that a task will never run. */
static bool is_taken_back(uint64_t task)
{
    for (int at = 0; at < RECALLS; at++) {
        const Recall *recall = &world.recalls[at];
        if (recall->was_made && task >= recall->first && task < recall->end
            && first_number + task > recall->begun)
            return true;
    }
    return false;
}

static void check_end(void)
{
    for (uint64_t task = 0; task < tasks; task++) {
        bool in_range = false;
        for (int at = 0; at < RECALLS; at++)
            in_range |= task >= world.recalls[at].first && task < world.recalls[at].end;
        if (is_taken_back(task) && world.began[task])
            fail("task %d ran though it was taken back", (int)task);
        if (!in_range && !world.began[task] && sides[0].is_finished)
            fail("task %d was refused though nobody took it back", (int)task);
        refused += sides[0].is_finished && !world.began[task];
    }
}

static void some_ranges(uint64_t seed)
{
    static const uint64_t starts[] = {1, UINT32_MAX - 2, 5ull << 32};
    Dice dice = {seed};
    first_number = starts[seed % 3];
    memset(&world, 0, sizeof world);
    uint64_t at = below(&dice, tasks);
    for (int recall = 0; recall < RECALLS; recall++) {
        world.recalls[recall].first = at;
        at += 1 + below(&dice, tasks - at + 1);
        at = at > tasks ? tasks : at;
        world.recalls[recall].end = at;
    }
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns(), seed = option("seed", 1), works = option("works", 20);
    tasks = option("tasks", 4);
    CHECK(tasks > 0 && tasks <= MAX_TASKS);
    killable = option("kill_consumer", 0) << 0 | option("kill_producer", 0) << 1;
    for (uint64_t number = 0; number < works; number++) {
        some_ranges(seed + number);
        shared = map_ring(-1, 64, 0);
        begin_anew();
        keep(&world, sizeof world);
        keep(shared, ring_memory_bytes(64));
        begin(run_consumer);
        begin(run_producer);
        explore_all();
        munmap(shared, ring_memory_bytes(64));
    }
    CHECK(refused > 0);
    tell_figures(works, "refused", refused, begun);
    return 0;
}
