/* What ring.h can do at most: two processes, a processor each, nobody ever sleeps.

     cc -O3 -std=gnu11 -I aioipc/native benchmarks/limits/ring_limit.c -o ring_limit
     ./ring_limit milliseconds=200 cpus=0,1

   For each size of message, as JSON:

     round_trip_ns   one message there and one back
     stream_each     messages/s, each published by itself
     stream          messages/s, published and retired in batches of at most 32 KiB
     memcpy          messages/s that one memcpy could do into private memory as long as such a ring

   `size=65536` is for this size alone, and `only=stream` for one of the four alone, as a number. With
   `only=round_trips` the numbers are what single round trips took, in ns: of every 16 in a row the
   mean, and of those the last 4,096.

   A message is copied twice, from a private buffer into the ring and from there into another one;
   one that is longer than 32 KiB goes in pieces of that length, so that both copies overlap.

   Who receives has a message for as long as the next one comes, so two buffers take turns there; and
   a ring begins again only behind four messages, so memcpy writes to four places in turn. One buffer
   that is always the same stays in a cache that the others do not fit in: `warm=1` measures that. */

#define _GNU_SOURCE
#include "machine.h"
#include "ring.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define PIECE 32768u
#define SPINS 20000u
#define PLACES 4u     /* a power of two */

static const size_t sizes[] = {16, 1024, 65536, 1048576};

#define ROUNDS 16u    /* between two looks at the clock */
#define SAMPLES 4096u

static uint64_t milliseconds = 200;
static uint64_t only_size;
static char only[16];
static int cpus[2] = {-1, -1};
static int warm;
static double samples[SAMPLES];
static uint64_t sampled;

/* --- helpers --------------------------------------------------------------------------------- */

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    return memory;
}

/* The first two processors that we may use, or the only one. */
static void choose_cpus(void)
{
    cpu_set_t mine;
    int count = 0;
    check(sched_getaffinity(0, sizeof mine, &mine) == 0, "sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++)
        if (CPU_ISSET(cpu, &mine))
            cpus[count++] = cpu;
    if (count == 1)
        cpus[1] = cpus[0];
}

/* --- a message there ------------------------------------------------------------------------- */

/* How much to put in before it is published, and to take out before it is retired. */
typedef struct {
    size_t size;
    size_t batch_bytes;
} Plan;

typedef struct {
    RingProducer producer;
    const unsigned char *message;
    size_t unpublished;
} Sender;

typedef struct {
    RingConsumer consumer;
    unsigned char *message;   /* the one that came */
    unsigned char *next;
    size_t unretired;
} Receiver;

static void publish(Sender *sender)
{
    ring_publish(&sender->producer);
    sender->unpublished = 0;
}

static void retire(Receiver *receiver)
{
    ring_retire(&receiver->consumer);
    receiver->unretired = 0;
}

static void send_piece(Sender *sender, const Plan *plan, uint32_t tag, const void *piece,
                       size_t length)
{
    unsigned spins = 0;
    while (ring_put(&sender->producer, tag, piece, length) != RING_QUEUED) {
        publish(sender);
        relax(&spins, SPINS);
    }
    sender->unpublished += length;
    if (sender->unpublished >= plan->batch_bytes)
        publish(sender);
}

static void send_message(Sender *sender, const Plan *plan)
{
    size_t at = 0;
    for (; plan->size - at > PIECE; at += PIECE)
        send_piece(sender, plan, ring_tag(RING_DATA, RING_MORE, 0), sender->message + at, PIECE);
    send_piece(sender, plan, RING_DATA, sender->message + at, plan->size - at);
}

/* Returns false after the last message. */
static bool receive_message(Receiver *receiver, const Plan *plan)
{
    RingRecord record;
    unsigned spins = 0;
    for (size_t at = 0; at < plan->size; at += record.length) {
        while (ring_pop(&receiver->consumer, &record) != RING_RECORD) {
            if (receiver->unretired != 0)
                retire(receiver);
            relax(&spins, SPINS);
        }
        if (ring_kind(record.tag) == RING_GOODBYE)
            return false;
        ring_copy(receiver->next + at, record.payload, record.length);
        receiver->unretired += record.length;
        if (receiver->unretired >= plan->batch_bytes)
            retire(receiver);
    }
    unsigned char *before = receiver->message;
    receiver->message = receiver->next;
    receiver->next = warm ? receiver->next : before;
    return true;
}

static void say_goodbye(Sender *sender, const Plan *plan)
{
    send_piece(sender, plan, ring_tag(RING_GOODBYE, 0, 0), NULL, 0);
    publish(sender);
}

/* --- two processes --------------------------------------------------------------------------- */

typedef struct {
    Sender sender;
    Receiver receiver;
} End;

/* What the channels have that run beside this program: benchmarks/peers/aioipc_channel.py. */
static uint64_t capacity_for(size_t size)
{
    uint64_t least = size < 65536 ? 1u << 20 : 4u << 20;
    return size * 4 > least ? size * 4 : least;
}

static void open_end(End *end, const Plan *plan, void *outgoing, void *incoming)
{
    uint64_t capacity = capacity_for(plan->size);
    ring_attach_producer(&end->sender.producer, outgoing, capacity, 0, 0);
    ring_attach_consumer(&end->receiver.consumer, incoming, capacity, 0);
    end->sender.message = memset(malloc(plan->size), 1, plan->size);
    end->receiver.message = memset(malloc(plan->size), 2, plan->size);
    end->receiver.next = memset(malloc(plan->size), 3, plan->size);
    end->sender.unpublished = end->receiver.unretired = 0;
}

/* Nanoseconds per message, by a run between this process and a child. */
static double run(const Plan *plan, void (*child_side)(End *, const Plan *),
                  double (*our_side)(End *, const Plan *))
{
    static End end;
    size_t bytes = ring_memory_bytes(capacity_for(plan->size));
    void *there = map(bytes), *back = map(bytes);
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(cpus[1]);
        open_end(&end, plan, back, there);
        child_side(&end, plan);
        _exit(0);
    }
    open_end(&end, plan, there, back);
    double ns = our_side(&end, plan);
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "child");
    free((void *)end.sender.message);
    free(end.receiver.message);
    if (end.receiver.next != end.receiver.message)
        free(end.receiver.next);
    munmap(there, bytes);
    munmap(back, bytes);
    return ns;
}

