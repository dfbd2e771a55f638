/* Hostile shared memory, for AddressSanitizer and UndefinedBehaviorSanitizer: the memory comes from
   the heap and ends where it should, and so does what a reader copies into.

   what=writer: a reader of made-up memory stays inside data[] and inside its limits; with
   mutator=1 another thread rewrites it meanwhile.
   what=reader: a reader that writes lies into its page disturbs nobody but itself: another one,
   which holds, misses nothing, the writer is never held by who was caught lying, and what it finds
   untaken is messages that it put in. */

#include "sides.h"
#include "lies.h"
#include <pthread.h>
#include <signal.h>

static void crashpoint(const char *id) { (void)id; }
static void ring_bell(int sleeper) { (void)sleeper; }
static void note_published(uint64_t messages) { (void)messages; }
static void note_taken(int reader, uint64_t messages) { (void)reader, (void)messages; }
static bool goes_on(void) { return true; }

static int hear_bell(int sleeper, bool (*has_work)(const void *side), const void *side)
{
    (void)has_work, (void)side;
    fail("%d would sleep", sleeper);
}

static uint64_t accepted, poisoned, gaps, caught, untaken;

static void *heap(size_t bytes)
{
    void *memory;
    if (posix_memalign(&memory, CAST_DATA_OFFSET, bytes) != 0)
        fail("no memory");
    memset(memory, 0, bytes);
    return memory;
}

/* --- a hostile writer ------------------------------------------------------------------------ */

typedef struct {
    CastShared *shared;
    CastPage *page;
    CastGeometry geometry;
    uint64_t start;
    _Atomic bool is_over;
    Dice dice;
} Scene;

static void lie_somewhere(Scene *scene, Dice *dice)
{
    uint64_t capacity = scene->geometry.capacity;
    CastWord *word = &scene->shared->data[below(dice, capacity / 8)];
    switch (below(dice, 8)) {
    case 0:
        atomic_store(&scene->shared->tail, some_position(dice, scene->start, capacity));
        break;
    case 1:
        atomic_store(&scene->shared->floor,
                     some_position(dice, scene->start, capacity) | below(dice, 2));
        break;
    case 2: atomic_store(&scene->page->passed[below(dice, 2)], below(dice, 9)); break;
    case 3: atomic_store(&scene->page->passed[below(dice, 2)], roll(dice)); break;
    case 4: atomic_store(&scene->page->wanted, roll(dice)); break;
    case 5: atomic_store(word, UINT64_MAX); break;
    default: atomic_store(word, some_header(dice, capacity)); break;
    }
}

/* So that lies about records are looked at as well. */
static void tell_some_truth(Scene *scene)
{
    uint64_t capacity = scene->geometry.capacity, at = scene->start;
    atomic_store(&scene->shared->floor, scene->start);
    atomic_store(&scene->shared->tail, scene->start + capacity);
    for (int records = 0; records < 8; records++) {
        uint64_t length = below(&scene->dice, 2) == 0 ? below(&scene->dice, capacity / 16)
                                                      : some_length(&scene->dice, capacity);
        CastWord *word = &scene->shared->data[cast_index(scene->geometry, at)];
        atomic_store(word, (uint64_t)RING_DATA << 32 | length);
        if (cast_room(scene->geometry, at) < cast_header_bytes(scene->geometry))
            return;
        for (uint32_t mask = 1; mask <= scene->geometry.words; mask++)
            atomic_store(&word[mask], UINT64_MAX);
        at += cast_span(scene->geometry, RING_DATA, length);
    }
}

static void *mutate(void *argument)
{
    Scene *scene = argument;
    Dice dice = {scene->dice.state + 1};
    while (!atomic_load(&scene->is_over))
        lie_somewhere(scene, &dice);
    return NULL;
}

static void copy_out(CastReader *reader, const CastRecord *record)
{
    const CastWord *data = reader->shared->data;
    uint64_t capacity = reader->geometry.capacity;
    if (record->length > cast_max_record(reader->geometry) || record->payload < data
        || ring_align(record->length) > capacity - 8 * (uint64_t)(record->payload - data))
        fail("a payload of %u bytes at word %td of %llu bytes", record->length,
             record->payload - data, (unsigned long long)capacity);
    unsigned char *into = malloc(record->length + (record->length == 0));
    accepted += cast_copy(reader, record, into);
    free(into);
}

