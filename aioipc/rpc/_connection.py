"""One connection: calls of both sides over one channel."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aioipc.channel import Channel
from aioipc.errors import ClosedError, EndOfStream, IPCError, PeerCrashed, ProtocolError, WouldBlock
from aioipc.rpc._callee import Callee, Handlers
from aioipc.rpc._caller import Caller, OwnCall
from aioipc.rpc._proxy import proxy_of
from aioipc.wire.rpc import Call, Message, Notify, Session

__all__ = ["Connection"]

T = TypeVar("T")
_NO_HANDLERS: Final[Handlers] = {}


class Connection:
    """Calls both ways over one channel.

    There is never more than one task that reads. If the peer may call, that is a task of its own,
    which becomes the task of the first method that waits for something; another one then reads on.
    If it may not, a lone caller reads for itself, which saves two switches of tasks per call, and
    several have one task that reads for all of them.

    Args:
        channel: Where the calls go; it belongs to this object from here on.
        connected: Whether this side made the connection.
        handlers: What the peer may call.
    """

    def __init__(
        self, channel: Channel[Any], *, connected: bool, handlers: Handlers = _NO_HANDLERS
    ) -> None:
        self.channel: Channel[Message] = channel
        self.context = contextvars.copy_context()
        self.loop = asyncio.get_running_loop()
        self.session = Session(
            connected=connected,
            max_calls=channel.limits.max_calls,
            incoming=lambda message: self.callee.incoming(message),
        )
        self.caller = Caller(self)
        self.callee = Callee(self, handlers)
        self.ending: BaseException | None = None
        """Why no other call can be made; None while they can."""
        self._ended = self.loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: object = None
        self._waiting = 0
        self._serves = bool(handlers)
        if self._serves:
            self.read_on()

    def proxy(self, interface: Callable[..., T]) -> T:
        """An object whose methods are those of ``interface`` and run on the far side."""
        proxy: T = proxy_of(interface)(self.caller)
        return proxy

    # Reading

    async def news(self, call: OwnCall) -> None:
        """Wait until something may have happened to a call of this side.

        Cancellation:
            Abandons the wait; the call goes on.
        """
        if self._reader is None and call.feeding is None:
            await self._lead(call)
        else:
            call.waiter = self.loop.create_future()
            try:
                await self.follow(call.waiter)
            finally:
                call.waiter = None

    async def follow(self, news: asyncio.Future[None]) -> None:
        """Wait for a future that is set by what another task reads."""
        self._waiting += 1
        try:
            if self._reader is None:
                self.read_on()
            await news
        finally:
            self._waiting -= 1

    async def _lead(self, call: OwnCall) -> None:
        """Read for everybody until there is news of ``call``."""
        self._reader = call
        receive = self.channel.receive
        try:
            while not call.has_news:
                self._take(await receive())
        except Exception as error:  # noqa: BLE001 - each call raises it
            self.end(error)
        finally:
            self._reader = None
            if self._waiting:
                self.read_on()

    def read_on(self) -> None:
        """Let a new task read."""
        if self.ending is None:
            self._reader = self.start(self._read())

    async def _read(self) -> None:
        """Read for everybody; becomes the task of a method that waits."""
        receive = self.channel.receive
        answer = self.callee.answer
        try:
            while self._serves or self._waiting:
                message = await receive()
                if type(message) is Call or type(message) is Notify:
                    if await answer(message):
                        return
                else:
                    self._take(message)
            self._reader = None
        except Exception as error:  # noqa: BLE001 - each call raises it
            self.end(error)

    def _take(self, message: Message) -> None:
        """Take in a message where nobody can wait."""
        kind = type(message)
        if kind is Call or kind is Notify:
            self.start(self.callee.answer_aside(message))
            return
        event = self.session.receive(message)
        if event is None:
            self.caller.dropped(message)
        elif type(event[0]) is OwnCall:
            self.caller.take(event[0], message)
        else:
            self.callee.take(event[0], message)

    # Writing

    def tell(self, message: Message) -> None:
        """Send a message of a few bytes: now if there is room, else as soon as there is."""
        try:
            self.channel.send_nowait(message)
        except WouldBlock:
            self.start(self._tell_later(message))
        except IPCError:
            pass  # the connection is over, as whoever reads or calls is told

    async def _tell_later(self, message: Message) -> None:
        with contextlib.suppress(IPCError):
            await self.channel.send(message)

    # Life cycle

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as this connection lives, at most."""
        task = self.loop.create_task(work, context=self.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def end(self, error: BaseException) -> None:
        """Nothing more can be received: every call fails, every method is cancelled. Idempotent."""
        if self.ending is not None:
            return
        self.ending = error
        self._reader = None
        self.caller.end(error)
        self.callee.end(error)
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait_ended(self) -> None:
        """Wait until nothing more can be received, from either side.

        Raises:
            ProtocolError: The peer broke the protocol.
            Exception: Something failed here.
        """
        await asyncio.shield(self._ended)
        if not isinstance(self.ending, EndOfStream | PeerCrashed | ClosedError):
            assert self.ending is not None, "it is what has ended it"
            raise self.ending

    async def finish(self, grace_s: float) -> None:
        """Take no other call of the peer, and let those that run go on for a while.

        Args:
            grace_s: How long, in seconds. What still runs then is cancelled, and its caller gets
                RemoteCancelled.

        Cancellation:
            Cancels them at once.
        """
        try:
            await self.callee.finish(grace_s)
        finally:
            self.callee.cancel_all()

    async def aclose(self) -> None:
        """Close the connection. Idempotent.

        Calls of this side raise ClosedError, methods that still run are cancelled.

        Cancellation:
            Closes at once, abruptly.
        """
        self.end(ClosedError(f"this side closed the connection to {self.channel.address}"))
        try:
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)
        finally:
            await self.channel.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
