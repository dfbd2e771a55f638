"""Channel: messages to and from one peer, whatever carries them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import ObjectStream

from aioipc.abc import (
    ByteTransport,
    Capability,
    Codec,
    Losses,
    MessageTransport,
    PeerCredentials,
    Sender,
)
from aioipc.errors import (
    AccessDenied,
    AddressError,
    ClosedError,
    EndOfStream,
    ForkError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
)
from aioipc.kernel.statistics import Kind, open_row
from aioipc.limits import Limits
from aioipc.loop.waiting import pacer_of, wait_writable
from aioipc.native._adapted import AdaptedPort
from aioipc.native._core import ChannelCore
from aioipc.native._operation import called_natively
from aioipc.native._pacer import Pacer
from aioipc.transports._framed import PeerPort
from aioipc.transports._ring import RingPeerPort, RingTransport
from aioipc.transports._session import Session

__all__ = ["Channel", "ChannelStatistics", "IPCAttribute", "certificate_of"]

T = TypeVar("T")

_TOLD = (AccessDenied, QuotaExceeded, ProtocolError)
SessionPort = PeerPort | RingPeerPort
Port = SessionPort | AdaptedPort


class IPCAttribute(anyio.TypedAttributeSet):
    """Facts about an endpoint, for ``channel.extra(IPCAttribute.peer)``."""

    peer: PeerCredentials | None = anyio.typed_attribute()
    """Who is at the other end, where the kernel tells."""
    address: str = anyio.typed_attribute()
    """The address that this end was opened with, resolved."""
    codec: str = anyio.typed_attribute()
    """The name of the codec."""
    limits: Limits = anyio.typed_attribute()
    """The limits of this end."""
    capabilities: Capability = anyio.typed_attribute()
    """What the transport can do."""
    peer_certificate: dict[str, Any] | None = anyio.typed_attribute()
    """What the peer proved to be, over TLS, as `ssl.SSLSocket.getpeercert` has it; else None."""
    sender: Sender | None = anyio.typed_attribute()
    """Of datagrams: who sent the message received last."""
    losses: Losses = anyio.typed_attribute()
    """Of datagrams: what befell those that did not arrive."""


def certificate_of(transport: object) -> Mapping[Any, Callable[[], Any]]:
    """The typed attribute for the peer's certificate, where there may be one."""
    if not hasattr(transport, "peer_certificate"):
        return {}
    return {IPCAttribute.peer_certificate: lambda: transport.peer_certificate}


