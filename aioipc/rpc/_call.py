"""A call, seen from the side where its method runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Self, TypeVar

from aioipc.abc import PeerCredentials
from aioipc.native._calls import News, ServedRecord, Steps, first_step
from aioipc.rpc._hub import Hub
from aioipc.rpc._streams import Upload
from aioipc.rpc._tracing import Span
from aioipc.wire.rpc import Call, Credit

__all__ = [
    "CallInfo",
    "begin",
    "current",
    "current_call",
    "is_left_behind",
    "metadata",
    "metadata_sent",
]

T = TypeVar("T")

current: ContextVar[CallInfo] = ContextVar("aioipc_call")
metadata_sent: ContextVar[dict[str, str] | None] = ContextVar("aioipc_metadata", default=None)


class CallInfo(ServedRecord):
    """The call that a method runs for: `aioipc.rpc.current_call`.

    Attributes:
        connection: Over which it came.
    """

    task: asyncio.Task[Any] | None = None
    timer: asyncio.TimerHandle | None = None
    deadline_s = math.inf
    is_late = False
    is_stopping = False
    room_waiter: News | None = None
    span: Span | None = None

    message: Call
    connection: Hub
    upload: Upload | None

    @classmethod
    def of(cls, message: Call, connection: Hub) -> Self:
        """The call that a message makes."""
        call = cls(message)
        call.connection = connection
        return call

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.message.method)

    @property
    def peer(self) -> PeerCredentials | None:
        """Who calls, where the kernel tells."""
        return self.connection.channel.peer

    @property
    def metadata(self) -> Mapping[str, str]:
        """What travelled beside the arguments."""
        return self.message.metadata or {}

    @property
    def remaining_s(self) -> float:
        """Seconds until the caller gives up, ``inf`` if it did not say; then this is cancelled."""
        if self.deadline_s == math.inf:
            return math.inf
        return max(self.deadline_s - asyncio.get_running_loop().time(), 0.0)

    def grant(self, items: int) -> None:
        """Let so many more items of the caller's stream come."""
        self.credit += items
        self.connection.tell(Credit(self.message.id, items))

    def wake(self) -> None:
        """Let what runs for this call look again at its streams."""
        if self.upload is not None:
            self.upload.wake()
        if self.room_waiter is not None:
            self.room_waiter.wake()

    def cancel(self) -> None:
        """Cancel the method, once: it may take its time to clean up."""
        if self.task is not None and not self.is_stopping:
            self.is_stopping = True
            self.task.cancel()

    def give_up(self, error: BaseException) -> None:
        """The caller has given it up, or is gone."""
        if self.upload is not None:
            self.upload.cut(error)
        self.cancel()

    def client(self, interface: Callable[..., T]) -> T:
        """What the caller serves (``rpc.connect(..., serve=...)``), to call it back.

        Args:
            interface: A class or Protocol, as for `aioipc.rpc.connect`.
        """
        return self.connection.proxy(interface)

    def __repr__(self) -> str:
        return f"<CallInfo {self.method} from {self.peer}>"


def current_call() -> CallInfo:
    """The call that the running method was called by.

    Raises:
        RuntimeError: This does not run for a call.
    """
    try:
        return current.get()
    except LookupError:
        raise RuntimeError("this code does not run for a call of another process") from None


@contextlib.contextmanager
def metadata(**values: str) -> Iterator[None]:
    """Let the calls inside carry ``values``, beside what an outer block gives.

    The far side sees them in ``rpc.current_call().metadata``.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"metadata are str: {name} is {type(value).__name__}")
    token = metadata_sent.set({**(metadata_sent.get() or {}), **values})
    try:
        yield
    finally:
        metadata_sent.reset(token)


def begin(coroutine: Coroutine[Any, Any, None], call: CallInfo) -> Steps | None:
    """Run what serves a call as far as it goes at once, with `current_call` telling of it.

    Returns:
        The rest, for the running task to await; None if there is none.
    """
    return first_step(coroutine, call.connection.context, current, call)


def is_left_behind(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether an exception closes what no loop will run any more, and is not raised by that itself.

    Args:
        error: The exception.
        task: What it came out of; None if that has never waited.
    """
    if not isinstance(error, GeneratorExit) or task is None:
        return False
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # there is no loop any more
        return True
