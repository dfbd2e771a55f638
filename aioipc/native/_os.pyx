# cython: language_level=3
# cython: freethreading_compatible=True
# cython: cdivision=True
"""System calls that Python has no name for. Errors are OSError with errno."""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno
from libc.stdint cimport uint32_t
from posix.time cimport timespec
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from aioipc.errors import FrameTooLarge, from_os_error

cdef extern from "<sys/inotify.h>" nogil:
    int c_inotify_init1 "inotify_init1"(int flags)
    int c_inotify_add_watch "inotify_add_watch"(int fd, const char* path, uint32_t mask)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct c_statfs "statfs":
        long f_type
    int fstatfs(int fd, c_statfs* buf)

# The system calls themselves: before glibc 2.34 their wrappers are in a library of its own.
cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline long mq_put(int fd, const char *data, size_t size, unsigned int priority) {
        return syscall(SYS_mq_timedsend, fd, data, size, priority, NULL);
    }
    static inline long mq_take(int fd, char *data, size_t size, unsigned int *priority) {
        return syscall(SYS_mq_timedreceive, fd, data, size, priority, NULL);
    }
    """
    long mq_put(int fd, const char* data, size_t size, unsigned int priority)
    long mq_take(int fd, char* data, size_t size, unsigned int* priority)
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


cdef class MqCalls:
    """Messages to and from an open POSIX queue that does not block: mq_send(3), mq_receive(3).

    The descriptor belongs to somebody else, who says `forget` before it is closed.
    """

    cdef int fd
    cdef size_t max_message_size
    cdef char* block
    cdef str name
    cdef object refuse

    def __cinit__(self, int fd, size_t max_message_size, str name not None, refuse):
        self.block = <char*> PyMem_Malloc(max_message_size)
        if self.block is NULL:
            raise MemoryError
        self.fd = fd
        self.max_message_size = max_message_size
        self.name = name
        self.refuse = refuse

    def __dealloc__(self):
        PyMem_Free(self.block)

    def forget(self):
        """Make no more calls: from now on each one calls ``refuse``, which raises."""
        self.fd = -1

    def try_send(self, bytes message not None, unsigned int priority=0):
        """Put a message in, or return False if the queue is full.

        Raises:
            FrameTooLarge: It is longer than the queue's messages may be.
        """
        while mq_put(
            self.fd, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), priority
        ) < 0:
            if errno == EAGAIN:
                return False
            if errno == EMSGSIZE:
                raise FrameTooLarge(len(message), self.max_message_size, f"of {self.name}")
            self.failed("send to")
        return True

    def try_receive(self, int selector=0):
        """Take the oldest of the most urgent messages and its priority; None if there is none."""
        cdef unsigned int priority = 0
        cdef long size
        while True:
            size = mq_take(self.fd, self.block, self.max_message_size, &priority)
            if size >= 0:
                return PyBytes_FromStringAndSize(self.block, size), priority
            if errno == EAGAIN:
                return None
            self.failed("receive from")

    cdef int failed(self, str doing) except -1:
        """Return if it is worth another try."""
        if errno == EINTR:
            PyErr_CheckSignals()
            return 0
        if self.fd < 0:
            self.refuse()
        try:
            PyErr_SetFromErrno(OSError)
        except OSError as error:
            raise from_os_error(error, f"{doing} {self.name}") from error
        return 0
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
