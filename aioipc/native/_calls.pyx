# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""The straight way of a remote call: what is the same for each, and waits for its outcome only.

`CallCore` is the native part of ``rpc._connection.Connection``, as `ChannelCore` is that of a
channel. It makes a call, reads, runs a method and answers where nothing is in the way; whatever
else there is to it (deadlines, streams, failures, the end) is a coroutine of the floor above.
"""

from cpython.long cimport PyLong_AsUnsignedLongLongMask
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t

from aioipc.native._call_table cimport CallTable, Incoming, Outgoing
from aioipc.native._core cimport ChannelCore, Receive, Send
from aioipc.native._detour cimport Detour, PYGEN_ERROR, PYGEN_NEXT, PYGEN_RETURN, PySendResult, PyIter_Send
from aioipc.native._operation cimport DONE, NEW, NEXT, RETURN, RUNNING, SLEEPING, Operation, Waiter
from aioipc.native._pacer cimport ACCEPTED, NO_FDS
from aioipc.native._plain cimport (
    PlainCall,
    PlainMessages,
    PlainReturn,
    write_call,
    write_return,
)

import sys
from types import CoroutineType, GeneratorType

from aioipc.errors import IPCError

cdef extern from "Python.h":
    ctypedef struct PyAsyncMethods:
        void* am_await
    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
    PyTypeObject* Py_TYPE(object)
    object PyContext_Copy(object)
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1
    object PyContextVar_Set(object, object)
    int PyContextVar_Get(object, PyObject* default, PyObject** value) except -1
    object PyObject_CallObject(object, object)
    object PyObject_CallOneArg(object, object)
    bint PyCFunction_CheckExact(object)

cdef extern from *:
    """
    static PyObject *aioipc_made(PyObject *type, PyObject *no_args) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, no_args, NULL);
    }
    """
    object made "aioipc_made"(object type, object no_args)


cdef PySendResult go_on(object coroutine, object context, PyObject** value) except PYGEN_ERROR:
    """Run a coroutine in its context up to where it suspends or ends: with what."""
    PyContext_Enter(context)
    try:
        return PyIter_Send(coroutine, None, value)
    finally:
        PyContext_Exit(context)


cdef object first_of(object coroutine, object context):
    """The steps that a coroutine has left after its first one; None if there are none."""
    cdef PyObject* value = NULL
    cdef PySendResult status = go_on(coroutine, context, &value)
    result = <object>value
    Py_DECREF(result)
    return steps_of(coroutine, context, result) if status == PYGEN_NEXT else None


def first_step(coroutine, context, variable, value):
    """Run a coroutine in a context of its own up to its first suspension; None if it has none.

    One that never suspends costs no task, and what it does to context variables ends with it. One
    that does goes on in the task that is running, which then has to await the remaining steps, so
    that ``asyncio.current_task``, timeouts and cancel scopes mean what they say: whoever was to do
    something else in that task has to go on in another.

    Args:
        coroutine: What to run.
        context: What its context is a copy of.
        variable: A context variable.
        value: Its value inside.

    Returns:
        `Steps` or None.
    """
    own = PyContext_Copy(context)
    PyContext_Enter(own)
    try:
        PyContextVar_Set(variable, value)
    finally:
        PyContext_Exit(own)
    return first_of(coroutine, own)


cdef class Steps:
    """Awaits a coroutine that has suspended already, in its own context."""

    cdef object coroutine
    cdef object context
    cdef object waits_for        # what it yielded before anybody awaited this
    cdef bint is_awaited

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* value = NULL
        if not self.is_awaited:
            self.is_awaited = True
            waits_for, self.waits_for = self.waits_for, None
            return waits_for
        cdef PySendResult status = go_on(self.coroutine, self.context, &value)
        result = <object>value
        Py_DECREF(result)
        if status == PYGEN_NEXT:
            return result
        raise StopIteration(result)

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, trace=None):
        error = kind if value is None else value
        self.is_awaited = True
        return self.context.run(self.coroutine.throw, error)

    def close(self):
        self.context.run(self.coroutine.close)


cdef Steps steps_of(object coroutine, object context, object waits_for):
    cdef Steps steps = Steps.__new__(Steps)
    steps.coroutine = coroutine
    steps.context = context
    steps.waits_for = waits_for
    return steps


cdef class News(Waiter):
    """A future that says no more than "look again", and that one task awaits, once."""

    cdef bint is_awaited

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_done or self.is_awaited:
            self.result()  # raises if it was cancelled
            raise StopIteration
        self.is_awaited = True
        return self

    def send(self, value):
        return self.__next__()

    cdef int c_step(self, object done) except -1:
        """Run the task, or what else was to be called back, in its context.

        A task wants to know the result of what it waited for, and is quicker to ask a Future of
        its own kind: ``done``.
        """
        callback, self.callback = self.callback, None
        context, self.context = self.context, None
        PyContext_Enter(context)
        try:
            PyObject_CallOneArg(callback, done if PyCFunction_CheckExact(callback) else self)
        finally:
            PyContext_Exit(context)
        return 0

    def wake(self):
        """Let who awaits it look again. False if it was woken, or cancelled, before."""
        if self.is_done:
            return False
        self.c_wake(False)
        return True


cdef class StraightMethod:
    """What the straight way has to know of a method that is called.

    Attributes:
        name: What it is called by.
        is_plain: Whether a call has arguments by position, a result, and nothing else.
    """

    cdef public str name
    cdef public bint is_plain
    cdef object decode
    cdef bytes packed_name

    def make_result_decoder(self):
        """Make what decodes a result, and says no more than that it does not fit."""
        raise NotImplementedError

    @property
    def result_decoder(self):
        """Decodes a result, and says no more than that it does not fit."""
        return self.c_result_decoder()

    cdef object c_result_decoder(self):
        if self.decode is None:
            self.decode = self.make_result_decoder()
        return self.decode


cdef class CallRecord(Outgoing):
    """A call of this side, and what is known about its outcome."""

    cdef public object caller
    cdef public object method
    cdef public object last
    cdef public object error
    cdef public News waiter
    cdef public object span
    cdef public object items

    cdef bint c_is_done(self) noexcept:
        return self.last is not None or self.error is not None

    cdef bint c_has_news(self) except -1:
        """Whether there is something that whoever waits for this call wants."""
        return self.c_is_done() or (self.items is not None and self.items.arrived)

    @property
    def is_done(self):
        """Whether the outcome is known."""
        return self.c_is_done()


cdef class ServedRecord(Incoming):
    """A call of the peer's."""

    cdef public object connection
    cdef public object upload


