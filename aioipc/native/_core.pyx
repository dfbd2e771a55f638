# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""ChannelCore: the operations of a channel, over a message port and a codec."""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    Py_buffer,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from aioipc.native._operation cimport (
    DONE,
    NEW,
    NOTHING,
    RETRY,
    RETURN,
    Endpoint,
    Flush,
    Operation,
    PyAsyncMethods,
    ReceiveOperation,
    SendOperation,
    is_spare,
    is_usable,
    set_step,
    step,
)
from aioipc.native._pacer cimport ACCEPTED, Borrowed, MessagePort, NO_FDS, NO_ROOM, must_yield
from aioipc.native._scan cimport is_over_limit, scanner_of

from aioipc.errors import (
    AddressError,
    BusyError,
    DecodeError,
    EncodeError,
    EndOfStream,
    IPCError,
    WouldBlock,
)
from aioipc.native._scan import error_of

cdef extern from *:
    """
    /* PyObject_CallOneArg, which takes three calls to reach a method of msgspec. */
    static inline PyObject *aioipc_try_one_argument(PyObject *function, PyObject *argument) {
        if (PyCFunction_CheckExact(function) && PyCFunction_GET_FLAGS(function) == METH_FASTCALL) {
            typedef PyObject *(*Fast)(PyObject *, PyObject *const *, Py_ssize_t);
            Fast fast = (Fast)(void (*)(void))PyCFunction_GET_FUNCTION(function);
            return fast(PyCFunction_GET_SELF(function), &argument, 1);
        }
        return PyObject_CallOneArg(function, argument);
    }
    /* For a `try` around a call that has failed before it. */
    static int aioipc_raise_pending(void) { return -1; }
    """
    int aioipc_raise_pending() except -1
    PyObject* try_one_argument "aioipc_try_one_argument"(object, object)  # without raising what it raised
    int PyErr_ExceptionMatches(object)
    void PyErr_Clear()
    int PyErr_WarnEx(object, const char*, Py_ssize_t) except -1

ctypedef int (*raw_step)(PyObject*, PyObject*, PyObject**) noexcept

cdef enum:
    BATCH = 256                  # messages between two looks at the clock
    LONG = 512                   # bytes that take a codec a time worth looking at the clock


cdef object no_room():
    return WouldBlock("the peer is not keeping up: there is no room to send")


cdef inline object take_reference(PyObject* obj):
    """What a call returned, which is the caller's."""
    taken = <object>obj
    Py_DECREF(taken)
    return taken


cdef class Shortcut:
    """Makes an object of some short messages without the codec."""

    cdef object c_read(
        self, const unsigned char* data, Py_ssize_t size, int max_depth, long long max_elements
    ):
        """The object; None where the codec is to say what it is, or what is wrong with it."""
        return None


