/* A writer and two readers in processes, one of which is killed: at a random instant, or at one of
   the steps that broadcast.h names with AIOIPC_CRASHPOINT.

   victim=writer: its readers take, or count as lost, exactly the messages up to some point, with
   all that were acknowledged, and are never left asleep.
   victim=reader: the writer goes on, also if the victim held it up, and the other reader misses
   nothing.

   The ring is a memfd that only the writer can write to. at=random or the name of a step. A round
   replays with first=ROUND rounds=1, up to the timing. */

#include "sides.h"
#include "death.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define PATIENCE_MS 10000
#define READERS 2
#define VICTIM 0  /* of the readers */

/* What the processes tell each other behind the ring's back. */
typedef struct {
    _Atomic uint64_t published, victim_taken;
} Notebook;

static Work work;
static Notebook *notebook;
static int writer_bell, reader_bells[READERS];
static int lifelines[READERS];  /* the writer's ends; -1: it is known to be gone */
static int writer_lifeline;     /* a reader's end */

/* --- bells and notes ------------------------------------------------------------------------- */

static void ring_bell(int sleeper)
{
    uint64_t one = 1;
    crashpoint("bell");
    int bell = sleeper == WRITER ? writer_bell : reader_bells[sleeper];
    CHECK(write(bell, &one, sizeof one) == sizeof one);
    crashpoint("bell_rung");
}

static void read_bell(int bell)
{
    uint64_t rung;
    CHECK(read(bell, &rung, sizeof rung) == sizeof rung);
}

static int hear_as_writer(void)
{
    struct pollfd events[READERS + 1] = {{writer_bell, POLLIN, 0}};
    for (int reader = 0; reader < READERS; reader++)
        events[reader + 1] = (struct pollfd){lifelines[reader], POLLIN, 0};
    if (poll(events, READERS + 1, PATIENCE_MS) == 0)
        return -2;
    if (events[0].revents != 0)
        read_bell(writer_bell);
    for (int reader = 0; reader < READERS; reader++)
        if (events[reader + 1].revents != 0) {
            lifelines[reader] = -1;
            return reader;
        }
    return -1;
}

static int hear_as_reader(int me)
{
    struct pollfd events[] = {{reader_bells[me], POLLIN, 0}, {writer_lifeline, POLLIN, 0}};
    if (poll(events, 2, PATIENCE_MS) == 0)
        return -2;
    if (events[0].revents != 0)
        read_bell(reader_bells[me]);
    return events[1].revents != 0 ? 0 : -1;
}

static int hear_bell(int sleeper, bool (*has_work)(const void *side), const void *side)
{
    int heard = sleeper == WRITER ? hear_as_writer() : hear_as_reader(sleeper);
    if (heard == -2)
        fail("%d sleeps, %s", sleeper,
             has_work(side) ? "and has work" : "and nobody says anything");
    return heard;
}

static void note_published(uint64_t messages) { atomic_store(&notebook->published, messages); }

static void note_taken(int reader, uint64_t messages)
{
    if (reader == VICTIM)
        atomic_store(&notebook->victim_taken, messages);
}

/* The writer goes on for a while after it could know that a reader is gone. */
static bool watches;
static uint64_t checks, afterwards;

static bool goes_on(void)
{
    if (!watches || checks++ % 16 != 0)
        return true;
    struct pollfd event = {lifelines[VICTIM], POLLIN, 0};
    if (event.fd < 0 || poll(&event, 1, 0) == 1)
        return afterwards-- > 0;
    return true;
}

/* --- the processes --------------------------------------------------------------------------- */

static CastWriter writer;
static CastPage *pages[READERS];
static uint64_t records, lost;

static void *map(size_t bytes, int protection, int fd)
{
    int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, bytes, protection, flags, fd, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* The memory, of which the only mapping that can be written to is the writer's. */
static int make_ring(void)
{
    size_t bytes = cast_memory_bytes(work.geometry);
    int fd = memfd_create("broadcast", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    CHECK(cast_attach_writer(&writer, map(bytes, PROT_READ | PROT_WRITE, fd), work.geometry,
                             work.start));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0);
    CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    return fd;
}

static void be_reader(int me, int fd)
{
    static Taker taker;
    attach(&taker, &work, me, map(cast_memory_bytes(work.geometry), PROT_READ, fd), pages[me]);
    bool is_closed = take_all(&taker);
    check_taken(&taker, atomic_load(&notebook->published), is_closed);
    records += taker.taken;
    lost += taker.lost;
}

static pid_t start_reader(int me, int fd, const char *step, uint64_t within_us, Dice *dice)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(ends[0]);
        writer_lifeline = ends[1];
        if (step != NULL)
            die(step, within_us, dice);
        be_reader(me, fd);
        _exit(0);
    }
    close(ends[1]);
    lifelines[me] = ends[0];
    return child;
}

