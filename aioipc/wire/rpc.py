"""Remote calls, as a state machine: messages in, events out.

Either side may call the other. A side numbers its own calls, upwards and with gaps if it likes:
the one that connected with odd numbers, the one that was connected to with even ones, so a number
means one call. Every call gets exactly one last message, a `Return` or a `Raise`, also when it was
cancelled; nothing follows that one from the side that sent it.

A stream belongs to a call: its items go from the callee as its result, or from the caller as an
argument. Each starts with a credit of `WINDOW` items, and the receiver grants more as it goes, of
which `WIDEST_WINDOW` may be left at a time.

docs/rpc-wire.md describes the bytes; tests/wire/test_rpc.py walks every state and event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import msgspec

from aioipc.errors import ProtocolError

if TYPE_CHECKING:
    Packed = Any
else:
    Packed = msgspec.Raw  # what is sent is any object, what is received is not decoded yet

__all__ = [
    "ASK_INTERFACE",
    "DROP",
    "WIDEST_WINDOW",
    "WINDOW",
    "Answer",
    "Call",
    "Cancel",
    "Code",
    "Credit",
    "End",
    "Freed",
    "Incoming",
    "Item",
    "Message",
    "Outgoing",
    "Raise",
    "Return",
    "Rules",
]

WINDOW: Final = 32
"""Items of one stream that may be under way before the receiver grants more."""

WIDEST_WINDOW: Final = 256
"""Items of one stream that the receiver may let be under way."""

ASK_INTERFACE: Final = "rpc.interface"
"""The method that every server has; no interface can declare one with a dot."""


class Code:
    """Why a call failed: `Raise.code`."""

    NOT_FOUND: Final = "not_found"
    BAD_ARGUMENTS: Final = "bad_arguments"
    RAISED: Final = "raised"
    DECLARED: Final = "declared"
    CANCELLED: Final = "cancelled"
    DEADLINE: Final = "deadline"
    TOO_LARGE: Final = "too_large"
    BAD_RESULT: Final = "bad_result"
    QUOTA: Final = "quota"


class Call(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Call a method: there will be a `Return` or a `Raise` of the same number.

    Attributes:
        id: The number of the call.
        method: A name that the interface declares.
        args: An array of all arguments, in the order of the declaration; a stream is nil.
        remaining_ns: How long the caller will wait, if it said so.
        metadata: What travels beside the arguments, such as ``traceparent``.
    """

    id: int
    method: str
    args: Packed
    remaining_ns: int | None = None
    metadata: dict[str, str] | None = None


class Return(msgspec.Struct, array_like=True, tag=2, gc=False):
    """The call is done. For a stream of results: it is complete, and ``value`` is nil."""

    id: int
    value: Packed


class Raise(msgspec.Struct, array_like=True, tag=3, gc=False):
    """The call failed.

    Attributes:
        id: The number of the call.
        code: One of `Code`.
        kind: The name of the exception's type.
        message: Its text, of at most 1,024 characters.
        traceback: Where it was raised; to the same user only.
        args: The arguments of an exception that the interface declares, as an array.
    """

    id: int
    code: str
    kind: str = ""
    message: str = ""
    traceback: str | None = None
    args: Packed = msgspec.Raw(b"\x90")


class Item(msgspec.Struct, array_like=True, tag=4, gc=False):
    """One item of the stream that belongs to a call."""

    id: int
    value: Packed


class End(msgspec.Struct, array_like=True, tag=5, gc=False):
    """The caller's stream is complete."""

    id: int


class Credit(msgspec.Struct, array_like=True, tag=6, gc=False):
    """So many more items may be sent on the stream towards the sender of this."""

    id: int
    items: int


class Cancel(msgspec.Struct, array_like=True, tag=7, gc=False):
    """The caller no longer waits; the `Return` or `Raise` is still to come."""

    id: int


class Freed(msgspec.Struct, array_like=True, tag=8, gc=False):
    """Memory that came with values is in nobody's use here any more.

    Attributes:
        numbers: What the sender called it.
    """

    numbers: list[int]


class GoAway(msgspec.Struct, array_like=True, tag=9, gc=False):
    """The side that sends this takes no other call: RFC 9113, section 6.8.

    Attributes:
        last: The number of the last call that it took; 0 if none. Later ones did not run.
    """

    last: int


Answer = Return | Raise | Item | End | Credit | Cancel
"""What is said about a call that was made."""

Message = Call | Return | Raise | Item | End | Credit | Cancel | Freed | GoAway

DROP: Final = None
"""What `Rules.receive` answers when the message came too late to matter."""


class Outgoing(Protocol):
    """A call that this side made.

    Attributes:
        id: The number, once it was opened.
        is_streaming: Whether items may come back.
        is_uploading: Whether this side still sends items.
        is_cancelled: Whether this side no longer waits.
        credit: How many more items the callee may send.
        room: How many more items this side may send.
    """

    id: int
    is_streaming: bool
    is_uploading: bool
    is_cancelled: bool
    credit: int
    room: int


