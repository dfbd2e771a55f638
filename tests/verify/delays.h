/* Threads whose steps are stretched, and bells that they sleep at. */

#ifndef AIOIPC_TESTS_DELAYS_H
#define AIOIPC_TESTS_DELAYS_H

#include "tools.h"
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static uint64_t delay_one_in, patience_ms;
static _Thread_local Dice delays;
static _Atomic uint64_t bells, sleeps;

/* Stretch what lies between two steps, sometimes. */
static void crashpoint(const char *id)
{
    (void)id;
    if (delay_one_in == 0 || below(&delays, delay_one_in) != 0)
        return;
    uint64_t until = now_ns() + below(&delays, 50000);
    while (now_ns() < until)
        ;
}

static void strike(_Atomic uint32_t *bell)
{
    atomic_fetch_add_explicit(&bells, 1, memory_order_relaxed);
    atomic_store_explicit(bell, 1, memory_order_relaxed);
    syscall(SYS_futex, bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleep until the bell is struck. False: there is work all the same, so somebody forgot to. It looks
   twice, because the other thread may just not have come to its bell. */
static bool await_strike(_Atomic uint32_t *bell, bool (*has_work)(const void *side),
                         const void *side)
{
    struct timespec patience = {(time_t)(patience_ms / 1000), (long)(patience_ms % 1000 * 1000000)};
    int silences = 0;
    atomic_fetch_add_explicit(&sleeps, 1, memory_order_relaxed);
    while (atomic_exchange_explicit(bell, 0, memory_order_relaxed) == 0) {
        long woken = syscall(SYS_futex, bell, FUTEX_WAIT_PRIVATE, 0, &patience, NULL, 0);
        if (woken != 0 && errno == ETIMEDOUT && has_work(side) && ++silences == 2)
            return false;
    }
    return true;
}

#endif
