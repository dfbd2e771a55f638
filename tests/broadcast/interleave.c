/* Every interleaving of a writer and its readers that run broadcast.h itself: each word of data[] is
   a shared word, too, since who is overrun reads what is written over. */

#include "pauses.h"

static uint64_t read_data(const _Atomic uint64_t *word);

#define CAST_READ(word) read_data(word)
#define CAST_WRITE(word, value) (pause_here(), atomic_store((word), (value)))

#define CAST_MAX_WORDS 1u
#define MAX_BYTES 64
#define MAX_SIDES 3
#define STACK_COPIED 6144

#include "sides.h"
#include "interleave.h"

#define THE_WRITER 0
#define SIDE_OF(reader) ((reader) + 1)
#define MAX_MEMBERS (MAX_SIDES - 1)

static void crashpoint(const char *id) { (void)id; }

static struct {
    CastWriter writer;
    Taker takers[MAX_MEMBERS];
    bool is_closed[MAX_MEMBERS];
    uint64_t published, written;
} world;

static CastShared *shared;
static CastPage *pages[MAX_MEMBERS];
static Work work;
static uint64_t overruns;  /* ends at which somebody had lost something */

/* Nobody but the writer writes to data[], so it need not pause to read it. */
static uint64_t read_data(const _Atomic uint64_t *word)
{
    if (running == THE_WRITER)
        return atomic_load(word);
    pause_here();
    return saw(atomic_load(word));
}

static void ring_bell(int sleeper) { ring(sleeper == WRITER ? THE_WRITER : SIDE_OF(sleeper)); }

static int hear_bell(int sleeper, bool (*has_work)(const void *side), const void *side)
{
    (void)has_work, (void)side;
    if (sleeper != WRITER)
        return sleep_until_rung((uint64_t)1 << THE_WRITER);
    int gone = sleep_until_rung(~((uint64_t)1 << THE_WRITER));
    return gone == -1 ? -1 : gone - SIDE_OF(0);
}

static void note_published(uint64_t messages) { world.published = messages; }
static void note_taken(int reader, uint64_t messages) { (void)reader, (void)messages; }

/* The writer has the ring nearly full before anybody else begins: what is to be seen is what comes
   then. */
static uint64_t prefill, started;

static bool goes_on(void)
{
    if (started < prefill && ++started == prefill)
        is_over = false;
    return true;
}

static void run_writer(void) { world.written = write_all(&work, &world.writer); }

static void run_reader(void)
{
    int me = running - SIDE_OF(0);
    world.is_closed[me] = take_all(&world.takers[me]);
}

/* What only one side writes follows from what that side has read. */
static uint64_t shared_state(void)
{
    uint64_t state = add(0, atomic_load(&shared->tail));
    for (int reader = 0; reader < (int)work.readers; reader++) {
        state = add(state, atomic_load(&pages[reader]->sleeps));
        state = add(state, atomic_load(&pages[reader]->wanted));
        state = add(state, atomic_load(&pages[reader]->cursor));
    }
    return state;
}

static void check_end(void)
{
    if (sides[THE_WRITER].is_finished)
        CHECK(world.written == work.count && world.published == work.count);
    for (int reader = 0; reader < (int)work.readers; reader++)
        if (sides[SIDE_OF(reader)].is_finished) {
            check_taken(&world.takers[reader], world.published, world.is_closed[reader]);
            overruns += world.takers[reader].gaps != 0;
        }
}

/* How many messages there is surely room for, with a PAD. */
static uint64_t count_fitting(void)
{
    uint64_t used = RING_HEADER + MAX_BYTES, count = 0;
    for (;; count++) {
        used += cast_span(work.geometry, RING_DATA, message_length(&work.messages, count));
        if (used > work.geometry.capacity)
            return count;
    }
}

static void some_work(uint64_t seed)
{
    static const uint64_t starts[] = {0, 192, 0xffffffffffffffe0u};
    Dice dice = {seed};
    memset(&work, 0, sizeof work);
    work.messages.seed = seed;
    work.messages.max_bytes = option("max_bytes", MAX_BYTES);
    work.geometry = (CastGeometry){256, 1};
    prefill = option("prefill", 0) != 0 ? count_fitting() : 0;
    work.count = prefill + option("records", 3);
    work.start = starts[below(&dice, 3)];
    work.batch = option("batch", 1 + below(&dice, 3));
    work.readers = option("readers", 1);
    work.holding = option("holding", below(&dice, (uint64_t)1 << work.readers));
}

static void *zeroed(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Let everybody in, before the first step. */
static void open_ring(void)
{
    is_over = true;
    memset(&world, 0, sizeof world);
    memset(shared, 0, cast_memory_bytes(work.geometry));
    CHECK(cast_attach_writer(&world.writer, shared, work.geometry, work.start));
    for (int reader = 0; reader < (int)work.readers; reader++)
        memset(pages[reader], 0, CAST_PAGE_BYTES);
    let_in(&work, &world.writer, pages);
    for (int reader = 0; reader < (int)work.readers; reader++)
        attach(&world.takers[reader], &work, reader, shared, pages[reader]);
    is_over = false;
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns(), first = option("first", 0), works = option("works", 20);
    uint64_t seed = option("seed", 1);
    killable = option("kill_writer", 0) << THE_WRITER | option("kill_reader", 0) << SIDE_OF(0);
    shared = zeroed(CAST_DATA_OFFSET + 256);
    for (int reader = 0; reader < MAX_MEMBERS; reader++)
        pages[reader] = zeroed(CAST_PAGE_BYTES);
    for (uint64_t number = first; number < first + works; number++) {
        some_work(seed + number);
        open_ring();
        begin_anew();
        keep(&world, sizeof world);
        keep(shared, 0x180);
        keep(shared->data, work.geometry.capacity);
        started = 0;
        is_over = prefill != 0;
        begin(run_writer);
        is_over = false;
        for (int reader = 0; reader < (int)work.readers; reader++) {
            keep(pages[reader], sizeof(CastPage));
            begin(run_reader);
        }
        explore_all();
    }
    tell_figures(works, "overruns", overruns, begun);
    return 0;
}
