"""ByteStream: bytes to and from one peer, as anyio knows them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

from aioipc._opening import AnyTransport, Opening, has_own_port, is_message_transport
from aioipc.abc import Acceptor, Allow, ByteTransport, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.channel import IPCAttribute
from aioipc.connect import open_transport
from aioipc.errors import (
    AccessDenied,
    AddressError,
    BusyError,
    ClosedError,
    EndOfStream,
    ForkError,
    IPCError,
    from_os_error,
)
from aioipc.kernel.credentials import same_user
from aioipc.limits import Limits
from aioipc.listener import is_allowed
from aioipc.loop.waiting import Waits, wait_writable
from aioipc.transports import family_of

__all__ = ["ByteStream", "StreamListener", "connect_stream", "listen_stream"]

log = logging.getLogger("aioipc.stream")

_READ_BYTES = 65536
_WRITE_BYTES = 256 * 1024
"""At most so much in one go, so that the loop turns while a large item leaves."""
_OPERATIONS_PER_TURN = 64
_RETRY_S = 0.25


class ByteStream(anyio.abc.ByteStream):
    """Bytes without boundaries to and from one peer, whatever carries them.

    Made by `connect_stream` and `listen_stream`. One task at a time may send, and one receive.
    It belongs to the loop of its first operation; in a forked child it raises ForkError.
    """

    def __init__(self, transport: ByteTransport, limits: Limits) -> None:
        self.transport = transport
        self._limits = limits
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._receiving = False
        self._sending = False
        self._operations = 0
        self._waits = Waits()
        self._write_ended = False
        self._closed = False
        self._pid = os.getpid()

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
        }

    async def receive(self, max_bytes: int = _READ_BYTES) -> bytes:
        """Wait for bytes and return those that are there.

        Args:
            max_bytes: The most to return.

        Raises:
            EndOfStream: The peer finished, and everything was received.
            PeerCrashed: The peer is gone; everything that arrived was received.
            BusyError: Another task is receiving.
            ClosedError: This side closed the stream.

        Cancellation:
            Safe: nothing is lost.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._check()
        if self._receiving:
            raise BusyError(f"another task is receiving from {self.address}")
        self._receiving = True
        try:
            await self._pace()
            into = self._buffer[:max_bytes]
            while True:
                count = self.transport.try_read_into(into)
                if count:
                    return bytes(into[:count])
                if count == 0:
                    raise EndOfStream(f"{self.address}: the peer finished")
                await self._waits.readable(self.transport)
                self._check()
        finally:
            self._receiving = False

    async def send(self, item: bytes) -> None:
        """Send all of ``item``.

        Raises:
            PeerCrashed: Nobody receives any more.
            BusyError: Another task is sending.
            ClosedError: This side closed the stream, or ended this direction.

        Cancellation:
            A part of it may have been sent; nobody knows how much.
        """
        self._check()
        if self._write_ended:
            raise ClosedError(f"{self.address}: this side ended its sending direction")
        if self._sending:
            raise BusyError(f"another task is sending to {self.address}")
        self._sending = True
        try:
            await self._pace()
            rest = memoryview(item).cast("B")
            while rest:
                count = self.transport.try_write((rest[:_WRITE_BYTES],))
                rest = rest[count:]
                if count == 0:
                    await self._waits.writable(self.transport)
                    self._check()
                elif rest:
                    await self._pace()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Finish the sending direction; receiving goes on. Idempotent.

        Raises:
            BusyError: Another task is sending.
            ClosedError: This side closed the stream.
        """
        self._check()
        if self._sending:
            raise BusyError(f"another task is sending to {self.address}")
        if not self._write_ended:
            self._write_ended = True
            self.transport.close_write()
            await self._flush()

    async def aclose(self) -> None:
        """Close the stream; the peer receives what was sent, and then the end. Idempotent.

        Pending operations raise ClosedError.

        Cancellation:
            Closes at once.
        """
        if self._closed:
            return
        self._closed = True
        self._waits.end()
        try:
            if not self._is_forked and not self._write_ended:
                with contextlib.suppress(IPCError, OSError, TimeoutError):
                    self._write_ended = True
                    if hasattr(self.transport, "try_flush"):
                        self.transport.close_write()
                    async with asyncio.timeout(self._limits.linger_s):
                        await self._flush()
        finally:
            self.transport.close()

    def abort(self) -> None:
        """Close the stream at once, dropping what did not leave yet. Idempotent."""
        if not self._closed:
            self._closed = True
            self._waits.end()
            self.transport.close()

    async def _flush(self) -> None:
        try_flush = getattr(self.transport, "try_flush", None)
        if try_flush is not None:
            while not try_flush():
                await wait_writable(self.transport)

    async def _pace(self) -> None:
        """Let the loop turn now and then: a peer may be as fast as this task."""
        self._operations += 1
        if self._operations >= _OPERATIONS_PER_TURN:
            self._operations = 0
            await asyncio.sleep(0)

    def _check(self) -> None:
        if self._is_forked:
            raise ForkError("this stream belongs to the parent process; open one in the child")
        if self._closed:
            raise ClosedError(f"this side closed the stream to {self.address}")

    @property
    def _is_forked(self) -> bool:
        return self._pid != os.getpid()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        try:
            if not self._is_forked:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._closed = True
            self.transport.close()

    def __repr__(self) -> str:
        return f"<ByteStream {self.address} {'closed' if self._closed else 'open'}>"


class StreamListener(anyio.abc.Listener[ByteStream]):
    """Yields a stream for each peer that connected and was allowed."""

    def __init__(self, acceptor: Acceptor, limits: Limits, allow: Allow) -> None:
        self._acceptor = acceptor
        self._limits = limits
        self._allow = allow
        self._ready: collections.deque[ByteStream] = collections.deque()
        self._waits = Waits()
        self._accepting = False
        self._exhausted = False
        self._closed = False
        self._retry: asyncio.TimerHandle | None = None
        if getattr(acceptor, "speaks_first", False):
            self._take_in()  # or who connects would wait for somebody to ask for streams

    @property
    def address(self) -> str:
        """Where peers reach it: the port that was chosen, the name that was made up."""
        return self._acceptor.address

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The facts as anyio's typed attributes."""
        return {
            IPCAttribute.address: lambda: self.address,
            IPCAttribute.limits: lambda: self._limits,
        }

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
                if self._exhausted:
                    raise EndOfStream(f"{self.address} has no other connection")
                self._take_in()
                if not self._ready and not self._exhausted:
                    await self._waits.until_end()
            return self._ready.popleft()
        finally:
            self._accepting = False

    def _take_in(self) -> None:
        """Take in whoever is there, as far as the limits allow."""
        while not self._closed and len(self._ready) < self._limits.max_handshakes:
            try:
                transport = self._acceptor.try_accept()
            except EOFError:
                self._exhausted = True
                break
            except IPCError as error:
                log.warning("%s: cannot accept for now: %s", self.address, error)
                self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._take_in)
                break
            if transport is None:
                self._acceptor.on_readable(self._take_in)
                break
            self._admit(transport)
        self._waits.end()

    def _admit(self, transport: AnyTransport) -> None:
        peer = transport.peer
        try:
            if peer is not None and not is_allowed(self._allow, peer, self.address):
                raise AccessDenied(errno.EACCES, f"{self.address}: uid {peer.uid} may not connect")
            self._ready.append(ByteStream(_byte_transport(transport), self._limits))
        except IPCError as error:  # or it is gone already, or there is no memory for it
            log.warning("%s: %s", self.address, error)
            if has_own_port(transport):
                transport.refuse(error)
            else:
                transport.close()

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
        if self._retry is not None:
            self._retry.cancel()
        self._acceptor.close()
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
            self._acceptor.close()

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
    where = Address.parse(address)
    family = family_of(where, able_to="connect")
    chosen = limits or Limits()

    async def open_() -> ByteStream:
        await asyncio.sleep(0)
        transport = await open_transport(family, where, chosen, allow)
        try:
            return ByteStream(_byte_transport(transport), chosen)
        except BaseException:
            transport.close()
            raise

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
    where = Address.parse(address)
    family = family_of(where, able_to="listen")
    chosen = limits or Limits()

    async def open_() -> StreamListener:
        try:
            acceptor = await family.listen(where, limits=chosen, allow=allow)
        except OSError as error:
            if isinstance(error, IPCError):
                raise
            raise from_os_error(error, f"listen on {where}", connecting=True) from error
        return StreamListener(acceptor, chosen, allow or same_user)

    return Opening(open_)


def _byte_transport(transport: AnyTransport) -> ByteTransport:
    if has_own_port(transport):
        return transport.open_stream()
    if is_message_transport(transport):
        raise AddressError(f"{transport.address} carries messages, not bytes")
    return transport
