"""The calling side of a connection."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, Self

from aioipc._renewal import REFUSALS, was_met
from aioipc.abc import HasFileno
from aioipc.errors import (
    AddressError,
    BadArguments,
    ClosedError,
    DeadlineExceeded,
    EncodeError,
    EndOfStream,
    IPCError,
    PeerCrashed,
    RemoteCancelled,
)
from aioipc.loop.deadline import remaining_s
from aioipc.native._calls import Ask, CallRecord, News
from aioipc.native._core import Send
from aioipc.native._plain import PlainReturn
from aioipc.rpc._call import is_left_behind, metadata_sent
from aioipc.rpc._faults import raised
from aioipc.rpc._hub import Hub
from aioipc.rpc._interface import Method
from aioipc.rpc._packing import Parcel
from aioipc.rpc._streams import Items, ResultStream
from aioipc.rpc._tracing import Span, active_tracing, end_span
from aioipc.wire.rpc import Answer, Call, Code, Credit, End, GoAway, Item, Raise, Return

__all__ = ["CallObserver", "Caller", "NotBegun", "OwnCall"]

log = logging.getLogger("aioipc.rpc")

_LONGEST_S: Final = 1e9
"""Deadlines beyond this (thirty years) are none."""

_CLOCK_SLACK_S: Final = 0.1

_TOLD: Final = IPCError("the caller was told")
"""In place of an error that was raised."""


class NotBegun(IPCError):
    """A call was taken back before it began."""


class CallObserver(Protocol):
    """Who wants to know which calls are open on the far side, cancelled ones included."""

    def cancelled(self, call: OwnCall) -> None:
        """This side gave a call up; the far side has not said yet that it is over."""

    def freed(self) -> None:
        """One call or more are no longer open."""


class OwnCall(CallRecord):
    """A call of this side, and what is known about its outcome."""

    items: Items | None
    last: PlainReturn | Return | Raise | None
    span: Span | None
    caller: Caller
    method: Method
    never_ran = False
    room_waiter: News | None = None
    feeding: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, caller: Caller, method: Method) -> Self:
        """A call of any method; that of a plain one needs no more than the first lines."""
        call = cls()
        call.caller = caller
        call.method = method
        if method.is_streaming:
            call.is_streaming = True
            call.items = Items()
        if method.upload is not None:
            call.is_uploading = True
        return call

    def result(self) -> Any:
        """The result of a call that is done; None of one that gave a stream.

        Raises:
            Exception: How it failed.
        """
        if self.error is not None:
            # It keeps the frames that it passes, and they keep this: not the other way round.
            error, self.error = self.error, _TOLD
            try:
                raise error
            finally:
                del error
        assert self.last is not None, "asked for only when it is done"
        if isinstance(self.last, Raise):
            raise raised(self.last, self.method)
        return self.method.decode_result(self.last.value) if self.items is None else None

    def news(self) -> Awaitable[None]:
        """What to wait for, at once, until something may have happened to it.

        Whoever is interrupted then calls `abandon`.

        Cancellation:
            Abandons the wait; the call goes on.
        """
        connection = self.caller.connection
        # Who sends a stream cannot be woken from reading when that fails.
        if self.feeding is None and not connection.is_read:
            return connection.lead(self)
        self.waiter = waiter = News(connection.loop)
        connection.follow()
        return waiter

    def abandon(self) -> None:
        """Nobody waits for `news` any more."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.caller.connection.forget(waiter)

    def grant(self, items: int) -> None:
        """Let so many more items of its stream come."""
        self.credit += items
        self.caller.connection.tell(Credit(self.id, items))

    def cancel(self) -> None:
        """Give it up. Idempotent."""
        message = self.caller.connection.session.cancel(self)
        if message is not None:
            self.items = None
            self.stop_feeding()
            end_span(self.span, None)
            self.caller.connection.tell(message)
            if self.caller.observer is not None:
                self.caller.observer.cancelled(self)

    def stop_feeding(self) -> None:
        """Nobody wants the rest of the stream among its arguments."""
        if self.feeding is not None and self.feeding is not asyncio.current_task():
            self.feeding.cancel()

    def take_back(self) -> None:
        """The far side has not begun it, and will not: `CallCore.recall`."""
        if not self.is_cancelled:
            self.is_cancelled = True  # its refusal is no news
            self.caller.fail(self, NotBegun(f"{self.method} was taken back"))

    def cancel_soon(self) -> None:
        """As `cancel`, from any thread and from within anything."""
        if not self.caller.connection.loop.is_closed():
            self.caller.connection.loop.call_soon_threadsafe(self.cancel)


