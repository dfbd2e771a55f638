/* What a lock that the death of its owner opens can do at most: a FIFO with a lock on its open file
   description, waited for by its end, and a note of who has it, so that the next owner knows of a
   death: what aioipc/kernel/lifeline.py and ledger.py do, and nothing else.

     cc -O3 -std=gnu11 benchmarks/limits/lock_limit.c -o lock_limit
     ./lock_limit cpus=0,1 path=/tmp/line only=alone rounds=10000
     ./lock_limit cpus=0,1 path=/tmp/line only=hand_over rounds=200 hold_ns=2000000 pause_ns=1000000

   Prints what each took as a list of JSON, in ns. alone: acquire and release. hand_over: from just
   before the release in one process until the other one, which waited, has it. */

#define _GNU_SOURCE
#include "machine.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_ROUNDS 1000000u

typedef struct {
    int last;            /* who had it last */
    uint64_t left_ns;    /* when he let go */
    uint64_t count;
    uint64_t samples[MOST_ROUNDS];
} Page;

static int cpus[2] = {0, 0};
static uint64_t rounds = 1000, hold_ns = 2000000, pause_ns = 1000000;
static char path[256], only[16];
static Page *page;
static int ledger;

static void rest(uint64_t ns)
{
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&time, NULL);
}

static int open_line(int access)
{
    int fd = open(path, access | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    check(fd >= 0, "open");
    return fd;
}

/* --- the note -------------------------------------------------------------------------------- */

typedef struct {
    uint64_t number, start_ticks, since_ns;
    uint32_t pid, state;
} Note;

static void write_note(uint64_t number, uint32_t state)
{
    Note note = {number, 0, now_ns(), (uint32_t)getpid(), state};
    check(pwrite(ledger, &note, sizeof note, 0) == sizeof note, "pwrite");
}

static void take_note(void)
{
    Note note = {0};
    check(pread(ledger, &note, sizeof note, 0) >= 0, "pread");
    if (note.state != 0)
        fprintf(stderr, "process %u died holding the lock\n", note.pid);
    write_note(note.number + 1, 1);
}

/* --- the lock -------------------------------------------------------------------------------- */

static int try_hold(void)
{
    int fd = open_line(O_RDWR);
    struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    if (fcntl(fd, F_OFD_SETLK, &wanted) == 0)
        return fd;
    check(errno == EAGAIN, "F_OFD_SETLK");
    close(fd);
    return -1;
}

static int acquire(void)
{
    int fd;
    while ((fd = try_hold()) < 0) {
        int pulled = open_line(O_RDWR), watch = open_line(O_RDONLY);
        close(pulled);
        if ((fd = try_hold()) < 0) {
            struct pollfd wait = {.fd = watch, .events = POLLIN};
            check(poll(&wait, 1, -1) == 1, "poll");
        }
        close(watch);
        if (fd >= 0)
            break;
    }
    take_note();
    return fd;
}

static void release(int fd)
{
    write_note(0, 0);
    close(fd);  /* first drops the lock, then hangs up */
}

/* --- what is measured ------------------------------------------------------------------------ */

static void alone(void)
{
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t begun = now_ns();
        release(acquire());
        page->samples[page->count++] = now_ns() - begun;
    }
}

static void take_turns(int me)
{
    for (uint64_t i = 0; i < rounds; i++) {
        int fd = acquire();
        uint64_t now = now_ns();
        if (page->last == 3 - me && page->count < MOST_ROUNDS)
            page->samples[page->count++] = now - page->left_ns;
        rest(hold_ns);
        page->last = me;
        page->left_ns = now_ns();
        release(fd);
        rest(pause_ns);
    }
}

static void hand_over(void)
{
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(cpus[1]);
        take_turns(2);
        _exit(0);
    }
    take_turns(1);
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "the other process");
}

int main(int count, char **words)
{
    for (int i = 1; i < count; i++)
        if (sscanf(words[i], "cpus=%d,%d", &cpus[0], &cpus[1]) != 2
            && sscanf(words[i], "path=%255s", path) != 1
            && sscanf(words[i], "only=%15s", only) != 1
            && sscanf(words[i], "rounds=%lu", &rounds) != 1
            && sscanf(words[i], "hold_ns=%lu", &hold_ns) != 1
            && sscanf(words[i], "pause_ns=%lu", &pause_ns) != 1)
            return 2;
    if (rounds > MOST_ROUNDS)
        return 2;
    pin(cpus[0]);
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(page != MAP_FAILED, "mmap");
    check(mkfifo(path, 0600) == 0, "mkfifo");
    char notes[sizeof path + 8];
    snprintf(notes, sizeof notes, "%s.notes", path);
    ledger = open(notes, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(ledger >= 0, "open the notes");
    if (strcmp(only, "hand_over") == 0)
        hand_over();
    else if (strcmp(only, "alone") == 0)
        alone();
    else
        return 2;
    unlink(path);
    unlink(notes);
    for (uint64_t i = 0; i < page->count; i++)
        printf("%s%lu", i == 0 ? "[" : ", ", page->samples[i]);
    printf("]\n");
    return 0;
}
