/* A C program that knows nothing of aioipc: it sends readings to a POSIX message queue.
 *
 *   cc -o sensor sensor.c && ./sensor /aioipc-sensor 5
 */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: sensor QUEUE COUNT\n");
        return 2;
    }
    mqd_t queue = mq_open(argv[1], O_WRONLY);
    if (queue == (mqd_t)-1) {
        perror(argv[1]);
        return 1;
    }
    for (int n = 0; n < atoi(argv[2]); n++) {
        char message[100];
        double celsius = 20.5 + n;
        unsigned priority = celsius > 23 ? 9 : 0;
        int length = snprintf(message, sizeof message, "{\"n\": %d, \"celsius\": %.1f}", n, celsius);
        if (mq_send(queue, message, (size_t)length, priority) < 0) {
            perror("mq_send");
            return 1;
        }
    }
    return mq_close(queue) < 0;
}
