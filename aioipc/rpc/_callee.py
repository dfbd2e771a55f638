"""The called side of a connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import CoroutineType
from typing import Any

from aioipc.abc import Capability, HasFileno
from aioipc.errors import (
    BadArguments,
    ClosedError,
    DeadlineExceeded,
    EncodeError,
    EndOfStream,
    FrameTooLarge,
    IPCError,
    MethodNotFound,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    RemoteCancelled,
    ResourceExhausted,
    WouldBlock,
)
from aioipc.kernel.credentials import same_user
from aioipc.native._calls import News, Steps
from aioipc.rpc._call import CallInfo, begin, is_left_behind
from aioipc.rpc._faults import fault_of, refusal, unsendable
from aioipc.rpc._hub import Hub
from aioipc.rpc._interface import Method
from aioipc.rpc._packing import Enclosed, Parcel
from aioipc.rpc._streams import Upload
from aioipc.rpc._tracing import active_tracing, end_span
from aioipc.wire.rpc import Answer, Call, Cancel, Code, GoAway, Item, Raise, Return

__all__ = ["Callee", "Handlers"]

log = logging.getLogger("aioipc.rpc")

Handlers = Mapping[str, tuple[Method, Callable[..., Any]]]
"""What the peer may call, by name: the declaration and the implementation."""


class Callee:
    """Runs the methods that the peer calls over a connection."""

    def __init__(self, connection: Hub, handlers: Handlers) -> None:
        self._connection = connection
        self._channel = connection.channel
        self._session = connection.session
        self._handlers = handlers
        self._running: set[CallInfo] = set()
        self._settled: asyncio.Event | None = None
        peer = connection.channel.peer
        remote = Capability.REMOTE in connection.channel.capabilities
        self._is_trusted = not remote and (peer is None or same_user(peer))

    # Answering

    def answer(self, message: Call) -> Coroutine[Any, Any, None] | Steps | None:
        """Run a method, whatever there is to it, as far as it goes without waiting.

        Returns:
            As `Hub.answer`.
        """
        call = self.admit(message)
        return None if call is None else self.run(call)

    def run(self, call: CallInfo) -> Steps | None:
        """As `answer`, once the call was taken in."""
        steps = begin(self._run(call), call)
        if steps is not None:
            self.waits(call)
        return steps

    def admit(self, message: Call) -> CallInfo | None:
        """Take in a call; None if it was refused."""
        call = CallInfo.of(message, self._connection)
        try:
            self._session.admit(call)
        except QuotaExceeded as error:
            self._connection.tell(refusal(message.id, error))
            return None
        except ProtocolError:
            if isinstance(message.args, Enclosed):
                message.args.close()  # now, because whoever keeps the error keeps its frames
            raise
        if self._connection.is_closing:
            closing = RemoteCancelled(f"{call.method} was not called: the far side is closing")
            self._finish(call, refusal(message.id, closing))
            return None
        if message.remaining_ns is not None:
            call.deadline_s = self._connection.loop.time() + message.remaining_ns / 1e9
        return call

    def recalled(self, message: Call) -> None:
        """Refuse a call that its caller took back before it began."""
        call = self.admit(message)
        if call is not None:
            why = f"{call.method} was taken back before it began"
            self._finish(call, refusal(message.id, QuotaExceeded(errno.EDQUOT, why)))

    def waits(self, call: CallInfo) -> None:
        """A method waits: the running task is its own from here on."""
        call.task = asyncio.current_task()
        self._running.add(call)
        if call.message.remaining_ns is not None:
            call.timer = self._connection.loop.call_at(call.deadline_s, self._late, call)

    def _late(self, call: CallInfo) -> None:
        call.is_late = True
        call.cancel()

    async def _run(self, call: CallInfo) -> None:
        """Run the method of a call and send its outcome."""
        try:
            method, function, args = self._look_up(call)
        except (MethodNotFound, BadArguments) as error:
            self._refuse(call, error)
            return
        try:
            result = method.invoke(function, args)
            del args  # memory that came with them may go back before the outcome
        except BaseException as error:  # noqa: BLE001 - it goes to the caller
            last = self._verdict(call, method, error)
        else:
            await self.rest(call, method, result)
            return
        self._finish(call, last)

    async def rest(self, call: CallInfo, method: Method, result: Any) -> None:
        """Wait for what a method gave, if need be, and send it."""
        try:
            if method.is_streaming:
                await self._stream(call, method, result)
                result = None
            elif type(result) is CoroutineType or inspect.isawaitable(result):
                result = await result
            if method.is_notification:
                result = None
        except BaseException as error:  # noqa: BLE001 - it goes to the caller
            last = self._verdict(call, method, error)
        else:
            if method.packs:
                await self._return_packed(call, method, result)
                return
            self.done(call)
            outcome = Return(call.message.id, result)
            try:
                self._channel.send_nowait(outcome)
            except IPCError as error:
                await self.not_sent(outcome, error, method)
            return
        # Not above: should this fail, the channel keeps why, and by it what was being handled,
        # and by that the frames of the method with all that it was passed.
        self._finish(call, last)

    def _look_up(self, call: CallInfo) -> tuple[Method, Callable[..., Any], Any]:
        """The method, what implements it, and the arguments; its span begins.

        Raises:
            MethodNotFound: Nothing of that name is served.
            BadArguments: They do not fit.
        """
        name = call.message.method
        try:
            method, function = self._handlers[name]
        except KeyError:
            raise MethodNotFound(f"no method {name[:64]!r} is served here") from None
        args = method.decode_args(call.message.args)
        if method.upload is not None:
            call.is_uploading = True
            call.upload = Upload(call, method, call.grant)
            args = (*args[: method.upload], call.upload, *args[method.upload + 1 :])
        if method.is_streaming:
            call.is_streaming = True
        if (tracing := active_tracing()) is not None:
            call.span = tracing.begin_method(method, call.message.metadata)
        return method, function, args

    async def _return_packed(self, call: CallInfo, method: Method, result: Any) -> None:
        """Send a result that may hold arrays or descriptors, or that came of such arguments."""
        try:
            parcel = await self._connection.parcels.pack(result)
        except asyncio.CancelledError as error:
            last = self._verdict(call, method, error)
        except (EncodeError, ResourceExhausted) as error:
            # As text: a record that is kept would keep what is in the frames of the error.
            log.warning("%s: the result of %s: %s", self._channel.address, method, str(error))
            last = unsendable(call.message.id, error, method)
        else:
            await self._send_packed(call, method, parcel)
            return
        self._finish(call, last)

    async def _send_packed(self, call: CallInfo, method: Method, parcel: Parcel) -> None:
        with parcel:
            self.done(call)
            self._connection.parcels.tell_gone()
            outcome = Return(call.message.id, parcel.packed)
            try:
                self._channel.send_nowait(outcome, fds=parcel.files)
            except IPCError as error:
                if not await self.not_sent(outcome, error, method, fds=parcel.files):
                    return
            parcel.sent()

    async def _stream(self, call: CallInfo, method: Method, result: Any) -> None:
        """Send the items of a stream, one for each that the caller has room for."""
        items: AsyncIterator[Any] = aiter(result)
        try:
            while True:
                if not call.room:
                    await self._wait_for_room(call)
                    continue
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                call.room -= 1
                if method.packs_result:
                    await self._connection.parcels.send(
                        functools.partial(Item, call.message.id), item
                    )
                else:
                    await self._channel.send(Item(call.message.id, item))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _wait_for_room(self, call: CallInfo) -> None:
        call.room_waiter = News(self._connection.loop)
        try:
            await call.room_waiter
        finally:
            call.room_waiter = None

    # Outcomes

    def done(self, call: CallInfo, outcome: object = None) -> None:
        """The method has ended: forget about it."""
        if call.span is not None:
            end_span(call.span, outcome)
        if call.task is not None:
            self._running.discard(call)
            if call.timer is not None:
                call.timer.cancel()
            call.task = None  # which has the call in its context: a cycle
        if call.upload is not None:
            call.upload.cut(ClosedError(f"{call.method} has ended"))
            call.is_uploading = False
        self._session.finish(call)
        self.settle()

    def settle(self) -> None:
        """Let who waits for the end of all calls look again."""
        if self._settled is not None:
            self._settled.set()

    async def not_sent(
        self, outcome: Return, error: IPCError, method: Method, *, fds: Sequence[HasFileno] = ()
    ) -> bool:
        """Wait for room, or say why it cannot be sent; if the caller is gone, who reads finds.

        Returns:
            Whether it was sent after all.
        """
        if isinstance(error, WouldBlock):
            try:
                await self._connection.send_late(outcome, fds=fds)
            except IPCError as late:
                error = late
            else:
                return True
        if isinstance(error, EncodeError | FrameTooLarge):
            # As text, again.
            log.warning("%s: the result of %s: %s", self._channel.address, method, str(error))
            self._connection.tell(unsendable(outcome.id, error, method))
        return False

    def _finish(self, call: CallInfo, last: Raise | None) -> None:
        """Say what came of a call; nothing if nobody is there to be told."""
        self.done(call, last)
        if last is not None:
            self._connection.tell(last)

    def _finish_soon(self, call: CallInfo, last: Raise) -> None:
        """As `_finish`, where an exception is handled, with which whatever fails would be kept."""
        self.done(call, last)
        if self._connection.ending is None:
            self._connection.loop.call_soon(self._connection.tell, last)

    def _cancelled(self, call: CallInfo) -> Exception | None:
        """Why the method was cancelled; None if that is meant for this whole task."""
        task = asyncio.current_task()
        assert task is not None, "methods run in tasks"
        if call.is_late:
            error: Exception = DeadlineExceeded(f"{call.method} was cancelled at its deadline")
        elif call.is_cancelled:
            error = RemoteCancelled(f"{call.method} was cancelled by its caller")
        elif self._connection.is_closing:
            error = RemoteCancelled(f"{call.method} was cancelled: this side is closing")
        else:
            error = RemoteCancelled(f"{call.method} was cancelled")
            if task.cancelling():  # by other code of this process: the caller is told all the same
                self._finish_soon(call, refusal(call.message.id, error))
                return None
        while task.cancelling():
            task.uncancel()
        return error

    def failed(self, call: CallInfo, method: Method, error: BaseException) -> None:
        """The method raised.

        Raises:
            BaseException: What is meant for this whole task, or the process.
        """
        self._finish(call, self._verdict(call, method, error))

    def _verdict(self, call: CallInfo, method: Method, error: BaseException) -> Raise | None:
        """What to say when the method raised; None if nobody is there to be told.

        Raises:
            BaseException: What is meant for this whole task, or the process.
        """
        if isinstance(error, asyncio.CancelledError):
            why = self._cancelled(call)
            if why is None:
                raise error
            return refusal(call.message.id, why)
        if is_left_behind(error, call.task):
            raise error
        if self._is_lost(error):
            return None
        if call.upload is not None and error is call.upload.refused:
            return refusal(call.message.id, error)
        fault = fault_of(call.message.id, error, method, trusted=self._is_trusted)
        if fault.code == Code.RAISED:
            log.error("%s: %s failed", self._channel.address, method, exc_info=error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._finish_soon(call, fault)
            raise error
        return fault

    def _is_lost(self, error: BaseException) -> bool:
        """Whether it says no more than that the caller is gone."""
        if not isinstance(error, PeerCrashed | EndOfStream | ClosedError):
            return False
        ending = self._connection.ending
        return self._channel.is_ending(error) or (ending is not None and error.__cause__ is ending)

    def _refuse(self, call: CallInfo, error: Exception) -> None:
        self._finish(call, refusal(call.message.id, error))

    # What comes in about a call that runs

    def take(self, call: CallInfo, message: Answer) -> None:
        """Take in what the caller says about a call that runs here."""
        if type(message) is Cancel:
            call.give_up(RemoteCancelled(f"{call.method} was cancelled by its caller"))
            return
        call.wake()

    def end(self, error: BaseException) -> None:
        """The caller is gone, and so is the reason for what runs here."""
        for call in list(self._running):
            call.give_up(error)

    # Closing

    async def finish(self, grace_s: float) -> None:
        """Refuse further calls, and wait for those that run, and until their outcomes were sent.

        Args:
            grace_s: How long, in seconds.
        """
        if not self._connection.is_closing:
            self._connection.is_closing = True
            self._connection.tell(GoAway(max(self._session.peer_last_id, 0)))
        if self._settled is None:
            self._settled = asyncio.Event()
            self._connection.on_finished = self.settle
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._session.served or self._connection.late:
                    self._settled.clear()
                    await self._settled.wait()

    def cancel_all(self) -> None:
        """Cancel what still runs."""
        self._connection.is_closing = True
        for call in list(self._running):
            call.cancel()

    def tasks(self) -> set[asyncio.Task[Any] | None]:
        """The tasks of methods that still run, or clean up."""
        return {call.task for call in self._running}
