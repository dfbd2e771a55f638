/* A program that knows nothing of aioipc: it talks over a POSIX message queue. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

/* mq_peer send NAME COUNT: message n has the text "n" and the priority n % 10.
 * mq_peer receive NAME COUNT: print the priority and the text of each. */
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int sends = strcmp(argv[1], "send") == 0;
    mqd_t queue = mq_open(argv[2], sends ? O_WRONLY : O_RDONLY);
    if (queue == (mqd_t)-1) return fail("mq_open");
    struct mq_attr attr;
    if (mq_getattr(queue, &attr) < 0) return fail("mq_getattr");
    char *text = malloc((size_t)attr.mq_msgsize + 1);
    for (int n = 0; n < atoi(argv[3]); n++) {
        unsigned priority = (unsigned)n % 10;
        if (sends) {
            int length = snprintf(text, (size_t)attr.mq_msgsize, "%d", n);
            if (mq_send(queue, text, (size_t)length, priority) < 0) return fail("mq_send");
            continue;
        }
        ssize_t length = mq_receive(queue, text, (size_t)attr.mq_msgsize, &priority);
        if (length < 0) return fail("mq_receive");
        printf("%u %.*s\n", priority, (int)length, text);
    }
    free(text);
    return mq_close(queue) < 0;
}
