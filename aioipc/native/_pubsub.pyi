from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, Self, TypeVar

from aioipc.abc import Buffer, Codec
from aioipc.native._broadcast import BroadcastReader, BroadcastWriter
from aioipc.native._core import ChannelCore
from aioipc.native._pacer import Pacer
from aioipc.pubsub._items import Gap, Message

_T = TypeVar("_T")

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

class Subject:
    @property
    def audience(self) -> Any: ...
    def __init__(self, topic: str, audience: object) -> None: ...
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
    def subjects(self) -> dict[str, Subject]: ...
    def __init__(self, codec: Codec[_T], pacer: Pacer, retained: object) -> None: ...
    def publish(self, topic: str, obj: _T) -> Coroutine[Any, Any, None]: ...
    def _worked(self, operations: int) -> None: ...
    def _try_ride(self, topic: str, obj: _T) -> bytes | Literal[True] | None: ...
