"""What stands behind a channel over shared memory: the rings, their bells, and the socket.

The socket is where both sides met, and stays: when it ends, the peer is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from aioipc.abc import Capability, PeerCredentials
from aioipc.errors import ClosedError, HandshakeError, from_os_error
from aioipc.kernel.ancillary import send_with_fds
from aioipc.kernel.descriptors import is_hung_up
from aioipc.kernel.eventfd import create_eventfd, is_eventfd
from aioipc.kernel.memory import create_memory, what_is_wrong
from aioipc.kernel.owned import OwnedFd, abandon_in_child, above_stdio
from aioipc.loop.fd import FdWatch
from aioipc.native._memory import Mapping
from aioipc.native._ring import RingPort
from aioipc.native._ring_stream import RingStream
from aioipc.transports._session import Session, passing
from aioipc.wire.hello import Hello, goodbye_for
from aioipc.wire.offer import Offer, pack_refusal

__all__ = ["CAPABILITIES", "RingPeerPort", "RingTransport", "Rings", "make_rings", "take_rings"]

CAPABILITIES = (
    Capability.MESSAGE
    | Capability.ZERO_COPY
    | Capability.DUPLEX
    | Capability.BACKPRESSURE
    | Capability.CREDENTIALS
    | Capability.FDS
)
_STREAM_CAPABILITIES = CAPABILITIES & ~(Capability.MESSAGE | Capability.FDS) | Capability.STREAM
_STREAM_CODEC = "stream"
"""What a HELLO calls bytes without boundaries."""
_MOST_RECORD_BYTES = 2**28
_RING_HEAD_BYTES = 4096


class Rings:
    """Both rings of a channel as one side has them: mapped, with the bells of both sides.

    Args:
        memory: The mapping.
        offer: The geometry, with the side that this one is.
        bells: This side's and the peer's, none where they are bytes on the socket.
    """

    def __init__(self, memory: Mapping, offer: Offer, bells: tuple[OwnedFd, ...]) -> None:
        self.memory = memory
        self.offer = offer
        self.bells = bells

    def close(self) -> None:
        """Close the bells. The memory goes when nobody looks at it any more."""
        for bell in self.bells:
            bell.close()


def make_rings(capacity: int, *, socket_bells: bool) -> tuple[Rings, list[OwnedFd], Offer]:
    """Make the memory and the bells of a channel.

    Args:
        capacity: Bytes of data in each direction.
        socket_bells: Whether the bells are bytes on the socket.

    Returns:
        Side 0, which the maker is; the descriptors for the peer, and what to tell it.

    Raises:
        ResourceExhausted: There is not so much memory, or no descriptor left.
    """
    size = 2 * (_RING_HEAD_BYTES + capacity)
    with contextlib.ExitStack() as undo:
        try:
            file = undo.enter_context(create_memory(size, "aioipc-ring"))
            memory = Mapping(file.fileno(), size)
            bells: tuple[OwnedFd, ...] = ()
            if not socket_bells:
                bells = tuple(undo.enter_context(create_eventfd()) for _ in range(2))
        except OSError as error:
            raise from_os_error(error, f"make two rings of {capacity:,} bytes") from error
        undo.pop_all()
    mine = Rings(memory, Offer(capacity, 0, socket_bells), bells)
    return mine, [file, *reversed(bells)], Offer(capacity, 1, socket_bells)


def take_rings(offer: Offer, fds: list[OwnedFd]) -> Rings:
    """Take part in the rings that a peer made.

    Args:
        offer: What it said.
        fds: The descriptors that came with it. They are closed if this raises.

    Raises:
        HandshakeError: They are not what they ought to be.
        ResourceExhausted: The memory cannot be mapped.
    """
    with contextlib.ExitStack() as undo:
        for fd in fds:
            undo.enter_context(fd)
        if len(fds) != offer.fds:
            raise HandshakeError(
                f"the offer of a ring came with {len(fds)} descriptors, {offer.fds} are due"
            )
        file, *bells = fds
        size = 2 * (_RING_HEAD_BYTES + offer.capacity)
        wrong = what_is_wrong(file.fileno(), size)
        if wrong is not None:
            raise HandshakeError(f"the peer offers bad memory for a ring: {wrong}")
        for bell in bells:
            if not is_eventfd(bell.fileno()):
                raise HandshakeError("the peer offers a bell that is no eventfd")
        try:
            memory = Mapping(file.fileno(), size)
        except OSError as error:
            raise from_os_error(error, f"map two rings of {offer.capacity:,} bytes") from error
        undo.pop_all()
    file.close()
    return Rings(memory, offer, tuple(bells))


_TRIPWIRE_S = 1.0
_DEAF_S = 0.05


class _Regularly:
    """Calls a method of an object, which it does not keep alive, every so often."""

    def __init__(self, look: Callable[[], object], interval_s: float) -> None:
        self._method = weakref.WeakMethod(look)
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(interval_s, self._look)

    def _look(self) -> None:
        look = self._method()
        if look is not None:
            self._timer = self._loop.call_later(self._interval_s, self._look)
            look()

    def close(self) -> None:
        self._timer.cancel()


class _Listening(Protocol):
    def look_for_lost_wakeup(self) -> None: ...
    def _rung(self) -> None: ...
    def _lifeline(self) -> None: ...
    def look_while_deaf(self) -> None: ...


class RingTransport:
    """One side's end of a channel over shared memory.

    Args:
        sock: The connected, non-blocking socket, which it takes over.
        address: For messages and `address`.
        peer: Who is at the other end.
        ring_bytes: The capacity of the rings, where this side makes them.
        rings: The rings, where they are made already.
        detachable: Whether an offer waits unread in the socket, so that another process can
            take this end over.
        counterpart: Of a pair: what /proc calls the other socket.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        sock: socket.socket,
        *,
        address: str,
        peer: PeerCredentials | None,
        ring_bytes: int = 0,
        rings: Rings | None = None,
        detachable: bool = False,
        counterpart: str | None = None,
    ) -> None:
        self.address = address
        self.counterpart = counterpart
        self.peer = peer
        self._ring_bytes = ring_bytes
        self._rings = rings
        self._detachable = detachable
        self._port: RingPeerPort | None = None
        self._socket = OwnedFd(above_stdio(sock.detach()))
        self._bell = FdWatch()
        self._lifeline = FdWatch()
        self._deafness: _Regularly | None = None
        self._tripwire: _Regularly | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        abandon_in_child(self)

    # The port

    def open_port(self, codec: str, max_message_bytes: int, max_fds: int = 0) -> RingPeerPort:
        """Make the rings unless they are there, and the port over them.

        Args:
            codec: The name of the codec.
            max_message_bytes: Limit in both directions.
            max_fds: The most descriptors that a received message may bring along.

        Raises:
            ResourceExhausted: There is not enough memory.
            ConnectError: The peer is gone already.
        """
        if self._rings is None:
            self._rings = self._offer_rings()
        self._port = RingPeerPort(self, self._rings, codec, max_message_bytes, max_fds)
        return self._port

    def open_stream(self) -> RingStream:
        """A byte stream over the rings instead; both sides need the same.

        Raises:
            ResourceExhausted: There is not enough memory.
            ConnectError: The peer is gone already.
        """
        port = self.open_port(_STREAM_CODEC, _MOST_RECORD_BYTES)
        port.hear_hello()
        port.flush_quietly()
        return RingStream(port, _STREAM_CAPABILITIES)

    def _offer_rings(self) -> Rings:
        foreign = self.peer is None or self.peer.uid != os.geteuid()
        rings, fds, offer = make_rings(self._ring_bytes, socket_bells=foreign)
        try:
            self._send(offer.pack(), fds)
        except OSError as error:
            rings.close()
            raise from_os_error(
                error, f"offer a ring to {self.address}", connecting=True
            ) from error
        finally:
            fds[0].close()  # mapped here, and on its way to the peer
        return rings

    def refuse(self, error: BaseException) -> None:
        """Tell the peer why there will be no ring, and close."""
        with contextlib.suppress(OSError):
            self._send(pack_refusal(goodbye_for(error)), [])
        self.close()

    def _send(self, data: bytes, fds: list[OwnedFd]) -> None:
        # The first bytes on this socket always find room.
        view = socket.socket(fileno=self._socket.fileno())
        try:
            send_with_fds(view, data, [fd.fileno() for fd in fds])
        finally:
            view.detach()

    # What the port asks

    @property
    def socket_fd(self) -> int:
        """The descriptor of the socket, -1 once it is closed."""
        return self._socket.fileno()

    @property
    def watch(self) -> RingTransport:
        """What a channel binds to its loop."""
        return self

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to ``loop``, and notice from now on when the peer is gone.

        Raises:
            RuntimeError: It belongs to another loop already.
        """
        self._bell.bind(loop)
        self._lifeline.bind(loop)
        self._loop = loop
        if self._port is not None:
            self._port.started_in(loop)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call from the loop, where the port belongs to no pacer yet."""
        (self._loop or asyncio.get_running_loop()).call_soon(callback)

    def start(self, port: _Listening) -> None:
        """Let the port hear its bell, and the end of the peer."""
        if self._detachable:
            self._detachable = False
            self._drop_offer()
        self._lifeline.watch_reading(self.socket_fd, port._lifeline)
        if self._rings is not None and self._rings.bells:
            self._bell.watch_reading(self._rings.bells[0].fileno(), port._rung)
        if os.environ.get("AIOIPC_DEBUG") == "1":
            self._tripwire = _Regularly(port.look_for_lost_wakeup, _TRIPWIRE_S)

    def _drop_offer(self) -> None:
        """Forget the offer that nobody took; the kernel closes the descriptors in it."""
        view = socket.socket(fileno=self.socket_fd)
        try:
            with contextlib.suppress(OSError):
                view.recv(len(Offer(1, 0).pack()), socket.MSG_DONTWAIT)
        finally:
            view.detach()

    def pause_lifeline(self, port: _Listening) -> None:
        """Leave unread for a while what waits in the socket, and look now and then instead."""
        self._lifeline.unwatch_reading()
        self._deafness = _Regularly(port.look_while_deaf, _DEAF_S)

    def is_cut(self) -> bool:
        """Whether the peer is gone, whatever lies unread in the socket."""
        return is_hung_up(self.socket_fd)

    def resume_lifeline(self, port: _Listening) -> None:
        """Read again what comes over the socket."""
        self._end_deafness()
        self._lifeline.watch_reading(self.socket_fd, port._lifeline)

    def _end_deafness(self) -> None:
        if self._deafness is not None:
            self._deafness.close()
            self._deafness = None

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once when the socket has room."""

        def writable() -> None:
            self._lifeline.unwatch_writing()
            callback()

        self._lifeline.watch_writing(self.socket_fd, writable)

    def stop_lifeline(self) -> None:
        """The peer is gone: what can be read for ever must not be watched."""
        self._end_deafness()
        self._lifeline.close()

    # The transport

    @property
    def poll_source(self) -> int | None:
        if self._rings is None:
            return None
        return self._rings.bells[0].fileno() if self._rings.bells else self.socket_fd

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        """The ring says it; the socket stays, because its end means that all is over."""

    def detach(self) -> tuple[int, ...]:
        """Give the socket away, over which another process takes part in the same rings.

        Raises:
            ClosedError: It is closed.
            RuntimeError: It is no end of a pair, or was used.
        """
        if self._socket.fileno() < 0:
            raise ClosedError(f"this side closed the channel to {self.address}")
        if not self._detachable:
            raise RuntimeError("detach works on an unused end of pair('shm') only")
        fd = self._socket.detach()
        self.close()
        return (fd,)

    detached_as = "shm:fd={}"

    def close(self) -> None:
        """Release everything at once. Idempotent."""
        if self._tripwire is not None:
            self._tripwire.close()
        self._bell.close()
        self.stop_lifeline()
        if self._rings is not None:
            self._rings.close()
        self._socket.close()
        self._rings = self._port = None

    def abandon(self) -> None:
        """Leave loop and memory to the parent process, in a forked child."""
        self._bell.abandon()
        self._lifeline.abandon()
        if self._port is not None:
            self._port.abandon()

    def on_readable(self, callback: Any, /) -> None:
        raise NotImplementedError("the port hears the bell")

    def on_writable(self, callback: Any, /) -> None:
        raise NotImplementedError("the port hears the bell")


class RingPeerPort(Session, RingPort):
    """Messages between two aioipc peers in shared memory.

    Args:
        transport: The socket, and what watches it.
        rings: The memory and the bells.
        codec: Name of the codec, which both sides must share.
        max_message_bytes: Limit in both directions.
        max_fds: The most descriptors that a received message may bring along.
    """

    transport: RingTransport

    def __init__(
        self,
        transport: RingTransport,
        rings: Rings,
        codec: str,
        max_message_bytes: int,
        max_fds: int = 0,
    ) -> None:
        if rings.bells:
            own_bell, peer_bell = (bell.fileno() for bell in rings.bells)
        else:
            own_bell = peer_bell = transport.socket_fd
        super().__init__(
            transport,
            rings.memory,
            rings.offer.capacity,
            side=rings.offer.side,
            own_bell=own_bell,
            peer_bell=peer_bell,
            bells_are_sockets=not rings.bells,
            max_message_bytes=max_message_bytes,
        )
        if max_fds:
            self.expect_fds(max_fds)
        capabilities = passing(transport.peer, max_fds)
        self.start_session(Hello(codec, max_message_bytes, capabilities))

    @property
    def socket_fd(self) -> int:  # type: ignore[override]
        """The descriptor of the socket where both sides met."""
        return self.transport.socket_fd

    def close(self) -> None:
        self.stop_watching()
        super().close()
