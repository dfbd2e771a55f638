/* A program that knows nothing of aioipc: it talks over a System V message queue. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>

struct message {
    long type;
    char text[1000];
};

/* sysv_peer send KEY COUNT: message n has the text "n" and the type 1 + n % 3.
 * sysv_peer receive KEY COUNT: print the type and the text of each, the lowest type first. */
int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int queue = msgget((key_t)strtol(argv[2], NULL, 0), 0);
    if (queue < 0) return perror("msgget"), 1;
    for (int n = 0; n < atoi(argv[3]); n++) {
        struct message message = {.type = 1 + n % 3};
        if (strcmp(argv[1], "send") == 0) {
            int length = snprintf(message.text, sizeof message.text, "%d", n);
            if (msgsnd(queue, &message, (size_t)length, 0) < 0) return perror("msgsnd"), 1;
            continue;
        }
        ssize_t length = msgrcv(queue, &message, sizeof message.text, -9, 0);
        if (length < 0) return perror("msgrcv"), 1;
        printf("%ld %.*s\n", message.type, (int)length, message.text);
    }
    return 0;
}
