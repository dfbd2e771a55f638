"""A call, seen from the side where its method runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from aioipc.abc import PeerCredentials
from aioipc.rpc._hub import Hub
from aioipc.rpc._streams import Upload
from aioipc.rpc._tracing import Span
from aioipc.wire.rpc import Call, Credit, Incoming

__all__ = ["CallInfo", "Steps", "current_call", "first_step", "metadata", "metadata_to_send"]

T = TypeVar("T")

_current: ContextVar[CallInfo] = ContextVar("aioipc_call")
_metadata: ContextVar[dict[str, str] | None] = ContextVar("aioipc_metadata", default=None)


class CallInfo(Incoming):
    """The call that a method runs for: `aioipc.rpc.current_call`.

    Attributes:
        connection: Over which it came.
    """

    __slots__ = (
        "connection",
        "deadline_s",
        "is_late",
        "room_waiter",
        "span",
        "task",
        "timer",
        "upload",
    )

    connection: Hub

    def __init__(self, message: Call, connection: Hub) -> None:
        super().__init__(message)
        self.connection = connection
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline_s = math.inf
        self.is_late = False
        self.upload: Upload | None = None
        self.room_waiter: asyncio.Future[None] | None = None
        self.span: Span | None = None

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
        if self.room_waiter is not None and not self.room_waiter.done():
            self.room_waiter.set_result(None)

    def lose(self, error: BaseException) -> None:
        """The caller is gone."""
        if self.upload is not None:
            self.upload.error = error
        if self.task is not None:
            self.task.cancel()

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
        return _current.get()
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
    token = _metadata.set({**(_metadata.get() or {}), **values})
    try:
        yield
    finally:
        _metadata.reset(token)


metadata_to_send = _metadata.get


def first_step(coroutine: Coroutine[Any, Any, None], call: CallInfo) -> Steps | None:
    """Run a coroutine in a context of its own up to its first suspension; None if it has none.

    One that never suspends costs no task, and what it does to context variables ends with it. One
    that does goes on in the task that is running, which then has to await the remaining steps, so
    that ``asyncio.current_task``, timeouts and cancel scopes mean what they say: whoever was to do
    something else in that task has to go on in another.

    Args:
        coroutine: What to run.
        call: What `current_call` tells inside.
    """
    run = call.connection.context.copy().run
    try:
        waits_for = run(_step, coroutine, call)
    except StopIteration:
        return None
    return Steps(coroutine, run, waits_for)


def _step(coroutine: Coroutine[Any, Any, None], call: CallInfo) -> Any:
    _current.set(call)
    return coroutine.send(None)


class Steps:
    """Awaits a coroutine that has suspended already, in its own context.

    Args:
        coroutine: What to await.
        run: Runs something in its context.
        waits_for: What it waits for now.
    """

    __slots__ = ("_coroutine", "_run", "_waits_for")

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], run: Callable[..., Any], waits_for: Any
    ) -> None:
        self._coroutine = coroutine
        self._run = run
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, run, waits_for = self._coroutine, self._run, self._waits_for
        step: Callable[[Any], Any]
        while True:
            try:
                value = yield waits_for
                step = coroutine.send
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                value = error
                step = coroutine.throw
            try:
                waits_for = run(step, value)
            except StopIteration:
                return