class Incoming(Protocol):
    """A call that the peer made.

    Attributes:
        is_streaming: Whether this side sends items back.
        is_uploading: Whether the caller still sends items.
        is_cancelled: Whether the caller no longer waits.
        credit: How many more items the caller may send.
        room: How many more items this side may send.
    """

    is_streaming: bool
    is_uploading: bool
    is_cancelled: bool
    credit: int
    room: int


Out = TypeVar("Out", bound=Outgoing)
In = TypeVar("In", bound=Incoming)


class Rules(Generic[Out, In]):
    """What may be said about an open call, and what it means.

    Which calls are open, and their numbers, is known to the table that this is mixed into.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def calls(self) -> dict[int, Out]: ...
        @property
        def served(self) -> dict[int, In]: ...
        @property
        def last_id(self) -> int: ...
        @property
        def peer_last_id(self) -> int: ...
        def conclude(self, message: Any, /) -> Out | None: ...
        def pass_item(self, message: Any, /) -> Out | In | None: ...

    def cancel(self, call: Out) -> Cancel | None:
        """Give a call up: what to send for it, if anything."""
        if call.is_cancelled or call.id not in self.calls:
            return None
        call.is_cancelled = True
        call.is_uploading = False
        return Cancel(call.id)

    def receive(self, message: Answer) -> Out | In | None:
        """Take in what the peer says about a call.

        Returns:
            The call; `DROP` if it came too late to matter.

        Raises:
            ProtocolError: It makes no sense. The connection is of no more use.
        """
        call: Out | In | None = _RULES[type(message)](self, message)
        return call

    def go_away(self, message: GoAway) -> list[Out]:
        """The peer takes no other call.

        Returns:
            Those that are open and that it did not take. What it says of them is no news.

        Raises:
            ProtocolError: It took what was never made. The connection is of no more use.
        """
        if not 0 <= message.last <= max(self.last_id, 0):
            raise ProtocolError(f"call {message.last}, the last one taken, was never made")
        missed = [
            call
            for number, call in self.calls.items()
            if number > message.last and not call.is_cancelled
        ]
        for call in missed:
            call.is_cancelled = True
            call.is_uploading = False
        return missed

    def _on_outcome(self, message: Return | Raise) -> Out | None:
        return self.conclude(message)

    def _on_item(self, message: Item) -> Out | In | None:
        passed = self.pass_item(message)
        if passed is not None:
            return passed
        call = self._one(message)
        if call is None or call.is_cancelled:
            return DROP
        expected = call.is_streaming if self._is_own(message.id) else call.is_uploading
        if not expected:
            raise ProtocolError(f"call {message.id} has no stream in this direction")
        raise ProtocolError(f"the stream of call {message.id} is beyond its credit")

    def _on_end(self, message: End) -> In | None:
        call = self._served(message)
        if call is None or call.is_cancelled:
            return DROP
        if not call.is_uploading:
            raise ProtocolError(f"call {message.id} has no stream to end")
        call.is_uploading = False
        return call

    def _on_credit(self, message: Credit) -> Out | In | None:
        call = self._one(message)
        if not 1 <= message.items <= WIDEST_WINDOW:
            raise ProtocolError(f"a credit is 1 to {WIDEST_WINDOW} items, not {message.items:,}")
        if call is None or call.is_cancelled:
            return DROP
        if call.room + message.items > WIDEST_WINDOW:
            raise ProtocolError(
                f"call {message.id} has credit for {call.room} items, and gets {message.items} "
                f"more: the most is {WIDEST_WINDOW}"
            )
        call.room += message.items
        return call

    def _on_cancel(self, message: Cancel) -> In | None:
        call = self._served(message)
        if call is None or call.is_cancelled:
            return DROP
        call.is_cancelled = True
        call.is_uploading = False
        return call

    def _is_own(self, number: int) -> bool:
        """Whether only a call of this side can have that number."""
        return not (number - self.last_id) & 1

    def _one(self, message: Item | Credit) -> Out | In | None:
        """The call of either side; None for one of the peer's that is finished here."""
        if not self._is_own(message.id):
            return self._served(message)
        call = self.calls.get(message.id)
        if call is None:
            raise ProtocolError(f"call {message.id} is not open")
        return call

    def _served(self, message: Item | End | Credit | Cancel) -> In | None:
        call = self.served.get(message.id)
        if call is None and (self._is_own(message.id) or not 0 < message.id <= self.peer_last_id):
            raise ProtocolError(f"call {message.id} was never made")
        return call


_RULES: Final[dict[type, Callable[[Any, Any], Any]]] = {
    Return: Rules._on_outcome,
    Raise: Rules._on_outcome,
    Item: Rules._on_item,
    End: Rules._on_end,
    Credit: Rules._on_credit,
    Cancel: Rules._on_cancel,
}
