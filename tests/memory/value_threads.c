/* One writer and three readers of value.h in threads: whole values, and no data race. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "value.h"

#define READERS 3

static ValueShared shared;
static uint64_t count;

static void *read_values(void *nothing)
{
    static _Thread_local uint64_t words[VALUE_MAX / 8];
    uint64_t number = 0, last = 0;
    size_t size;
    while (last < count) {
        ValueAnswer answer = value_load(&shared, &number, words, &size);
        if (answer == VALUE_NONE)
            continue;
        if (answer != VALUE_LOADED || number < last || size != (number % 50 + 1) * 8)
            exit(1);
        for (size_t index = 0; index < size / 8; index++)
            if (words[index] != number)
                exit(2);
        last = number;
    }
    return nothing;
}

int main(int argc, char **argv)
{
    pthread_t readers[READERS];
    uint64_t latest = 0, words[50];
    count = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    for (int index = 0; index < READERS; index++)
        pthread_create(&readers[index], NULL, read_values, NULL);
    while (latest < count) {
        uint64_t number = latest + 1;
        for (int index = 0; index < 50; index++)
            words[index] = number;
        value_store(&shared, &latest, words, (number % 50 + 1) * 8);
    }
    for (int index = 0; index < READERS; index++)
        pthread_join(readers[index], NULL);
    return 0;
}
