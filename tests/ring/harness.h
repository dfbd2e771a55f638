/* What the programs that verify ring.h have in common. Each includes the header under test. */

#ifndef AIOIPC_RING_HARNESS_H
#define AIOIPC_RING_HARNESS_H

#include "tools.h"
#include "ring.h"

/* --- memory ---------------------------------------------------------------------------------- */

/* A ring in a mapping; fd -1: for threads and forked children only. Its words begin at start. */
__attribute__((unused))
static RingShared *map_ring(int fd, uint64_t capacity, uint64_t start)
{
    int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
    RingShared *shared =
        mmap(NULL, ring_memory_bytes(capacity), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (shared == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    atomic_store(&shared->tail, start);
    atomic_store(&shared->head, start);
    return shared;
}

#endif
