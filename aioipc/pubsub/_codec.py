"""The codecs of the two ends of a subscription, around the codec of its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from aioipc import codecs
from aioipc.abc import Buffer, Codec
from aioipc.errors import DecodeError, EncodeError, IPCError, ProtocolError
from aioipc.limits import Limits
from aioipc.native._pubsub import Unpacker
from aioipc.native._scan import scan
from aioipc.pubsub._items import Gap, Message
from aioipc.wire.pubsub import (
    Away,
    Credit,
    Look,
    Lost,
    Open,
    Publication,
    Ride,
    Ring,
    Subscribe,
    Unsubscribe,
    Welcome,
)

__all__ = ["LOOK", "Aside", "PublisherEnd", "Request", "SubscriberEnd"]

T = TypeVar("T")

Request = Ride | Open | Subscribe | Unsubscribe | Credit
Aside = Welcome | Ring | Away | Look
_Answer = Aside | Publication | Lost

_pack: Final = msgspec.msgpack.Encoder().encode
LOOK: Final = _pack(Look())
_unpack_request: Callable[[Buffer], Request] = msgspec.msgpack.Decoder(Request).decode
_unpack_answer: Callable[[Buffer], _Answer] = msgspec.msgpack.Decoder(_Answer).decode


class _End:
    """What both codecs have in common."""

    format: Final = "msgpack-any-key"
    in_place: Final = True

    def __init__(self, codec: Codec[Any]) -> None:
        self.name = f"pubsub:{codec.name}"
        self.trusted_only = codecs.is_trusted_only(codec)


class PublisherEnd(_End, Generic[T]):
    """Sends publications, each of them packed once for all subscribers; receives requests."""

    def __init__(self, codec: Codec[T]) -> None:
        super().__init__(codec)
        self.codec = codec

    def encode_object(self, obj: T) -> Buffer:
        """What is packed for all subscribers.

        Raises:
            EncodeError: The object does not fit the codec.
        """
        try:
            parts = self.codec.encode(obj)
            return b"".join(parts) if isinstance(parts, list | tuple) else parts  # type: ignore[return-value]
        except IPCError:
            raise
        except Exception as error:
            raise EncodeError(
                f"the {self.codec.name} codec cannot encode this {type(obj).__name__}: {error}"
            ) from error

    def encode(self, message: bytes | Lost | Aside, /) -> bytes:
        return message if type(message) is bytes else _pack(message)

    def decode(self, buffer: Buffer, /) -> Request:
        return _unpack_request(buffer)


class SubscriberEnd(_End, Generic[T]):
    """Sends requests; receives publications, whose objects it decodes."""

    def __init__(self, codec: Codec[T], limits: Limits) -> None:
        super().__init__(codec)
        self._limits = limits
        self._format = codec.format
        self._decode = codec.decode
        self._decodes_in_place = bool(getattr(codec, "in_place", False))
        self.unpacker = Unpacker(
            Message,
            codec,
            self._unpack,
            max_depth=limits.max_depth,
            max_elements=limits.max_elements,
        )
        self.decode: Callable[[Buffer], Message[T] | Gap | Aside] = self.unpacker.unpack

    def encode(self, message: Request, /) -> bytes:
        return _pack(message)

    def _unpack(self, buffer: Buffer, /) -> Message[T] | Gap | Aside:
        answer = _unpack_answer(buffer)
        if isinstance(answer, Publication):
            return Message(answer.topic, self._object(answer.value))
        if isinstance(answer, Lost):
            return Gap(answer.count)
        return answer

    def decode_message(self, data: bytes) -> Message[T]:
        """A message of a broadcast ring.

        Raises:
            DecodeError: The object does not fit the codec.
        """
        try:
            message = self._unpack(data)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"the {self.name} codec cannot decode this: {error}") from error
        if not isinstance(message, Message):
            raise ProtocolError(f"a ring has no {type(message).__name__}")
        return message

    def _object(self, value: memoryview) -> T:
        scan(self._format, value, self._limits.max_depth, self._limits.max_elements)
        return self._decode(value if self._decodes_in_place else bytes(value))
