from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, Self, TypeVar

from aioipc.abc import Buffer, Codec
from aioipc.native._broadcast import BroadcastReader, BroadcastWriter
from aioipc.native._core import ChannelCore
from aioipc.native._pacer import Pacer
from aioipc.pubsub._items import Gap, Message

_T = TypeVar("_T")
_F = TypeVar("_F", bound=FeedCore)

class Unpacker:
    def __init__(
        self,
        message: type[Any],
        codec: Codec[Any],
        otherwise: Callable[[Buffer], Any],
        *,
        max_depth: int,
        max_elements: int,
    ) -> None: ...
    def unpack(self, buffer: Buffer) -> Any: ...

class FeedCore:
    passes: int
    passed: int
    def __init__(self, channel: ChannelCore[Any]) -> None: ...
    def has_room(self, size: int) -> bool: ...

class Audience(Generic[_F]):
    @property
    def feeds(self) -> tuple[_F, ...]: ...
    @property
    def blocking(self) -> tuple[_F, ...]: ...
    def __init__(self, feeds: tuple[_F, ...], blocking: tuple[_F, ...]) -> None: ...
    def has_room(self, size: int) -> bool: ...

class Subject:
    @property
    def audience(self) -> Audience[Any]: ...
    def __init__(self, topic: str, audience: Audience[Any] | None) -> None: ...
    def pack(self, value: Buffer) -> bytes: ...

class SubscriptionCore(Generic[_T]):
    reader: BroadcastReader | None
    received: int
    owed: int
    @property
    def is_in_debt(self) -> bool: ...
    def __init__(self, channel: ChannelCore[Any], unpacker: Unpacker, batch: int) -> None: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, Message[_T] | Gap]: ...
    def receive(self) -> Coroutine[Any, Any, Message[_T] | Gap]: ...
    def take_from_ring(self) -> Message[_T] | None: ...
    def count_message(self) -> None: ...

class StageCore:
    ring: BroadcastWriter | None
    def __init__(
        self,
        ring: BroadcastWriter,
        call_soon: Callable[..., object],
        wake: Callable[[int], object],
    ) -> None: ...
    def put(self, data: bytes, mask: bytes) -> int | None: ...
    def publish(self) -> None: ...
    def end_turn(self) -> None: ...

class PublisherCore(Generic[_T]):
    stage: Any
    aboard: Any
    mask: bytes
    rides: int
    rides_left: int
    longest_ride: int
    published: int
    in_line: int
    is_closed: bool
    @property
    def longest(self) -> int: ...
    def __init__(
        self,
        codec: Codec[_T],
        pacer: Pacer,
        retained: object,
        subjects: dict[str, Subject],
        *,
        longest: int,
    ) -> None: ...
    def publish(self, topic: str, obj: _T) -> Coroutine[Any, Any, None]: ...
    def _worked(self, subscribers: int) -> None: ...
    def _try_straight(self, topic: str, obj: _T) -> bytes | Literal[True] | None: ...