static void read_lies(Scene *scene, uint32_t slot)
{
    CastReader reader;
    CastRecord record;
    CHECK(cast_attach_reader(&reader, scene->shared, scene->page, scene->geometry, slot,
                             scene->start));
    for (int step = 0; step < 64; step++) {
        uint64_t before = reader.cursor;
        CastAnswer answer = cast_next(&reader, &record);
        if (cast_is_before(reader.cursor, before))
            fail("the cursor went back");
        gaps += answer == CAST_GAP;
        if ((answer == CAST_RECORD || answer == CAST_GAP)
            && reader.tail_seen - reader.cursor > scene->geometry.capacity)
            fail("%llu bytes are ahead of a reader that is in the ring",
                 (unsigned long long)(reader.tail_seen - reader.cursor));
        if (answer == CAST_RECORD)
            copy_out(&reader, &record);
        if (below(&scene->dice, 4) == 0)
            cast_retire(&reader);
        if (answer == CAST_EMPTY || below(&scene->dice, 16) == 0)
            cast_arm(&reader);
        if (answer == CAST_POISONED) {
            CHECK(reader.fault.reason != CAST_SOUND);
            CHECK(cast_next(&reader, &record) == CAST_POISONED);
            CHECK(cast_arm(&reader) == CAST_POISONED);
            poisoned++;
            return;
        }
        if (below(&scene->dice, 8) == 0)
            lie_somewhere(scene, &scene->dice);
    }
}

static void hostile_writer(Dice *dice, bool has_mutator, uint64_t cases)
{
    Scene scene = {.geometry = {below(dice, 2) == 0 ? 1024 : 4096, 1 + (uint32_t)below(dice, 4)}};
    pthread_t thread;
    scene.shared = heap(cast_memory_bytes(scene.geometry));
    scene.page = heap(sizeof *scene.page);
    scene.dice.state = roll(dice);
    scene.start = some_start(dice) & ~(uint64_t)7;
    if (has_mutator)
        pthread_create(&thread, NULL, mutate, &scene);
    for (uint64_t round = 0; round < cases; round++) {
        for (int lies = 0; lies < 100; lies++)
            lie_somewhere(&scene, &scene.dice);
        if (below(&scene.dice, 4) != 0)
            tell_some_truth(&scene);
        read_lies(&scene, (uint32_t)below(&scene.dice, 64 * scene.geometry.words));
    }
    atomic_store(&scene.is_over, true);
    if (has_mutator)
        pthread_join(thread, NULL);
    free(scene.shared);
    free(scene.page);
}

/* --- a hostile reader ------------------------------------------------------------------------ */

#define GOOD 0
#define LIAR 1

static void lie_in_page(CastPage *page, uint64_t near, uint64_t capacity, Dice *dice)
{
    switch (below(dice, 4)) {
    case 0: atomic_store(&page->cursor, some_position(dice, near, capacity)); break;
    case 1: atomic_store(&page->sleeps, (uint32_t)roll(dice)); break;
    case 2: atomic_store(&page->wanted, roll(dice)); break;
    default: atomic_store(&page->passed[below(dice, 2)], roll(dice)); break;
    }
}

static bool is_message(const Work *work, uint64_t number, const CastWord *payload, uint32_t length)
{
    unsigned char bytes[MAX_BYTES];
    if (message_length(&work->messages, number) != length)
        return false;
    message_fill(&work->messages, number, bytes, length);
    return memcmp((const void *)payload, bytes, length) == 0;
}

/* What a reader has not taken is messages for it, each once and in order: all from a number up to
   another, if it is an honest one. */
static void look_at_untaken(CastWriter *writer, const Work *work, int reader, uint64_t number,
                            uint64_t end)
{
    uint64_t position = 0;
    const CastWord *payload = NULL;
    uint32_t length;
    while ((payload = cast_untaken(writer, slot_of(work, reader), &position, payload, &length))
           != NULL) {
        CHECK(length <= work->messages.max_bytes);
        do {
            number = next_for(work, number, reader);
            if (number >= end)
                fail("what reader %d has not taken is something else", reader);
        } while (!is_message(work, number++, payload, length));
        untaken++;
    }
    if (reader == GOOD && next_for(work, number, reader) < end)
        fail("not all that reader %d has not taken", reader);
}

