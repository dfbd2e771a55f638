/* Two processes over a memfd, one of which is killed: at a random instant, or at one of the steps
   that ring.h names with AIOIPC_CRASHPOINT. The other one says what it sees.

   victim=producer: the survivor takes an exact prefix of the messages, with all that were
   acknowledged, and is never left asleep.
   victim=consumer: the survivor finds exactly the messages that were not given back, whole, and
   is never left asleep.

   at=random or the name of a step. A round replays with first=ROUND rounds=1, up to the timing. */

#include "sides.h"
#include "death.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define PATIENCE_MS 10000

/* What the two processes tell each other behind the ring's back. */
typedef struct {
    _Atomic uint64_t published, handled, retired;
} Notebook;

static Work work;
static Notebook *notebook;
static int bells[2];     /* eventfds, as transports use them */
static int lifeline;     /* its EOF says that the other process is gone */

/* --- bells and notes ------------------------------------------------------------------------- */

static void ring_bell(Who sleeper)
{
    uint64_t one = 1;
    crashpoint("bell");
    CHECK(write(bells[sleeper], &one, sizeof one) == sizeof one);
    crashpoint("bell_rung");
}

static bool hear_bell(Who sleeper, bool (*has_work)(const void *side), const void *side)
{
    struct pollfd events[] = {{bells[sleeper], POLLIN, 0}, {lifeline, POLLIN, 0}};
    uint64_t rung;
    if (poll(events, 2, PATIENCE_MS) == 0)
        fail("the %s sleeps, %s",
             sleeper == PRODUCER ? "producer" : "consumer",
             has_work(side) ? "and has work" : "and its peer is silent");
    if (events[0].revents != 0)
        CHECK(read(bells[sleeper], &rung, sizeof rung) == sizeof rung);
    return events[1].revents == 0;
}

static void note_published(uint64_t messages) { atomic_store(&notebook->published, messages); }
static void note_handled(uint64_t messages) { atomic_store(&notebook->handled, messages); }
static void note_retired(uint64_t messages) { atomic_store(&notebook->retired, messages); }

/* --- what the survivor checks ---------------------------------------------------------------- */

static uint64_t records, unconsumed_records, unacknowledged;

/* Everything in [head, tail), whole and in order, and nothing else. */
static void check_unconsumed(RingProducer *producer, uint64_t published)
{
    RingConsumer left;
    RingRecord record;
    RingAnswer answer;
    uint64_t count = 0, number;
    CHECK(ring_unconsumed(producer, &left));
    while ((answer = ring_pop(&left, &record)) == RING_RECORD || answer == RING_AGAIN)
        count += answer == RING_RECORD;
    CHECK(answer == RING_EMPTY);
    number = published - count;
    if (number > atomic_load(&notebook->handled) || number < atomic_load(&notebook->retired))
        fail("%llu of %llu unconsumed, but %llu handled and %llu retired", (unsigned long long)count,
             (unsigned long long)published, (unsigned long long)notebook->handled,
             (unsigned long long)notebook->retired);
    CHECK(ring_unconsumed(producer, &left));
    while ((answer = ring_pop(&left, &record)) != RING_EMPTY)
        if (answer == RING_RECORD)
            check_record(&work, number++, &record);
    CHECK(number == published);
    unconsumed_records += count;
    records += published;
}

static void check_prefix(uint64_t taken, bool victim_finished)
{
    uint64_t acknowledged = atomic_load(&notebook->published);
    if (taken < acknowledged || (victim_finished && taken != work.count))
        fail("%llu messages of %llu acknowledged",
             (unsigned long long)taken, (unsigned long long)acknowledged);
    unacknowledged += taken - acknowledged;
    records += taken;
}

static void wait_for_death(void)
{
    struct pollfd event = {lifeline, POLLIN, 0};
    CHECK(poll(&event, 1, PATIENCE_MS) == 1);
}

/* --- one round ------------------------------------------------------------------------------- */

static int ring_fd(void)
{
    int fd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)ring_memory_bytes(work.capacity)) == 0);
    return fd;
}

/* The victim maps the file itself: at another address, as another program would. */
static void be_victim(Who victim, int fd, const char *step, uint64_t within_us, Dice *dice)
{
    static RingProducer producer;
    static RingConsumer consumer;
    RingShared *shared = mmap(NULL, ring_memory_bytes(work.capacity), PROT_READ | PROT_WRITE,
                              MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    die(step, within_us, dice);
    if (victim == PRODUCER)
        produce(&work, &producer, shared);
    else
        consume(&work, &consumer, shared);
    _exit(0);
}

static void prepare(uint64_t seed, Who victim, bool at_random, Dice *dice)
{
    static const uint64_t starts[] = {0, 0xffffffc0u, 0xffffffffffffffc0u};
    work.messages.seed = seed;
    work.count = at_random ? 100000000 : 2000;
    work.capacity = below(dice, 2) == 0 ? 4096 : 65536;
    work.messages.max_bytes = below(dice, 2) == 0 ? 64 : 1024;
    work.start = starts[below(dice, 3)];
    work.spin = below(dice, 2) == 0 ? 0 : 1000;
    work.receive_mode = (Mode)below(dice, 3);
    work.send_mode = (Mode)below(dice, victim == PRODUCER ? 3 : 2);
}

static void one_round(uint64_t seed)
{
    Who victim = strcmp(option_word("victim", "producer"), "producer") == 0 ? PRODUCER : CONSUMER;
    const char *step = option_word("at", "random");
    uint64_t within_us = option("within_us", 20000);
    static RingProducer producer;
    static RingConsumer consumer;
    int ends[2], status, fd;
    Dice dice = {seed};
    prepare(seed, victim, strcmp(step, "random") == 0, &dice);
    fd = ring_fd();
    RingShared *shared = map_ring(fd, work.capacity, work.start);
    atomic_store(&notebook->published, 0);
    atomic_store(&notebook->handled, 0);
    atomic_store(&notebook->retired, 0);
    CHECK((bells[CONSUMER] = eventfd(0, EFD_NONBLOCK)) >= 0);
    CHECK((bells[PRODUCER] = eventfd(0, EFD_NONBLOCK)) >= 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(ends[0]);
        lifeline = ends[1];
        be_victim(victim, fd, step, within_us, &dice);
    }
    close(ends[1]);
    lifeline = ends[0];
    if (victim == PRODUCER) {
        uint64_t taken = consume(&work, &consumer, shared);
        CHECK(waitpid(child, &status, 0) == child);
        check_prefix(taken, WIFEXITED(status));
    } else {
        uint64_t published = produce(&work, &producer, shared);
        wait_for_death();
        CHECK(waitpid(child, &status, 0) == child);
        check_unconsumed(&producer, published);
    }
    note_end(status);
    munmap(shared, ring_memory_bytes(work.capacity));
    close(fd);
    close(lifeline);
    close(bells[CONSUMER]);
    close(bells[PRODUCER]);
}

int main(int count, char **words)
{
    read_options(count, words);
    uint64_t begun = now_ns();
    notebook = mmap(NULL, sizeof *notebook, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);
    CHECK(notebook != MAP_FAILED);
    uint64_t rounds = kill_often(one_round);
    printf("{\"rounds\": %llu, \"kills\": %llu, \"records\": %llu, \"unconsumed\": %llu, "
           "\"unacknowledged\": %llu, \"seconds\": %.2f}\n",
           (unsigned long long)rounds, (unsigned long long)kills_reached,
           (unsigned long long)records, (unsigned long long)unconsumed_records,
           (unsigned long long)unacknowledged, (double)(now_ns() - begun) / 1e9);
    return 0;
}
