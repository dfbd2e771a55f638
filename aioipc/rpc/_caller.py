"""The calling side of a connection."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
from collections.abc import AsyncIterable, Awaitable, Sequence
from typing import Any, Final, Protocol

from aioipc.abc import HasFileno
from aioipc.errors import (
    AddressError,
    BadArguments,
    ClosedError,
    DeadlineExceeded,
    EncodeError,
    EndOfStream,
    PeerCrashed,
)
from aioipc.loop.deadline import remaining_s
from aioipc.native._core import Send
from aioipc.native._tasks import News
from aioipc.rpc._call import metadata_to_send
from aioipc.rpc._faults import raised
from aioipc.rpc._hub import Hub
from aioipc.rpc._interface import Method
from aioipc.rpc._streams import Items, ResultStream
from aioipc.rpc._tracing import Span, active_tracing, end_span
from aioipc.wire.rpc import Answer, Call, Code, Credit, End, Item, Outgoing, Raise, Return

__all__ = ["CallObserver", "Caller", "OwnCall"]

log = logging.getLogger("aioipc.rpc")

_LONGEST_S: Final = 1e9
"""Deadlines beyond this (thirty years) are none."""

_CLOCK_SLACK_S: Final = 0.1


class CallObserver(Protocol):
    """Who wants to know which calls are open on the far side, cancelled ones included."""

    def cancelled(self, call: OwnCall) -> None:
        """This side gave a call up; the far side has not said yet that it is over."""

    def freed(self) -> None:
        """One call or more are no longer open."""


class OwnCall(Outgoing):
    """A call of this side, and what is known about its outcome."""

    items: Items | None = None
    last: Return | Raise | None = None
    error: BaseException | None = None
    waiter: News | None = None
    room_waiter: News | None = None
    feeding: asyncio.Task[None] | None = None
    span: Span | None = None

    def __init__(self, caller: Caller, method: Method) -> None:
        self.caller = caller
        self.method = method
        if method.is_streaming:
            self.is_streaming = True
            self.items = Items()
        if method.upload is not None:
            self.is_uploading = True

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self.last is not None or self.error is not None

    def has_news(self) -> bool:
        """Whether there is something that whoever waits for this call wants."""
        if self.last is not None or self.error is not None:
            return True
        return self.items is not None and bool(self.items.arrived)

    def result(self) -> Any:
        """The result of a call that is done; None of one that gave a stream.

        Raises:
            Exception: How it failed.
        """
        if self.error is not None:
            raise self.error
        last = self.last
        if type(last) is Return:
            return self.method.decode_result(last.value) if self.items is None else None
        assert type(last) is Raise, "asked for only when it is done"
        raise raised(last, self.method)

    def news(self) -> Awaitable[None]:
        """What to wait for, at once, until something may have happened to it.

        Whoever is interrupted then calls `abandon`.

        Cancellation:
            Abandons the wait; the call goes on.
        """
        connection = self.caller.connection
        # Who sends a stream cannot be woken from reading when that fails.
        if self.feeding is None and not connection.is_read:
            return connection.lead(self.has_news)
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
            end_span(self.span, None)
            self.caller.connection.tell(message)
            if self.caller.observer is not None:
                self.caller.observer.cancelled(self)

    def cancel_soon(self) -> None:
        """As `cancel`, from any thread and from within anything."""
        if not self.caller.connection.loop.is_closed():
            self.caller.connection.loop.call_soon_threadsafe(self.cancel)


class Caller:
    """Makes calls over a connection.

    Attributes:
        connection: That one.
        observer: Who is told when calls end; nobody by default.
    """

    def __init__(self, connection: Hub) -> None:
        self.connection = connection
        self.observer: CallObserver | None = None
        self._channel = connection.channel
        self._loop = connection.loop
        self._session = connection.session
        self._max_calls = connection.channel.limits.max_calls
        self._slots: collections.deque[News] = collections.deque()

    async def call(self, method: Method, args: tuple[Any, ...]) -> Any:
        """Call a method and wait for its result.

        Args:
            method: What the far side declares.
            args: All arguments, in the order of the declaration.

        Raises:
            RPCError: The call failed; its kinds say how.
            DeadlineExceeded: The deadline passed on the far side.
            PeerCrashed: The far side is gone. The method may have run.
            ClosedError: This side closed the connection.

        Cancellation:
            Cancels the method on the far side.
        """
        if not method.is_plain:
            return await self.outcome(await self.open(method, args))
        # `open` and `outcome` in one: their coroutines would take as long as the rest of a call.
        left_s = remaining_s(self._loop)
        if left_s <= 0 or len(self._session.calls) >= self._max_calls:
            left_s = await self._wait_for_turn(method)
        sending: Send | None
        call, sending = self._begin(method, args, left_s)
        try:
            await sending
            sending = None
            while call.last is None and call.error is None:
                await call.news()
        except BaseException as error:
            self._interrupted(call, sending, error)
            raise
        if type(call.last) is Raise:
            await self._note_deadline(call.last)
        return call.result()

    async def outcome(self, call: OwnCall) -> Any:
        """Wait for the result of a call that was made.

        Raises:
            As `call`.

        Cancellation:
            Cancels the method on the far side.
        """
        try:
            while not call.is_done:
                await call.news()
        except BaseException as error:
            self._interrupted(call, None, error)
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

    async def notify(self, method: Method, args: tuple[Any, ...]) -> None:
        """Call a method and do not wait for its outcome; a failure is logged.

        It waits while the far side has as many calls to run as it takes.

        Raises:
            BadArguments: They cannot be encoded.
            PeerCrashed: The far side is gone.

        Cancellation:
            Cancels the method on the far side if it was called.
        """
        call = await self.open(method, args)
        call.waiter = News(self._loop)
        call.waiter.add_done_callback(functools.partial(_log_failure, call))
        self.connection.follow()
        if call.is_done:
            self.connection.wake(call.waiter)

    async def open(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call, and do not wait for its outcome."""
        sent = args
        if method.upload is not None:
            sent = (*args[: method.upload], None, *args[method.upload + 1 :])
        if method.packs_args:
            call = await self._open_packed(method, sent)
        else:
            left_s = await self._wait_for_turn(method)
            call = await self._sent(*self._begin(method, sent, left_s))
        if method.upload is not None:
            call.feeding = self.connection.start(self._feed(call, args[method.upload]))
        return call

    async def _open_packed(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call whose arguments may hold arrays or descriptors."""
        self._check_open(method)
        parcels = self.connection.parcels
        try:
            parcel = await parcels.pack(args)
        except EncodeError as error:
            where = self._unsendable(method, args)
            raise BadArguments(f"{method}: {where}{error.__cause__ or error}") from error
        with parcel:
            left_s = await self._wait_for_turn(method)
            call, sending = self._begin(method, parcel.packed, left_s, fds=parcel.files)
            try:
                await self._sent(call, sending)
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

    def _unsendable(self, method: Method, args: tuple[Any, ...]) -> str:
        """Which of the arguments cannot be sent."""
        for name, arg in zip(method.names, args, strict=True):
            try:
                self.connection.parcels.check(arg)
            except EncodeError:
                return f"argument {name!r}: "
        return ""

    async def _sent(self, call: OwnCall, sending: Send) -> OwnCall:
        try:
            await sending
        except BaseException as error:
            self._interrupted(call, sending, error)
            raise
        return call

    async def _wait_for_turn(self, method: Method) -> float:
        """Wait until the peer takes another call; how many seconds that one may take.

        Raises:
            DeadlineExceeded: None.
        """
        while len(self._session.calls) >= self._max_calls:
            await self._wait_for_slot()
        left_s = remaining_s(self._loop)
        if left_s <= 0:
            self._check_open(method)
            await self._reach_deadline()
            raise DeadlineExceeded(f"the deadline passed before {method} was called")
        return left_s

    def _begin(
        self, method: Method, args: Any, left_s: float, *, fds: Sequence[HasFileno] = ()
    ) -> tuple[OwnCall, Send]:
        """A call, and the operation that sends it once it is awaited."""
        if self.connection.ending is not None:
            self._check_open(method)
        call = OwnCall(self, method)
        metadata = metadata_to_send()
        if (tracing := active_tracing()) is not None:
            call.span, metadata = tracing.begin_call(method, metadata)
        number = self._session.open(call)
        remaining_ns = None
        if left_s < _LONGEST_S and not method.is_notification:
            remaining_ns = int(left_s * 1e9)
        message = Call(number, method.name, args, remaining_ns, metadata)
        return call, self._channel.send(message, fds=fds)

    def _interrupted(self, call: OwnCall, sending: Send | None, error: BaseException) -> None:
        """The caller leaves: tell the far side, unless it was not told of the call.

        Args:
            call: The call.
            sending: What sends it, if that was not finished.
            error: What interrupted it.

        Raises:
            BadArguments: The arguments cannot be encoded.
        """
        call.abandon()
        if sending is None or sending.is_accepted:
            call.cancel()
            return
        self._session.withdraw(call)
        end_span(call.span, error)
        self._freed()
        if isinstance(error, EncodeError):
            raise BadArguments(f"{call.method}: {error.__cause__ or error}") from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self.connection.aclose()

    # What comes back

    def conclude(self, message: Return | Raise) -> None:
        """Take in the outcome of a call of this side."""
        call = self._session.conclude(message)
        if call is not None:  # else it was given up
            call.last = message
            call.is_uploading = False
            if call.span is not None:
                end_span(call.span, message)
            if call.waiter is not None:
                self.connection.wake(call.waiter)
        self._freed()

    def take(self, call: OwnCall, message: Answer) -> None:
        """Take in what else the peer says about a call of this side."""
        if isinstance(message, Item):
            assert call.items is not None, "the session lets no other items through"
            call.items.arrived.append(message.value)
        else:
            assert isinstance(message, Credit), "the session lets nothing else through"
            self._wake_feeder(call)
            return
        if call.waiter is not None:
            self.connection.wake(call.waiter)

    def end(self, error: BaseException) -> None:
        """Nothing more comes back: every call fails."""
        for call in list(self._session.calls.values()):
            self._fail(call, _lost(error, call.method))
        self._session.calls.clear()
        while self._slots:
            self._free_slot()
        if self.observer is not None:
            self.observer.freed()

    def _fail(self, call: OwnCall, error: BaseException) -> None:
        """Give a call an outcome that did not come from the peer."""
        if not call.is_done:
            call.error = error
            call.is_uploading = False
            end_span(call.span, error)
            self.connection.wake(call.waiter)
            self._wake_feeder(call)

    def _check_open(self, method: Method) -> None:
        ending = self.connection.ending
        if ending is not None:
            if isinstance(ending, ClosedError):
                raise ClosedError(str(ending))
            raise PeerCrashed(f"{method} was not called: {_reason(ending)}")

    # As many calls at once as the peer takes

    async def _wait_for_slot(self) -> None:
        free = News(self._loop)
        self._slots.append(free)
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
        items = aiter(stream)
        try:
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
        except Exception as error:  # noqa: BLE001 - the caller raises it
            call.cancel()
            self._fail(call, error)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _send_item(self, call: OwnCall, item: Any) -> None:
        if call.method.packs_upload:
            await self.connection.parcels.send(functools.partial(Item, call.id), item)
        else:
            await self._channel.send(Item(call.id, item))

    def _wake_feeder(self, call: OwnCall) -> None:
        if call.room_waiter is not None:
            call.room_waiter.wake()

    async def _wait_for_room(self, call: OwnCall) -> None:
        call.room_waiter = News(self._loop)
        try:
            await call.room_waiter
        finally:
            call.room_waiter = None


def _log_failure(call: OwnCall, _: object) -> None:
    """Nobody waits for a notification, so nobody else says that it failed."""
    try:
        call.result()
    except ClosedError:
        pass  # by this side, which knows
    except Exception as error:  # noqa: BLE001 - it is told all the same
        log.warning("a notification came to nothing: %s", error)


def _lost(error: BaseException, method: Method) -> Exception:
    """What a call raises whose outcome will never be known."""
    if isinstance(error, ClosedError):
        return ClosedError(f"{error}; {method} may have run")
    status = getattr(error, "status", None)
    lost = PeerCrashed(f"{method} may have run: {_reason(error)}", status=status)
    lost.__cause__ = error
    return lost


def _reason(error: BaseException) -> str:
    if isinstance(error, EndOfStream):
        return "the far side closed the connection"
    return str(error)
