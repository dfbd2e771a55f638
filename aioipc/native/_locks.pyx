# cython: language_level=3
# cython: freethreading_compatible=True
"""The system calls of a lock that is free, and of the note about who has it, without a detour.

Whoever is woken runs this with cold caches, where each line of Python costs several times as much.
"""

from libc.errno cimport EACCES, EAGAIN, ENOENT, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.fcntl cimport O_CLOEXEC, O_NONBLOCK, O_RDWR
from posix.stat cimport S_ISFIFO, fstat, struct_stat
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport SEEK_SET, close, geteuid, pread, pwrite
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
    int AT_SYMLINK_NOFOLLOW

cdef extern from *:
    """
    #define set_errno(number) (errno = (number))
    """
    void set_errno(int number) noexcept nogil

cdef extern from "<sys/stat.h>" nogil:
    int fstatat(int directory, const char* name, struct_stat* status, int flags)

cdef struct Note:
    uint64_t number
    uint64_t start_ticks
    uint64_t since_ns
    uint32_t pid
    uint32_t state

cdef enum:
    C_HELD = 1
    C_TORN = 2
    C_LOCKED = -1
    C_GONE = -2
    C_FOREIGN = -3
    C_FAILED = -4
    C_STALE = -5

HELD = C_HELD
TORN = C_TORN
LOCKED = C_LOCKED
GONE = C_GONE
FOREIGN = C_FOREIGN
STALE = C_STALE
NOTE_BYTES = sizeof(Note)


cdef class Signature:
    """Who writes notes: this process, as long as it does not fork.

    Attributes:
        pid: Its number.
        start_ticks: When it started, in clock ticks after boot.
        ahead_ns: How far its clock is ahead of the one that notes are in, in nanoseconds.
    """

    cdef readonly uint32_t pid
    cdef readonly uint64_t start_ticks
    cdef readonly int64_t ahead_ns

    def __init__(self, uint32_t pid, uint64_t start_ticks, int64_t ahead_ns):
        self.pid = pid
        self.start_ticks = start_ticks
        self.ahead_ns = ahead_ns


cdef class Entry:
    """One note of a ledger, for one time that somebody holds the lifeline it is about.

    Attributes:
        owner_died: Whether the last one who noted that he holds it died with it; once it is held.
    """

    cdef bytes _ledger_name
    cdef long _offset
    cdef Signature _signature
    cdef bint _tears
    cdef uint64_t _number
    cdef readonly bint owner_died

    def __init__(
        self, bytes ledger_name not None, long offset, Signature signature not None, bint tears
    ):
        """Know the note.

        Args:
            ledger_name: The ledger, which is in the directory of the lifeline.
            offset: Where the note is.
            signature: Whose note it will be.
            tears: Whether a death tears what is held, so that the next one but one has to know.
        """
        self._ledger_name = ledger_name
        self._offset = offset
        self._signature = signature
        self._tears = tears

    def hold(self, int directory, bytes fifo not None, int ledger):
        """Do what `hold_fifo` does, and then what `read_note` and `write_note` do, in one step.

        Args:
            directory: Where the FIFO is, and the ledger.
            fifo: Its name.
            ledger: The descriptor of the ledger.

        Returns:
            As `hold_fifo`; also STALE if the ledger has lost its name, and nothing is held.

        Raises:
            OSError: The FIFO cannot be opened, or the ledger not be read or written.
        """
        cdef const char* path = fifo
        cdef const char* ledger_path = self._ledger_name
        cdef int fd, found
        with nogil:
            found = fd = _hold(directory, path, F_WRLCK)
            if fd >= 0:
                if not _is_at(ledger, directory, ledger_path):
                    found = C_STALE if errno == ENOENT else C_FAILED
                elif not self._note_held(ledger):
                    found = C_FAILED
                if found < 0:
                    _undo(fd)
        if found == C_FAILED:
            PyErr_SetFromErrno(OSError)
        return found

    def let_go(self, int fd, int ledger, bint is_consistent):
        """Note that nobody holds it if there is a ledger, and then, whatever happens, `let_go`."""
        cdef Note note
        cdef int result = -1
        with nogil:
            _sign(&note, self._number, C_TORN if self._tears and not is_consistent else 0,
                  self._signature)
            if ledger < 0 or pwrite(ledger, &note, sizeof(note), self._offset) >= 0:
                result = _let_go(fd)
            else:
                _undo(fd)
        if result < 0:
            PyErr_SetFromErrno(OSError)

    cdef bint _note_held(self, int ledger) noexcept nogil:
        """Whether it could be noted; if not, errno says why."""
        cdef Note note
        cdef uint32_t state = C_HELD
        memset(&note, 0, sizeof(note))
        if pread(ledger, &note, sizeof(note), self._offset) < 0:
            return False
        self.owner_died = note.state != 0
        if self.owner_died and self._tears:
            state |= C_TORN
        self._number = note.number + 1
        _sign(&note, self._number, state, self._signature)
        return pwrite(ledger, &note, sizeof(note), self._offset) >= 0


