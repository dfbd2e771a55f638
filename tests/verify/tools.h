/* What all programs that verify a shared-memory protocol have in common, whatever it is. */

#ifndef AIOIPC_TESTS_TOOLS_H
#define AIOIPC_TESTS_TOOLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* What happens at the moments that a header names. */
static void crashpoint(const char *id);
#define AIOIPC_CRASHPOINT(id) crashpoint(#id)

/* --- failing and telling ------------------------------------------------------------------- */

static const char *context = "";  /* what else to say then */

__attribute__((format(printf, 1, 2), noreturn, unused))
static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("FAILED: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "%s\n", context);
    va_end(arguments);
    _exit(1);
}

#define CHECK(what) ((what) ? (void)0 : fail("%s:%d: %s", __FILE__, __LINE__, #what))

__attribute__((unused))
static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- options: name=value, all numbers ------------------------------------------------------ */

static int option_count;
static char **option_words;

__attribute__((unused))
static void read_options(int count, char **words)
{
    option_count = count;
    option_words = words;
}

__attribute__((unused))
static const char *option_word(const char *name, const char *usual)
{
    size_t length = strlen(name);
    for (int i = 1; i < option_count; i++)
        if (strncmp(option_words[i], name, length) == 0 && option_words[i][length] == '=')
            return option_words[i] + length + 1;
    return usual;
}

__attribute__((unused))
static uint64_t option(const char *name, uint64_t usual)
{
    const char *word = option_word(name, NULL);
    return word == NULL ? usual : strtoull(word, NULL, 0);
}

/* --- random numbers: splitmix64, so that a seed replays ------------------------------------- */

static inline uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

typedef struct {
    uint64_t state;
} Dice;

static inline uint64_t roll(Dice *dice) { return mix(dice->state++ * 0x2545f4914f6cdd1du); }

static inline uint64_t below(Dice *dice, uint64_t limit) { return roll(dice) % limit; }

/* --- messages: length and bytes follow from the seed and the number ------------------------- */

typedef struct {
    uint64_t seed;
    uint64_t max_bytes;
} Messages;

/* Mostly anything, sometimes nothing, sometimes as long as a record may be. */
static inline size_t message_length(const Messages *messages, uint64_t number)
{
    uint64_t chance = mix(messages->seed ^ number * 2);
    switch (chance >> 58) {
    case 0: return 0;
    case 1: return messages->max_bytes;
    default: return chance % (messages->max_bytes + 1);
    }
}

static inline void message_fill(const Messages *messages, uint64_t number, unsigned char *bytes,
                                size_t length)
{
    for (size_t at = 0; at < length; at += 8) {
        uint64_t word = mix(messages->seed + number) + at;
        memcpy(bytes + at, &word, length - at < 8 ? length - at : 8);
    }
}

__attribute__((unused))
static void message_check(const Messages *messages, uint64_t number, const unsigned char *bytes,
                          size_t length)
{
    if (length != message_length(messages, number))
        fail("message %llu: length %zu instead of %zu", (unsigned long long)number, length,
             message_length(messages, number));
    for (size_t at = 0; at < length; at += 8) {
        uint64_t word = mix(messages->seed + number) + at;
        if (memcmp(bytes + at, &word, length - at < 8 ? length - at : 8) != 0)
            fail("message %llu: other bytes at %zu", (unsigned long long)number, at);
    }
}

#endif
