# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Queues that the kernel keeps: the system calls, and the straight way of a put and a get."""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EIDRM, EINTR, EINVAL, ENOMSG, errno
from libc.string cimport memcpy

from aioipc.native._operation cimport NEW, is_spare
from aioipc.native._detour cimport Straight
from aioipc.native._pacer cimport Pacer
from aioipc.native._scan cimport scanner, scanner_of
from aioipc.native._statistics cimport Row

import os
import weakref

from aioipc.errors import ClosedError, FrameTooLarge, from_os_error

# The system calls themselves: before glibc 2.34 the wrappers of mq are in a library of its own.
cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/ipc.h>
    #include <sys/msg.h>
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
    int msgsnd(int id, const void* message, size_t size, int flags)
    Py_ssize_t msgrcv(int id, void* message, size_t size, long selector, int flags)
    int IPC_NOWAIT
    unsigned long PyThread_get_thread_ident() nogil
    int PyErr_WarnEx(object, const char*, Py_ssize_t) except -1

cdef enum:
    PUT = 0                      # words of a row: docs/statistics.md
    GOT = 3
    LONG = 512                   # bytes that take a codec a time worth looking at the clock


cdef class KernelCalls:
    """Messages to and from an open queue. Nothing here waits.

    Args:
        number: The descriptor or the identifier. It belongs to somebody else, who says `forget`
            before it is closed.
        max_message_size: How long a message may be, in bytes.
        name: Of the queue, for errors.
        owner: Its ``check_open`` says why no more calls are made, once there are none.

    Attributes:
        sent: How many messages were put in by this object.
        received: How many it took out.
    """

    cdef int number
    cdef size_t max_message_size
    cdef char* block
    cdef str name
    cdef object owner
    cdef readonly unsigned long long sent
    cdef readonly unsigned long long received
    cdef Row row
    cdef long key                # of the message received last

    def __cinit__(self, int number, size_t max_message_size, str name not None, owner):
        self.block = <char*>PyMem_Malloc(sizeof(long) + max_message_size)
        if self.block is NULL:
            raise MemoryError
        self.number = number
        self.max_message_size = max_message_size
        self.name = name
        self.owner = weakref.ref(owner)

    def __dealloc__(self):
        PyMem_Free(self.block)

    def forget(self):
        """Make no more calls."""
        self.number = -1

    def count(self, Row row not None):
        """Count messages on the page of statistics as well: its words for a queue of the kernel."""
        self.row = row

    def try_send(self, bytes message not None, long key):
        """Put a message in, or return False if the queue is full.

        Args:
            message: The message.
            key: What stands beside it: a priority, or a type.

        Raises:
            FrameTooLarge: It is longer than the queue's messages may be.
            ClosedError: The queue was closed, or removed from the system.
        """
        return self.c_send(message, key)

    def try_receive(self, long selector=0):
        """Take the message that is due, and what stands beside it; None if there is none.

        Args:
            selector: Of a System V queue: which message is meant, as msgrcv(2) has it.

        Raises:
            ClosedError: The queue was closed, or removed from the system.
        """
        message = self.c_receive(selector)
        return None if message is None else (message, self.key)

    cdef bint c_send(self, bytes message, long key) except -1:
        cdef size_t size = PyBytes_GET_SIZE(message)
        if size > self.max_message_size:
            raise FrameTooLarge(size, self.max_message_size, f"of {self.name}")
        while self.c_put(PyBytes_AS_STRING(message), size, key) < 0:
            if errno == EAGAIN:
                return False
            self.c_fail("send to")
        self.sent += 1
        if self.row is not None and self.row.shared is not NULL:
            self.row.shared.words[PUT] += 1
        return True

    cdef object c_receive(self, long selector):
        cdef Py_ssize_t size
        cdef const char* text = NULL
        while True:
            size = self.c_take(selector, &text)
            if size >= 0:
                self.received += 1
                if self.row is not None and self.row.shared is not NULL:
                    self.row.shared.words[GOT] += 1
                return PyBytes_FromStringAndSize(text, size)
            if errno == EAGAIN or errno == ENOMSG:
                return None
            self.c_fail("receive from")

    cdef long c_put(self, const char* text, size_t size, long key) noexcept:
        """One system call: -1 and errno, or something else."""
        return -1

    cdef Py_ssize_t c_take(self, long selector, const char** text) noexcept:
        """One system call: -1 and errno, or the length of the message, which is at ``text``."""
        return -1

    cdef bint c_is_gone(self, int reason) noexcept:
        """Whether such an error says that there is no such queue any more."""
        return False

    cdef int c_fail(self, str doing) except -1:
        """Return if it is worth another try."""
        cdef int reason = errno
        if reason == EINTR:
            PyErr_CheckSignals()
            return 0
        owner = self.owner()
        if owner is not None:
            owner.check_open()
        if self.c_is_gone(reason):
            raise ClosedError(f"{self.name} was removed from the system")
        error = OSError(reason, os.strerror(reason))
        raise from_os_error(error, f"{doing} {self.name}") from error