static void echo(End *end, const Plan *plan)
{
    while (receive_message(&end->receiver, plan)) {
        send_message(&end->sender, plan);
        publish(&end->sender);
    }
}

static void round_trip(End *end, const Plan *plan)
{
    send_message(&end->sender, plan);
    publish(&end->sender);
    receive_message(&end->receiver, plan);
}

static double ping_pong(End *end, const Plan *plan)
{
    uint64_t rounds = 0, begun = 0, until = now_ns() + milliseconds * 1000000 / 10;
    while (now_ns() < until)
        round_trip(end, plan);
    begun = now_ns();
    until = begun + milliseconds * 1000000;
    uint64_t now = begun;
    sampled = 0;
    do {
        uint64_t before = now;
        for (unsigned i = 0; i < ROUNDS; i++, rounds++)
            round_trip(end, plan);
        now = now_ns();
        samples[sampled++ % SAMPLES] = (double)(now - before) / ROUNDS;
    } while (now < until);
    double ns = (double)(now - begun) / (double)rounds;
    say_goodbye(&end->sender, plan);
    return ns;
}

/* The child counts, and sends what it measured. */
static void sink(End *end, const Plan *plan)
{
    static const Plan answer = {sizeof(double), 0};
    receive_message(&end->receiver, plan);
    uint64_t count = 0, begun = now_ns();
    while (receive_message(&end->receiver, plan))
        count++;
    double ns = (double)(now_ns() - begun) / (double)count;
    end->sender.message = memcpy((void *)end->sender.message, &ns, sizeof ns);
    send_message(&end->sender, &answer);
    publish(&end->sender);
}

static double stream(End *end, const Plan *plan)
{
    static const Plan answer = {sizeof(double), 0};
    uint64_t until = now_ns() + milliseconds * 1000000;
    size_t portion = PIECE / plan->size + 1;
    do {
        for (size_t i = 0; i < portion; i++)
            send_message(&end->sender, plan);
    } while (now_ns() < until);
    say_goodbye(&end->sender, plan);
    receive_message(&end->receiver, &answer);
    double ns;
    memcpy(&ns, end->receiver.message, sizeof ns);
    return ns;
}

