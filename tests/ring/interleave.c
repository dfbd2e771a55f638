/* Every interleaving of two sides that run ring.h itself.

   Each access to a shared word is a point where the other side may go on instead, or be killed.
   Where nobody is killed, nobody leaves either: then only bells can wake a sleeper.
   Both sides are coroutines; the search takes every choice at every point, and comes back to a
   point by copying stacks and memory. It leaves out what it has seen: a side is where it is by
   what it read so far, so two states are the same if both sides read the same and the shared
   words are equal.

   Interleavings are all there is to look at, because the accesses are sequentially consistent and
   the rest is free of data races (C11 5.1.2.4; ThreadSanitizer in threads.c). That weaker ones go
   wrong is shown by protocol.py. */

#include <stdatomic.h>
#include <stdint.h>

static void pause_here(void);
static uint64_t saw(uint64_t value);

#define RING_LOAD(word) (pause_here(), saw(atomic_load(word)))
#define RING_STORE(word, value) (pause_here(), atomic_store((word), (value)))
#define RING_SWAP(word, value) (pause_here(), saw(atomic_exchange((word), (value))))

#include "sides.h"
#include <ucontext.h>

static void crashpoint(const char *id) { (void)id; }

#define STACK_BYTES 65536
#define STACK_COPIED 12288  /* as much as the sides ever use; the rest is for fail() */
#define MAX_DEPTH 4096

/* --- the world, which can be copied ------------------------------------------------------------ */

typedef struct {
    ucontext_t context;
    uint64_t history;  /* of its steps and what it read, and so of where it is */
    bool is_finished, is_killed, is_gone, sleeps, was_rung;
} Side;

static struct {
    Side sides[2];
    RingProducer producer;
    RingConsumer consumer;
    uint64_t published, handled, retired, sent, taken;
} world;

static unsigned char stacks[2][STACK_BYTES];
static RingShared *shared;
static size_t shared_bytes;

typedef struct {
    unsigned char world[sizeof world];
    unsigned char stacks[2][STACK_COPIED];
    unsigned char shared[RING_DATA_OFFSET + 4096];
} Copy;

static void save(Copy *copy)
{
    memcpy(copy->world, &world, sizeof world);
    memcpy(copy->shared, shared, shared_bytes);
    for (int side = 0; side < 2; side++)
        memcpy(copy->stacks[side], stacks[side] + STACK_BYTES - STACK_COPIED, STACK_COPIED);
}

static void restore(const Copy *copy)
{
    memcpy(&world, copy->world, sizeof world);
    memcpy(shared, copy->shared, shared_bytes);
    for (int side = 0; side < 2; side++)
        memcpy(stacks[side] + STACK_BYTES - STACK_COPIED, copy->stacks[side], STACK_COPIED);
}

/* --- the sides --------------------------------------------------------------------------------- */

static Work work;
static ucontext_t search;
static Who running;

static bool is_over;  /* the sides have ended; what still reads words is our own */

static void pause_here(void)
{
    Side *side = &world.sides[running];
    if (is_over)
        return;
    if (stacks[running] + STACK_BYTES - (unsigned char *)&side > STACK_COPIED - 2048)
        fail("the stack is deeper than what is copied of it");
    swapcontext(&side->context, &search);
    side->history = mix(side->history + 1);
}

static uint64_t saw(uint64_t value)
{
    world.sides[running].history = mix(world.sides[running].history ^ mix(value));
    return value;
}

static void ring_bell(Who sleeper)
{
    pause_here();
    world.sides[sleeper].was_rung = true;
}

static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side)
{
    (void)has_work, (void)side;
    world.sides[sleeper].sleeps = true;
    pause_here();
    world.sides[sleeper].sleeps = false;
    saw(world.sides[sleeper].was_rung);
    world.sides[sleeper].was_rung = false;
    return saw(world.sides[!sleeper].is_gone) == 0;
}

static void note_published(uint64_t messages) { world.published = messages; }
static void note_handled(uint64_t messages) { world.handled = messages; }
static void note_retired(uint64_t messages) { world.retired = messages; }

static void run_producer(void)
{
    pause_here();
    world.sent = produce(&work, &world.producer, shared);
    world.sides[PRODUCER].is_finished = true;
}

static void run_consumer(void)
{
    pause_here();
    world.taken = consume(&work, &world.consumer, shared);
    world.sides[CONSUMER].is_finished = true;
}

static void go_on(Who who)
{
    running = who;
    swapcontext(&search, &world.sides[who].context);
}

static void begin(Who who, void (*side)(void))
{
    ucontext_t *start = &world.sides[who].context;
    getcontext(start);
    start->uc_stack.ss_sp = stacks[who];
    start->uc_stack.ss_size = STACK_BYTES;
    start->uc_link = &search;
    makecontext(start, side, 0);
    go_on(who);
}

/* --- what was seen ----------------------------------------------------------------------------- */

