"""ByteStream: bytes to and from one peer, as anyio knows them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

from aioipc._bytes import Entrance, Place, reader_of
from aioipc._opening import Opening
from aioipc.abc import Acceptor, Allow, ByteTransport, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.channel import IPCAttribute, certificate_of
from aioipc.errors import BusyError, ClosedError, EndOfStream, IPCError
from aioipc.kernel.statistics import Kind, open_row
from aioipc.limits import Limits
from aioipc.loop.waiting import Waits, pacer_of, wait_writable
from aioipc.native._bytes import BytePort, ByteStreamCore
from aioipc.native._operation import called_natively
from aioipc.native._pacer import Pacer

__all__ = ["ByteStream", "StreamListener", "connect_stream", "listen_stream"]


@called_natively
class ByteStream(ByteStreamCore, anyio.abc.ByteStream):
    """Bytes without boundaries to and from one peer, whatever carries them.

    Made by `connect_stream` and `listen_stream`. One task at a time may send, and one receive.
    It belongs to the loop and the thread of its first operation; elsewhere every operation raises
    RuntimeError, and in a forked child ForkError.
    """

    __slots__ = ("_is_closed", "_limits", "_lingering", "_when_closed", "transport")

    def __init__(
        self,
        transport: ByteTransport,
        limits: Limits,
        when_closed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(BytePort(transport, reader_of(transport)))
        self.transport = transport
        self._limits = limits
        self._when_closed = when_closed
        self._is_closed = False
        self._lingering: asyncio.Timeout | None = None
        peer = transport.peer
        row = open_row(Kind.STREAM, transport.address, peer.pid if peer else 0)
        if row is not None:
            self.port.share(row)

    @property
    def address(self) -> str:
        """The address that this end was opened with, resolved."""
        return self.transport.address

    @property
    def peer(self) -> PeerCredentials | None:
        """Who is at the other end, where the kernel tells."""
        return self.transport.peer

    @property
    def capabilities(self) -> Capability:
        """What the transport can do."""
        return self.transport.capabilities

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The facts as anyio's typed attributes."""
        return {
            IPCAttribute.peer: lambda: self.peer,
            IPCAttribute.address: lambda: self.address,
            IPCAttribute.limits: lambda: self._limits,
            IPCAttribute.capabilities: lambda: self.capabilities,
            **certificate_of(self.transport),
        }

    async def send_eof(self) -> None:
        """Finish the sending direction; receiving goes on. Idempotent.

        Raises:
            PeerCrashed: Nobody receives any more.
            BusyError: Another task is sending.
            ClosedError: This side closed the stream.

        Cancellation:
            The direction is finished. What was accepted still leaves, at the latest with another
            `send_eof` or `aclose`.
        """
        self._end_writing()
        await self._flush()

    async def aclose(self) -> None:
        """Close the stream; the peer receives what was sent, and then the end. Idempotent.

        Pending operations raise ClosedError. A program that was started for the stream
        (``exec:``) is waited for.

        Cancellation:
            Closes at once.
        """
        if self._is_closed:
            return
        self._close_operations()
        try:
            if not self._is_forked:
                await self._linger()
        except BaseException:
            self._cut_off()
            raise
        finally:
            self._release()
        wait_closed = getattr(self.transport, "wait_closed", None)
        if wait_closed is not None and not self._is_forked:
            with contextlib.suppress(TimeoutError):  # by `abort`
                async with asyncio.timeout(None) as self._lingering:
                    await wait_closed()

    def abort(self) -> None:
        """Close the stream at once, dropping what did not leave yet. Idempotent.

        An `aclose` that waits ends, too.
        """
        if self._lingering is not None and not self._is_forked:
            with contextlib.suppress(RuntimeError):  # it is over, or just running out by itself
                self._lingering.reschedule(0)
        if not self._is_closed:
            self._close_operations()
            self._cut_off()
            self._release()

    def _close_operations(self) -> None:
        if not self._is_forked:
            self._check_thread()
        self._is_closed = True
        self._shut(ClosedError(f"this side closed the stream to {self.address}"))

    async def _linger(self) -> None:
        """Deliver what was accepted, within the deadline."""
        with contextlib.suppress(IPCError, OSError, TimeoutError):
            if not self._write_ended and hasattr(self.transport, "try_flush"):
                self.transport.close_write()
            wait_delivered = getattr(self.transport, "wait_delivered", None)
            if self._try_flush() and wait_delivered is None:
                return
            async with asyncio.timeout(self._limits.linger_s) as self._lingering:
                await asyncio.sleep(0)  # who was cancelled takes back what it had called when ready
                while not self._try_flush():
                    await wait_writable(self.transport)
                if wait_delivered is not None:
                    await wait_delivered()

    def _try_flush(self) -> bool:
        """Whether all that the transport accepted has left, where it keeps any."""
        try_flush = getattr(self.transport, "try_flush", None)
        return try_flush is None or try_flush()

    def _cut_off(self) -> None:
        """End at once what else would be waited for after a close: a child process."""
        kill = getattr(self.transport, "kill", None)
        if kill is not None and not self._is_forked:
            kill()

    def _release(self) -> None:
        self.port.unshare()
        self.port.close()
        if not self._is_forked:
            self._when_closed()

    def _bind(self) -> Pacer:
        loop = asyncio.get_running_loop()
        watch = getattr(self.transport, "watch", None)
        if watch is not None:
            watch.bind(loop)
        return pacer_of(loop)

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True):
            return
        try:
            if not self._is_forked:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._is_closed = True
            self._release()

    def __repr__(self) -> str:
        return f"<ByteStream {self.address} {'closed' if self._is_closed else 'open'}>"


