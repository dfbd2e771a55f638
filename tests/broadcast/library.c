/* broadcast.h as a library for ctypes: a writer and its readers over one piece of memory. */

#include "tools.h"
#include "broadcast.h"

static void crashpoint(const char *id) { (void)id; }

#define READERS 4

typedef struct {
    CastWriter writer;
    CastReader readers[READERS];
    CastPage *pages[READERS];
    CastShared *shared;
    size_t bytes;
    uint64_t mask[CAST_MAX_WORDS], bells[CAST_MAX_WORDS];
} Hall;

static uint32_t slot_of(const Hall *hall, int reader)
{
    return (uint32_t)reader * 64 % (64 * hall->writer.geometry.words) + (uint32_t)reader;
}

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

Hall *hall_open(uint64_t capacity, uint32_t words, uint64_t start)
{
    Hall *hall = calloc(1, sizeof *hall);
    hall->bytes = CAST_DATA_OFFSET + (size_t)capacity;
    hall->shared = map(hall->bytes);
    CHECK(cast_attach_writer(&hall->writer, hall->shared, (CastGeometry){capacity, words}, start));
    return hall;
}

void hall_close(Hall *hall)
{
    for (int reader = 0; reader < READERS; reader++)
        if (hall->pages[reader] != NULL)
            munmap(hall->pages[reader], CAST_PAGE_BYTES);
    munmap(hall->shared, hall->bytes);
    free(hall);
}

const void *hall_data(const Hall *hall) { return hall->shared->data; }
const void *hall_page(const Hall *hall, int reader) { return hall->pages[reader]; }
uint64_t hall_tail(const Hall *hall) { return atomic_load(&hall->shared->tail); }
uint64_t hall_floor(const Hall *hall) { return atomic_load(&hall->shared->floor); }

/* The writer; masks have a bit for each reader, whatever its slot. */

void hall_enter(Hall *hall, int reader, int holds)
{
    uint32_t slot = slot_of(hall, reader);
    CastPage *page = hall->pages[reader] = map(CAST_PAGE_BYTES);
    uint64_t start = cast_seat(&hall->writer, slot, page, holds != 0);
    CHECK(cast_attach_reader(&hall->readers[reader], hall->shared, page, hall->writer.geometry,
                             slot, start));
}

void hall_leave(Hall *hall, int reader)
{
    cast_leave(&hall->writer, slot_of(hall, reader));
    munmap(hall->pages[reader], CAST_PAGE_BYTES);
    hall->pages[reader] = NULL;
}

int hall_put(Hall *hall, uint64_t readers, const void *data, size_t length)
{
    memset(hall->mask, 0, sizeof hall->mask);
    for (int reader = 0; reader < READERS; reader++) {
        uint32_t slot = slot_of(hall, reader);
        hall->mask[slot / 64] |= (readers >> reader & 1) << slot % 64;
    }
    return cast_put(&hall->writer, hall->mask, RING_DATA, data, length);
}

int hall_publish(Hall *hall) { return cast_publish(&hall->writer, hall->bells); }
int hall_wait_room(Hall *hall) { return cast_wait_room(&hall->writer, hall->bells); }
int hall_end(Hall *hall) { return cast_close(&hall->writer, hall->bells); }

/* Whose bells the last call that answered CAST_WAKE wants to be rung. */
uint64_t hall_bells(const Hall *hall)
{
    uint64_t readers = 0;
    for (int reader = 0; reader < READERS; reader++) {
        uint32_t slot = slot_of(hall, reader);
        readers |= (hall->bells[slot / 64] >> slot % 64 & 1) << reader;
    }
    return readers;
}

/* Who is in the way; -1: nobody. */
int hall_blocker(const Hall *hall)
{
    for (int reader = 0; reader < READERS; reader++)
        if (hall->writer.blocker == (int32_t)slot_of(hall, reader))
            return reader;
    return -1;
}

/* A reader. */

int hall_next(Hall *hall, int reader, CastRecord *record)
{
    return cast_next(&hall->readers[reader], record);
}

int hall_copy(Hall *hall, int reader, const CastRecord *record, unsigned char *into)
{
    return cast_copy(&hall->readers[reader], record, into);
}

uint64_t hall_lost(const Hall *hall, int reader) { return hall->readers[reader].lost; }
int hall_retire(Hall *hall, int reader) { return cast_retire(&hall->readers[reader]); }
int hall_readable(const Hall *hall, int reader) { return cast_readable(&hall->readers[reader]); }
int hall_arm(Hall *hall, int reader) { return cast_arm(&hall->readers[reader]); }