def _about_datagrams(transport: Any) -> Mapping[Any, Callable[[], Any]]:
    """The typed attributes of what has no connection."""
    if not hasattr(transport, "losses"):
        return {}
    return {
        IPCAttribute.sender: lambda: transport.sender,
        IPCAttribute.losses: lambda: transport.losses,
    }


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What a channel has done since it was opened.

    Counts of messages, of bytes without headers, of system calls, of waits that suspended a
    task, and of polls and how many of them found something. Over shared memory the system calls
    are the bells that were heard and rung; ``bells_saved`` are batches that needed none, and
    ``lost_wakeups``, counted with ``AIOIPC_DEBUG=1`` only, has to be 0. ``senders_waiting`` is
    how many sends wait for room now.
    """

    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int
    read_calls: int
    write_calls: int
    send_waits: int
    receive_waits: int
    polls: int
    poll_hits: int
    bells_rung: int
    bells_saved: int
    lost_wakeups: int
    senders_waiting: int


class _State(enum.Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@called_natively
class Channel(ChannelCore[T], ObjectStream[T], Generic[T]):
    """Whole objects to and from one peer, in order.

    Made by `aioipc.connect`, `aioipc.listen` and `aioipc.pair`. Any number of tasks may send;
    one at a time receives. It is an ``anyio.abc.ObjectStream``, an async context manager and
    an async iterator, which ends when the peer finishes and raises PeerCrashed when it dies.

    It belongs to the loop and the thread of its first operation; elsewhere every operation
    raises RuntimeError, and in a forked child ForkError.

    `send` and `receive` are ``await channel.send(obj)`` and ``await channel.receive()``;
    ``async for obj in channel`` receives until the end. docs/index.md is a tour.
    """

    # There is a __dict__ all the same, from anyio. While it is empty, CPython 3.13 remembers where
    # it found a method, and does not look for it at each call.
    __slots__ = ("_lingering", "_polling", "_state", "_when_closed", "_write_ended", "limits")

    def __init__(
        self,
        port: Port,
        codec: Codec[T],
        *,
        limits: Limits,
        polling: str,
    ) -> None:
        super().__init__(
            port,
            codec,
            max_depth=limits.max_depth,
            max_elements=limits.max_elements,
            polling=polling,
        )
        self.limits = limits
        self._polling = polling
        self._state = _State.OPEN
        self._write_ended = False
        self._when_closed: list[Callable[[Channel[T]], object]] = []
        self._lingering: asyncio.Timeout | None = None
        row = open_row(Kind.CHANNEL, self.address, self.peer.pid if self.peer else 0)
        if row is not None:
            port.share(row)

    # Facts

    @property
    def _transport(self) -> ByteTransport | MessageTransport | RingTransport:
        transport: ByteTransport | MessageTransport | RingTransport = self.port.transport
        return transport

    @property
    def _stream(self) -> Any:
        """What is below a framing for foreign programs; else the transport itself."""
        return getattr(self._transport, "stream", self._transport)

    @property
    def peer(self) -> PeerCredentials | None:
        """Who is at the other end: SO_PEERCRED in unix(7). None where the kernel cannot say."""
        return self._transport.peer

    @property
    def address(self) -> str:
        """The address that this end was opened with, resolved."""
        return self._transport.address

    @property
    def capabilities(self) -> Capability:
        """What the transport can do."""
        return self._transport.capabilities

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The facts as anyio's typed attributes."""
        return {
            IPCAttribute.peer: lambda: self.peer,
            IPCAttribute.address: lambda: self.address,
            IPCAttribute.codec: lambda: self.codec.name,
            IPCAttribute.limits: lambda: self.limits,
            IPCAttribute.capabilities: lambda: self.capabilities,
            **certificate_of(self._stream),
            **_about_datagrams(self._transport),
        }

    def statistics(self) -> ChannelStatistics:
        """What this channel has done so far. Works on a closed channel too."""
        return ChannelStatistics(**self._counters())

    # The end

    async def send_eof(self) -> None:
        """Finish the sending direction; receiving goes on. Idempotent.

        Everything that was sent before is delivered before the peer sees EndOfStream.

        Raises:
            PeerCrashed: Nobody receives any more.
            ClosedError: This side closed the channel.

        Cancellation:
            Before it is this call's turn, nothing happened; afterwards the direction is
            finished, and what was accepted still leaves.
        """
        if self._write_ended:
            return
        await self.flush()
        self._write_ended = True
        port = self.port
        if isinstance(port, Session):
            port.say_goodbye()
            await self.flush()
        self._transport.close_write()

    async def aclose(self) -> None:
        """Close the channel. Idempotent.

        Pending operations raise ClosedError. What was accepted is delivered first, for at
        most ``limits.linger_s`` seconds, and then the peer sees EndOfStream. What it does not
        take in that time is dropped, and it sees PeerCrashed; who has to know awaits `flush`
        first. So a send that raises ClosedError may be of a message that is delivered: one of
        which a part had left.

        Cancellation:
            Closes at once, abruptly: the peer sees PeerCrashed.
        """
        if self._state is not _State.OPEN:
            return
        if not self._is_forked:
            self._check_thread()
        self._state = _State.CLOSING
        self._shut(ClosedError(f"this side closed the channel to {self.address}"))
        try:
            if not self._is_forked:
                await self._linger()
        except BaseException:
            self._cut_off()
            raise
        finally:
            self._release()
        wait_closed = getattr(self._stream, "wait_closed", None)
        if wait_closed is not None and not self._is_forked:
            await wait_closed()

    def abort(self, error: BaseException | None = None) -> None:
        """Close the channel at once, dropping what did not leave yet. Idempotent.

        The peer sees PeerCrashed.

        Args:
            error: Why. If there is room at once, the peer is told that this side failed, and
                sees the same exception if that is AccessDenied, QuotaExceeded or a
                ProtocolError. The text of other errors stays here.
        """
        if self._state is _State.CLOSED:
            return
        if not self._is_forked:
            self._check_thread()
        self._shut(ClosedError(f"this side closed the channel to {self.address}"))
        if self._lingering is not None:
            with contextlib.suppress(RuntimeError):  # it is just running out by itself
                self._lingering.reschedule(0)
        if error is not None and isinstance(self.port, Session):
            self.port.refuse(error if isinstance(error, _TOLD) else Exception())
        self._cut_off()
        self._release()

    def detach(self) -> tuple[str, tuple[int, ...]]:
        """Give up the descriptors, for a child process; the channel is closed afterwards.

        Use it on an end of `aioipc.pair` before anything was sent or received over it.

        Returns:
            The address that the child connects to, and the descriptors to hand down to it
            (``pass_fds=``). They belong to the caller, who closes them after the start.

        Raises:
            RuntimeError: Something was sent or received already.
            ForkError: The channel belongs to the parent process.
        """
        if self._is_forked:
            raise ForkError("this channel belongs to the parent process")
        self._check_thread()
        if self._state is not _State.OPEN:
            raise ClosedError(f"this side closed the channel to {self.address}")
        used = self.statistics()
        if used.write_calls or used.read_calls or used.messages_sent or used.messages_received:
            raise RuntimeError("detach comes before the first send or receive")
        stream = self._stream
        if not hasattr(stream, "detach"):
            raise RuntimeError(f"{self.address} has no descriptors to detach")
        fds: tuple[int, ...] = stream.detach()
        self._shut(ClosedError("the channel was detached"))
        self._release()
        text = getattr(stream, "detached_as", "fd:{}")
        return text.format(",".join(map(str, fds))), fds

    def to(self, address: str) -> Channel[T]:
        """A channel that sends from the socket of this one to somebody who has sent here.

        Args:
            address: What ``extra(IPCAttribute.sender).address`` said.

        Returns:
            A channel that only sends, and has to be closed like any other.

        Raises:
            AddressError: This channel does not receive from many, or the address is not one of
                its kind.
            AccessDenied: What is at the address is not to be trusted.
            ConnectError: Nothing is there.
            ClosedError: This side closed the channel.
            ForkError: The channel belongs to the parent process.
        """
        if self._is_forked:
            raise ForkError("this channel belongs to the parent process")
        self._check_thread()
        if self._state is not _State.OPEN:
            raise ClosedError(f"this side closed the channel to {self.address}")
        towards = getattr(self._transport, "towards", None)
        if towards is None:
            raise AddressError(f"{self.address} has one peer, and send() goes there")
        return Channel(
            AdaptedPort(towards(address)), self.codec, limits=self.limits, polling=self._polling
        )

    def unconsumed(self) -> list[T]:
        """The objects that were sent and that a peer which is gone did not take, oldest first.

        For sending them again, over another channel, after a send raised PeerCrashed and before
        this one is closed. Over shared memory only; elsewhere nobody knows, and there are none.
        The peer may have worked on the first of them: it gives back what it took in batches.
        """
        messages: list[bytes] = getattr(self.port, "unconsumed", list)()
        return [self.codec.decode(message) for message in messages]

    def is_ending(self, error: BaseException) -> bool:
        """Whether ``error`` is how this channel ended, and not another one."""
        port = self.port
        if isinstance(port, Session):
            return error in (port.ending, port.send_failure, self._closed_with)
        return error is self._closed_with or isinstance(error, EndOfStream | PeerCrashed)

    def when_closed(self, callback: Callable[[Channel[T]], object]) -> None:
        """Call ``callback(channel)`` once this channel is closed."""
        self._when_closed.append(callback)

    async def _linger(self) -> None:
        """Say goodbye and deliver what was accepted, within the deadline."""
        port = self.port
        with contextlib.suppress(IPCError, TimeoutError):
            async with asyncio.timeout(self.limits.linger_s) as self._lingering:
                if isinstance(port, Session) and not self._write_ended:
                    port.say_goodbye()
                await self._flush_out()
                if hasattr(self._stream, "wait_delivered"):
                    await self._stream.wait_delivered()

    async def _flush_out(self) -> None:
        while not self._try_flush():
            await wait_writable(self.port)

    def _try_flush(self) -> bool:
        """Push out what was accepted: whether all of it left."""
        port = self.port
        return port.try_flush() if isinstance(port, Session) else port.transport.try_flush()

    def _cut_off(self) -> None:
        """End at once what else would be waited for after a close: a child process."""
        kill = getattr(self._stream, "kill", None)
        if kill is not None and not self._is_forked:
            kill()

    def _release(self) -> None:
        self._state = _State.CLOSED
        self.port.unshare()
        self.port.close()
        callbacks, self._when_closed = self._when_closed, []
        for callback in callbacks:
            callback(self)

    def _bind(self) -> Pacer:
        loop = asyncio.get_running_loop()
        watch = getattr(self._stream, "watch", None)
        if watch is not None:
            watch.bind(loop)
        return pacer_of(loop)

    def __del__(self) -> None:
        if getattr(self, "_state", _State.CLOSED) is not _State.OPEN:
            return
        try:
            if not self._is_forked:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._release()

    def __repr__(self) -> str:
        return f"<Channel {self.address} {self.codec.name} {self._state.value}>"
