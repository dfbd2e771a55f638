/* Each access to a shared word of a header becomes a step of interleave.h: include this first. */

#ifndef AIOIPC_TESTS_PAUSES_H
#define AIOIPC_TESTS_PAUSES_H

#include <stdatomic.h>
#include <stdint.h>

static void pause_here(void);
static uint64_t saw(uint64_t value);

#define RING_LOAD(word) (pause_here(), saw(atomic_load(word)))
#define RING_STORE(word, value) (pause_here(), atomic_store((word), (value)))
#define RING_SWAP(word, value) (pause_here(), saw(atomic_exchange((word), (value))))

#endif
