"""Listener: channels to whoever connects."""

from __future__ import annotations

import asyncio
import collections
import errno
import inspect
import logging
import os
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar, overload

import anyio
from anyio.abc import TaskGroup

from aioipc._doorkeeper import Doorkeeper
from aioipc._opening import (
    AnyTransport,
    ChannelOptions,
    Opening,
    check_allow,
    has_own_port,
    is_message_transport,
)
from aioipc.abc import (
    Acceptor,
    Allow,
    Codec,
)
from aioipc.address import Address
from aioipc.channel import Channel, IPCAttribute, Port, SessionPort
from aioipc.errors import (
    AccessDenied,
    BusyError,
    ClosedError,
    EndOfStream,
    ForkError,
    IPCError,
    PeerCrashed,
    QuotaExceeded,
    from_os_error,
    told_of,
)
from aioipc.kernel.credentials import is_allowed, same_user
from aioipc.limits import Limits
from aioipc.transports import family_of
from aioipc.transports._framed import PeerPort
from aioipc.transports._session import Session
from aioipc.wire.hello import HandshakeTimeout

__all__ = ["Listener", "listen"]

log = logging.getLogger("aioipc.listener")

T = TypeVar("T")
_ENDINGS = (EndOfStream, PeerCrashed, ClosedError)


