/* Every interleaving of sides that run a native header itself.

   Each access to a shared word is a point where another side may go on instead, or be killed. Where
   nobody is killed, nobody leaves either: then only bells can wake a sleeper. The sides are
   coroutines; the search takes every choice at every point, and comes back to a point by copying
   stacks and memory. It leaves out what it has seen: a side is where it is by what it read so far,
   so two states are the same if all sides read the same and the shared words are equal.

   Interleavings are all there is to look at where the accesses are sequentially consistent and the
   rest is free of data races (C11 5.1.2.4; ThreadSanitizer in threads.c). That weaker ones go wrong
   is shown by protocol.py.

   Whoever includes this has said before how many MAX_SIDES there are, and how many bytes of a stack
   they ever use, and says behind it what shared_state() and check_end() are. */

#ifndef AIOIPC_TESTS_INTERLEAVE_H
#define AIOIPC_TESTS_INTERLEAVE_H

#include "tools.h"
#include <ucontext.h>

#define STACK_BYTES 65536
#define MAX_DEPTH 4096
#define MAX_REGIONS 8

static uint64_t add(uint64_t state, uint64_t value) { return mix(state ^ mix(value)); }

/* What the shared words are now, where that does not follow from what the sides have read. */
static uint64_t shared_state(void);

/* Nobody can go on: say if that is no good end. */
static void check_end(void);

/* --- the world, which can be copied ------------------------------------------------------------ */

typedef struct {
    ucontext_t context;
    uint64_t history;    /* of its steps and what it read, and so of where it is */
    uint64_t waits_for;  /* while it sleeps: the sides whose end wakes it, bit by bit */
    uint64_t told;       /* which sides it knows to be gone */
    bool is_finished, is_killed, is_gone, sleeps, was_rung;
} Side;

static Side sides[MAX_SIDES];
static unsigned char stacks[MAX_SIDES][STACK_BYTES];
static int side_count;

static struct {
    void *memory;
    size_t bytes;
} regions[MAX_REGIONS];
static int region_count;

/* Copy this as well: what the sides write to. */
static void keep(void *memory, size_t bytes)
{
    CHECK(region_count < MAX_REGIONS);
    regions[region_count].memory = memory;
    regions[region_count++].bytes = bytes;
}

static size_t copy_bytes(void)
{
    size_t bytes = sizeof sides + (size_t)side_count * STACK_COPIED;
    for (int region = 0; region < region_count; region++)
        bytes += regions[region].bytes;
    return bytes;
}

/* Copy the world into a copy of it, or back. */
static void transfer(unsigned char *copy, bool back)
{
    struct { void *memory; size_t bytes; } parts[1 + MAX_SIDES + MAX_REGIONS];
    int count = 0;
    parts[count].memory = sides;
    parts[count++].bytes = sizeof sides;
    for (int side = 0; side < side_count; side++) {
        parts[count].memory = stacks[side] + STACK_BYTES - STACK_COPIED;
        parts[count++].bytes = STACK_COPIED;
    }
    for (int region = 0; region < region_count; region++) {
        parts[count].memory = regions[region].memory;
        parts[count++].bytes = regions[region].bytes;
    }
    for (int part = 0; part < count; copy += parts[part++].bytes)
        memcpy(back ? parts[part].memory : copy, back ? copy : parts[part].memory,
               parts[part].bytes);
}

/* --- the sides --------------------------------------------------------------------------------- */

static ucontext_t search;
static int running;
static bool is_over;  /* the sides have ended; what still reads words is our own */

static void pause_here(void)
{
    Side *side = &sides[running];
    if (is_over)
        return;
    if (stacks[running] + STACK_BYTES - (unsigned char *)&side > STACK_COPIED - 1024)
        fail("the stack is deeper than what is copied of it");
    swapcontext(&side->context, &search);
    side->history = mix(side->history + 1);
}

static uint64_t saw(uint64_t value)
{
    if (!is_over)
        sides[running].history = add(sides[running].history, value);
    return value;
}

__attribute__((unused))
static void ring(int sleeper)
{
    pause_here();
    sides[sleeper].was_rung = true;
}

/* The sides that are gone and that a sleeper waits for. */
static uint64_t gone_for(const Side *sleeper)
{
    uint64_t gone = 0;
    for (int who = 0; who < side_count; who++)
        gone |= (uint64_t)sides[who].is_gone << who;
    return gone & sleeper->waits_for & ~sleeper->told;
}

/* Sleep until the bell rings: -1; or until one of the sides is gone: which one, once. */
__attribute__((unused))
static int sleep_until_rung(uint64_t waits_for)
{
    Side *side = &sides[running];
    side->waits_for = waits_for;
    side->sleeps = true;
    pause_here();
    side->sleeps = false;
    saw(side->was_rung);
    side->was_rung = false;
    uint64_t gone = saw(gone_for(side));
    if (gone == 0)
        return -1;
    side->told |= gone & -gone;
    return __builtin_ctzll(gone);
}