static int status_of(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/* This process is the writer. */
static void kill_reader(int fd, const char *step, uint64_t within_us, Dice *dice)
{
    pid_t victim = start_reader(VICTIM, fd, step, within_us, dice);
    pid_t other = start_reader(VICTIM + 1, fd, NULL, 0, dice);
    int held[READERS] = {lifelines[0], lifelines[1]};
    watches = true;
    checks = 0;
    afterwards = 50;
    records += write_all(&work, &writer);
    for (int reader = 0; reader < READERS; reader++)
        close(held[reader]);
    note_end(status_of(victim));
    CHECK(status_of(other) == 0);
}

/* This process is one of the readers. */
static void kill_writer(int fd, const char *step, uint64_t within_us, Dice *dice)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    pid_t victim = fork();
    CHECK(victim >= 0);
    if (victim == 0) {
        close(ends[0]);
        lifelines[0] = ends[1];
        lifelines[1] = -1;
        watches = false;
        die(step, within_us, dice);
        write_all(&work, &writer);
        _exit(0);
    }
    close(ends[1]);
    writer_lifeline = ends[0];
    be_reader(0, fd);
    note_end(status_of(victim));
    close(ends[0]);
}

static void prepare(uint64_t seed, bool victim_is_writer, bool at_random, Dice *dice)
{
    static const uint64_t starts[] = {0, 0xffffffc0u, 0xffffffffffffffc0u};
    memset(&work, 0, sizeof work);
    work.messages.seed = seed;
    work.count = at_random ? 100000000 : 2000;
    work.geometry = (CastGeometry){below(dice, 2) == 0 ? 1024 : 16384,
                                   1 + (uint32_t)below(dice, 3)};
    work.messages.max_bytes = below(dice, 2) == 0 ? 64 : 256;
    work.start = starts[below(dice, 3)];
    work.spin = below(dice, 2) == 0 ? 0 : 1000;
    work.batch = 1 + below(dice, 32);
    work.lag = below(dice, 2) == 0 ? 0 : 500;
    work.readers = victim_is_writer ? 1 : READERS;
    work.holding = victim_is_writer ? below(dice, 2) : 2 | below(dice, 2);
}

static void one_round(uint64_t seed)
{
    bool victim_is_writer = strcmp(option_word("victim", "writer"), "writer") == 0;
    const char *step = option_word("at", "random");
    uint64_t within_us = option("within_us", 20000);
    Dice dice = {seed};
    prepare(seed, victim_is_writer, strcmp(step, "random") == 0, &dice);
    int fd = make_ring();
    atomic_store(&notebook->published, 0);
    atomic_store(&notebook->victim_taken, 0);
    for (int reader = 0; reader < READERS; reader++) {
        pages[reader] = map(CAST_PAGE_BYTES, PROT_READ | PROT_WRITE, -1);
        CHECK((reader_bells[reader] = eventfd(0, EFD_NONBLOCK)) >= 0);
    }
    CHECK((writer_bell = eventfd(0, EFD_NONBLOCK)) >= 0);
    let_in(&work, &writer, pages);
    (victim_is_writer ? kill_writer : kill_reader)(fd, step, within_us, &dice);
    munmap(writer.shared, cast_memory_bytes(work.geometry));
    close(fd);
    close(writer_bell);
    for (int reader = 0; reader < READERS; reader++) {
        munmap(pages[reader], CAST_PAGE_BYTES);
        close(reader_bells[reader]);
    }
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns();
    notebook = map(sizeof *notebook, PROT_READ | PROT_WRITE, -1);
    uint64_t rounds = kill_often(one_round);
    printf("{\"rounds\": %llu, \"kills\": %llu, \"records\": %llu, \"lost\": %llu, "
           "\"seconds\": %.2f}\n",
           (unsigned long long)rounds, (unsigned long long)kills_reached,
           (unsigned long long)records, (unsigned long long)lost,
           (double)(now_ns() - begun) / 1e9);
    return 0;
}