def hold_fifo(int directory, bytes name not None, bint shared):
    """Open a FIFO and lock its first byte: open(2), fcntl_locking(2) with ``F_OFD_SETLK``.

    Returns:
        The descriptor; LOCKED if somebody else has a lock that excludes this one; GONE if the
        FIFO has lost its name meanwhile; FOREIGN if it is no FIFO, or somebody else's.

    Raises:
        OSError: It cannot be opened.
    """
    cdef const char* path = name
    cdef int found
    with nogil:
        found = _hold(directory, path, F_RDLCK if shared else F_WRLCK)
    if found == C_FAILED:
        PyErr_SetFromErrno(OSError)
    return found


def let_go(int fd):
    """Drop all locks of an open file description, also for who has a copy of it, and close it."""
    cdef int result
    with nogil:
        result = _let_go(fd)
    if result < 0:
        PyErr_SetFromErrno(OSError)


def is_at(int fd, int directory, bytes name not None):
    """Whether a name stands for an open file: fstat(2), fstatat(2)."""
    cdef const char* path = name
    cdef bint found
    with nogil:
        found = _is_at(fd, directory, path)
    if not found and errno != ENOENT:
        PyErr_SetFromErrno(OSError)
    return found


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
    int fd, long offset, uint64_t number, uint32_t state, Signature signature not None
):
    """Write a note, as of now, in one write: pwrite(2)."""
    cdef Note note
    cdef ssize_t count
    with nogil:
        _sign(&note, number, state, signature)
        count = pwrite(fd, &note, sizeof(note), offset)
    if count < 0:
        PyErr_SetFromErrno(OSError)


cdef void _sign(Note* note, uint64_t number, uint32_t state, Signature by) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    note.number = number
    note.start_ticks = by.start_ticks
    note.since_ns = (
        <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec - <uint64_t>by.ahead_ns
    )
    note.pid = by.pid
    note.state = state


cdef int _hold(int directory, const char* path, short kind) noexcept nogil:
    """The descriptor, or one of the codes; C_FAILED leaves errno."""
    cdef int found, fd = openat(directory, path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC)
    if fd < 0:
        return C_FAILED
    found = _lock(fd, kind, directory, path)
    if found == 0:
        return fd
    if found == C_LOCKED:
        close(fd)
    else:
        _undo(fd)
    return found


cdef int _lock(int fd, short kind, int directory, const char* path) noexcept nogil:
    cdef struct_stat status
    cdef flock lock
    memset(&lock, 0, sizeof(lock))
    lock.l_type = kind
    lock.l_whence = SEEK_SET
    lock.l_len = 1
    if fcntl(fd, F_OFD_SETLK, &lock) < 0:
        return C_LOCKED if errno == EAGAIN or errno == EACCES else C_FAILED
    if fstat(fd, &status) < 0:
        return C_FAILED
    if not S_ISFIFO(status.st_mode) or status.st_uid != geteuid():
        return C_FOREIGN
    # After the lock, which keeps our own kind from removing it.
    if _stands_for(directory, path, &status):
        return 0
    return C_GONE if errno == ENOENT else C_FAILED


cdef bint _is_at(int fd, int directory, const char* path) noexcept nogil:
    """Whether it is; if not, errno is ENOENT, or says why nobody knows."""
    cdef struct_stat status
    return fstat(fd, &status) == 0 and _stands_for(directory, path, &status)


cdef bint _stands_for(int directory, const char* path, const struct_stat* status) noexcept nogil:
    """Whether a name stands for that file; if not, errno is ENOENT, or says why nobody knows."""
    cdef struct_stat found
    if fstatat(directory, path, &found, AT_SYMLINK_NOFOLLOW) < 0:
        return False
    if found.st_ino == status.st_ino and found.st_dev == status.st_dev:
        return True
    set_errno(ENOENT)
    return False


cdef int _let_go(int fd) noexcept nogil:
    cdef flock lock
    memset(&lock, 0, sizeof(lock))
    lock.l_type = F_UNLCK
    fcntl(fd, F_OFD_SETLK, &lock)
    return close(fd)


cdef void _undo(int fd) noexcept nogil:
    """Let go, and leave errno as it is."""
    cdef int number = errno
    _let_go(fd)
    set_errno(number)
