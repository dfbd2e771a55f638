/* Programs in C that share locks and semaphores with Python; the first argument says which.

     sem NAME PERMITS    take a permit of a POSIX semaphore, say so, wait for a line, give it back
     semop ID            the same with a System V semaphore and SEM_UNDO
     ofd PATH START LEN  the same with an OFD lock on a region
     classic PATH START LEN

   With "die" as the last argument it is killed instead of giving back; with "try" it only says
   whether it is free. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>
#include <unistd.h>

static sem_t *posix_semaphore;
static int set, file, command;
static struct flock region = {.l_whence = SEEK_SET};

static int change(int by, int flags)
{
    struct sembuf operation = {0, (short)by, (short)(SEM_UNDO | flags)};
    return semop(set, &operation, 1);
}

static int take(const char *how, int only_try)
{
    if (!strcmp(how, "sem"))
        return only_try ? sem_trywait(posix_semaphore) : sem_wait(posix_semaphore);
    if (!strcmp(how, "semop"))
        return change(-1, only_try ? IPC_NOWAIT : 0);
    region.l_type = F_WRLCK;
    return fcntl(file, only_try ? command : command + 1, &region);
}

static int give(const char *how)
{
    if (!strcmp(how, "sem"))
        return sem_post(posix_semaphore);
    if (!strcmp(how, "semop"))
        return change(1, 0);
    region.l_type = F_UNLCK;
    return fcntl(file, command, &region);
}

int main(int count, char **words)
{
    const char *how = words[1], *last = words[count - 1];
    char line[8];

    if (!strcmp(how, "sem"))
        posix_semaphore = sem_open(words[2], O_CREAT, 0600, atoi(words[3]));
    else if (!strcmp(how, "semop"))
        set = atoi(words[2]);
    else {
        file = open(words[2], O_RDWR | O_CREAT, 0600);
        command = strcmp(how, "ofd") ? F_SETLK : F_OFD_SETLK;
        region.l_start = atol(words[3]);
        region.l_len = atol(words[4]);
    }
    if (!strcmp(last, "try")) {
        if (take(how, 1))
            return puts("busy") < 0;
        puts("free");
        return give(how) ? 3 : 0;
    }
    if (take(how, 0)) {
        perror(how);
        return 1;
    }
    puts("taken");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 2;
    if (!strcmp(last, "die"))
        raise(SIGKILL);
    return give(how) ? 3 : 0;
}
