import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from aioipc.native._call_table import Incoming, Outgoing
from aioipc.native._core import ChannelCore

_T = TypeVar("_T")

def first_step(
    coroutine: Coroutine[Any, Any, None], context: Context, variable: ContextVar[_T], value: _T
) -> Steps | None: ...

class Steps:
    def __await__(self) -> Generator[Any, Any]: ...

class News:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def __await__(self) -> Generator[Any, Any]: ...
    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Any = None
    ) -> None: ...
    def cancel(self, msg: Any = None) -> bool: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...
    def wake(self) -> bool: ...

class StraightMethod:
    name: str
    is_plain: bool
    def make_result_decoder(self) -> Callable[[Any], Any]: ...
    @property
    def result_decoder(self) -> Callable[[Any], Any]: ...

class CallRecord(Outgoing):
    caller: Any
    method: Any
    last: Any
    error: BaseException | None
    waiter: News | None
    span: Any
    items: Any
    @property
    def is_done(self) -> bool: ...

class ServedRecord(Incoming):
    connection: Any
    upload: Any

class Ask(Coroutine[Any, Any, Any]):
    call: Any
    @property
    def method(self) -> Any: ...
    @property
    def args(self) -> Any: ...
    def send(self, value: None, /) -> Any: ...
    def throw(self, kind: Any, value: Any = None, traceback: Any = None, /) -> Any: ...
    def close(self) -> None: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...

class CallCore:
    channel: Any
    session: Any
    context: Context
    loop: asyncio.AbstractEventLoop
    caller: Any
    callee: Any
    ending: BaseException | None
    on_freed: Callable[[], None] | None
    on_finished: Callable[[], None] | None
    is_closing: bool
    peer_is_closing: bool
    is_read: bool
    answers_first: bool
    serves: bool
    @property
    def waiting(self) -> int: ...
    def __init__(
        self,
        channel: ChannelCore[Any],
        session: Any,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        *,
        records: tuple[type, type],
        messages: tuple[type, type, type, type],
        current: ContextVar[Any],
        metadata: ContextVar[Any],
        timeout: ContextVar[Any],
        tracing: str,
        scopes: str,
    ) -> None: ...
    def answer_straight(self, name: str, method: Any, function: Callable[..., Any]) -> None: ...
    def follow(self) -> None: ...
    def forget(self, news: News) -> None: ...
    def wake(self, news: News | None) -> bool: ...
    def ask(self, method: Any, args: tuple[Any, ...]) -> Ask: ...
    def lead(self, call: CallRecord) -> Coroutine[Any, Any, None]: ...
    def serve(self) -> Coroutine[Any, Any, Awaitable[None] | None]: ...
    def recall(self, first: int) -> int: ...
    def take(self, message: Any) -> None: ...
    def answer(self, message: Any) -> Awaitable[None] | None: ...