static uint64_t *seen, seen_room, states;

static bool is_new(uint64_t state)
{
    if (2 * states >= seen_room) {
        uint64_t *old = seen, old_room = seen_room;
        seen_room = old_room == 0 ? 1 << 16 : 2 * old_room;
        seen = calloc(seen_room, sizeof *seen);
        states = 0;
        for (uint64_t at = 0; at < old_room; at++)
            if (old[at] != 0)
                is_new(old[at]);
        free(old);
    }
    uint64_t at = state % seen_room;
    for (; seen[at] != 0; at = (at + 1) % seen_room)
        if (seen[at] == state)
            return false;
    seen[at] = state;
    states++;
    return true;
}

static uint64_t add(uint64_t state, uint64_t value) { return mix(state ^ mix(value)); }

static uint64_t state_now(void)
{
    uint64_t state = 0;
    for (int who = 0; who < 2; who++) {
        const Side *side = &world.sides[who];
        state = add(state, side->history);
        state = add(state, (uint64_t)side->is_finished | (uint64_t)side->is_killed << 1
                               | (uint64_t)side->is_gone << 2 | (uint64_t)side->sleeps << 3
                               | (uint64_t)side->was_rung << 4);
    }
    state = add(state, atomic_load(&shared->tail));
    state = add(state, atomic_load(&shared->head));
    state = add(state, atomic_load(&shared->c_wait));
    state = add(state, atomic_load(&shared->p_wait));
    return add(state, atomic_load(&shared->closed)) | 1;
}

/* --- the search -------------------------------------------------------------------------------- */

static char way[MAX_DEPTH + 1] = "; the way: ";  /* P, C: a step; p, c: a kill; !: it is seen */
static char *const steps = way + sizeof "; the way: " - 1;
static uint64_t ends;
static bool killable[2];

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

/* Nobody can go on. */
static void check_end(void)
{
    const Side *producer = &world.sides[PRODUCER], *consumer = &world.sides[CONSUMER];
    ends++;
    is_over = true;
    if (!(producer->is_finished || producer->is_killed)
        || !(consumer->is_finished || consumer->is_killed))
        fail("somebody sleeps for ever");
    if (consumer->is_finished && producer->is_finished)
        CHECK(world.taken == work.count && world.sent == work.count);
    if (consumer->is_finished && producer->is_killed)
        CHECK(world.taken >= world.published);
    if (consumer->is_killed && producer->is_finished)
        check_unconsumed();
    is_over = false;
}

static bool can_go_on(const Side *side, const Side *other)
{
    if (side->is_finished || side->is_killed)
        return false;
    return !side->sleeps || side->was_rung || other->is_gone;
}

static void explore(int depth)
{
    if (!is_new(state_now()))
        return;
    if (steps + depth + 1 == way + MAX_DEPTH)
        fail("no end after %d steps", depth);
    Copy *copy = malloc(sizeof *copy);
    bool is_end = true;
    save(copy);
    for (Who who = CONSUMER; who <= PRODUCER; who++) {
        Side *side = &world.sides[who];
        bool has_ended = side->is_finished || side->is_killed;
        steps[depth + 1] = 0;
        if (can_go_on(side, &world.sides[!who])) {
            is_end = false;
            steps[depth] = "CP"[who];
            go_on(who);
            explore(depth + 1);
            restore(copy);
        }
        if (killable[who] && !has_ended) {
            is_end = false;
            steps[depth] = "cp"[who];
            side->is_killed = true;
            explore(depth + 1);
            restore(copy);
        }
        if (has_ended && !side->is_gone && (killable[CONSUMER] || killable[PRODUCER])) {
            is_end = false;
            steps[depth] = '!';
            side->is_gone = true;
            explore(depth + 1);
            restore(copy);
        }
    }
    steps[depth] = 0;
    if (is_end)
        check_end();
    free(copy);
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
    context = way;
    uint64_t begun = now_ns(), first = option("first", 0), works = option("works", 20);
    uint64_t seed = option("seed", 1), records = option("records", 3), all = 0;
    killable[PRODUCER] = option("kill_producer", 0) != 0;
    killable[CONSUMER] = option("kill_consumer", 0) != 0;
    for (uint64_t number = first; number < first + works; number++) {
        some_work(seed + number, records);
        shared_bytes = ring_memory_bytes(work.capacity);
        shared = map_ring(-1, work.capacity, work.start);
        memset(&world, 0, sizeof world);
        begin(PRODUCER, run_producer);
        begin(CONSUMER, run_consumer);
        explore(0);
        all += states;
        free(seen);
        seen = NULL;
        seen_room = states = 0;
        munmap(shared, ring_memory_bytes(work.capacity));
    }
    printf("{\"works\": %llu, \"states\": %llu, \"ends\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)works, (unsigned long long)all, (unsigned long long)ends,
           (double)(now_ns() - begun) / 1e9);
    return 0;
}
