"""What a subscription gives."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["Gap", "Interruption", "Message"]

T = TypeVar("T")


class Message(msgspec.Struct, Generic[T], frozen=True):
    """One message of a publisher.

    Attributes:
        topic: What it is about.
        value: The object.
    """

    topic: str
    value: T


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Here messages are missing, because this subscriber did not keep up.

    Attributes:
        count: How many.
    """

    count: int


class Interruption(msgspec.Struct, frozen=True, gc=False):
    """Here another publisher goes on, or the same one again.

    What was published meanwhile is missing, and so may be the last of what was before: nobody has
    counted it.

    Attributes:
        reason: How the last connection ended.
    """

    reason: str