static void go_on(int who)
{
    running = who;
    swapcontext(&search, &sides[who].context);
}

static void (*runs[MAX_SIDES])(void);

static void run_side(void)
{
    pause_here();
    runs[running]();
    sides[running].is_finished = true;
}

/* Let a side begin, up to its first step. */
static void begin(void (*run)(void))
{
    int who = side_count++;
    ucontext_t *start = &sides[who].context;
    CHECK(who < MAX_SIDES);
    runs[who] = run;
    getcontext(start);
    start->uc_stack.ss_sp = stacks[who];
    start->uc_stack.ss_size = STACK_BYTES;
    start->uc_link = &search;
    makecontext(start, run_side, 0);
    go_on(who);
}

/* --- what was seen ----------------------------------------------------------------------------- */

static uint64_t *seen, seen_room, states, all_states, ends;

static bool is_new(uint64_t state)
{
    if (2 * states >= seen_room) {
        uint64_t *old = seen, old_room = seen_room;
        seen_room = old_room == 0 ? 1 << 16 : 2 * old_room;
        seen = calloc(seen_room, sizeof *seen);
        CHECK(seen != NULL);
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

static uint64_t state_now(void)
{
    uint64_t state = shared_state();
    for (int who = 0; who < side_count; who++) {
        const Side *side = &sides[who];
        state = add(state, side->history);
        state = add(state, (uint64_t)side->is_finished | (uint64_t)side->is_killed << 1
                               | (uint64_t)side->is_gone << 2 | (uint64_t)side->sleeps << 3
                               | (uint64_t)side->was_rung << 4);
    }
    return state | 1;
}

/* --- the search -------------------------------------------------------------------------------- */

static char way[MAX_DEPTH + 16] = "; the way: ";  /* A, B, ...: a step; a, b: a kill; !: it is seen */
static char *const steps = way + sizeof "; the way: " - 1;
static uint64_t killable;  /* bit by bit */

static bool has_ended(const Side *side) { return side->is_finished || side->is_killed; }

static bool can_go_on(const Side *side)
{
    return !has_ended(side) && (!side->sleeps || side->was_rung || gone_for(side) != 0);
}

static void explore(int depth);

static void explore_from(const unsigned char *copy, int depth, char step)
{
    steps[depth] = step;
    steps[depth + 1] = 0;
    explore(depth + 1);
    transfer((unsigned char *)copy, true);
}

static void explore(int depth)
{
    if (!is_new(state_now()))
        return;
    if (depth + 1 >= MAX_DEPTH)
        fail("no end after %d steps", depth);
    unsigned char *copy = malloc(copy_bytes());
    bool is_end = true;
    transfer(copy, false);
    for (int who = 0; who < side_count; who++) {
        Side *side = &sides[who];
        bool is_alive = !has_ended(side);
        steps[depth + 1] = 0;
        if (can_go_on(side)) {
            is_end = false;
            steps[depth] = (char)('A' + who);
            go_on(who);
            explore_from(copy, depth, (char)('A' + who));
        }
        if (is_alive && (killable >> who & 1) != 0) {
            is_end = false;
            side->is_killed = true;
            explore_from(copy, depth, (char)('a' + who));
        }
        if (!is_alive && !side->is_gone && killable != 0) {
            is_end = false;
            side->is_gone = true;
            explore_from(copy, depth, '!');
        }
    }
    steps[depth] = 0;
    if (is_end) {
        ends++;
        is_over = true;
        for (int who = 0; who < side_count; who++)
            if (!has_ended(&sides[who]))
                fail("%c sleeps for ever", 'A' + who);
        check_end();
        is_over = false;
    }
    free(copy);
}

/* Forget all sides and what is kept of them. */
static void begin_anew(void)
{
    memset(sides, 0, sizeof sides);
    side_count = region_count = 0;
    context = way;
}

/* Explore everything from where the sides have begun. */
static void explore_all(void)
{
    explore(0);
    all_states += states;
    free(seen);
    seen = NULL;
    seen_room = states = 0;
}

/* Print what was done, with one more figure that a program has. */
static void tell_figures(uint64_t works, const char *what, uint64_t count, uint64_t begun_ns)
{
    printf("{\"works\": %llu, \"states\": %llu, \"ends\": %llu, \"%s\": %llu, "
           "\"seconds\": %.2f}\n",
           (unsigned long long)works, (unsigned long long)all_states, (unsigned long long)ends,
           what, (unsigned long long)count, (double)(now_ns() - begun_ns) / 1e9);
}

#endif