cdef class ChannelCore(Endpoint):
    """A message port, a codec, and the operations on both.

    Args:
        port: The native message port.
        codec: Encodes and decodes; ``raw`` costs nothing.
        max_depth: Limit of the pre-scan of msgpack and json.
        max_elements: Limit of the pre-scan of msgpack and json.
        polling: "adaptive", "block" or "busy".
    """

    def __init__(
        self,
        MessagePort port,
        codec,
        *,
        int max_depth,
        long long max_elements,
        str polling,
    ):
        Endpoint.__init__(self, port, polling, "channel")
        self.codec = codec
        self.encode = None if codec.name == "raw" else codec.encode
        self.decode = None if codec.name == "raw" else codec.decode
        self.scan = scanner_of(codec.format)
        self.shares = getattr(codec, "passes_fds", False)
        self.attach = getattr(codec, "attach", None)
        self.salvage = getattr(codec, "salvage", None)
        port.may_lend = self.decode is not None and getattr(codec, "in_place", False)
        self.max_depth = max_depth
        self.max_elements = max_elements

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    # Objects and messages

    cdef object c_take(self):
        if self.deferred is not None:
            error, self.deferred = self.deferred, None
            raise error
        message = self.port.c_receive()
        if message is None:
            return NOTHING
        if self.decode is None:
            return message
        return self.c_decode(message)

    cdef object c_take_borrowed(self):
        if self.deferred is not None:
            error, self.deferred = self.deferred, None
            raise error
        message = self.port.c_borrow()
        return NOTHING if message is None else message

    @cython.final
    cdef object c_decode(self, object message):
        if PyBytes_CheckExact(message):
            return self.c_decode_memory(
                message, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)
            )
        view = memoryview(message)
        try:
            return self.c_decode_view(view)
        finally:
            try:
                view.release()
            except BufferError:
                pass  # what was decoded refers to it all the same
            (<Borrowed>message).c_end()

    @cython.final
    cdef object c_decode_view(self, object message):
        cdef Py_buffer view
        PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
        try:
            return self.c_decode_memory(message, <const char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef object c_decode_memory(self, object message, const char* data, Py_ssize_t size):
        """Decode a message, of which ``data`` is the memory."""
        cdef PyObject* decoded
        cdef bint usual = not self.shares and not self.port.own_fds
        cdef int problem
        if usual and self.shortcut is not None:
            obj = self.shortcut.c_read(
                <const unsigned char*>data, size, self.max_depth, self.max_elements
            )
            if obj is not None:
                return obj
        if self.scan != NULL:
            problem = self.scan(
                <const unsigned char*>data, size, self.max_depth, self.max_elements
            )
            if problem != 0:
                return self.c_refuse(message, problem)
        if size >= LONG:
            self.pacer.next_look = 0
        if usual:  # the `try` is for those that fail
            decoded = try_one_argument(self.decode, message)
            if decoded is not NULL:
                return take_reference(decoded)
        try:
            if usual:
                aioipc_raise_pending()
            if self.shares:
                return self.decode(message, self.port.take_fds)
            obj = self.decode(message)
            return obj if self.attach is None else self.attach(obj, self.port.take_fds())
        except IPCError:
            raise
        except Exception as error:
            raise DecodeError(
                f"the {self.codec.name} codec cannot decode this message of "
                f"{size:,} bytes: {error}"
            ) from error

    cdef object c_refuse(self, object message, int problem):
        """A message that is not to be decoded: raise why, or what the codec makes of it."""
        error = error_of(problem, self.max_depth, self.max_elements)
        if self.salvage is None or self.port.own_fds or not is_over_limit(problem):
            raise error
        return self.salvage(message, error)

    cdef object c_encode_sharing(self, object obj, list fds):
        """Encode with a codec that passes memory by descriptor: those are added to ``fds``."""
        self.sharing = fds
        try:
            return self.c_encode(obj)
        finally:
            self.sharing = None

    @cython.final
    cdef object c_encode(self, object obj):
        cdef PyObject* encoded
        if self.encode is None:
            if not PyBytes_CheckExact(obj) and not PyObject_CheckBuffer(obj):
                raise EncodeError(
                    "the raw codec sends bytes, bytearray or memoryview, "
                    f"not {type(obj).__name__}"
                )
            return obj
        if not self.shares:  # the `try` is for those that fail
            encoded = try_one_argument(self.encode, obj)
            if encoded is not NULL:
                return self.c_encoded(take_reference(encoded))
        try:
            if not self.shares:
                aioipc_raise_pending()
            return self.c_encoded(self.encode(obj, self.sharing))
        except IPCError:
            raise
        except Exception as error:
            raise EncodeError(
                f"the {self.codec.name} codec cannot encode this "
                f"{type(obj).__name__}: {error}"
            ) from error

    @cython.final
    cdef inline object c_encoded(self, object parts):
        """Note how long that may have taken."""
        if not PyBytes_CheckExact(parts) or PyBytes_GET_SIZE(parts) >= LONG:
            self.pacer.next_look = 0
        return parts

    cdef int c_send_sharing(self, object obj, object fds) except -1:
        """Send with a codec that passes memory by descriptor where the peer takes them."""
        cdef list shared = []
        if self.port.c_takes_fds():
            parts = self.c_encode_sharing(obj, shared)
            try:
                return self.port.c_send(parts, (*shared, *fds) if shared else fds)
            except AddressError:  # its HELLO has just come, and says that it takes none
                if not shared or self.port.c_takes_fds():
                    raise
        return self.port.c_send(self.c_encode(obj), fds)

    # Operations

    def receive(self):
        """Wait for the next object.

        Raises:
            EndOfStream: The peer finished cleanly and everything was received.
            PeerCrashed: The peer died; everything that arrived was received.
            ProtocolError: The peer broke the protocol; the channel is of no more use.
            DecodeError: The message does not fit the codec; it is consumed, the channel
                goes on.
            BusyError: Another task is receiving.
            ClosedError: This side closed the channel.

        Cancellation:
            Safe: nothing is lost, the next ``receive`` gets what this one would have.
        """
        return self.c_receiving()

    cdef Receive c_receiving(self):
        cdef Receive operation = self.spare_receive
        if is_spare(operation):
            self.spare_receive = None
        else:
            operation = Receive.__new__(Receive)
        operation.state = NEW
        operation.core = self
        return operation

    def receive_many(self, Py_ssize_t max_messages=512):
        """Wait for at least one object and return all that are there, as a list.

        Args:
            max_messages: The most to return. One that brings descriptors is the last.

        Raises:
            As `receive`. An error met after the first object is raised by the next call.

        Cancellation:
            Safe, as `receive`.
        """
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        cdef ReceiveMany operation = ReceiveMany.__new__(ReceiveMany)
        operation.state = NEW
        operation.core = self
        operation.limit = max_messages
        return operation

    def __aiter__(self):
        return self

    def __anext__(self):
        cdef ReceiveNext operation = self.spare_next
        if is_spare(operation):
            self.spare_next = None
        else:
            operation = ReceiveNext.__new__(ReceiveNext)
        operation.state = NEW
        operation.core = self
        return operation

    def receive_nowait(self):
        """Return the next object if it is there.

        Raises:
            WouldBlock: Nothing is there.
            Others: As `receive`.
        """
        self.c_enter()
        if self.receiver is not None:
            raise BusyError("another task is receiving from this channel")
        obj = self.c_take()
        if obj is NOTHING:
            raise WouldBlock("no message is there")
        return obj

    def take_fds(self):
        """The descriptors that came with the message received last; they are the caller's now.

        Those that nobody takes are closed by the next receive, and by ``aclose``.

        Returns:
            Their numbers, in the order of ``send``: close-on-exec, and each to be closed.

        Raises:
            RuntimeError: This is another thread than that of the channel.
        """
        self._check_thread()
        return self.port.take_fds()

    def send(self, obj, *, fds=NO_FDS):
        """Send one object. On return it was accepted, whole and in order.

        A message that finds nothing gathered is written at once. What else is sent in the
        same turn of the loop is gathered and leaves at the end of the turn, at 64 KiB, by
        `flush` or by ``aclose``.

        Args:
            obj: What the codec can encode.
            fds: Descriptors that travel with it, over ``unix:`` and ``shm:``: up to 253 numbers,
                or objects that have a ``fileno()``. The peer gets copies; these stay the
                caller's. The first time, this waits until the peer has said HELLO.

        Raises:
            EncodeError: The codec cannot encode it, or one of ``fds`` is not open. Nothing was
                sent.
            AddressError: The transport carries no descriptors, or the peer takes none. Nothing
                was sent.
            TypeError: ``fds`` is no sequence, or holds what is no descriptor. Nothing was sent.
            FrameTooLarge: It is over the limit. Nothing was sent.
            PeerCrashed: Nobody receives any more.
            ClosedError: This side closed the channel.

        Cancellation:
            All or nothing: a cancelled waiter leaves the queue; a message once begun is
            finished in the background.
        """
        cdef Send operation = self.spare_send
        if is_spare(operation):
            self.spare_send = None
        else:
            operation = Send.__new__(Send)
            operation.fds = NO_FDS
        operation.state = NEW
        operation.begun = operation.encoded = False
        operation.core = self
        operation.parts = obj
        if fds is not NO_FDS:
            operation.fds = fds
        return operation

    def send_nowait(self, obj, *, fds=NO_FDS):
        """Send one object if there is room.

        Raises:
            WouldBlock: There is no room, or somebody waits for it. Nothing was sent.
            Others: As `send`.
        """
        self.c_send_nowait(obj, fds)

    cdef int c_send_nowait(self, object obj, object fds) except -1:
        self.c_enter()
        if not self.shares:
            return self.c_send_encoded(self.c_encode(obj), fds)
        if self.queued or self.c_send_sharing(obj, fds) != ACCEPTED:
            raise no_room()
        return self.port.c_own_rest()

    cdef int c_send_encoded(self, object parts, object fds) except -1:
        """`send_nowait` of what the codec made of an object."""
        if self.queued or self.port.c_send(parts, fds) != ACCEPTED:
            raise no_room()
        return self.port.c_own_rest()

    def send_many(self, objs):
        """Send several objects with one system call or one bell, where they fit.

        Args:
            objs: An iterable of what the codec can encode.

        Raises:
            As `send`, for the first object that fails; those before it were sent.

        Cancellation:
            A prefix of whole messages was sent.
        """
        cdef list objects = list(objs)  # first: one that cannot be begun is not one to await
        cdef SendMany operation = SendMany.__new__(SendMany)
        operation.state = NEW
        operation.core = self
        operation.objects = objects
        return operation

    def reserve(self, Py_ssize_t nbytes):
        """Room for a message that is written in place: ``async with channel.reserve(n) as slot``.

        ``slot.view`` is writable memory of ``nbytes`` bytes: in the ring, where there is one and
        the message is no longer than a quarter of it; in memory that the peer has mapped as well,
        where it is longer than that or, over Unix sockets, than 64 KiB. Write the message as the codec would
        encode it; ``slot.commit(m)`` says that it has only ``m`` bytes. It leaves at the end of
        the block, unless that is left by an exception. What is sent meanwhile leaves after it, so
        inside the block do not wait for that, or for `flush`.

        Args:
            nbytes: The most bytes that the message will have.

        Raises:
            FrameTooLarge: It is over the limit.
            Others: As `send`.

        Cancellation:
            All or nothing, as `send`. A view that is kept beyond the block, or used after the
            channel was closed, stays valid memory, but is not the caller's to write to any more.
        """
        if nbytes < 0:
            raise ValueError(f"nbytes must be at least 0, not {nbytes}")
        cdef Slot operation = self.spare_slot
        if is_spare(operation):
            self.spare_slot = None
        else:
            operation = Slot.__new__(Slot)
        operation.state = NEW
        operation.phase = RESERVING
        operation.core = operation.channel = self
        operation.size = nbytes
        return operation

    def borrow(self):
        """The next message, read where it lies: ``async with channel.borrow() as view``.

        ``view`` is read-only memory with the bytes of the message, not decoded; between
        processes of one user they are not copied if they came over shared memory, or were
        reserved and too long for a socket. At the end of the block the message is given back. It
        stays while another view of it is left (a ResourceWarning says so), and holds up the
        sender as soon as the ring is full, or all memory lent. Of a ring at most 64 are out at a
        time; the next borrow then waits.

        Raises:
            As `receive`.

        Cancellation:
            Safe, as `receive`.
        """
        cdef Borrow operation = Borrow.__new__(Borrow)
        operation.state = NEW
        operation.core = self
        return operation

    def flush(self):
        """Wait until everything accepted so far is in the kernel or the ring.

        Raises:
            PeerCrashed: Nobody receives any more.
            ClosedError: This side closed the channel.

        Cancellation:
            Abandons the wait; what was accepted still leaves.
        """
        cdef Flush operation = Flush.__new__(Flush)
        operation.state = NEW
        operation.core = self
        return operation

# Operations


cdef class Receive(ReceiveOperation):
    """``await channel.receive()``"""

    cdef object c_take(self):
        return (<ChannelCore>self.core).c_take()

    cdef int c_give_back(self, ChannelCore core) except -1:
        core.spare_receive = self
        return 0


cdef class ReceiveNext(Receive):
    """``async for``"""

    cdef int c_give_back(self, ChannelCore core) except -1:
        core.spare_next = self
        return 0

    cdef int c_attempt(self, PyObject** result) except -1:
        try:
            return Receive.c_attempt(self, result)
        except EndOfStream:
            raise StopAsyncIteration from None


cdef class ReceiveMany(Receive):
    """``await channel.receive_many()``"""

    cdef object c_take(self):
        cdef list objects
        obj = (<ChannelCore>self.core).c_take()
        if obj is NOTHING:
            return NOTHING
        objects = [obj]
        self.c_take_more(objects)
        return objects

    cdef int c_take_more(self, list objects) except -1:
        """Take what else is there; an error waits for the next call."""
        cdef ChannelCore core = <ChannelCore>self.core
        cdef Py_ssize_t count = 1
        cdef Py_ssize_t taken = 0
        try:
            while count < self.limit:
                if core.port.own_fds or core.pacer.c_tired(taken == BATCH or count % BATCH == 0):
                    break
                if core.decode is None:
                    taken = core.port.c_receive_more(objects, min(self.limit - count, BATCH))
                    if taken:
                        count += taken
                        continue
                obj = core.c_take()
                if obj is NOTHING:
                    break
                objects.append(obj)
                count += 1
        except Exception as error:
            core.deferred = error
        core.pacer.ops += count
        return 0


cdef class Borrow(Receive):
    """``async with channel.borrow()``"""

    def __aenter__(self):
        return self

    cdef object c_take(self):
        message = (<ChannelCore>self.core).c_take_borrowed()
        if message is NOTHING:
            return NOTHING
        self.message = message
        self.memory = memoryview(message)
        return self.memory

    def __aexit__(self, kind, error, trace):
        message, self.message = self.message, None
        memory, self.memory = self.memory, None
        if memory is not None:
            try:
                memory.release()
            except BufferError:
                pass  # another object looks at it
            if not PyBytes_CheckExact(message) and not (<Borrowed>message).c_end():
                PyErr_WarnEx(
                    ResourceWarning, "a view of a borrowed message is kept beyond its block", 1
                )
        return FINISHED


cdef class Finished(Operation):
    """Awaiting it takes no time: what leaving a block has to wait for, usually."""

    cdef int c_step(self, PyObject** result) except -1:
        Py_INCREF(None)
        result[0] = <PyObject*>None
        return RETURN


cdef Finished FINISHED = Finished.__new__(Finished)


cdef class SendMessage(SendOperation):
    """One that leaves one message, in the end."""

    cdef int c_push_message(self) except -1:
        """Hand over `parts` and `fds`: once they are accepted, the rest of them may follow."""
        cdef MessagePort port = self.core.port
        if not self.begun:
            if port.c_send(self.parts, self.fds) == NO_ROOM:
                return 0
            self.begun = True
        elif port.rest is None:
            port.c_flush()  # raises when the rest is gone because the peer is
        return port.rest is None


cdef class Send(SendMessage):
    """``await channel.send(obj)``"""

    @property
    def is_accepted(self):
        """Whether the message leaves, even if the caller was cancelled meanwhile."""
        return self.begun

    cdef int c_claim(self) except -1:
        cdef ChannelCore core = <ChannelCore>self.core
        if not self.encoded:
            if core.shares:
                self.c_encode_sharing()
            else:
                self.parts = core.c_encode(self.parts)
            self.encoded = True
        return 0

    cdef int c_turned(self) except -1:
        # One of many: it need not leave before those that come in this turn.
        return self.core.port.c_begin_batch() if self.was_busy else 0

    cdef int c_encode_sharing(self) except -1:
        cdef ChannelCore core = <ChannelCore>self.core
        cdef list shared = []
        obj = self.parts
        if not core.port.c_takes_fds():
            self.parts = core.c_encode(obj)
            return 0
        self.parts = core.c_encode_sharing(obj, shared)
        if shared:
            self.objects = [obj, self.fds]  # in case that the peer's HELLO takes none
            self.fds = (*shared, *self.fds)
        return 0

    cdef int c_push(self) except -1:
        if self.objects is None:
            return self.c_push_message()
        try:
            return self.c_push_message()
        except AddressError:
            if self.core.port.c_takes_fds():
                raise
        (obj, self.fds), self.objects = self.objects, None
        self.parts = (<ChannelCore>self.core).c_encode(obj)
        return self.c_push_message()

    def __dealloc__(self):
        if self.state == NEW and self.core is not None:
            PyErr_WarnEx(RuntimeWarning, "channel.send() was never awaited: nothing was sent", 1)


cdef class SendMany(SendOperation):
    """``await channel.send_many(objs)``"""

    cdef int c_push(self) except -1:
        cdef ChannelCore core = <ChannelCore>self.core
        cdef MessagePort port = core.port
        cdef Py_ssize_t count = len(self.objects)
        cdef Py_ssize_t sent = 0
        port.c_begin_batch()
        while self.index < count:
            if core.pacer.c_tired(sent == BATCH or self.index % BATCH == BATCH - 1):
                port.has_stopped = True
                return 0
            sent = 0
            if core.encode is None and not self.begun:
                sent = port.c_send_more(self.objects, self.index, min(count, self.index + BATCH))
                if sent:
                    self.index += sent
                    continue
            if self.begun:
                if port.rest is not None:
                    return 0
                self.begun = False
                self.index += 1
                continue
            if core.shares:
                if core.c_send_sharing(self.objects[self.index], NO_FDS) == NO_ROOM:
                    return 0
            elif port.c_send(core.c_encode(self.objects[self.index]), NO_FDS) == NO_ROOM:
                return 0
            if port.rest is not None:
                self.begun = True
                return 0
            self.index += 1
        core.pacer.ops += count
        port.c_flush()
        return 1

    def __dealloc__(self):
        if self.state == NEW and self.core is not None:
            PyErr_WarnEx(
                RuntimeWarning, "channel.send_many() was never awaited: nothing was sent", 1
            )


cdef enum Phase:
    RESERVING = 0
    RESERVED = 1
    LEAVING = 2


cdef class Slot(SendMessage):
    """``async with channel.reserve(n)``

    Where the port has no room of its own the message is written elsewhere, if possible into
    memory that the peer looks at, and this operation stays at the head of the line meanwhile.
    """

    @property
    def view(self):
        """Where to write the message, inside the block."""
        if self.memory is None:
            raise RuntimeError("a slot has a view inside its block only")
        return self.memory

    def commit(self, Py_ssize_t nbytes):
        """Say how long the message is: all of the view unless this is called.

        Raises:
            ValueError: It is longer than what was reserved.
            RuntimeError: The block has been left.
        """
        if self.phase != RESERVED:
            raise RuntimeError("a slot is committed inside its block")
        if not 0 <= nbytes <= len(self.memory):
            raise ValueError(
                f"{nbytes:,} bytes cannot be committed: {len(self.memory):,} were reserved"
            )
        self.size = nbytes

    def __aenter__(self):
        return self

    cdef int c_claim(self) except -1:
        return self.core.port.c_check_size(self.size)

    cdef int c_attempt(self, PyObject** result) except -1:
        cdef ChannelCore core = <ChannelCore>self.core
        cdef int status
        if self.phase == LEAVING:
            return SendOperation.c_attempt(self, result)
        if not self.queued and core.queued:
            self.c_join()
        while True:
            if self.queued and core.senders[0] is not self:
                return self.c_sleep(result)
            if self.c_push():
                break
            if not self.queued:
                self.c_join()
            status = self.c_wait(True, result)
            if status != RETRY:
                return status
        self.phase = RESERVED
        if self.in_port:
            if self.queued:
                self.c_leave()
        elif not self.queued:
            self.c_join()
        return self.c_return(self, result)

    cdef int c_push(self) except -1:
        if self.phase == LEAVING:
            return self.c_push_loan() if self.loan is not None else self.c_push_message()
        lease = self.core.port.c_reserve(self.size)
        if lease is None:
            return 0
        self.in_port = lease is not False
        if self.in_port:
            self.lease = lease
            self.memory = memoryview(lease)
            return 1
        loan = self.core.port.c_lend(self.size)
        if loan is None:
            return 0
        self.loan = loan or None
        self.memory = memoryview(loan.buffer if loan else bytearray(self.size))[:self.size]
        return 1

    cdef int c_push_loan(self) except -1:
        if self.core.port.c_send_lent(self.loan, self.size) == NO_ROOM:
            return 0
        self.loan = None
        return 1

    cdef int c_abandon(self) except -1:
        if self.phase == LEAVING and self.loan is not None:
            self.loan.give_back()
            self.loan = None
        return SendOperation.c_abandon(self)

    def __aexit__(self, kind, error, trace):
        cdef ChannelCore channel = self.channel
        if self.phase != RESERVED:
            return FINISHED
        memory, self.memory = self.memory, None
        lease, self.lease = self.lease, None
        self.phase = LEAVING
        if kind is not None:
            if self.in_port:
                channel.port.c_cancel(lease)
            else:
                self.core = channel
                self.c_abandon()
                self.core = None
            return FINISHED
        if self.in_port:
            self.channel = None
            channel.spare_slot, channel.next_spare_slot = channel.next_spare_slot, self
            channel.c_enter()
            channel.port.c_commit(lease, self.size)
            return FINISHED
        self.parts = memory[:self.size]
        self.fds = NO_FDS
        self.core = channel
        self.state = NEW
        return self


# am_send. The usual case, a message that is there or fits, takes a straight way that claims
# nothing and so has nothing to undo; everything else goes through c_step.

cdef int step_receive(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef Receive self = <Receive>operation
    cdef ChannelCore core = <ChannelCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and is_usable(core)
        and core.receiver is None
        and core.deferred is None
        and not must_yield(core.pacer)
    ):
        message = core.port.c_receive()
        if message is not None:
            if core.decode is not None:
                message = core.c_decode(message)
            self.state = DONE
            self.core = None
            self.c_give_back(core)
            Py_INCREF(message)
            result[0] = <PyObject*>message
            return RETURN
        return self.c_wait_first(result)
    return self.c_step(result)


cdef int step_next(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef int status = (<raw_step>step_receive)(operation, value, result)
    if status == -1 and PyErr_ExceptionMatches(EndOfStream):
        PyErr_Clear()
        raise StopAsyncIteration
    return status


cdef int step_send(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef Send self = <Send>operation
    cdef ChannelCore core = <ChannelCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and is_usable(core)
        and core.queued == 0
        and (core.encode is not None or PyBytes_CheckExact(self.parts))
        and not core.shares
        and not must_yield(core.pacer)
    ):
        self.state = DONE  # also where this raises
        if core.encode is not None:
            self.parts = core.c_encode(self.parts)
            self.encoded = True
            if core.pacer.c_tired(False):  # that took long
                self.state = NEW
                return self.c_step(result)
        if core.port.c_send(self.parts, self.fds) == ACCEPTED:
            self.begun = True
            if core.port.rest is None:
                self.core = None
                self.parts = None
                if self.fds is not NO_FDS:
                    self.fds = NO_FDS
                core.spare_send = self
                Py_INCREF(None)
                result[0] = <PyObject*>None
                return RETURN
        self.state = NEW
    return self.c_step(result)


cdef int step_borrow(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef Borrow self = <Borrow>operation
    cdef ChannelCore core = <ChannelCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and is_usable(core)
        and core.receiver is None
        and core.deferred is None
        and not must_yield(core.pacer)
    ):
        message = core.port.c_borrow()
        if message is not None:
            self.message = message
            self.memory = memoryview(message)
            return self.c_return(self.memory, result)
        return self.c_wait_first(result)
    return self.c_step(result)


cdef int step_slot(PyObject* operation, PyObject* value, PyObject** result) except -1:
    cdef Slot self = <Slot>operation
    cdef ChannelCore core = <ChannelCore>self.core
    result[0] = NULL
    if (
        self.state == NEW
        and self.phase == RESERVING
        and is_usable(core)
        and core.queued == 0
        and not must_yield(core.pacer)
    ):
        self.state = DONE  # also where this raises
        core.port.c_check_size(self.size)
        lease = core.port.c_reserve(self.size)
        if lease is not None and lease is not False:
            self.lease = lease
            self.memory = memoryview(lease)
            self.in_port = True
            self.phase = RESERVED
            return self.c_return(self, result)
        self.state = NEW
    return self.c_step(result)


cdef PyAsyncMethods tables[8]

set_step(<PyTypeObject*>Receive, &tables[0], <void*>step_receive)
set_step(<PyTypeObject*>ReceiveNext, &tables[1], <void*>step_next)
set_step(<PyTypeObject*>ReceiveMany, &tables[2], <void*>step)
set_step(<PyTypeObject*>Send, &tables[3], <void*>step_send)
set_step(<PyTypeObject*>SendMany, &tables[4], <void*>step)
set_step(<PyTypeObject*>Slot, &tables[5], <void*>step_slot)
set_step(<PyTypeObject*>Borrow, &tables[6], <void*>step_borrow)
set_step(<PyTypeObject*>Finished, &tables[7], <void*>step)