cdef class Handler:
    """What runs a method that can be answered on the straight way."""

    cdef object method
    cdef object function
    cdef object decode


cdef class CallCore:
    """Calls both ways over one channel, as far as they go straight.

    Args:
        channel: Where the calls go.
        session: Says what they mean.
        context: What the context of each method is a copy of.
        loop: The running loop.
        records: The types of a call of this side, and of one of the peer's.
        messages: The types of the messages that a call, its result, its failure, and an item are.
        current: The context variable that holds the call that a method runs for.
        metadata: The context variable that holds what travels beside the arguments.
        timeout: The context variable that is not None where a call has a deadline.
        tracing: The name of a module: once it is loaded, there may be more to any call.
        scopes: The same for what gives calls of this side a deadline.
    """

    cdef readonly ChannelCore channel
    cdef readonly CallTable session
    cdef readonly object context
    cdef readonly object loop
    cdef public object caller
    cdef public object callee
    cdef public object ending
    cdef public object on_freed
    cdef public bint is_read
    cdef public bint serves
    cdef readonly Py_ssize_t waiting
    cdef public bint is_closing, peer_is_closing
    cdef public object on_finished
    cdef public bint answers_first  # all that it can, before it begins the next call
    cdef list woken              # News that their tasks have not heard yet
    cdef object done             # a Future whose result is None
    cdef dict handlers, calls, served, modules
    cdef Py_ssize_t max_calls    # open ones of this side
    cdef object current, metadata, timeout
    cdef object own_record, served_record
    cdef object new_call, new_return, new_raise, new_item
    cdef object tracing, scopes

    def __init__(
        self,
        ChannelCore channel,
        CallTable session,
        context,
        loop,
        *,
        records,
        messages,
        current,
        metadata,
        timeout,
        tracing,
        scopes,
    ):
        self.channel = channel
        self.session = session
        self.context = context
        self.loop = loop
        self.calls = session.calls
        self.served = session.served
        self.max_calls = channel.limits.max_calls
        self.own_record, self.served_record = records
        self.new_call, self.new_return, self.new_raise, self.new_item = messages
        self.current = current
        self.metadata = metadata
        self.timeout = timeout
        self.tracing = tracing
        self.scopes = scopes
        self.modules = sys.modules
        self.handlers = {}
        self.woken = []
        self.done = loop.create_future()
        self.done.set_result(None)
        channel.shortcut = PlainMessages()

    def answer_straight(self, str name, method, function):
        """Answer a method of the peer's on the straight way."""
        cdef Handler handler = Handler.__new__(Handler)
        handler.method = method
        handler.function = function
        handler.decode = method.args_decoder
        self.handlers[name] = handler

    # What the floor above fills in.

    def read_on(self):
        """Let a new task read."""
        raise NotImplementedError

    def meet(self, message):
        """Take in any message; what is left to do of it, as `answer` says."""
        raise NotImplementedError

    def take_other(self, message):
        """Take in what is not the end of a call where nobody can wait."""
        raise NotImplementedError

    def end(self, error):
        """Nothing more can be received."""
        raise NotImplementedError

    # Waiting for what another task reads

    def follow(self):
        """One more waits for news that `wake` tells because of what another task reads."""
        self.waiting += 1
        if not self.is_read:
            self.read_on()

    def forget(self, News news):
        """Nobody waits for such news any more, whether or not they came."""
        if news.cancel() or news.cancelled_future is not None:
            self.waiting -= 1

    def wake(self, News news):
        """Let who waits for such news look again; whether somebody does."""
        if news is None or news.is_done:
            return False
        self.c_tell(news)
        return True

    cdef int c_tell(self, News news) except -1:
        """Let who waits look again once the loop turns, together with all others of that turn."""
        news.is_done = True
        self.waiting -= 1
        if news.callback is not None:
            if not self.woken:
                self.loop.call_soon(self._step_woken)
            self.woken.append(news)
        return 0

    def _step_woken(self):
        """Let those look again that were told: one callback of the loop for all their tasks."""
        cdef News news
        cdef Py_ssize_t told = 0
        woken, self.woken = self.woken, []
        try:
            for news in woken:
                told += 1
                try:
                    news.c_step(self.done)
                except Exception as error:
                    self.loop.call_exception_handler({
                        "message": "Exception in a callback about news of a call",
                        "exception": error,
                        "future": news,
                    })
        finally:
            if told < len(woken):
                if not self.woken:
                    self.loop.call_soon(self._step_woken)
                self.woken[:0] = woken[told:]

    # Calling

    def ask(self, method, args):
        """Call a method of the peer's and wait for its result.

        Args:
            method: What the far side declares.
            args: All arguments, in the order of the declaration.

        Raises:
            RPCError: The call failed; its kinds say how.
            DeadlineExceeded: The deadline passed on the far side.
            PeerCrashed: The far side is gone. The method may have run.
            ClosedError: This side closed the connection.

        Cancellation:
            Cancels the method on the far side.
        """
        cdef Ask operation = Ask.__new__(Ask)
        operation.state = NEW
        operation.core = self.channel
        operation.hub = self
        operation.method = method
        operation.args = args
        return operation

    def lead(self, CallRecord call):
        """Read for everybody until there is news for a call. Only where nobody else does."""
        cdef Lead operation = Lead.__new__(Lead)
        operation.state = NEW
        operation.core = self.channel
        operation.hub = self
        operation.call = call
        return operation

    def serve(self):
        """Read for everybody as long as the peer may call, or somebody waits.

        Returns:
            What is left to do of a call, to be awaited in this task while another one reads; None
            if nobody needs a reader any more, or the connection has ended.

        Raises:
            IPCError: Nothing more can be received.
        """
        cdef Serve operation = Serve.__new__(Serve)
        operation.state = NEW
        operation.core = self.channel
        operation.hub = self
        return operation

    def recall(self, first):
        """Take back the calls from a number on that the peer has not begun.

        Only where nothing is left of those that were recalled before. It refuses them once it
        looks, if it ever does.

        Returns:
            The number of the last call that may have begun; 0 if none has, or if the peer does
            not say so.
        """
        return self.channel.port.recall(first, self.session.last_id + 1)

    def take(self, message):
        """Take in a message where nobody can wait."""
        self.c_take(message)

    cdef int c_take(self, object message) except -1:
        cdef CallRecord call
        kind = type(message)
        if kind is PlainReturn:
            number = (<PlainReturn>message).number
        elif kind is self.new_return or kind is self.new_raise:
            number = message.id
        else:
            if kind is not self.new_item or not self.c_take_item(message):
                self.take_other(message)
            return 0
        call = <CallRecord>self.session.c_conclude(number)
        if call is not None:  # else it was given up
            call.last = message
            if call.span is not None or call.is_uploading:
                self.caller.concluded(call)
            self.c_tell_of(call)
        if self.on_freed is not None:
            self.on_freed()
        return 0

    cdef bint c_take_item(self, object item) except -1:
        """Take in an item of a stream; False, and nothing done, if there is more to say about it."""
        call = self.session.c_pass_item(item.id)
        if call is None:
            return False
        if isinstance(call, CallRecord):
            (<CallRecord>call).items.arrived.append(item.value)
            self.c_tell_of(<CallRecord>call)
        else:
            (<ServedRecord>call).upload.arrive(item.value)
        return True

    cdef int c_tell_of(self, CallRecord call) except -1:
        """There is news for a call."""
        if call.waiter is not None and not call.waiter.is_done:
            self.c_tell(call.waiter)
        return 0

    cdef object c_pack_call(self, object number, StraightMethod method, object args):
        """A call without deadline, as the codec writes it, if nothing is wrong with the arguments."""
        cdef ChannelCore channel = self.channel
        metadata = value_of(self.metadata)
        if metadata is None:
            try:
                if method.packed_name is None:
                    method.packed_name = PyObject_CallOneArg(channel.encode, method.name)
                packed = PyObject_CallOneArg(channel.encode, args)
            except Exception:
                pass  # the codec says what is wrong with them
            else:
                return channel.c_encoded(write_call(number, method.packed_name, packed))
        return channel.c_encode(self.new_call(number, method.name, args, None, metadata))

    # Answering

    def answer(self, message):
        """Run a method that the peer calls, as far as it goes without waiting.

        Returns:
            What it still has to do, to be awaited in this task: if that was the reader, another
            one has to read. None if there is nothing.
        """
        if type(message) is PlainCall:
            return self.c_answer(message)
        if not self.c_may_begin(PyLong_AsUnsignedLongLongMask(message.id)):  # any number
            return self.callee.recalled(message)
        return self.callee.answer(message)

    cdef object c_answer(self, PlainCall message):
        cdef Handler handler = self.handlers.get(message.method)
        cdef ServedRecord call
        cdef PyObject* sent = NULL
        cdef PySendResult status = PYGEN_RETURN
        callee = self.callee
        if not self.c_may_begin(<uint64_t>message.number):
            return callee.recalled(message)
        if (
            handler is None
            or self.is_closing
            or self.tracing in self.modules
            or not self.session.c_pass(message.number)
        ):
            return callee.answer(message)
        call = made(self.served_record, ())
        call.message = message
        call.connection = self
        call.credit = call.room = self.session.window
        try:
            args = PyObject_CallOneArg(handler.decode, message.args)
        except Exception:
            self.served[message.number] = call
            return callee.run(call)  # and say what is wrong with them
        context = PyContext_Copy(self.context)
        try:
            PyContext_Enter(context)
            try:
                PyContextVar_Set(self.current, call)
                result = PyObject_CallObject(handler.function, args)
                if type(result) is CoroutineType:
                    coroutine = result
                    status = PyIter_Send(coroutine, None, &sent)
                    result = <object>sent
                    Py_DECREF(result)
            finally:
                PyContext_Exit(context)
        except BaseException as error:
            self.served[message.number] = call
            callee.failed(call, handler.method, error)
            return None
        if status == PYGEN_NEXT:
            self.served[message.number] = call
            callee.waits(call)
            return callee.rest(call, handler.method, steps_of(coroutine, context, result))
        if may_be_awaited(result):
            self.served[message.number] = call
            steps = first_of(callee.rest(call, handler.method, result), context)
            if steps is not None:
                callee.waits(call)
            return steps
        if self.on_finished is not None:
            self.on_finished()
        return self.c_return(message.number, result, handler)

    cdef bint c_may_begin(self, uint64_t number) except -1:
        """Say which call begins; whether it was not taken back before."""
        if self.answers_first:
            try:
                self.channel.port.c_flush()
            except IPCError:
                pass  # the next answer raises it
        return self.channel.port.c_begin(number)

    cdef object c_return(self, long long number, object result, Handler handler):
        """Send the result of a method; what is left to do for it, if it cannot leave now."""
        cdef ChannelCore channel = self.channel
        try:
            channel.c_enter()
            channel.c_send_encoded(self.c_pack_return(number, result), NO_FDS)
        except IPCError as error:
            return self.callee.not_sent(self.new_return(number, result), error, handler.method)
        return None

    cdef object c_pack_return(self, long long number, object result):
        """A result as the codec writes it, if nothing is wrong with it."""
        cdef ChannelCore channel = self.channel
        try:
            packed = PyObject_CallOneArg(channel.encode, result)
        except Exception:
            return channel.c_encode(self.new_return(number, result))  # and say what is wrong
        return channel.c_encoded(write_return(number, packed))


