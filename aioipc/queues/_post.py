"""What two mailboxes say to each other: msgpack arrays with a tag in front."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aioipc.codecs import msgpack

__all__ = ["Introduction", "Letter", "Reply", "decode", "encode", "format", "name"]


class Introduction(msgspec.Struct, array_like=True, tag=1, gc=False):
    """The first message of who connected: the name of its own mailbox."""

    name: str


class Letter(msgspec.Struct, array_like=True, tag=2, gc=False):
    """One message; a `Reply` is wanted unless the id is 0."""

    id: int
    body: bytes


class Reply(msgspec.Struct, array_like=True, tag=3, gc=False):
    """The answer to a letter."""

    id: int
    body: bytes


name: Final = "mailbox"
format: Final = "msgpack"  # noqa: A001 - the contract's word
encode = msgpack.encode
_decoder: msgspec.msgpack.Decoder[Introduction | Letter | Reply] = msgspec.msgpack.Decoder(
    Introduction | Letter | Reply, ext_hook=msgpack.refuse_ext
)


def decode(buffer: Any) -> Introduction | Letter | Reply:
    """The message in a buffer."""
    return _decoder.decode(buffer)