class Caller:
    """Makes calls over a connection.

    Attributes:
        connection: That one.
        observer: Who is told when calls end; nobody by default.
        packing: Calls whose arguments are still copied; they are not open yet.
    """

    def __init__(self, connection: Hub) -> None:
        self.connection = connection
        self.call = connection.ask
        """Call a method and wait for its result: see `CallCore.ask`."""
        self.observer: CallObserver | None = None
        self.packing = 0
        self._channel = connection.channel
        self._loop = connection.loop
        self._session = connection.session
        self._max_calls = connection.channel.limits.max_calls
        self._slots: collections.deque[News] = collections.deque()

    def watch(self, observer: CallObserver) -> None:
        """Tell somebody when calls end."""
        self.observer = observer
        self.connection.on_freed = observer.freed  # until somebody waits for a slot

    # What the native part asks for, where a call does not go straight

    def needs_care(self) -> bool:
        """Whether a call has a deadline, or a span."""
        return active_tracing() is not None or remaining_s(self._loop) < _LONGEST_S

    async def call_with_care(self, asked: Ask) -> Any:
        """As `CallCore.ask`, whatever there is to it."""
        asked.call = await self.open(asked.method, asked.args)
        return await self.outcome(asked.call)

    async def call_late(self, asked: Ask, sending: Send) -> Any:
        """The rest of a call that there was no room for, or not enough."""
        call, asked.call = asked.call, None
        await self._send(call, sending)
        asked.call = call
        return await self.outcome(call)

    def give_up(self, call: OwnCall) -> None:
        """Nobody waits for a call any more that was made."""
        call.abandon()
        call.cancel()

    def withdraw(self, call: OwnCall, error: BaseException) -> None:
        """A call was not sent after all.

        Raises:
            BadArguments: The arguments cannot be encoded.
        """
        self._session.withdraw(call)
        if not call.is_done:  # as it is where the connection has ended meanwhile
            end_span(call.span, error)
        self._freed()
        if isinstance(error, EncodeError):
            raise BadArguments(f"{call.method}: {error.__cause__ or error}") from error

    def concluded(self, call: OwnCall) -> None:
        """A call has its outcome, and there is more to it than that."""
        call.is_uploading = False
        call.stop_feeding()
        end_span(call.span, call.last)

    # Calls of any kind

    async def outcome(self, call: OwnCall) -> Any:
        """Wait for the result of a call that was made.

        Raises:
            As `CallCore.ask`.

        Cancellation:
            Cancels the method on the far side.
        """
        try:
            while not call.is_done:
                await call.news()
        except BaseException:
            self.give_up(call)
            raise
        finally:
            if call.feeding is not None:
                call.feeding.cancel()
                await asyncio.wait([call.feeding])
        if type(call.last) is Raise:
            await self._note_deadline(call.last)
        return call.result()

    async def _note_deadline(self, fault: Raise) -> None:
        if fault.code == Code.DEADLINE:
            await self._reach_deadline()

    async def _reach_deadline(self) -> None:
        """Let the deadline pass first where it was set: that scope knows what it means."""
        left_s = remaining_s(self.connection.loop)
        if left_s < _LONGEST_S:
            await asyncio.sleep(max(left_s, 0.0) + _CLOCK_SLACK_S)

    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]:
        """Call a method that gives a stream, once its first item is asked for."""
        return ResultStream(method, functools.partial(self.open, method, args))

    async def notify(
        self, method: Method, args: tuple[Any, ...], *, missed: Callable[[], object] | None = None
    ) -> None:
        """Call a method and do not wait for its outcome; a failure is logged.

        It waits while the far side has as many calls to run as it takes.

        Args:
            method: What to call.
            args: All its arguments.
            missed: What to do, instead of that, if the call never ran.

        Raises:
            BadArguments: They cannot be encoded.
            PeerCrashed: The far side is gone.

        Cancellation:
            Cancels the method on the far side if it was called.
        """
        call = await self.open(method, args)
        call.waiter = News(self._loop)
        call.waiter.add_done_callback(functools.partial(_notified, call, missed))
        self.connection.follow()
        if call.is_done:
            self.connection.wake(call.waiter)

    async def open(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call, and do not wait for its outcome."""
        sent = args
        if method.upload is not None:
            method.check_upload(args)
            sent = (*args[: method.upload], None, *args[method.upload + 1 :])
        if method.packs_args:
            call = await self._open_packed(method, sent)
        else:
            call, sending = self._begin(method, sent, await self._wait_for_turn(method))
            await self._send(call, sending)
        if method.upload is not None:
            call.feeding = self.connection.start(self._feed(call, args[method.upload]))
        return call

    async def _open_packed(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call whose arguments may hold arrays or descriptors."""
        self._check_open(method)
        parcels = self.connection.parcels
        with await self._pack(method, args) as parcel:
            left_s = await self._wait_for_turn(method)
            call, sending = self._begin(method, parcel.packed, left_s, fds=parcel.files)
            try:
                await self._send(call, sending)
            except AddressError:
                if parcels.carries:
                    raise
                # The far side has said meanwhile that it takes no descriptors.
            except BaseException:
                if sending.is_accepted:
                    parcel.sent()
                raise
            else:
                parcel.sent()
                return call
        return await self._open_packed(method, args)

    async def _pack(self, method: Method, args: tuple[Any, ...]) -> Parcel:
        """Copy what has to be copied of the arguments."""
        self.packing += 1
        try:
            parcel = await self.connection.parcels.pack(args)
        except BaseException as error:
            self.packing -= 1
            self._freed()
            if not isinstance(error, EncodeError):
                raise
            where = self._unsendable(method, args)
            raise BadArguments(f"{method}: {where}{error.__cause__ or error}") from error
        self.packing -= 1
        return parcel

    def _unsendable(self, method: Method, args: tuple[Any, ...]) -> str:
        """Which of the arguments cannot be sent."""
        for name, arg in zip(method.names, args, strict=True):
            try:
                self.connection.parcels.check(arg)
            except EncodeError:
                return f"argument {name!r}: "
        return ""

    async def _send(self, call: OwnCall, sending: Send) -> None:
        """Send a call; who is interrupted tells the far side, if it was told of the call."""
        try:
            await sending
        except BaseException as error:
            if not sending.is_accepted:
                self.withdraw(call, error)
            elif isinstance(error, IPCError):
                return  # it may have arrived whole: what came of it is told as of any other call
            else:
                self.give_up(call)
            raise

    async def _wait_for_turn(self, method: Method) -> float:
        """Wait until the peer takes another call; how many seconds that one may take.

        Raises:
            DeadlineExceeded: None.
        """
        while len(self._session.calls) >= self._max_calls and not self.connection.peer_is_closing:
            await self._wait_for_slot()
        left_s = remaining_s(self._loop)
        if left_s <= 0:
            self._freed()  # the turn was this one's; let it be the next one's
            self._check_open(method)
            await self._reach_deadline()
            raise DeadlineExceeded(f"the deadline passed before {method} was called")
        return left_s

    def _begin(
        self, method: Method, args: Any, left_s: float, *, fds: Sequence[HasFileno] = ()
    ) -> tuple[OwnCall, Send]:
        """A call, and the operation that sends it once it is awaited."""
        self._check_open(method)
        call = OwnCall.of(self, method)
        metadata = metadata_sent.get()
        if (tracing := active_tracing()) is not None:
            call.span, metadata = tracing.begin_call(method, metadata)
        number = self._session.open(call)
        remaining_ns = None
        if left_s < _LONGEST_S and not method.is_notification:
            remaining_ns = int(left_s * 1e9)
        message = Call(number, method.name, args, remaining_ns, metadata)
        return call, self._channel.send(message, fds=fds)

    async def aclose(self) -> None:
        """Close the connection."""
        await self.connection.aclose()

    # What comes back

    def take(self, call: OwnCall, message: Answer) -> None:
        """Take in what else the peer says about a call of this side."""
        assert isinstance(message, Credit), "the session lets nothing else through"
        self.connection.wake(call.room_waiter)

    def end(self, error: BaseException) -> None:
        """Nothing more comes back: every call fails."""
        if self._session.calls:
            last_begun = self._last_begun(error)
            for call in [call for call in self._session.calls.values() if not call.is_done]:
                call.never_ran = call.id > last_begun
                self.fail(call, _lost(call, error))
            self._session.calls.clear()
        self.free_slots()
        if self.observer is not None:
            self.observer.freed()

    def _last_begun(self, error: BaseException) -> int:
        """The number of the last call that may have begun on the far side, or may still."""
        if isinstance(error, ClosedError):
            return self._session.last_id  # notifications arrive all the same
        if isinstance(error, EndOfStream | PeerCrashed) and not was_met(self._channel):
            return 0  # who reads has found nothing, not even a HELLO, up to the end
        first = next(iter(self._session.calls))
        return self.connection.recall(first) or self._session.last_id

    def go_away(self, message: GoAway) -> None:
        """The far side takes no other call; some that were made it did not take."""
        for call in self._session.go_away(message):
            call.never_ran = True
            self.fail(call, _not_called(call.method))

    def free_slots(self) -> None:
        """Nobody is to wait any more for their turn to make a call."""
        while self._slots:
            self._free_slot()

    async def wait_idle(self) -> None:
        """Wait until no call is open, where no other will be made.

        Cancellation:
            Abandons the wait.
        """
        while self._session.calls:
            await self._wait_for_slot()

    def fail(self, call: OwnCall, error: BaseException) -> None:
        """Give a call an outcome that did not come from the peer."""
        if not call.is_done:
            call.error = error
            call.is_uploading = False
            end_span(call.span, error)
            self.connection.wake(call.waiter)
            call.stop_feeding()

    def _check_open(self, method: Method) -> None:
        ending = self.connection.ending
        if ending is not None:
            if isinstance(ending, ClosedError):
                raise ClosedError(str(ending))
            if isinstance(ending, REFUSALS):
                raise type(ending)(f"{method} was not called: {ending}")
            raise PeerCrashed(f"{method} was not called: {_reason(ending)}")
        if self.connection.peer_is_closing:
            raise _not_called(method)

    # As many calls at once as the peer takes

    async def _wait_for_slot(self) -> None:
        free = News(self._loop)
        self._slots.append(free)
        self.connection.on_freed = self._freed
        self.connection.follow()
        try:
            await free
        except BaseException:
            self.connection.forget(free)
            if free.done() and not free.cancelled():
                self._free_slot()  # it was this one's turn; let it be the next one's
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._slots.remove(free)

    def _freed(self) -> None:
        """A call is no longer open on the far side."""
        if self._slots:
            self._free_slot()
        if self.observer is not None:
            self.observer.freed()

    def _free_slot(self) -> None:
        while self._slots:
            if self.connection.wake(self._slots.popleft()):
                return

    # The stream among the arguments

    async def _feed(self, call: OwnCall, stream: AsyncIterable[Any]) -> None:
        """Send its items, one for each that the far side has room for."""
        items: AsyncIterator[Any] | None = None
        try:
            items = aiter(stream)
            while call.is_uploading:
                if not call.room:
                    await self._wait_for_room(call)
                    continue
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                if call.is_uploading:
                    call.room -= 1
                    await self._send_item(call, item)
            if call.is_uploading:
                call.is_uploading = False
                await self._channel.send(End(call.id))
        except BaseException as error:  # the caller raises it
            if _is_stopped(error, call.feeding):
                raise
            call.cancel()
            self.fail(call, error)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _send_item(self, call: OwnCall, item: Any) -> None:
        if call.method.packs_upload:
            await self.connection.parcels.send(functools.partial(Item, call.id), item)
        else:
            await self._channel.send(Item(call.id, item))

    async def _wait_for_room(self, call: OwnCall) -> None:
        call.room_waiter = room = News(self._loop)
        self.connection.follow()  # also where nobody asks for the outcome
        try:
            await room
        except BaseException:
            self.connection.forget(room)
            raise
        finally:
            call.room_waiter = None


def _is_stopped(error: BaseException, task: asyncio.Task[None] | None) -> bool:
    """Whether it ends a task from outside, and is not what came of something inside."""
    if isinstance(error, asyncio.CancelledError):
        return task is not None and task.cancelling() > 0
    return is_left_behind(error, task)


def _notified(call: OwnCall, missed: Callable[[], object] | None, _: object) -> None:
    """Nobody waits for a notification, so nobody else says that it failed."""
    if call.never_ran and missed is not None:
        missed()
        return
    try:
        call.result()
    except ClosedError:
        pass  # by this side, which knows
    except BaseException as error:  # noqa: BLE001 - it is told all the same
        log.warning("a notification came to nothing: %s", error)


def _not_called(method: Method) -> RemoteCancelled:
    return RemoteCancelled(f"{method} was not called: the far side is closing")


def _lost(call: OwnCall, error: BaseException) -> Exception:
    """What a call raises that was open when the connection ended."""
    what = f"{call.method} {'was not called' if call.never_ran else 'may have run'}"
    if isinstance(error, ClosedError):
        return ClosedError(f"{error}; {what}")
    if isinstance(error, REFUSALS):
        return type(error)(str(error))
    status = getattr(error, "status", None)
    lost = PeerCrashed(f"{what}: {_reason(error)}", status=status)
    lost.__cause__ = error
    return lost


def _reason(error: BaseException) -> str:
    if isinstance(error, EndOfStream):
        return "the far side closed the connection"
    return str(error)
