"""One connection: calls of both sides over one channel."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from anyio.abc import AsyncResource

from aioipc.abc import HasFileno
from aioipc.channel import Channel
from aioipc.errors import (
    ClosedError,
    DecodeError,
    EndOfStream,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    ProtocolError,
    WouldBlock,
    name_address,
)
from aioipc.loop.deadline import ANYIO, innermost
from aioipc.native._calls import CallCore
from aioipc.native._operation import called_natively
from aioipc.native._plain import PlainCall, PlainReturn
from aioipc.rpc._call import CallInfo, current, metadata_sent
from aioipc.rpc._callee import Callee, Handlers
from aioipc.rpc._caller import Caller, OwnCall
from aioipc.rpc._faults import shortened
from aioipc.rpc._packing import Enclosed
from aioipc.rpc._parcels import Parcels
from aioipc.rpc._proxy import proxy_of
from aioipc.rpc._session import Session
from aioipc.rpc._tracing import TRACING
from aioipc.wire.rpc import Answer, Call, Credit, Freed, GoAway, Item, Message, Raise, Return

__all__ = ["Connection"]

T = TypeVar("T")
AnyCall = Call | PlainCall
AnyMessage = Message | PlainCall | PlainReturn | Enclosed
_CLEANUP_S: Final = 5.0
_NO_HANDLERS: Final[Handlers] = {}


@called_natively
class Connection(CallCore, AsyncResource):
    """Calls both ways over one channel.

    There is never more than one task that reads. If the peer may call, that is a task of its own,
    which becomes the task of the first method that waits for something; another one then reads on.
    If it may not, a lone caller reads for itself, which saves two switches of tasks per call, and
    several have one task that reads for all of them. What goes straight is native: `CallCore`.

    Args:
        channel: Where the calls go; it belongs to this object from here on.
        connected: Whether this side made the connection.
        handlers: What the peer may call.
        context: What it runs inherits this; by default that of who makes this object.
    """

    channel: Channel[Message]
    session: Session[OwnCall, CallInfo]
    caller: Caller
    callee: Callee

    def __init__(
        self,
        channel: Channel[Any],
        *,
        connected: bool,
        handlers: Handlers = _NO_HANDLERS,
        context: contextvars.Context | None = None,
    ) -> None:
        super().__init__(
            channel,
            Session(connected=connected, max_calls=channel.limits.max_calls),
            contextvars.copy_context() if context is None else context,
            asyncio.get_running_loop(),
            records=(OwnCall, CallInfo),
            messages=(Call, Return, Raise, Item),
            current=current,
            metadata=metadata_sent,
            timeout=innermost,
            tracing=TRACING,
            scopes=ANYIO,
        )
        self.parcels = Parcels(channel, self.tell, self.end)
        self._handlers = handlers
        self.caller = Caller(self)
        self.callee = Callee(self, handlers)
        for name, (method, function) in handlers.items():
            if method.is_plain:
                self.answer_straight(name, method, function)
        self._ended = self.loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.late = 0
        # A peer that keeps to its limit causes at most one outcome and a few credits per call.
        self._most_late = 4 * channel.limits.max_calls
        self.serves = bool(handlers)
        if self.serves:
            self.read_on()

    def proxy(self, interface: Callable[..., T]) -> T:
        """An object whose methods are those of ``interface`` and run on the far side."""
        proxy: T = proxy_of(interface)(self.caller)
        return proxy

    def serve_in_order(self, at_once: int) -> None:
        """Refuse the peer's calls beyond some, and answer before a next one begins.

        That may take long, or be the end of this process.

        Args:
            at_once: How many may run.
        """
        self.session.max_calls = at_once
        self.answers_first = True

    # Reading

    def read_on(self) -> None:
        """Let a new task read."""
        if self.ending is None:
            self.is_read = True  # before a task is made, which may run at once
            _ = self.start(self._read())

    async def _read(self) -> None:
        """Read for everybody; becomes the task of a method that waits."""
        try:
            rest = await self.serve()
        except Exception as error:  # noqa: BLE001 - each call raises it
            self.end(error)
            return
        except BaseException as error:  # a method that did not wait cancelled this task, or worse
            self.end(IPCError(f"the task that reads was ended by {error!r}"))
            raise
        self.is_read = False
        if rest is None:
            return
        self.read_on()
        try:
            await rest
        except Exception as error:  # noqa: BLE001 - likewise
            self.end(error)

    def meet(self, message: AnyMessage) -> Awaitable[None] | None:
        """Take in any message; what is left to do of it, as `answer` says."""
        if isinstance(message, Enclosed):
            taken = self._taken(message)
            return None if taken is None else self.answer(taken)
        if isinstance(message, AnyCall):
            return self.answer(message)
        self.take(message)
        return None

    def take_other(self, message: Message | PlainCall | Enclosed) -> None:
        """Take in what is no outcome where nobody can wait."""
        if isinstance(message, AnyCall):
            self._refuse(message)
        elif isinstance(message, Enclosed):
            if (asked := self._taken(message)) is not None:
                self._refuse(asked)
        elif isinstance(message, Freed):
            self.parcels.came_back(message)
        elif isinstance(message, GoAway):
            self.caller.go_away(message)
            self.call_no_more()
        else:
            self._take_about(message)

    def _take_about(self, message: Answer) -> None:
        """Take in what is said about a call."""
        call = self.session.receive(message)
        if isinstance(call, OwnCall):
            self.caller.take(call, message)
        elif call is not None:
            self.callee.take(call, message)

    def _taken(self, message: Enclosed) -> Call | None:
        """Take in what came with descriptors; a call is to be answered."""
        enclosed = message.emptied()
        try:
            opened = self._opened(enclosed)
            if isinstance(opened, Call):
                return opened
            self.take(opened)
        except BaseException:
            enclosed.close()  # now, because whoever keeps the error keeps its frames
            raise
        return None

    def _opened(self, enclosed: Enclosed) -> Message:
        """A message that came with descriptors, which belong to its value.

        Raises:
            ProtocolError: It takes none.
        """
        message: Message = enclosed.value
        if isinstance(message, Call) and message.method not in self._handlers:
            enclosed.close()  # it will be refused
        elif isinstance(message, Call) and self._packs(message.method, "packs_args"):
            message.args = self.parcels.enclosed(enclosed, message.args)
        elif isinstance(message, (Return, Item)) and self._may_enclose(message):
            message.value = self.parcels.enclosed(enclosed, message.value)
        else:
            raise ProtocolError(
                f"{len(enclosed.fds)} descriptors came with a {type(message).__name__} "
                "that is declared to have none"
            )
        return message

    def _may_enclose(self, message: Return | Item) -> bool:
        """Whether descriptors may come with it, or it is to be refused for another reason."""
        own = self.session.calls.get(message.id)
        if own is not None:
            return bool(own.method.packs_result)
        served = self.session.served.get(message.id)
        return served is None or self._packs(served.method, "packs_upload")

    def _packs(self, name: str, what: str) -> bool:
        method, _ = self._handlers[name]
        return bool(getattr(method, what))

    def _refuse(self, message: AnyCall) -> None:
        """Answer a call where nothing is served; at once, because more about it may follow."""
        rest = self.answer(message)
        assert rest is None, "there is no method that could wait"

    # Writing

    def call_no_more(self) -> None:
        """The peer takes no other call, as far as is known; it may still answer. Idempotent."""
        if self.ending is None and not self.peer_is_closing:
            self.peer_is_closing = True
            self.caller.free_slots()
            self.follow()  # until the end, of which nobody might hear else

    def tell(self, message: Message) -> None:
        """Send a message of a few bytes: now if there is room, else as soon as there is."""
        try:
            self.channel.send_nowait(message)
        except WouldBlock:
            self.late += 1  # at once, for who waits until nothing is
            _ = self.start(self._tell_late(message))
        except FrameTooLarge:
            self._tell_less(message)
        except IPCError:
            pass  # the connection is over, as whoever reads or calls is told

    async def _tell_late(self, message: Message) -> None:
        self.late -= 1
        if isinstance(message, Credit) and not self.session.is_open(message.id):
            self.callee.settle()  # the outcome of that call may have left since
            return
        try:
            await self.send_late(message)
        except FrameTooLarge:
            self._tell_less(message)
        except IPCError:
            pass  # as above

    def _tell_less(self, message: Message) -> None:
        """A message is over the limit; the caller of what failed has to hear something."""
        if isinstance(message, Raise) and (less := shortened(message)) is not None:
            self.tell(less)

    async def send_late(self, message: Message, *, fds: Sequence[HasFileno] = ()) -> None:
        """Send a message that the peer causes and that there is no room for now.

        A peer that calls and does not read gets no more of this side's memory than it has
        a right to: then the connection ends.
        """
        self.late += 1
        try:
            if self.late > self._most_late:
                self.end(ProtocolError(f"{self.late - 1:,} messages wait for the peer to read"))
            await self.channel.send(message, fds=fds)
        finally:
            self.late -= 1
            self.callee.settle()

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
        if isinstance(error, DecodeError):  # it may have been about any call
            error = ProtocolError(f"the peer sent what is no message of a call: {error}")
        name_address(error, self.channel.address)
        # Its frames hold what was received last: a cycle that the collector cannot see.
        self.ending = error.with_traceback(None)
        self.is_read = False
        self.caller.end(error)
        self.callee.end(error)
        self.parcels.close()
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def was_answered(self) -> bool:
        """Whether the far side ever said anything."""
        return self.channel.statistics().messages_received > 0

    async def wait_idle(self) -> None:
        """Wait until no call of this side is open, where no other will be made."""
        await self.caller.wait_idle()

    async def wait_ended(self) -> None:
        """Wait until nothing more can be received, from either side.

        Raises:
            ProtocolError: The peer broke the protocol.
            Exception: Something failed here.
        """
        await asyncio.shield(self._ended)
        if self._is_broken:
            assert self.ending is not None, "it is what has ended it"
            raise self.ending.with_traceback(None)

    async def finish(self, grace_s: float) -> None:
        """Take no other call of the peer; let those that run go on, and their results leave.

        Args:
            grace_s: How long, in seconds. What still runs then is cancelled, and its caller gets
                RemoteCancelled.

        Cancellation:
            Cancels them at once.
        """
        end = self.loop.time() + grace_s
        try:
            await self.callee.finish(grace_s)
            with contextlib.suppress(IPCError, TimeoutError):
                async with asyncio.timeout_at(end):
                    await self.channel.flush()
        finally:
            self.callee.cancel_all()

    async def aclose(self) -> None:
        """Close the connection. Idempotent.

        Calls of this side raise ClosedError. Methods that still run are cancelled, and again after
        each 5 s that they take to clean up.

        Cancellation:
            Closes at once, abruptly.
        """
        self.end(ClosedError(f"this side closed the connection to {self.channel.address}"))
        if self._is_broken:
            self.channel.abort(self.ending)
        try:
            spared = self.callee.tasks()  # they are cancelled by now
            while self._tasks:
                for task in self._tasks - spared:
                    task.cancel()
                await asyncio.wait(self._tasks, timeout=_CLEANUP_S)
                spared = set()
        finally:
            await self.channel.aclose()

    @property
    def _is_broken(self) -> bool:
        """Whether it ended by something that is no ending."""
        return not isinstance(self.ending, EndOfStream | PeerCrashed | ClosedError)