cdef object value_of(object variable):
    """The value of a context variable, None by default."""
    cdef PyObject* found = NULL
    PyContextVar_Get(variable, NULL, &found)
    value = <object>found
    Py_DECREF(value)
    return value


cdef bint may_be_awaited(object result) noexcept:
    """Whether `Callee.rest` has to look closer at what a method gave."""
    cdef PyAsyncMethods* methods = Py_TYPE(result).tp_as_async
    return methods is not NULL and (methods.am_await is not NULL or type(result) is GeneratorType)


cdef class Reading(Operation):
    """Reads for everybody, and takes in what comes, until there is a reason to stop."""

    cdef CallCore hub
    cdef Receive receiving

    cdef bint c_take_in(self, object message) except -1:
        """Take in a message; whether that is the last one."""
        raise NotImplementedError

    cdef int c_read(self, PyObject** result) except -1:
        """Read up to the last message, or, answering NEXT, up to where the task has to wait."""
        cdef PyObject* value = NULL
        self.c_check_idle()
        if self.state != NEW and self.state != SLEEPING:
            raise RuntimeError("an operation can be awaited only once")
        self.state = RUNNING
        while True:
            if self.receiving is None:
                self.receiving = self.hub.channel.c_receiving()
            if PyIter_Send(self.receiving, None, &value) == PYGEN_NEXT:
                self.state = SLEEPING
                result[0] = value
                return NEXT
            self.receiving = None
            message = <object>value
            Py_DECREF(message)
            if self.c_take_in(message):
                return RETURN

    cdef int c_finish(self) except -1:
        self.state = DONE
        receiving, self.receiving = self.receiving, None
        if receiving is not None:
            receiving.close()
        return 0


