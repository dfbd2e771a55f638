/* What hostile shared memory may hold: values that are often right, or just beside it. */

#ifndef AIOIPC_TESTS_LIES_H
#define AIOIPC_TESTS_LIES_H

#include "tools.h"
#include "ring.h"

/* Somewhere, and often where u32 and u64 wrap. */
static uint64_t some_start(Dice *dice)
{
    switch (below(dice, 4)) {
    case 0: return 0;
    case 1: return ((uint64_t)1 << 32) - 8 * below(dice, 64);
    case 2: return (uint64_t)0 - 8 * below(dice, 64);
    default: return roll(dice) & ~(uint64_t)7;
    }
}

/* A length that is often right, or just beside it. */
static uint32_t some_length(Dice *dice, uint64_t capacity)
{
    switch (below(dice, 8)) {
    case 0: return (uint32_t)roll(dice);
    case 1: return (uint32_t)(0 - below(dice, 32));
    case 2: return (uint32_t)(capacity / 4 - 8 + below(dice, 17));
    case 3: return (uint32_t)(capacity - 16 + below(dice, 24));
    default: return (uint32_t)below(dice, capacity / 8 + 1);
    }
}

static uint64_t some_header(Dice *dice, uint64_t capacity)
{
    uint32_t tag = RING_DATA;
    switch (below(dice, 8)) {
    case 0: tag = (uint32_t)roll(dice); break;
    case 1: tag = (uint32_t)below(dice, 33); break;
    case 2: tag = ring_tag(RING_DATA, (uint8_t)below(dice, 4), (uint16_t)below(dice, 3)); break;
    case 3: tag = RING_PAD; break;
    }
    return (uint64_t)tag << 32 | some_length(dice, capacity);
}

/* A position that is often right, or just beside it. */
static uint64_t some_position(Dice *dice, uint64_t from, uint64_t capacity)
{
    switch (below(dice, 8)) {
    case 0: return roll(dice);
    case 1: return from + below(dice, 2 * capacity);
    case 2: return from - 8 * below(dice, 4);
    case 3: return from + capacity - 8 + 8 * below(dice, 3);
    default: return from + 8 * below(dice, capacity / 8 + 1);
    }
}

#endif
