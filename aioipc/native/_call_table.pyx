# cython: language_level=3
"""The open calls of both sides of a connection, and their numbers: what every call needs.

It is as pure as the rules of `aioipc.wire.rpc`, which know all that may be said about them.
"""

from libc.errno cimport EDQUOT

from aioipc.errors import ProtocolError, QuotaExceeded

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1


cdef class Outgoing:
    """A call that this side made; the floor above adds what it needs.

    Attributes:
        id: The number, once it was opened.
        is_streaming: Whether items may come back.
        is_uploading: Whether this side still sends items.
        is_cancelled: Whether this side no longer waits.
        credit: How many more items the callee may send.
        room: How many more items this side may send.
    """


cdef class Incoming:
    """A call that the peer made; the floor above adds what it needs.

    Attributes:
        message: The call, as it came.
        is_streaming: Whether this side sends items back.
        is_uploading: Whether the caller still sends items.
        is_cancelled: Whether the caller no longer waits.
        credit: How many more items the caller may send.
        room: How many more items this side may send.
    """

    def __init__(self, message):
        self.message = message


cdef class CallTable:
    """Which calls are open, and their numbers.

    Args:
        connected: Whether this side made the connection, and so has the odd numbers.
        max_calls: How many calls the peer may have open at once.
        window: How many items of a stream each side may send before more is granted.

    Attributes:
        calls: The calls that this side made and that have no last message yet.
        served: The calls that the peer made and that this side has not finished.
        last_id: The number of this side's last call.
        peer_last_id: The number of the peer's.
    """

    def __init__(self, *, bint connected, Py_ssize_t max_calls, int window):
        self.last_id = -1 if connected else 0
        self.peer_last_id = 0 if connected else -1
        self.max_calls = max_calls
        self.window = window
        self.calls = {}
        self.served = {}

    @classmethod
    def __class_getitem__(cls, item):
        """Generic for type checkers only."""
        return cls

    # This side's calls

    def open(self, Outgoing call not None):
        """Give a call its number and its credit. Send the `Call` next, or `withdraw` it."""
        return self.c_open(call)

    cdef object c_open(self, Outgoing call):
        self.last_id += 2
        call.id = self.last_id
        call.credit = call.room = self.window
        self.calls[call.id] = call
        return call.id

    def withdraw(self, Outgoing call not None):
        """The `Call` was not sent after all. Idempotent."""
        self.calls.pop(call.id, None)

    def conclude(self, message):
        """Take in the last message of a call.

        Returns:
            The call; None if it was given up.

        Raises:
            ProtocolError: It is not open. The connection is of no more use.
        """
        return self.c_conclude(message.id)

    cdef Outgoing c_conclude(self, object number):
        cdef Outgoing call = self.calls.pop(number, None)
        if call is None:
            raise ProtocolError(f"the peer answered call {number}, which is not open")
        return None if call.is_cancelled else call

    # The streams of either side's

    def pass_item(self, message):
        """Take in an item of a stream, for which there is credit.

        Returns:
            The call; None, and nothing done, where there is more to say about it.
        """
        return self.c_pass_item(message.id)

    cdef object c_pass_item(self, object number):
        cdef Outgoing own = self.calls.get(number)
        cdef Incoming served
        if own is not None:
            if not own.is_streaming or own.is_cancelled or own.credit <= 0:
                return None
            own.credit -= 1
            return own
        served = self.served.get(number)
        if served is None or not served.is_uploading or served.is_cancelled or served.credit <= 0:
            return None
        served.credit -= 1
        return served

    # The peer's calls

    def admit(self, Incoming call not None):
        """Take in a call that the peer made, and return it.

        Raises:
            ProtocolError: Its number makes no sense. The connection is of no more use.
            QuotaExceeded: The peer has too many calls open. Refuse this one.
        """
        cdef object name = call.message.id
        cdef int overflow = 0
        cdef long long number = PyLong_AsLongLongAndOverflow(name, &overflow)
        if overflow or number <= self.peer_last_id or (number - self.peer_last_id) & 1:
            raise ProtocolError(
                f"call {name} of {call.message.method[:64]!r} is out of order: "
                f"the last one was {max(self.peer_last_id, 0)}"
            )
        self.peer_last_id = number
        if len(self.served) >= self.max_calls:
            raise QuotaExceeded(
                EDQUOT, f"{self.max_calls} calls of this peer are open, its limit"
            )
        call.credit = call.room = self.window
        self.served[name] = call
        return call

    cdef bint c_pass(self, long long number) noexcept:
        """Take in the number of a call; False, and nothing done, where `admit` may object.

        The call is not open before its caller says so: one that is over at once never is.
        """
        if (
            number <= self.peer_last_id
            or (number - self.peer_last_id) & 1
            or len(self.served) >= self.max_calls
        ):
            return False
        self.peer_last_id = number
        return True

    def finish(self, Incoming call not None):
        """This side sends the last message of a call. Idempotent."""
        self.served.pop(call.message.id, None)
