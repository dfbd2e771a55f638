"""A codec as queues use it: an object is one message of bytes."""

from __future__ import annotations

from typing import Generic, TypeVar

from aioipc import codecs
from aioipc.abc import Codec, Parts
from aioipc.errors import DecodeError, EncodeError, said
from aioipc.limits import Limits
from aioipc.native._scan import scan

__all__ = ["Coding"]

T = TypeVar("T")


class Coding(Generic[T]):
    """Encodes whole, and looks a message over before it is decoded.

    Args:
        codec: Its name, or itself.
        limits: How deep and how long a received message may be.
    """

    def __init__(self, codec: str | Codec[T], limits: Limits) -> None:
        self.codec: Codec[T] = codecs.get(codec)
        self.name = self.codec.name
        self._format = self.codec.format
        self.limits = limits

    @property
    def is_trusted_only(self) -> bool:
        """Whether decoding a hostile message could do harm."""
        return codecs.is_trusted_only(self.codec)

    def encode(self, obj: T) -> bytes:
        """The message of an object.

        Raises:
            EncodeError: The codec cannot carry it.
        """
        try:
            return self.whole(self.codec.encode(obj))
        except Exception as error:
            raise self.not_encoded(error) from error

    def decode(self, message: bytes) -> T:
        """The object of a message.

        Raises:
            DecodeError: It does not fit the codec or the limits.
        """
        if self._format is not None:
            scan(self._format, message, self.limits.max_depth, self.limits.max_elements)
        try:
            return self.codec.decode(message)
        except Exception as error:
            raise DecodeError(f"the {self.name} codec cannot decode this: {said(error)}") from error

    def not_encoded(self, error: Exception) -> EncodeError:
        """What to raise when the codec failed."""
        return EncodeError(f"the {self.name} codec cannot encode this: {said(error)}")

    @staticmethod
    def whole(parts: Parts) -> bytes:
        """One message as one run of bytes."""
        if isinstance(parts, bytes):
            return parts
        if isinstance(parts, (bytearray, memoryview)):
            return bytes(parts)
        return b"".join(parts)
