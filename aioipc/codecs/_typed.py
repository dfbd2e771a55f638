"""The typed codec: msgpack on the wire, checked against a type while decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from aioipc.abc import Buffer
from aioipc.codecs import msgpack

__all__ = ["Typed"]

T = TypeVar("T")


class Typed(Generic[T]):
    """Decodes into one type. Its peer may use the plain msgpack codec.

    Fields of type memoryview or ``msgspec.Raw`` refer to the message, hence not ``in_place``:
    whoever collects such objects would hold up the sender.
    """

    name = msgpack.name
    format = "msgpack-any-key"
    encode: Callable[[T], bytes]
    decode: Callable[[Buffer], T]

    def __init__(self, type_: type[T], /) -> None:
        self.type = type_
        self.encode = msgpack.encode
        self.decode = msgspec.msgpack.Decoder(type_).decode

    def __reduce__(self) -> tuple[type[Typed[T]], tuple[type[T]]]:
        return Typed, (self.type,)

    def __repr__(self) -> str:
        return f"typed({getattr(self.type, '__qualname__', self.type)})"
