# cython: language_level=3
# cython: freethreading_compatible=True
# cython: cdivision=True
"""System calls that Python has no name for. Errors are OSError with errno."""

from libc.stdint cimport uint32_t
from posix.time cimport timespec
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "<sys/inotify.h>" nogil:
    int c_inotify_init1 "inotify_init1"(int flags)
    int c_inotify_add_watch "inotify_add_watch"(int fd, const char* path, uint32_t mask)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct c_statfs "statfs":
        long f_type
    int fstatfs(int fd, c_statfs* buf)

cdef extern from "<sys/sem.h>" nogil:
    cdef struct sembuf:
        unsigned short sem_num
        short sem_op
        short sem_flg
    int c_semtimedop "semtimedop"(int id, sembuf* ops, size_t count, const timespec* limit)
    int SEM_UNDO

cdef extern from "<sys/signalfd.h>" nogil:
    int c_signalfd "signalfd"(int fd, const sigset_t* mask, int flags)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_PDEATHSIG
    int prctl(int option, unsigned long number)

cdef extern from "passing.h" nogil:
    ctypedef struct sigset_t:
        pass
    int sigemptyset(sigset_t* mask)
    int sigaddset(sigset_t* mask, int number)
    int PASSED
    int MOST_SIGNALS
    unsigned long passing_lost[]
    int c_start_passing "start_passing"(int number, int thread)
    int c_stop_passing "stop_passing"(int number)
    int queue_to(int pidfd, int number, int value)

PASSED_ON = PASSED


def filesystem_type(int fd):
    """The magic number of the file system that a file is on: statfs(2)."""
    cdef c_statfs found
    _checked(fstatfs(fd, &found))
    return found.f_type


def inotify_init1(int flags):
    """Open an inotify descriptor: inotify_init(2)."""
    return _checked(c_inotify_init1(flags))


def inotify_add_watch(int fd, bytes path not None, uint32_t mask):
    """Watch a file or change what is watched about it: inotify_add_watch(2).

    Looking the path up may wait for the file system, so the GIL is released.
    """
    cdef const char* name = path
    cdef int watch
    with nogil:
        watch = c_inotify_add_watch(fd, name, mask)
    return _checked(watch)


def semtimedop(int set_id, int change, long long limit_ns):
    """Change the first semaphore of a set, with SEM_UNDO, waiting so long at most: semop(2)."""
    cdef sembuf operation
    cdef timespec limit
    cdef int result
    operation.sem_num = 0
    operation.sem_op = <short> change
    operation.sem_flg = <short> SEM_UNDO
    limit.tv_sec = limit_ns // 1_000_000_000
    limit.tv_nsec = limit_ns % 1_000_000_000
    with nogil:
        result = c_semtimedop(set_id, &operation, 1, &limit)
    _checked(result)


def signalfd(numbers, int flags):
    """Open a descriptor from which blocked signals are read: signalfd(2)."""
    cdef sigset_t mask
    sigemptyset(&mask)
    for number in numbers:
        _checked(sigaddset(&mask, number))
    return _checked(c_signalfd(-1, &mask, flags))


def start_passing(int number, int thread):
    """Have every thread that gets the signal pass it on to ``thread``, and not act on it.

    Args:
        number: The signal.
        thread: The native id of a thread of this process, which has the signal blocked.
    """
    _checked(c_start_passing(_in_range(number), thread))


def stop_passing(int number):
    """Have the signal handled as before `start_passing`, unless another handler came since."""
    _checked(c_stop_passing(_in_range(number)))


def lost_in_passing(int number):
    """How many since `start_passing` could not be passed on: RLIMIT_SIGPENDING in setrlimit(2)."""
    return passing_lost[_in_range(number)]


def queue_signal(int pidfd, int number, int value):
    """Send a signal with a number, as sigqueue(3) does: pidfd_send_signal(2)."""
    _checked(queue_to(pidfd, number, value))


def set_parent_death_signal(int number):
    """Be sent a signal when the thread that started this process ends: PR_SET_PDEATHSIG(2const)."""
    _checked(prctl(PR_SET_PDEATHSIG, number))


cdef int _in_range(int number) except -1:
    if not 0 < number < MOST_SIGNALS:
        raise ValueError(f"{number} is not the number of a signal")
    return number


cdef int _checked(int result) except -1:
    if result < 0:
        PyErr_SetFromErrno(OSError)
    return result