cdef class Serve(Reading):
    """``await hub.serve()``"""

    cdef object rest

    cdef int c_step(self, PyObject** result) except -1:
        try:
            if self.c_read(result) == NEXT:
                return NEXT
        finally:
            if self.state != SLEEPING:
                self.c_finish()
        return self.c_return(self.rest, result)

    cdef bint c_take_in(self, object message) except -1:
        cdef CallCore hub = self.hub
        kind = type(message)
        if kind is PlainReturn:
            hub.c_take(message)
        elif kind is PlainCall:
            self.rest = hub.c_answer(message)
        elif kind is not hub.new_item or not hub.c_take_item(message):
            self.rest = hub.meet(message)
        if self.rest is not None or hub.ending is not None:
            return True
        return not (hub.serves or hub.waiting)


cdef class Lead(Reading):
    """Reads for everybody until there is news for one call."""

    cdef CallRecord call

    cdef int c_step(self, PyObject** result) except -1:
        cdef CallCore hub = self.hub
        if self.state == NEW:
            hub.is_read = True
        try:
            if self.c_read(result) == NEXT:
                return NEXT
        except Exception as error:  # each call raises it
            hub.end(error)
        finally:
            if self.state != SLEEPING:
                self.c_finish()
        return self.c_return(None, result)

    cdef bint c_take_in(self, object message) except -1:
        self.hub.c_take(message)
        return self.call.c_has_news()

    cdef int c_finish(self) except -1:
        """Leave the reading to others."""
        cdef CallCore hub = self.hub
        Reading.c_finish(self)
        hub.is_read = False
        if hub.waiting:
            hub.read_on()
        return 0