class StreamListener(anyio.abc.Listener[ByteStream]):
    """Yields a stream for each peer that connected and was allowed.

    Beyond ``Limits.max_connections`` open streams new peers wait until one of them is closed.
    """

    def __init__(self, acceptor: Acceptor, limits: Limits, allow: Allow | None) -> None:
        self._limits = limits
        self._ready: collections.deque[ByteStream] = collections.deque()
        self._waits = Waits()
        self._open = 0
        self._loop = asyncio.get_running_loop()
        self._accepting = False
        self._closed = False
        self._entrance = Entrance(
            acceptor,
            allow,
            limits,
            enter=self._enter,
            has_room=self._has_room,
            looked=self._waits.end,
        )
        if getattr(acceptor, "speaks_first", False):
            self._entrance.look()  # or who connects would wait for somebody to ask for streams

    @property
    def address(self) -> str:
        """Where peers reach it: the port that was chosen, the name that was made up."""
        return self._entrance.address

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The facts as anyio's typed attributes."""
        return {
            IPCAttribute.address: lambda: self.address,
            IPCAttribute.limits: lambda: self._limits,
        }

    def _has_room(self) -> bool:
        limits = self._limits
        return len(self._ready) < limits.max_handshakes and self._open < limits.max_connections

    def _enter(self, transport: ByteTransport) -> None:
        this = weakref.ref(self)  # or a stream would keep a listener that is dropped open
        peer = transport.peer

        def when_closed() -> None:
            if (listener := this()) is not None:
                listener._leave(peer)

        self._open += 1
        self._ready.append(ByteStream(transport, self._limits, when_closed))

    def _leave(self, peer: PeerCredentials | None) -> None:
        self._open -= 1
        self._entrance.left(peer)
        if not self._closed and self._open == self._limits.max_connections - 1:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                # A stream may be collected in any thread.
                self._loop.call_soon_threadsafe(self._entrance.look)

    async def accept(self) -> ByteStream:
        """Wait for the next peer that is allowed.

        Raises:
            EndOfStream: There will be no other.
            ClosedError: This side closed the listener.
            BusyError: Another task is waiting.

        Cancellation:
            Safe: the peer is taken by whoever waits next.
        """
        if self._accepting:
            raise BusyError(f"another task is waiting for connections on {self.address}")
        self._accepting = True
        try:
            while not self._ready:
                if self._closed:
                    raise ClosedError(f"this side closed the listener on {self.address}")
                if self._entrance.exhausted:
                    raise EndOfStream(f"{self.address} has no other connection")
                self._entrance.look()
                if not self._ready and not self._entrance.exhausted:
                    await self._waits.until_end()
            return self._ready.popleft()
        finally:
            self._accepting = False

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Run ``handler(stream)`` in a task for each peer, for ever.

        Cancellation:
            Cancels the handlers.
        """
        if task_group is None:
            async with anyio.create_task_group() as own:
                await self.serve(handler, own)
            return
        while True:
            task_group.start_soon(handler, await self.accept())

    async def aclose(self) -> None:
        """Stop listening. Streams stay open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._entrance.close()
        while self._ready:
            await self._ready.popleft().aclose()
        self._waits.end()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._closed = True
            self._entrance.close()

    def __repr__(self) -> str:
        return f"<StreamListener {self.address} {'closed' if self._closed else 'open'}>"


class StreamOpening(Opening[ByteStream], anyio.abc.ByteStreamConnectable):
    """A stream about to be opened: await it, enter it, or hand it to who connects by itself."""

    async def connect(self) -> ByteStream:
        """Open another one."""
        return await self._open()


def connect_stream(
    address: str | Address,
    *,
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> StreamOpening:
    """Open a byte stream to whoever serves an address: await it, or enter it with ``async with``.

    The result is an ``anyio.abc.ByteStreamConnectable``, too.

    Args:
        address: Where to; see docs/addresses.md.
        limits: Sizes and deadlines.
        allow: Decides by the server's credentials whether to talk to it. By default servers
            of the same user and of root are trusted.

    Raises:
        AddressError: The address is wrong, or carries no bytes.
        ConnectError: Nobody listens there, or not within ``limits.connect_s``.
        AccessDenied: The path or the server's user is not trusted.

    Cancellation:
        Undoes: nothing stays open.
    """
    place = Place.find(address, able_to="connect", limits=limits, allow=allow)

    async def open_() -> ByteStream:
        return ByteStream(await place.connect(), place.limits)

    return StreamOpening(open_)


def listen_stream(
    address: str | Address,
    *,
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[StreamListener]:
    """Wait for peers at an address: await it, or enter it with ``async with``.

    Args:
        address: Where; see docs/addresses.md.
        limits: Sizes and deadlines.
        allow: Decides by a peer's credentials whether it may connect. By default the same user.

    Raises:
        AddressError: The address is wrong, or cannot be listened on.
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: The address is in use.

    Cancellation:
        Undoes: nothing stays open.
    """
    place = Place.find(address, able_to="listen", limits=limits, allow=allow)

    async def open_() -> StreamListener:
        return StreamListener(await place.listen(), place.limits, allow)

    return Opening(open_)
