# cython: language_level=3
# cython: freethreading_compatible=True
"""The system calls of a lock that is free, and of the note about who has it, without a detour.

Whoever is woken runs this with cold caches, where each line of Python costs several times as much.
"""

from libc.errno cimport EACCES, EAGAIN, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.fcntl cimport O_CLOEXEC, O_NONBLOCK, O_RDWR
from posix.stat cimport S_ISFIFO, fstat, struct_stat
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport SEEK_SET, close, geteuid, getpid, pread, pwrite
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "<fcntl.h>" nogil:
    struct flock:
        short l_type
        short l_whence
        long l_start
        long l_len
    int openat(int directory, const char* name, int flags)
    int fcntl(int fd, int command, flock* lock)
    int O_NOFOLLOW
    int F_OFD_SETLK
    short F_RDLCK
    short F_WRLCK
    short F_UNLCK

cdef struct Note:
    uint64_t number
    uint64_t start_ticks
    uint64_t since_ns
    uint32_t pid
    uint32_t state

cdef enum:
    C_LOCKED = -1
    C_GONE = -2
    C_FOREIGN = -3
    C_FAILED = -4

LOCKED = C_LOCKED
GONE = C_GONE
FOREIGN = C_FOREIGN
NOTE_BYTES = sizeof(Note)


def hold_fifo(int directory, bytes name not None, bint shared):
    """Open a FIFO and lock its first byte: open(2), fcntl_locking(2) with ``F_OFD_SETLK``.

    Returns:
        The descriptor; LOCKED if somebody else has a lock that excludes this one; GONE if the
        FIFO has lost its name meanwhile; FOREIGN if it is no FIFO, or somebody else's.

    Raises:
        OSError: It cannot be opened.
    """
    cdef const char* path = name
    cdef int fd, found = C_FAILED
    with nogil:
        fd = openat(directory, path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC)
        if fd >= 0:
            found = _lock(fd, F_RDLCK if shared else F_WRLCK)
    if found == 0:
        return fd
    try:
        if found == C_FAILED:
            PyErr_SetFromErrno(OSError)
    finally:
        if fd >= 0:
            close(fd)
    return found


def let_go(int fd):
    """Drop all locks of an open file description, also for who has a copy of it, and close it."""
    cdef flock lock
    cdef int result
    memset(&lock, 0, sizeof(lock))
    lock.l_type = F_UNLCK
    with nogil:
        fcntl(fd, F_OFD_SETLK, &lock)
        result = close(fd)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def is_linked(int fd):
    """Whether an open file still has a name."""
    cdef struct_stat status
    if fstat(fd, &status) < 0:
        PyErr_SetFromErrno(OSError)
    return status.st_nlink > 0


def read_note(int fd, long offset):
    """Read number, start ticks, time, pid and state; None where nobody ever wrote: pread(2)."""
    cdef Note note
    cdef ssize_t count
    with nogil:
        count = pread(fd, &note, sizeof(note), offset)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    if <size_t>count < sizeof(note):
        return None
    return note.number, note.start_ticks, note.since_ns, note.pid, note.state


def write_note(
    int fd, long offset, uint64_t number, uint32_t state, uint64_t start_ticks, int64_t ahead_ns
):
    """Write a note of this process, as of now, in one write: pwrite(2).

    ``ahead_ns`` is how far this process's clock is ahead of the one that the notes are in.
    """
    cdef Note note
    cdef timespec now
    cdef ssize_t count
    clock_gettime(CLOCK_MONOTONIC, &now)
    note.number = number
    note.start_ticks = start_ticks
    note.since_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec - <uint64_t>ahead_ns
    note.pid = <uint32_t>getpid()
    note.state = state
    with nogil:
        count = pwrite(fd, &note, sizeof(note), offset)
    if count < 0:
        PyErr_SetFromErrno(OSError)


cdef int _lock(int fd, short kind) noexcept nogil:
    cdef struct_stat status
    cdef flock lock
    memset(&lock, 0, sizeof(lock))
    lock.l_type = kind
    lock.l_whence = SEEK_SET
    lock.l_len = 1
    if fcntl(fd, F_OFD_SETLK, &lock) < 0:
        return C_LOCKED if errno == EAGAIN or errno == EACCES else C_FAILED
    if fstat(fd, &status) < 0:  # after the lock, which keeps our own kind from removing it
        return C_FAILED
    if not S_ISFIFO(status.st_mode) or status.st_uid != geteuid():
        return C_FOREIGN
    return 0 if status.st_nlink > 0 else C_GONE