static double copy(size_t size)
{
    /* From the beginning of a page to the beginning of a page: see ring_copy. */
    size_t pages = (size + 4095) / 4096 * 4096;
    unsigned places = warm ? 1 : PLACES;
    unsigned char *from = memset(aligned_alloc(4096, pages), 1, size);
    unsigned char *to = memset(aligned_alloc(4096, pages * places), 2, pages * places);
    uint64_t count = 0, begun = now_ns(), until = begun + milliseconds * 1000000;
    size_t portion = PIECE * 8 / size + 1;
    do {
        for (size_t i = 0; i < portion; i++, count++) {
            memcpy(to + (count & (places - 1)) * pages, from, size);
            __asm__ volatile("" : : "r"(to) : "memory");  /* the compiler must not leave it out */
        }
    } while (now_ns() < until);
    double ns = (double)(now_ns() - begun) / (double)count;
    free(from);
    free(to);
    return ns;
}

/* --- the report ------------------------------------------------------------------------------ */

static void report(size_t size, bool is_last)
{
    const Plan each = {size, 1}, batches = {size, PIECE};
    double round_trip_ns = run(&batches, echo, ping_pong);
    double each_ns = run(&each, sink, stream);
    double batches_ns = run(&batches, sink, stream);
    printf("  \"%zu\": {\"round_trip_ns\": %.0f, \"stream_each\": %.0f, \"stream\": %.0f, "
           "\"memcpy\": %.0f}%s\n",
           size, round_trip_ns, 1e9 / each_ns, 1e9 / batches_ns, 1e9 / copy(size),
           is_last ? "" : ",");
}

/* One figure, or the samples. Returns false if there is none of that name. */
static bool report_only(size_t size)
{
    const Plan each = {size, 1}, batches = {size, PIECE};
    if (strcmp(only, "round_trips") == 0) {
        run(&batches, echo, ping_pong);
        for (uint64_t i = 0; i < sampled && i < SAMPLES; i++)
            printf("%s%.1f", i == 0 ? "[" : ", ", samples[i]);
        printf("]\n");
    } else if (strcmp(only, "round_trip_ns") == 0)
        printf("%.1f\n", run(&batches, echo, ping_pong));
    else if (strcmp(only, "stream_each") == 0)
        printf("%.0f\n", 1e9 / run(&each, sink, stream));
    else if (strcmp(only, "stream") == 0)
        printf("%.0f\n", 1e9 / run(&batches, sink, stream));
    else if (strcmp(only, "memcpy") == 0)
        printf("%.0f\n", 1e9 / copy(size));
    else
        return false;
    return true;
}

static int usage(const char *program)
{
    fprintf(stderr,
            "usage: %s [milliseconds=200] [cpus=0,1] [warm=1] [size=BYTES [only=round_trips|"
            "round_trip_ns|stream_each|stream|memcpy]]\n", program);
    return 2;
}

int main(int count, char **words)
{
    choose_cpus();
    for (int i = 1; i < count; i++)
        if (sscanf(words[i], "milliseconds=%lu", &milliseconds) != 1
            && sscanf(words[i], "cpus=%d,%d", &cpus[0], &cpus[1]) != 2
            && sscanf(words[i], "size=%lu", &only_size) != 1
            && sscanf(words[i], "warm=%d", &warm) != 1
            && sscanf(words[i], "only=%15s", only) != 1)
            return usage(words[0]);
    pin(cpus[0]);
    if (only[0] != 0)
        return only_size != 0 && report_only(only_size) ? 0 : usage(words[0]);
    if (only_size != 0) {
        printf("{\n");
        report(only_size, true);
        printf("}\n");
        return 0;
    }
    size_t last = sizeof sizes / sizeof *sizes - 1;
    printf("{\n  \"cpus\": [%d, %d],\n", cpus[0], cpus[1]);
    for (size_t i = 0; i <= last; i++)
        report(sizes[i], i == last);
    printf("}\n");
    return 0;
}