class Listener(anyio.abc.Listener[Channel[T]], Generic[T]):
    """Yields a channel for each peer that connected, was allowed and said HELLO.

    Made by `aioipc.listen`. Iterate over it, or let `serve` run a handler per channel.
    """

    def __init__(self, acceptor: Acceptor, options: ChannelOptions, allow: Allow) -> None:
        self._acceptor = acceptor
        self._options = options
        self._allow = allow
        self._loop = asyncio.get_running_loop()
        self._greeting: dict[SessionPort, asyncio.TimerHandle] = {}
        self._ready: collections.deque[Channel[T]] = collections.deque()
        self._waiter: asyncio.Future[None] | None = None
        self._open: collections.Counter[int] = collections.Counter()  # connections by uid
        self._exhausted = False
        self._closed = False
        self._door = Doorkeeper(acceptor.address, handshake_s=options.limits.handshake_s, log=log)
        self._pid = os.getpid()
        if getattr(acceptor, "speaks_first", False):
            self._accept()  # or who connects would wait for somebody to ask for channels

    @property
    def address(self) -> str:
        """Where peers reach it: the port that was chosen, the name that was made up."""
        return self._acceptor.address

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The facts as anyio's typed attributes."""
        return {
            IPCAttribute.address: lambda: self.address,
            IPCAttribute.codec: lambda: self._options.codec.name,
            IPCAttribute.limits: lambda: self._options.limits,
        }

    # Taking channels

    def __aiter__(self) -> Listener[T]:
        return self

    async def __anext__(self) -> Channel[T]:
        """Wait for the next channel.

        Raises:
            StopAsyncIteration: There will be no other (a FIFO has one only), or this side
                closed the listener.
            BusyError: Another task is waiting.
            ForkError: The listener belongs to the parent process.
            RuntimeError: It belongs to another event loop.

        Cancellation:
            Safe: the channel goes to whoever waits next.
        """
        self._check_owner()
        while not self._ready:
            if self._closed or (self._exhausted and not self._greeting):
                raise StopAsyncIteration
            self._accept()
            if not self._ready and not (self._exhausted and not self._greeting):
                await self._wait()
        return self._ready.popleft()

    async def accept(self) -> Channel[T]:
        """Wait for the next channel.

        Raises:
            EndOfStream: There will be no other.
            ClosedError: This side closed the listener.
            BusyError: Another task is waiting.
            ForkError: The listener belongs to the parent process.
            RuntimeError: It belongs to another event loop.

        Cancellation:
            Safe: the channel goes to whoever waits next.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            if self._closed:
                raise self._was_closed() from None
            raise EndOfStream(f"{self.address} has no other connection") from None

    def serve(
        self,
        handler: Callable[[Channel[T]], Awaitable[object]],
        task_group: TaskGroup | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Run ``handler(channel)`` in a task for each channel, until the listener is closed.

        A channel closes when its handler ends. The end of the peer ends the handler quietly, and
        a breach of the protocol is logged in one line; any other exception is logged and closes
        that channel abruptly. The others go on.

        Args:
            handler: An async function.
            task_group: Where the handlers run; by default in one of this call's own.

        Raises:
            TypeError: The handler cannot be called.
            ClosedError: This side has closed the listener already.
            BusyError: Another task is waiting, or serving.
            ForkError: The listener belongs to the parent process.
            RuntimeError: It belongs to another event loop.

        Cancellation:
            Cancels the handlers.
        """
        if not callable(handler):
            raise TypeError(f"a handler is an async function, not {handler!r}")
        if self._closed:  # now: closed before its task begins to run, it just has nothing to do
            raise self._was_closed()
        return self._serve_in(task_group, handler)

    async def _serve_in(
        self, task_group: TaskGroup | None, handler: Callable[[Channel[T]], Awaitable[object]]
    ) -> None:
        self._check_owner()
        if task_group is not None:
            await self._serve(handler, task_group)
            return
        failure = None
        async with anyio.create_task_group() as own:
            try:
                await self._serve(handler, own)
            except IPCError as error:  # which is to have no group around it
                failure = error
                own.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _serve(
        self, handler: Callable[[Channel[T]], Awaitable[object]], tasks: TaskGroup
    ) -> None:
        async for channel in self:
            tasks.start_soon(self._handle, handler, channel)

    async def _handle(
        self, handler: Callable[[Channel[T]], Awaitable[object]], channel: Channel[T]
    ) -> None:
        try:
            await _begun(handler, channel)
        except Exception as error:
            if not _is_ending(error, channel):
                log.exception("%s: the handler of a channel failed", self.address)
                channel.abort(Exception())  # what failed need not be about this channel
            elif not isinstance(_first(error), _ENDINGS):
                log.warning("%s", told_of(self.address, _first(error)))
        finally:
            await channel.aclose()

    def _was_closed(self) -> ClosedError:
        return ClosedError(f"this side closed the listener on {self.address}")

    def _check_owner(self) -> None:
        if self._is_forked:
            raise ForkError("this listener belongs to the parent process; open one in the child")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this listener belongs to another event loop")

    # Accepting: callbacks, no task per peer

    def _accept(self) -> None:
        """Take in whoever is there, as far as the limits allow."""
        while not self._closed and not self._exhausted:
            try:
                if self._is_full:
                    if self._greeting:
                        self._acceptor.on_readable(self._make_room)
                    return  # the rest waits in the kernel's backlog
                transport = self._acceptor.try_accept()
                if transport is None:
                    self._acceptor.on_readable(self._accept)
                    return
            except EOFError:
                self._exhausted = True
                self._wake()
                return
            except IPCError as error:
                self._door.pause(error, self._accept)
                return
            self._take_in(transport)

    @property
    def _is_full(self) -> bool:
        return len(self._greeting) + len(self._ready) >= self._options.limits.max_handshakes

    def _make_room(self) -> None:
        """Every place is taken, and somebody waits."""
        if not self._is_full:
            self._accept()
        if self._closed or not self._is_full or not self._greeting:
            return
        overdue = self._door.overdue(self._greeting, self._accept)
        if overdue is not None:
            port, silent_s = overdue
            self._too_late(port, f"no HELLO within {silent_s:.2g} s, and others wait")

    def _take_in(self, transport: AnyTransport) -> None:
        try:
            self._check_allowed(transport)
            port = self._options.open_port(transport)
        except IPCError as error:
            self._turn_away(transport, error)
            return
        uid = -1 if transport.peer is None else transport.peer.uid
        self._open[uid] += 1
        # A sender on a FIFO comes and goes, so its HELLO cannot be waited for; foreign
        # programs have none.
        if isinstance(port, Session) and not port.is_shared:
            deadline = self._loop.call_later(self._options.limits.handshake_s, self._late, port)
            self._greeting[port] = deadline
            self._greet(port)
        else:
            self._finish(port)

    def _check_allowed(self, transport: AnyTransport) -> None:
        limits = self._options.limits
        peer = transport.peer
        if self._open.total() >= limits.max_connections:
            raise QuotaExceeded(
                errno.EDQUOT,
                f"{self.address} holds {limits.max_connections:,} connections, its limit",
            )
        if peer is None:
            return
        if not is_allowed(self._allow, peer, self.address):
            raise AccessDenied(errno.EACCES, f"{self.address}: uid {peer.uid} may not connect")
        quota = limits.max_connections_per_foreign_uid
        if peer.uid != os.geteuid() and self._open[peer.uid] >= quota:
            raise QuotaExceeded(
                errno.EDQUOT,
                f"{self.address} holds {quota:,} connections of uid {peer.uid}, its limit",
            )

    def _turn_away(self, transport: AnyTransport, error: IPCError) -> None:
        log.warning("%s", error)
        if has_own_port(transport):
            transport.refuse(error)
        elif self._options.framing == "length" and not is_message_transport(transport):
            limit = self._options.limits.max_message_bytes
            PeerPort(transport, self._options.codec.name, limit).refuse(error)
        transport.close()

    def _greet(self, port: SessionPort) -> None:
        try:
            if not port.try_greet():
                port.on_readable(lambda: self._greet(port))
                return
        except IPCError as error:
            told = str(error).removeprefix(f"{self.address}: ")
            log.warning("%s: a handshake failed: %s", self.address, told)
            self._drop(port, error)
            return
        self._greeting.pop(port).cancel()
        self._finish(port)

    def _late(self, port: SessionPort) -> None:
        self._too_late(port, f"no HELLO within {self._options.limits.handshake_s:g} s")

    def _too_late(self, port: SessionPort, reason: str) -> None:
        self._greet(port)  # it may have come while this loop was busy
        if port not in self._greeting:
            return
        log.warning("%s: a peer sent %s", self.address, reason)
        self._drop(port, HandshakeTimeout(reason))

    def _drop(self, port: SessionPort, error: BaseException) -> None:
        deadline = self._greeting.pop(port, None)
        if deadline is not None:
            deadline.cancel()
        self._forget(port)
        port.refuse(error)
        self._wake()
        self._door.accept_later(0, self._accept)

    def _finish(self, port: Port) -> None:
        channel: Channel[T] = self._options.open_channel(port)
        channel.when_closed(lambda closed: self._forget(closed.port))
        if isinstance(port, Session):
            port.flush_quietly()
        self._ready.append(channel)
        self._wake()

    def _forget(self, port: Port) -> None:
        transport = port.transport
        self._open[-1 if transport.peer is None else transport.peer.uid] -= 1

    # Waiting

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise BusyError(f"another task is waiting for connections on {self.address}")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The end

    async def aclose(self) -> None:
        """Stop listening and drop who was not taken yet. Channels stay open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._is_forked:
            return  # all of it is the parent's
        self._door.close()
        self._acceptor.close()
        for port, deadline in list(self._greeting.items()):
            deadline.cancel()
            port.close()
        self._greeting.clear()
        while self._ready:
            self._ready.popleft().abort()
        self._wake()

    @property
    def _is_forked(self) -> bool:
        """Whether this is the copy in a forked child."""
        return self._pid != os.getpid()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._is_forked:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._closed = True
            self._acceptor.close()
            for port in self._greeting:
                port.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Listener {self.address} {self._options.codec.name} {state}>"


def _begun(
    handler: Callable[[Channel[T]], Awaitable[object]], channel: Channel[T]
) -> Awaitable[object]:
    handling = handler(channel)
    if not inspect.isawaitable(handling):
        raise TypeError(f"a handler is an async function, and {handler!r} is none")
    return handling


def _is_ending(error: Exception, channel: Channel[Any]) -> bool:
    """Whether a handler failed of nothing but the end of its own channel."""
    if isinstance(error, ExceptionGroup):
        return all(_is_ending(part, channel) for part in error.exceptions)
    return channel.is_ending(error)


def _first(error: Exception) -> Exception:
    """What a group of errors begins with."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@overload