cdef class MqCalls(KernelCalls):
    """Those of a POSIX queue, whose descriptor does not block: mq_send(3), mq_receive(3)."""

    cdef long c_put(self, const char* text, size_t size, long key) noexcept:
        return mq_put(self.number, text, size, <unsigned int>key)

    cdef Py_ssize_t c_take(self, long selector, const char** text) noexcept:
        cdef unsigned int priority = 0
        cdef long size = mq_take(self.number, self.block, self.max_message_size, &priority)
        text[0] = self.block
        self.key = priority
        return size


cdef class SysvCalls(KernelCalls):
    """Those of a System V queue: msgop(2)."""

    cdef long c_put(self, const char* text, size_t size, long key) noexcept:
        (<long*>self.block)[0] = key
        memcpy(self.block + sizeof(long), text, size)
        return msgsnd(self.number, self.block, size, IPC_NOWAIT)

    cdef Py_ssize_t c_take(self, long selector, const char** text) noexcept:
        cdef Py_ssize_t size = msgrcv(
            self.number, self.block, self.max_message_size, selector, IPC_NOWAIT
        )
        text[0] = self.block + sizeof(long)
        self.key = (<long*>self.block)[0]
        return size

    cdef bint c_is_gone(self, int reason) noexcept:
        return reason == EIDRM or reason == EINVAL


