from typing import Any, Generic, TypeVar

class Outgoing:
    id: int
    is_streaming: bool
    is_uploading: bool
    is_cancelled: bool
    credit: int
    room: int

class Incoming:
    message: Any
    is_streaming: bool
    is_uploading: bool
    is_cancelled: bool
    credit: int
    room: int
    def __init__(self, message: Any) -> None: ...

_Out = TypeVar("_Out", bound=Outgoing)
_In = TypeVar("_In", bound=Incoming)

class CallTable(Generic[_Out, _In]):
    max_calls: int
    @property
    def calls(self) -> dict[int, _Out]: ...
    @property
    def served(self) -> dict[int, _In]: ...
    @property
    def last_id(self) -> int: ...
    @property
    def peer_last_id(self) -> int: ...
    def __init__(self, *, connected: bool, max_calls: int, window: int) -> None: ...
    def open(self, call: _Out) -> int: ...
    def withdraw(self, call: _Out) -> None: ...
    def conclude(self, message: Any) -> _Out | None: ...
    def admit(self, call: _In) -> _In: ...
    def finish(self, call: _In) -> None: ...
