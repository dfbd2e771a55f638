/* Every interleaving of a producer and a consumer that run ring.h itself. */

#include "pauses.h"

#define MAX_SIDES 2
#define STACK_COPIED 12288

#include "sides.h"
#include "interleave.h"

static void crashpoint(const char *id) { (void)id; }

static struct {
    RingProducer producer;
    RingConsumer consumer;
    uint64_t published, handled, retired, sent, taken;
} world;

static RingShared *shared;
static Work work;
static uint64_t kills;

static void ring_bell(Who sleeper) { ring((int)sleeper); }

static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side)
{
    (void)has_work, (void)side;
    return sleep_until_rung((uint64_t)1 << !sleeper) == -1;
}

static void note_published(uint64_t messages) { world.published = messages; }
static void note_handled(uint64_t messages) { world.handled = messages; }
static void note_retired(uint64_t messages) { world.retired = messages; }

static void run_producer(void) { world.sent = produce(&work, &world.producer, shared); }
static void run_consumer(void) { world.taken = consume(&work, &world.consumer, shared); }

static uint64_t shared_state(void)
{
    uint64_t state = add(0, atomic_load(&shared->tail));
    state = add(state, atomic_load(&shared->head));
    state = add(state, atomic_load(&shared->c_wait));
    state = add(state, atomic_load(&shared->p_wait));
    return add(state, atomic_load(&shared->closed));
}

static uint64_t count_committed(uint64_t numbers)
{
    uint64_t count = 0;
    for (uint64_t number = 0; number < numbers; number++)
        count += !is_aborted(&work, number);
    return count;
}

static void check_unconsumed(void)
{
    RingConsumer left;
    RingRecord record;
    uint64_t done = count_committed(world.sent);
    CHECK(ring_unconsumed(&world.producer, &left));
    while (ring_pop(&left, &record) == RING_RECORD)
        done--;
    CHECK(done <= count_committed(world.handled) && done >= count_committed(world.retired));
}

static void check_end(void)
{
    const Side *producer = &sides[PRODUCER], *consumer = &sides[CONSUMER];
    if (consumer->is_finished && producer->is_finished)
        CHECK(world.taken == work.count && world.sent == work.count);
    if (consumer->is_finished && producer->is_killed)
        CHECK(world.taken >= world.published);
    if (consumer->is_killed && producer->is_finished)
        check_unconsumed();
    kills += consumer->is_killed + producer->is_killed;
}

static void some_work(uint64_t seed, uint64_t records)
{
    Dice dice = {seed};
    work.messages.seed = seed;
    work.messages.max_bytes = 16;
    work.count = records;
    work.capacity = 64;
    work.start = seed % 2 == 0 ? 0 : 0xffffffffffffffe0u;
    work.unclosed = below(&dice, 2) == 0;
    work.send_mode = mode_named(option_word("send", ""), (Mode)below(&dice, 3));
    work.receive_mode = mode_named(option_word("receive", ""), (Mode)below(&dice, 3));
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns(), first = option("first", 0), works = option("works", 20);
    uint64_t seed = option("seed", 1), records = option("records", 3);
    killable = option("kill_consumer", 0) << CONSUMER | option("kill_producer", 0) << PRODUCER;
    for (uint64_t number = first; number < first + works; number++) {
        some_work(seed + number, records);
        shared = map_ring(-1, work.capacity, work.start);
        memset(&world, 0, sizeof world);
        begin_anew();
        keep(&world, sizeof world);
        keep(shared, ring_memory_bytes(work.capacity));
        begin(run_consumer);
        begin(run_producer);
        explore_all();
        munmap(shared, ring_memory_bytes(work.capacity));
    }
    tell_figures(works, "kills", kills, begun);
    return 0;
}
