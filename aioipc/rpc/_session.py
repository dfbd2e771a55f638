"""Session: both sides' calls over one connection, their numbers and the rules for them."""

from __future__ import annotations

from typing import TypeVar

from aioipc.native._call_table import CallTable, Incoming, Outgoing
from aioipc.wire.rpc import WINDOW, Rules

__all__ = ["Session"]

Out = TypeVar("Out", bound=Outgoing)
In = TypeVar("In", bound=Incoming)


class Session(CallTable[Out, In], Rules[Out, In]):
    """The state machine of the calls over one connection: numbers and messages in, calls out.

    Args:
        connected: Whether this side made the connection, and so has the odd numbers.
        max_calls: How many calls the peer may have open at once.
    """

    def __init__(self, *, connected: bool, max_calls: int) -> None:
        super().__init__(connected=connected, max_calls=max_calls, window=WINDOW)

    def is_open(self, number: int) -> bool:
        """Whether a call of either side has no last message yet."""
        return number in self.calls or number in self.served
