/* How a process is killed: at a random instant, or at a step that the header names. */

#ifndef AIOIPC_TESTS_DEATH_H
#define AIOIPC_TESTS_DEATH_H

#include "tools.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

static const char *deadly_step;  /* in the victim only */
static uint64_t passes_left, kills_reached;

static void crashpoint(const char *id)
{
    if (deadly_step == NULL || strcmp(id, deadly_step) != 0 || passes_left-- > 0)
        return;
    raise(SIGKILL);
}

/* Be killed: at this step, after having passed it some times; or within so long ("random"). */
static void die(const char *step, uint64_t within_us, Dice *dice)
{
    if (strcmp(step, "random") != 0) {
        passes_left = below(dice, (uint64_t)1 << below(dice, 8));
        deadly_step = step;
        return;
    }
    uint64_t delay = 1 + below(dice, within_us * 1000);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    struct timespec first = {(time_t)(delay / 1000000000), (long)(delay % 1000000000)};
    struct itimerspec when = {.it_value = first};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &when, NULL) == 0);
}

/* The victim has ended: killed, or done before that. */
static void note_end(int status)
{
    bool was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    CHECK(was_killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    kills_reached += was_killed;
}

/* Do rounds until there were so many kills. Returns how many rounds that took. */
static uint64_t kill_often(void (*one_round)(uint64_t seed))
{
    uint64_t first = option("first", 0), kills = option("kills", 100), number = first;
    uint64_t seed = option("seed", 1), most = option("rounds", 50 * kills);
    static char round[32];
    context = round;
    for (; kills_reached < kills && number < first + most; number++) {
        snprintf(round, sizeof round, "; round %llu", (unsigned long long)number);
        one_round(mix(seed) + mix(number));
    }
    if (kills_reached < kills && first == 0)
        fail("only %llu of %llu kills in %llu rounds", (unsigned long long)kills_reached,
             (unsigned long long)kills, (unsigned long long)most);
    return number - first;
}

#endif