/* Look at both, so far as they were not shown the door. */
static void look_at_both(CastWriter *writer, const Work *work, Taker *good, uint64_t end)
{
    uint64_t bells[CAST_MAX_WORDS];
    cast_publish(writer, bells);
    cast_retire(&good->reader);
    look_at_untaken(writer, work, GOOD, good->number, end);
    if (writer->seats[slot_of(work, LIAR)].page != NULL)
        look_at_untaken(writer, work, LIAR, 0, end);
}

/* Whoever is in the way: the good one takes something, the liar is shown the door, as it would be
   for what it did or for doing nothing. */
static void clear_the_way(CastWriter *writer, const Work *work, Taker *good)
{
    uint64_t bells[CAST_MAX_WORDS];
    cast_wait_room(writer, bells);
    if (writer->blocker == (int32_t)slot_of(work, LIAR))
        cast_leave(writer, slot_of(work, LIAR));
    take_some(good);
    CHECK(cast_retire(&good->reader) != CAST_RETRY);
}

static void hostile_reader(Dice *dice, uint64_t messages)
{
    static CastWriter writer;
    static Taker good;
    unsigned char bytes[MAX_BYTES];
    uint64_t mask[CAST_MAX_WORDS], bells[CAST_MAX_WORDS];
    Work work = {.geometry = {1024, 1 + (uint32_t)below(dice, 4)}, .count = messages, .readers = 2};
    work.messages = (Messages){roll(dice), 200};
    work.start = some_start(dice) & ~(uint64_t)7;
    work.holding = 1 | below(dice, 2) << LIAR;
    CastShared *shared = heap(cast_memory_bytes(work.geometry));
    CastPage *pages[] = {heap(sizeof(CastPage)), heap(sizeof(CastPage))};
    CHECK(cast_attach_writer(&writer, shared, work.geometry, work.start));
    let_in(&work, &writer, pages);
    attach(&good, &work, GOOD, shared, pages[GOOD]);
    good.number = next_for(&work, 0, GOOD);
    for (uint64_t number = 0; number < messages; number++) {
        size_t length = message_length(&work.messages, number);
        message_fill(&work.messages, number, bytes, length);
        mask_of(&work, number, mask);
        for (int tries = 0; cast_put(&writer, mask, RING_DATA, bytes, length) != CAST_DONE; tries++)
            if (tries < 100)
                clear_the_way(&writer, &work, &good);
            else
                fail("the writer is held for ever");
        if (below(dice, 4) == 0)
            cast_publish(&writer, bells);
        lie_in_page(pages[LIAR], writer.published, work.geometry.capacity, dice);
        if (below(dice, 16) == 0)
            look_at_both(&writer, &work, &good, number + 1);
    }
    cast_publish(&writer, bells);
    take_some(&good);
    if (good.number != messages || good.lost != 0)
        fail("the good reader has %llu of %llu", (unsigned long long)good.number,
             (unsigned long long)messages);
    accepted += good.taken;
    caught += writer.seats[slot_of(&work, LIAR)].is_hostile;
    free(shared);
    free(pages[GOOD]);
    free(pages[LIAR]);
}

static void never_ends(int number)
{
    (void)number;
    fail("a round does not end");
}

int main(int count, char **words)
{
    read_options(count, words);
    bool is_writer = strcmp(option_word("what", "writer"), "writer") == 0;
    uint64_t begun = now_ns(), rounds = option("rounds", 1000), first = option("first", 0);
    signal(SIGALRM, never_ends);
    for (uint64_t round = first; round < first + rounds; round++) {
        alarm(20);  /* a walk through lies may go on for ever */
        Dice dice = {mix(option("seed", 1)) + mix(round)};
        if (is_writer)
            hostile_writer(&dice, option("mutator", 0) != 0, 100);
        else
            hostile_reader(&dice, 300);
    }
    printf("{\"rounds\": %llu, \"accepted\": %llu, \"poisoned\": %llu, \"gaps\": %llu, "
           "\"caught\": %llu, \"untaken\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)rounds, (unsigned long long)accepted,
           (unsigned long long)poisoned, (unsigned long long)gaps, (unsigned long long)caught,
           (unsigned long long)untaken, (double)(now_ns() - begun) / 1e9);
    return 0;
}
