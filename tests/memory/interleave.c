/* Every interleaving of a writer and a reader that run value.h itself.

   Each access to a shared word is a point where the other side may go on instead; where the reader
   goes on to its end the writer might as well have been killed. The search runs the two, which are
   coroutines, from the start for each choice of turns. Interleavings are all there is to look at,
   because what the accesses promise is a total order (sequential consistency, and release and
   acquire around it); ThreadSanitizer in test_value.py looks for the rest.

   The reader must copy whole values only, never go back to an older one, and never sleep while
   there is something new and nobody is going to wake it. */

#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

static void pause_here(void);

#define VALUE_LOAD(word) (pause_here(), atomic_load(word))
#define VALUE_STORE(word, value) (pause_here(), atomic_store((word), (value)))
#define VALUE_SWAP(word, value) (pause_here(), atomic_exchange((word), (value)))
#define VALUE_COPY_IN(word, value) (pause_here(), atomic_store((word), (value)))
#define VALUE_COPY_OUT(word) (pause_here(), atomic_load(word))
#ifndef SLOTS
#define SLOTS 4u
#endif
#define VALUE_SLOTS SLOTS
#define VALUE_MAX 8u
#include "value.h"

#ifndef VALUES
#define VALUES 3  /* that the writer shows */
#define LOOKS 2   /* of the reader, before it goes to sleep */
#endif
#define MOST_STEPS 200
#define STACK_BYTES 65536

static ValueShared shared;
static ucontext_t sides[2];
static jmp_buf searching, paused[2];
static unsigned char stacks[2][STACK_BYTES];
static int current, began[2], finished[2];
static int is_listening, was_rung;
static int sleeps;
static uint64_t seen;

static void fail(const char *what)
{
    printf("FAILED: %s\n", what);
    exit(1);
}

/* After its first step a side is gone on with by a jump: swapcontext makes two system calls. */
static void pause_here(void)
{
    if (!_setjmp(paused[current]))
        _longjmp(searching, 1);
}

/* Value n is the word n, and has n bytes. */
static void write_values(void)
{
    uint64_t latest = 0;
    for (uint64_t number = 1; number <= VALUES; number++) {
        if (value_store(&shared, &latest, &number, (size_t)number) && is_listening)
            was_rung = 1;
    }
    finished[0] = 1;
    pause_here();
}

static void look(void)
{
    uint64_t number = 0, word = 0;
    size_t size = 0;
    ValueAnswer answer = value_load(&shared, &number, &word, &size);
    if (answer == VALUE_NONE)
        return;
    if (answer != VALUE_LOADED)
        fail("a value that nobody wrote");
    if (number < seen)
        fail("an older value after a newer one");
    if (size != number || word != number)
        fail("a torn value");
    seen = number;
}

static void read_values(void)
{
    for (int count = 0; count < LOOKS; count++)
        look();
    is_listening = 1;
    value_arm(&shared);
    sleeps = value_latest(&shared) == seen;
    finished[1] = 1;
    pause_here();
}

static void begin(int side, void (*body)(void))
{
    getcontext(&sides[side]);
    sides[side].uc_stack.ss_sp = stacks[side];
    sides[side].uc_stack.ss_size = STACK_BYTES;
    sides[side].uc_link = NULL;
    makecontext(&sides[side], body, 0);
    began[side] = finished[side] = 0;
}

static void step(int side)
{
    current = side;
    if (_setjmp(searching))
        return;
    if (began[side])
        _longjmp(paused[side], 1);
    began[side] = 1;
    setcontext(&sides[side]);
}

static struct {
    int side, other_is_left;
} turns[MOST_STEPS];
static int turn_count;

/* Take the turns chosen so far, and then the writer's as long as it goes on. */
static void run(void)
{
    int at = 0;
    memset(&shared, 0, sizeof shared);
    is_listening = was_rung = sleeps = 0;
    seen = 0;
    begin(0, write_values);
    begin(1, read_values);
    for (; !finished[0] || !finished[1]; at++) {
        if (at == MOST_STEPS)
            fail("no end");
        if (at == turn_count) {
            turns[at].side = finished[0];
            turns[at].other_is_left = !finished[0] && !finished[1];
            turn_count++;
        }
        step(turns[at].side);
    }
    if (sleeps && !was_rung && atomic_load(&shared.sequence) != seen)
        fail("a sleeper that nobody wakes");
}

/* Choose otherwise at the last point where that is left to do. */
static int next(void)
{
    for (; turn_count > 0; turn_count--)
        if (turns[turn_count - 1].other_is_left) {
            turns[turn_count - 1].side = 1;
            turns[turn_count - 1].other_is_left = 0;
            return 1;
        }
    return 0;
}

int main(void)
{
    unsigned long long runs = 0;
    do {
        run();
        runs++;
    } while (next());
    printf("%llu interleavings\n", runs);
    return 0;
}
