/* What the kernel's byte streams can do at most: two processes, a processor each, nobody ever
   sleeps, and nobody looks at what comes.

     cc -O3 -std=gnu11 benchmarks/limits/descriptor_limit.c -o descriptor_limit
     ./descriptor_limit cpus=0,1 size=1024 only=unix milliseconds=200
     ./descriptor_limit cpus=0,1 size=1024 only=fifo path=/tmp/fifo

   Prints messages/s, the most that writes of several lengths come to. A message has a header of 8
   bytes. A write is one page, two or sixteen, and through a FIFO, where writers must not mix, no
   message crosses the end of a page. A read takes up to 64 KiB. Both buffers begin at a page, as those
   of the channels do: copies that begin a few bytes further are slower by half on some processors. */

#define _GNU_SOURCE
#include "machine.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEADER 8u
#define BLOCK 65536u
#define PAGE 4096u
#define SPINS 500u  /* of system calls, which cost more than a look */

static uint64_t milliseconds = 200, size;
static int cpus[2] = {0, 0};
static char path[256], only[16];

/* --- descriptors ----------------------------------------------------------------------------- */

typedef struct {
    int from, to;
} Ends;

static Ends open_unix(void)
{
    int fds[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0, "socketpair");
    return (Ends){fds[0], fds[1]};
}

static Ends open_pipe(void)
{
    int fds[2];
    check(pipe2(fds, O_NONBLOCK) == 0, "pipe2");
    return (Ends){fds[0], fds[1]};
}

static Ends open_fifo(void)
{
    check(mkfifo(path, 0600) == 0, "mkfifo");
    int from = open(path, O_RDONLY | O_NONBLOCK), to = open(path, O_WRONLY | O_NONBLOCK);
    check(from >= 0 && to >= 0, "open");
    check(unlink(path) == 0, "unlink");
    return (Ends){from, to};
}

/* --- both sides ------------------------------------------------------------------------------ */

static char *block(void)
{
    char *memory = aligned_alloc(PAGE, BLOCK);
    check(memory != NULL, "aligned_alloc");
    return memset(memory, 1, BLOCK);
}

/* How many bytes of a stream a message takes. */
static double share(bool paged)
{
    size_t frame = HEADER + size;
    return (double)(paged && frame <= PAGE ? PAGE / (double)(PAGE / frame) : frame);
}

/* What the sink says: how often it read, and in the end nanoseconds per byte. */
typedef struct { _Atomic unsigned reads; double ns; } Answer;

static void stream(int to, size_t length, Answer *answer)
{
    char *data = block();
    size_t at = 0;
    unsigned spins = 0;
    uint64_t until = now_ns() + milliseconds * 1000000;
    do {
        ssize_t count = write(to, data + at, length - at);
        check(count > 0 || errno == EAGAIN, "write");
        if (count > 0)
            at = (at + (size_t)count) % length;
        else
            relax(&spins, SPINS);
    } while (now_ns() < until || answer->reads < 2);
}

/* From the first read to the last, of which there are at least two. */
static void sink(int from, Answer *answer)
{
    char *data = block();
    uint64_t begun = 0, last = 0, bytes = 0;
    unsigned spins = 0;
    for (;;) {
        ssize_t count = read(from, data, BLOCK);
        check(count >= 0 || errno == EAGAIN, "read");
        if (count == 0)
            break;
        if (count < 0) {
            relax(&spins, SPINS);
            continue;
        }
        last = now_ns();
        answer->reads++;
        if (begun == 0)
            begun = last;
        else
            bytes += (uint64_t)count;
    }
    answer->ns = (double)(last - begun) / (double)bytes;
}

/* --- two processes --------------------------------------------------------------------------- */

/* Messages per second. */
static double run(Ends ends, size_t length, bool paged)
{
    Answer *answer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(answer != MAP_FAILED, "mmap");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends.to);
        pin(cpus[1]);
        sink(ends.from, answer);
        _exit(0);
    }
    close(ends.from);
    stream(ends.to, length, answer);
    close(ends.to);
    int status;
    check(waitpid(child, &status, 0) == child && status == 0, "child");
    double rate = 1e9 / (answer->ns * share(paged));
    munmap(answer, PAGE);
    return rate;
}

int main(int count, char **words)
{
    for (int i = 1; i < count; i++)
        if (sscanf(words[i], "cpus=%d,%d", &cpus[0], &cpus[1]) != 2
            && sscanf(words[i], "size=%lu", &size) != 1
            && sscanf(words[i], "only=%15s", only) != 1
            && sscanf(words[i], "path=%255s", path) != 1
            && sscanf(words[i], "milliseconds=%lu", &milliseconds) != 1)
            return 2;
    pin(cpus[0]);
    bool fifo = strcmp(only, "fifo") == 0;
    Ends (*open_ends)(void) = fifo ? open_fifo : strcmp(only, "pipe") == 0 ? open_pipe : open_unix;
    if (size == 0 || (open_ends == open_unix && strcmp(only, "unix") != 0))
        return 2;
    static const size_t lengths[] = {PAGE, 2 * PAGE, BLOCK};
    size_t tries = sizeof lengths / sizeof *lengths;
    milliseconds = milliseconds / tries + 1;
    double most = 0;
    for (size_t i = 0; i < tries; i++) {
        double rate = run(open_ends(), lengths[i], fifo);
        most = rate > most ? rate : most;
    }
    printf("%.0f\n", most);
    return 0;
}
