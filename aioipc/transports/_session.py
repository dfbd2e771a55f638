"""What two aioipc peers say to each other besides messages: HELLO, GOODBYE, PING."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any

from aioipc.abc import PeerCredentials, Transport
from aioipc.errors import (
    ClosedError,
    EndOfStream,
    IPCError,
    PeerCrashed,
    ProtocolError,
    ResourceExhausted,
    TruncatedFrame,
    name_address,
)
from aioipc.kernel.pidfd import describe
from aioipc.loop.death import DeathWatch, watch_holder, watch_peer
from aioipc.wire.framing import Kind
from aioipc.wire.hello import (
    Goodbye,
    Handshake,
    Hello,
    WireCapability,
    exception_for,
    goodbye_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioipc.transports._segments import Segments

__all__ = ["Session", "passing"]


def passing(peer: PeerCredentials | None, max_fds: int) -> WireCapability:
    """What to announce where descriptors can travel.

    Args:
        peer: Who is at the other end. Memory is shared with the same user only: its content may
            change while it is looked at.
        max_fds: The most descriptors that a message may bring along; 0 if none travel.
    """
    if not max_fds:
        return WireCapability(0)
    is_trusted = peer is not None and peer.uid == os.geteuid()
    return WireCapability.FDS | (WireCapability.SHARED_BUFFERS if is_trusted else 0)


class Session:
    """The rules between two peers, for a native port that moves messages.

    The port asks what the rare frames of docs/wire-format.md mean, and what the end of the
    connection was; how they travel is its own business. Inherit from this first, then from the
    port.

    Attributes:
        transport: What the port is over.
    """

    transport: Transport
    _silence: IPCError | None = None
    _death: DeathWatch | None = None
    _other: Callable[[], Session | None] = staticmethod(lambda: None)

    if TYPE_CHECKING:  # what every native port between peers has
        greeted: bool
        max_send_bytes: int
        ending: BaseException | None
        send_failure: BaseException | None
        try_greet: Callable[[], bool]
        try_flush: Callable[[], bool]
        queue_control: Callable[[int, bytes], None]
        end_receiving: Callable[[BaseException], None]
        end_sending: Callable[[BaseException], None]
        end_writing: Callable[[], None]
        heard_hello: Callable[[bool], None]
        refuse_fds: Callable[[], None]
        share_memory: Callable[[], None]
        tell: Callable[[bytes], bool]
        look_ahead: Callable[[], bytes | None]
        peer_died: Callable[[], None]
        socket_fd: int
        on_readable: Callable[[Callable[[], object] | None], None]
        on_writable: Callable[[Callable[[], object] | None], None]
        close: Callable[[], None]

    def start_session(
        self, own: Hello, *, shared: bool = False, reads: bool = True, writes: bool = True
    ) -> None:
        """Queue this side's HELLO.

        Args:
            own: What it says.
            shared: Whether many writers share the transport: then any of them may say HELLO,
                and none can end it.
            reads: Whether anything is received.
            writes: Whether anything is sent.
        """
        self._own = own
        self._handshake = Handshake(own)
        self._shared = shared
        self._reads = reads
        self._writes = writes
        if writes:
            self.queue_control(Kind.HELLO, own.pack())

    @property
    def peer_hello(self) -> Hello | None:
        """What the peer said about itself, once it did."""
        return self._handshake.peer

    @property
    def is_shared(self) -> bool:
        """Whether many writers share the transport."""
        return self._shared

    @property
    def reads(self) -> bool:
        """Whether there is a direction to receive from."""
        return self._reads

    @property
    def writes(self) -> bool:
        """Whether there is a direction to send to."""
        return self._writes

    def say_goodbye(self, error: BaseException | None = None) -> None:
        """Queue the last frame; nothing can be sent afterwards.

        Args:
            error: Why, unless this is a normal end.
        """
        if not self._shared:
            goodbye = Goodbye() if error is None else goodbye_for(error)
            self.queue_control(Kind.GOODBYE, goodbye.pack())
        self.end_writing()

    def flush_quietly(self) -> None:
        """Send off what is queued, as far as there is room; a failure shows at the next send."""
        with contextlib.suppress(IPCError):
            self.try_flush()

    def hear_hello(self) -> None:
        """Read the peer's HELLO when it comes, although nobody may ever receive.

        Then its limit is known, and over TCP nothing that was sent can be lost with this
        process: close(2) with unread bytes sends a reset, which overtakes what is on its way.
        """
        if not self.greeted and self._reads:
            with contextlib.suppress(IPCError):  # each receive raises it
                if not self.try_greet():
                    self.on_readable(self.hear_hello)

    def knows(self, other: Session) -> None:
        """The peer is another object of this process, as the ends of a pair are."""
        self._other = weakref.ref(other)

    def refuse(self, error: BaseException) -> None:
        """Tell the peer why, as far as there is room at once, and close."""
        with contextlib.suppress(IPCError):
            self.say_goodbye(error)
            self.try_flush()
        gone = ClosedError(f"this side closed the channel to {self.transport.address}")
        self.end_sending(error if isinstance(error, IPCError) else gone)
        self.close()

    def beat(self) -> None:
        """Give a sign of life, unless something is on its way already."""
        with contextlib.suppress(IPCError):
            if self.try_flush():
                self.queue_control(Kind.PING, b"")
                self.try_flush()

    def fell_silent(self, error: IPCError) -> None:
        """The peer says nothing any more: what ends now ends with ``error``."""
        self._silence = error

    # What the native part asks

    def _open_segments(self) -> Segments:
        # Few programs send messages that large.
        from aioipc.transports._segments import Segments  # noqa: PLC0415

        return Segments(self)

    def _fetch_hello(self) -> None:
        other = self._other()
        if other is not None:
            other.flush_quietly()  # nobody else would, before it sends something
        with contextlib.suppress(IPCError):  # it is the ending now
            self.try_greet()

    def _control(self, kind: int, payload: bytes) -> None:
        if kind == Kind.HELLO:
            self._greet(payload)
        elif kind == Kind.GOODBYE:
            if not self._shared:
                goodbye = Goodbye.parse(payload)
                self.end_receiving(exception_for(goodbye, self.transport.address))
        elif kind == Kind.PING:
            self.queue_control(Kind.PONG, payload)
            self.flush_quietly()

    def _greet(self, payload: bytes) -> None:
        if self._shared:
            self._handshake = Handshake(self._own)
        self._handshake.receive(payload)
        self.max_send_bytes = min(self.max_send_bytes, self._handshake.max_send_bytes)
        passes_fds = WireCapability.FDS in self._handshake.capabilities
        if WireCapability.FDS in self._own.capabilities and not passes_fds:
            self.refuse_fds()
        if WireCapability.SHARED_BUFFERS in self._handshake.capabilities:
            self.share_memory()
        self.heard_hello(passes_fds)
        self._watch_peer(self._handshake.peer)

    def _watch_peer(self, hello: Hello | None) -> None:
        """Notice the end of the peer even where a child of it has inherited its descriptors.

        Who connected or listened may have passed the connection on, and then ended: so only if
        it is the one who speaks. Of the ends of a pair the kernel knows only who made them: there
        the one who speaks has to have the other end.
        """
        if self._death is not None or hello is None or hello.pid == os.getpid():
            return
        peer = self.transport.peer
        other_end = getattr(self.transport, "counterpart", None)
        with contextlib.suppress(ResourceExhausted):  # the end of the stream is still noticed
            if peer is not None and hello.pid == peer.pid:
                self._death = watch_peer(self.socket_fd, hello.pid, self.peer_died)
            elif other_end:
                self._death = watch_holder(hello.pid, other_end, self.peer_died)

    def stop_watching(self) -> None:
        """Wait no longer for the end of the peer. Idempotent."""
        death, self._death = self._death, None
        if death is not None:
            death.close()

    def _ended(self, inside_frame: bool, error: Any) -> IPCError:
        address = self.transport.address
        if self._silence is not None:
            return self._silence
        if isinstance(error, IPCError) and not isinstance(error, PeerCrashed):
            return error
        if inside_frame:
            error = TruncatedFrame(f"{address}: the peer died inside a message")
        crash = error or PeerCrashed(f"{address}: the peer ended without a goodbye")
        return self._with_status(crash)

    def _with_status(self, crash: PeerCrashed) -> PeerCrashed:
        """Say how the process ended, if it is a child of ours and that is known."""
        status = None if self._death is None else self._death.status
        if status is None or crash.status is not None:
            return crash
        told = type(crash)(f"{crash} (the peer {describe(status)})", status=status)
        told.__cause__ = crash.__cause__
        return told

    def _refused(self, error: IPCError) -> None:
        # Two peers that refuse each other would answer a GOODBYE with another for ever.
        if not isinstance(self.ending, ProtocolError) or self.ending is error:
            self.refuse(error)
        # Afterwards: the peer knows the address, and maybe by another name.
        name_address(error, self.transport.address)

    def _send_failed(self, error: IPCError) -> IPCError:
        """What was received says more about the end, and the failure what was lost in it."""
        found = self._why_it_failed(error) if self._reads else error
        if isinstance(found, PeerCrashed):
            found = self._with_status(found)
            if isinstance(error, PeerCrashed):
                found.unconsumed = error.unconsumed
        return found

    def _why_it_failed(self, error: IPCError) -> IPCError:
        """A GOODBYE that arrived before the failure says why the peer closed."""
        if self._silence is not None:
            return self._silence
        if isinstance(self.ending, IPCError) and not isinstance(self.ending, EndOfStream):
            return self.ending
        payload = None if self.ending is not None else self.look_ahead()
        if payload is not None:
            with contextlib.suppress(ProtocolError):
                told = exception_for(Goodbye.parse(payload), self.transport.address)
                if not isinstance(told, EndOfStream):
                    return told
        if payload is not None or self.ending is not None:
            return PeerCrashed(
                f"{self.transport.address}: the peer has closed and receives no more"
            )
        return error