cdef class Ask(Detour):
    """``await hub.ask(method, args)``

    Attributes:
        call: The call once it was made, or may have been; None if it certainly was not.
    """

    cdef CallCore hub
    cdef readonly StraightMethod method
    cdef readonly object args
    cdef public CallRecord call
    cdef Lead leading

    cdef int c_step(self, PyObject** result) except -1:
        self.c_check_idle()
        try:
            if self.way is not None:
                return self.c_follow_detour(result)
            if self.state == NEW:
                self.state = RUNNING
                return self.c_begin(result)
            if self.state != SLEEPING:
                raise RuntimeError("an operation can be awaited only once")
            if self.leading is None and not self.call.waiter.is_done:
                raise RuntimeError("another task is already awaiting this operation")
            self.state = RUNNING
            return self.c_look(result)
        except BaseException:
            if self.state == RUNNING:
                self.state = DONE
                if self.call is not None and not self.call.c_is_done():
                    self.hub.caller.give_up(self.call)
            raise

    cdef int c_begin(self, PyObject** result) except -1:
        cdef CallCore hub = self.hub
        cdef ChannelCore channel = hub.channel
        cdef StraightMethod method = self.method
        cdef Send sending
        cdef bint sent
        caller = hub.caller
        if (
            hub.ending is not None
            or hub.peer_is_closing
            or len(hub.calls) >= hub.max_calls
            or not method.is_plain
            or value_of(hub.timeout) is not None
            or (
                (hub.tracing in hub.modules or hub.scopes in hub.modules) and caller.needs_care()
            )
        ):
            return self.c_take_detour(caller.call_with_care(self), result)
        self.call = made(hub.own_record, ())
        self.call.caller = caller
        self.call.method = method
        number = hub.session.c_open(self.call)
        try:
            channel.c_enter()
            parts = hub.c_pack_call(number, method, self.args)
            sent = channel.queued == 0 and channel.port.c_send(parts, NO_FDS) == ACCEPTED
        except BaseException as error:
            call, self.call = self.call, None
            caller.withdraw(call, error)
            raise
        if sent and channel.port.rest is None:
            return self.c_look(result)
        sending = Send.__new__(Send)
        sending.state = NEW
        sending.encoded = True
        sending.begun = sent
        sending.core = channel
        sending.parts = parts
        sending.fds = NO_FDS
        return self.c_take_detour(caller.call_late(self, sending), result)

    cdef int c_look(self, PyObject** result) except -1:
        """What a call has come to, or the wait for it."""
        cdef CallCore hub = self.hub
        cdef CallRecord call = self.call
        while True:
            if self.leading is not None:
                if self.leading.c_step(result) == NEXT:
                    self.state = SLEEPING
                    return NEXT
                self.leading = None
                Py_DECREF(<object>result[0])
                result[0] = NULL  # a Task looks here first, whatever the status says
            if call.c_is_done():
                break
            if hub.is_read:
                call.waiter = News.__new__(News, hub.loop)
                call.waiter.is_awaited = True
                hub.waiting += 1
                self.state = SLEEPING
                Py_INCREF(call.waiter)
                result[0] = <PyObject*>call.waiter
                return NEXT
            self.leading = hub.lead(call)
        if type(call.last) is PlainReturn:
            raw = (<PlainReturn>call.last).value
        elif type(call.last) is hub.new_return:
            raw = call.last.value
        else:
            return self.c_take_detour(hub.caller.outcome(call), result)
        try:
            value = PyObject_CallOneArg(self.method.c_result_decoder(), raw)
        except Exception:
            value = self.method.decode_result(raw)  # and say what is wrong with it
        return self.c_return(value, result)

    cdef int c_finish(self) except -1:
        """The caller leaves."""
        leading, self.leading = self.leading, None
        if self.state == SLEEPING:
            self.state = DONE
            if leading is not None:
                leading.close()
            self.hub.caller.give_up(self.call)
        self.state = DONE
        return 0
