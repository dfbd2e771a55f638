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


cdef int _checked(int result) except -1:
    if result < 0:
        PyErr_SetFromErrno(OSError)
    return result
