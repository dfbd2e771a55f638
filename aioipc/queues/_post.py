"""What two mailboxes say to each other: msgpack arrays with a tag in front."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from aioipc.codecs import msgpack

__all__ = [
    "Check",
    "Introduction",
    "Letter",
    "PostCodec",
    "Registered",
    "Reply",
]


class Introduction(msgspec.Struct, array_like=True, tag=1, gc=False):
    """The first message of who connected: the name of its own mailbox."""

    name: str


class Letter(msgspec.Struct, array_like=True, tag=2, gc=False):
    """One message; a `Reply` is wanted unless the id is 0."""

    id: int
    body: bytes


class Reply(msgspec.Struct, array_like=True, tag=3, gc=False):
    """The answer to a letter; without a body where only its arrival was to be confirmed."""

    id: int
    body: bytes


class Check(msgspec.Struct, array_like=True, tag=4, gc=False):
    """A `Reply` without a body is wanted, once all letters before this lie in the mailbox."""

    id: int


class Registered(msgspec.Struct, array_like=True, tag=5, gc=False):
    """One message; a `Reply` without a body is wanted, once it lies in the mailbox."""

    id: int
    body: bytes


Message: TypeAlias = Introduction | Letter | Reply | Check | Registered

_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(
    Message, ext_hook=msgpack.refuse_ext
)


class PostCodec:
    """The codec between mailboxes; by its name they compare the one that they write letters in.

    Args:
        inner: The name of that one.
    """

    format: Final = "msgpack"
    encode = staticmethod(msgpack.encode)

    def __init__(self, inner: str) -> None:
        self.name: Final = f"mailbox of {inner}"

    def decode(self, buffer: Any) -> Message:
        """The message in a buffer."""
        return _decoder.decode(buffer)