cdef class QueueCore:
    """Puts and gets, as long as nobody has to wait.

    Args:
        calls: Of the queue.
        coding: How objects become messages.
        pacer: Of the loop that this belongs to.
        putters: Who waits for room: its ``places`` have a length.
        getters: Who waits for the messages that a selector means, by selector.
        plain_key: What stands beside a message for which the caller wants nothing special.
    """

    cdef readonly KernelCalls calls
    cdef object coding
    cdef object encode, decode   # None: messages are the objects
    cdef scanner scan
    cdef int max_depth
    cdef long long max_elements
    cdef Pacer pacer
    cdef object putters
    cdef dict getters
    cdef long plain_key
    cdef unsigned long thread
    cdef Put spare_put           # operations that are done, to give out again
    cdef Get spare_get

    def __init__(
        self,
        KernelCalls calls not None,
        coding,
        Pacer pacer not None,
        *,
        putters,
        dict getters not None,
        long plain_key,
    ):
        codec = coding.codec
        is_raw = codec.name == "raw"
        self.calls = calls
        self.coding = coding
        self.encode = None if is_raw else codec.encode
        self.decode = None if is_raw else codec.decode
        self.scan = scanner_of(codec.format)
        self.max_depth = coding.limits.max_depth
        self.max_elements = coding.limits.max_elements
        self.pacer = pacer
        self.putters = putters.places
        self.getters = getters
        self.plain_key = plain_key
        self.thread = PyThread_get_thread_ident()

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    # What the floor above fills in.

    def _key_of(self, priority, kind, ttl_s):
        """What stands beside a message; ValueError for what this kind does not have."""
        raise NotImplementedError

    def _selector_of(self, kind):
        """What a get selects; ValueError for what this kind does not have."""
        raise NotImplementedError

    def _item(self, value, key):
        """An object, and what stood beside it."""
        raise NotImplementedError

    def _put_in_line(self, message, key):
        """A coroutine: wait for room, and put a message in."""
        raise NotImplementedError

    def _get_in_line(self, selector, is_item):
        """A coroutine: wait for a message, and take it."""
        raise NotImplementedError

    # Operations

    def put(self, obj, *, priority=0, kind=None, ttl_s=None):
        """As `aioipc.queues.Queue.put`."""
        cdef Put operation = self.spare_put
        if is_spare(operation):
            self.spare_put = None
        else:
            operation = Put.__new__(Put)
        operation.state = NEW
        operation.pacer = self.pacer
        operation.queue = self
        operation.parts = obj
        operation.beside = (
            None if priority == 0 and kind is None and ttl_s is None else (priority, kind, ttl_s)
        )
        return operation

    def get(self, *, kind=None):
        """As `aioipc.queues.Queue.get`."""
        cdef Get operation = self.spare_get
        if is_spare(operation):
            self.spare_get = None
        else:
            operation = Get.__new__(Get)
        return self.c_prepare(operation, kind, False)

    def get_item(self, *, kind=None):
        """As `aioipc.queues.Queue.get_item`."""
        return self.c_prepare(Get.__new__(Get), kind, True)

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.get()

    cdef Get c_prepare(self, Get operation, object kind, bint is_item):
        operation.state = NEW
        operation.pacer = self.pacer
        operation.queue = self
        operation.kind = kind
        operation.is_item = is_item
        return operation

    cdef int c_check_thread(self) except -1:
        if self.thread != PyThread_get_thread_ident():
            raise RuntimeError("this queue belongs to the event loop of another thread")
        return 0

    cdef bytes c_encode(self, object obj):
        if self.encode is None and PyBytes_CheckExact(obj):
            return obj
        message = self.coding.encode(obj) if self.encode is None else self.c_encode_parts(obj)
        if PyBytes_GET_SIZE(message) >= LONG:
            self.pacer.next_look = 0
        return message

    cdef object c_encode_parts(self, object obj):
        try:
            parts = self.encode(obj)
            return parts if PyBytes_CheckExact(parts) else self.coding.whole(parts)
        except Exception as error:
            raise self.coding.not_encoded(error) from error

    cdef object c_decode(self, bytes message):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(message)
        if self.decode is None:
            return message
        if size >= LONG:
            self.pacer.next_look = 0
        if self.scan == NULL or self.scan(text, size, self.max_depth, self.max_elements) == 0:
            try:
                return self.decode(message)
            except Exception:
                pass
        return self.coding.decode(message)  # and say what is wrong with it


cdef class Put(Straight):
    """``await queue.put(obj)``"""

    cdef QueueCore queue
    cdef object beside           # None: nothing special

    cdef object c_go(self, PyObject** result):
        cdef QueueCore queue = self.queue
        cdef long key = queue.plain_key
        obj, self.parts, self.queue = self.parts, None, None
        queue.c_check_thread()
        message = queue.c_encode(obj)
        if self.beside is not None:
            key = queue._key_of(*self.beside)
        if len(queue.putters) != 0 or not queue.calls.c_send(message, key):
            return queue._put_in_line(message, key)
        queue.spare_put = self
        Py_INCREF(None)
        result[0] = <PyObject*>None
        return None

    def __dealloc__(self):
        if self.state == NEW:
            PyErr_WarnEx(RuntimeWarning, "queue.put() was never awaited: nothing was put", 1)


cdef class Get(Straight):
    """``await queue.get()``, and what else takes one message."""

    cdef QueueCore queue
    cdef object kind
    cdef bint is_item

    cdef object c_go(self, PyObject** result):
        cdef QueueCore queue = self.queue
        cdef long selector = 0
        self.queue = None
        queue.c_check_thread()
        if self.kind is not None:
            selector = queue._selector_of(self.kind)
        line = queue.getters.get(selector)
        message = None
        if line is None or len(line.places) == 0:
            message = queue.calls.c_receive(selector)
        if message is None:
            return queue._get_in_line(selector, self.is_item)
        obj = queue.c_decode(message)
        if self.is_item:
            obj = queue._item(obj, queue.calls.key)
        else:
            queue.spare_get = self
        Py_INCREF(obj)
        result[0] = <PyObject*>obj
        return None
