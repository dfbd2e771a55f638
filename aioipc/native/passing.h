/* Signals that one thread waits for, and that the kernel gave to another one: passed on.

   The kernel gives a signal for the process to any thread whose mask is open: signal(7). The
   handler below sends it on to the thread that has it blocked and reads it from a signalfd(2),
   with all that is known of it. Everything here is async-signal-safe: signal-safety(7). */
#ifndef AIOIPC_PASSING_H
#define AIOIPC_PASSING_H

#define _GNU_SOURCE 1
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    /* A thread may not send another one what looks like kill(2) or the kernel, codes of 0 and
       more: rt_tgsigqueueinfo(2). Such a code c travels as PASSED - c. */
    PASSED = -0x1000,
    MOST_SIGNALS = 65,
};

static _Atomic int passing_to[MOST_SIGNALS];
static _Atomic unsigned long passing_lost[MOST_SIGNALS];
static struct sigaction passing_before[MOST_SIGNALS];

static void pass_on(int number, siginfo_t *info, void *context) {
    int saved = errno;
    int thread = atomic_load(&passing_to[number]);
    if (thread == (int)syscall(SYS_gettid)) {
        /* Somebody opened its mask. It would come back here at once, for ever. */
        sigaddset(&((ucontext_t *)context)->uc_sigmask, number);
    }
    if (!thread) {
        /* This thread was given it before passing ended, and comes to it only now. Whoever handles
           it now gets it: what one may not send with all that is known of it, as by kill(2). */
        if (syscall(SYS_rt_sigqueueinfo, getpid(), number, info) && kill(getpid(), number))
            atomic_fetch_add(&passing_lost[number], 1);
    } else {
        siginfo_t copy = *info;
        if (copy.si_code >= 0 || copy.si_code == SI_TKILL)
            copy.si_code = PASSED - copy.si_code;
        if (syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, number, &copy))
            atomic_fetch_add(&passing_lost[number], 1);
    }
    errno = saved;
}

static int start_passing(int number, int thread) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = pass_on;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    atomic_store(&passing_lost[number], 0);
    atomic_store(&passing_to[number], thread);
    return sigaction(number, &action, &passing_before[number]);
}

static int stop_passing(int number) {
    struct sigaction current;
    int failed = sigaction(number, NULL, &current);
    /* What somebody else has installed in the meantime stays. */
    if (!failed && current.sa_flags & SA_SIGINFO && current.sa_sigaction == pass_on)
        failed = sigaction(number, &passing_before[number], NULL);
    if (!failed)
        atomic_store(&passing_to[number], 0);  /* not before: what comes late would come back here */
    return failed;
}

static int queue_to(int pidfd, int number, int value) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = number;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    return (int)syscall(SYS_pidfd_send_signal, pidfd, number, &info, 0);
}

#endif