def listen(
    address: str | Address,
    *,
    codec: Codec[T],
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Listener[T]]: ...
@overload
def listen(
    address: str | Address,
    *,
    codec: str = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Listener[Any]]: ...
def listen(
    address: str | Address,
    *,
    codec: str | Codec[Any] = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Listener[Any]]:
    """Wait for peers at an address: await it, or enter it with ``async with``.

    Args:
        address: Where; see docs/addresses.md. ``tcp://127.0.0.1:0`` and ``unix:`` choose a
            port and a name, which `Listener.address` then tells.
        codec: As for `aioipc.connect`; both sides need the same.
        framing: As for `aioipc.connect`.
        limits: Sizes, deadlines and how many may connect.
        polling: As for `aioipc.connect`.
        allow: Decides by a peer's credentials whether it may connect, before its first byte
            is read. By default the same user.

    Raises:
        AddressError: The address is wrong, or cannot be listened on.
        AccessDenied: The directory is not to be trusted, or the address would be reachable by
            people whom nothing authenticates.
        ResourceExhausted: The address is in use.
        ValueError: An option is unknown.
        TypeError: An argument is of a wrong type.

    Cancellation:
        Undoes: nothing stays open.
    """
    where = Address.parse(address)
    family = family_of(where, able_to="listen")
    options = ChannelOptions.check(codec, framing, limits, polling)
    options.check_address(where, family.CAPABILITIES)
    check_allow(allow)

    async def open_() -> Listener[Any]:
        try:
            acceptor = await family.listen(where, limits=options.limits, allow=allow)
        except OSError as error:
            if isinstance(error, IPCError):
                raise
            raise from_os_error(error, f"listen on {where}", connecting=True) from error
        return Listener(acceptor, options, allow or same_user)

    return Opening(open_)
