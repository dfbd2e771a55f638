"""The contracts between the floors. Whoever keeps them can take part.

A transport moves bytes (`ByteTransport`) or whole messages (`MessageTransport`); a codec
turns an object into bytes and back. All calls return at once: what cannot be done now
answers None or False, and a callback tells when to look again.

Callbacks run from the event loop, never inside a ``try_*`` call and never inside another
task's step; each is called once and must be set anew.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = [
    "Acceptor",
    "Allow",
    "Buffer",
    "ByteTransport",
    "Capability",
    "Codec",
    "Family",
    "HasFileno",
    "Losses",
    "MessageTransport",
    "Parts",
    "Passable",
    "PeerCredentials",
    "Poll",
    "PortTransport",
    "Sender",
    "SharedBuffer",
    "Transport",
]

Buffer = bytes | bytearray | memoryview
"""Anything that is a contiguous run of bytes."""

Parts = Buffer | Sequence[Buffer]
"""One message as one buffer, or as several that belong together."""

T = TypeVar("T")


class Capability(enum.Flag):
    """What a transport can do. Asking for what is missing fails at open and names it."""

    NONE = 0
    STREAM = enum.auto()
    """Carries bytes without boundaries."""
    MESSAGE = enum.auto()
    """Keeps the boundaries of messages by itself."""
    DUPLEX = enum.auto()
    """Both directions."""
    FANOUT = enum.auto()
    """One send reaches many receivers."""
    FDS = enum.auto()
    """File descriptors travel with messages."""
    ZERO_COPY = enum.auto()
    """Messages can be written and read in place."""
    CREDENTIALS = enum.auto()
    """The kernel says who the peer is."""
    PRIORITY = enum.auto()
    """Messages have priorities."""
    BACKPRESSURE = enum.auto()
    """A sender waits for a slow receiver; nothing is dropped."""
    REMOTE = enum.auto()
    """The peer may be on another machine."""


class Poll(enum.StrEnum):
    """How a wait begins: see docs/architecture.md, "Waiting"."""

    ADAPTIVE = "adaptive"
    BLOCK = "block"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who is at the other end, as the kernel (unix(7), ``SO_PEERCRED``) saw it.

    The pid never authorises anything: it names the process that connected or listened,
    which may have passed the socket on since.
    """

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent one datagram.

    Attributes:
        address: Where an answer reaches it; None if it has no address.
        credentials: Who it is, where the kernel tells.
    """

    address: str | None
    credentials: PeerCredentials | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """What befell the datagrams of one endpoint that did not arrive, as far as it knows.

    Attributes:
        truncated: Received ones that were over the limit, and were dropped.
        refused: Received ones of users that ``allow=`` refuses, and were dropped.
        unreachable: Times that the network said of sent ones that they reached nobody.
    """

    truncated: int = 0
    refused: int = 0
    unreachable: int = 0


@runtime_checkable
class HasFileno(Protocol):
    """Anything with a file descriptor."""

    def fileno(self) -> int: ...


@runtime_checkable
class SharedBuffer(Protocol):
    """A buffer that lives in a memory file and can travel by its descriptor."""

    def fileno(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class Passable(Protocol):
    """An object that travels by its descriptor, as an argument or a result of a call.

    A parameter annotated with such a class takes it: `aioipc.rpc.Descriptor`,
    `aioipc.memory.SharedMemory`, `aioipc.memory.SharedArray`, or a class of your own.
    """

    def passed(self) -> tuple[HasFileno, Any] | None:
        """What travels: a file, and plain values that say more about it.

        The file stays this object's. None if it has none that could travel.
        """

    @classmethod
    def from_passed(cls, fd: int, facts: Any) -> Any:
        """Make the object of the other side.

        Args:
            fd: The descriptor that came, to be closed by the new object, also if this raises.
            facts: The plain values, from a peer that may not mean well.

        Raises:
            ValueError: It is not such an object; so does ProtocolError say.
        """


Allow = Callable[[PeerCredentials], bool]
"""Decides by its credentials whether a peer may talk to this process."""


class Transport(Protocol):
    """What the byte and the message transports have in common."""

    @property
    def peer(self) -> PeerCredentials | None:
        """Who is at the other end, where the kernel tells."""

    @property
    def address(self) -> str:
        """The address that this end was opened with, resolved."""

    @property
    def capabilities(self) -> Capability: ...

    @property
    def poll_source(self) -> int | None:
        """A descriptor whose readability means progress, for adaptive polling."""

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        """Call ``callback`` once when a read or receive may make progress."""

    def on_writable(self, callback: Callable[[], object] | None, /) -> None:
        """Call ``callback`` once when a write or send may make progress."""

    def take_fds(self) -> list[int]:
        """Hand over the descriptors that came with what was read last."""

    def close_write(self) -> None:
        """End this direction; the peer reads up to here and then sees the end."""

    def close(self) -> None:
        """Release everything at once. Idempotent."""


class ByteTransport(Transport, Protocol):
    """A duplex stream of bytes."""

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        """Read what is there: the number of bytes, 0 at the end, None if nothing is there.

        Raises:
            PeerCrashed: The peer is gone and nothing is left to read.
        """

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        """Write as much as fits and return the number of bytes, 0 if nothing fits.

        Raises:
            PeerCrashed: The peer no longer reads.
        """


class MessageTransport(Transport, Protocol):
    """A duplex sequence of messages."""

    def try_receive(self) -> Buffer | None:
        """Take the next message, valid until the next call; None if none is there.

        Raises:
            EndOfStream: The peer finished cleanly.
            PeerCrashed: It did not.
            ProtocolError: It broke the protocol.
        """

    def try_send(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        """Accept one message whole and in order, or not at all (False).

        Raises:
            PeerCrashed: The peer no longer receives.
            FrameTooLarge: The message is over the limit; nothing was written.
        """

    def try_flush(self) -> bool:
        """Push out what was accepted; True when all of it left."""


class PortTransport(Transport, Protocol):
    """A transport whose messages are moved by native code of its own."""

    def open_port(self, codec: str, max_message_bytes: int, max_fds: int = 0) -> Any:
        """Make the native port (`aioipc.native._pacer.MessagePort`) and belong to it.

        Args:
            codec: The name of the codec, which both sides must share.
            max_message_bytes: Limit in both directions.
            max_fds: The most descriptors that a received message may bring along.
        """

    def open_stream(self) -> ByteTransport:
        """Make a byte stream instead."""

    def refuse(self, error: BaseException) -> None:
        """Tell the peer why there will be no port, and close."""


class Acceptor(Protocol):
    """A transport that waits for peers."""

    @property
    def address(self) -> str:
        """Where peers reach it, resolved."""

    def try_accept(self) -> ByteTransport | MessageTransport | PortTransport | None:
        """Take the next peer's transport; None if nobody is there.

        Raises:
            EOFError: There will be no other.
            ResourceExhausted: The system has no descriptor left for it; try again later.
        """

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        """Call ``callback`` once when `try_accept` may make progress."""

    def close(self) -> None:
        """Release everything at once. Idempotent."""


class Family(Protocol):
    """All transports of one address scheme: a module in `aioipc.transports`, or any object.

    A family has those of `connect`, `listen` and `pair` that make sense for it.
    """

    @property
    def CAPABILITIES(self) -> Capability: ...  # noqa: N802 - a constant of a module


class Codec(Protocol[T]):
    """Turns an object into one message and back.

    ``name`` stands in the HELLO and must be equal on both sides. ``format`` names the
    notation whose depth and number of elements the native pre-scan checks before
    ``decode`` is called: "msgpack" (map keys are str or bytes), "msgpack-any-key",
    "json" or None.

    A codec whose ``decode`` must not see a hostile message, as pickle's, also has
    ``trusted_only = True``; the channel then refuses other users and remote peers.

    One that passes memory by its descriptor, as that of arrays, has ``passes_fds = True``, and
    both functions have one more argument. ``encode(obj, fds)`` adds to the list ``fds`` what has
    a ``fileno()`` and is to travel, or is given None where nothing can; ``decode(buffer, take)``
    calls ``take(n)`` for the next ``n`` descriptors that came, which are then its own.

    One that wants to know what came with an object, but not to decode it by that, has
    ``attach(obj, fds)``. It is called for messages that brought descriptors, which are then its
    own, and gives what is received in the place of the object.

    One that can make something of a message that is over the limits of depth or elements has
    ``salvage(message, error)``, which gives what is received in its place, or raises ``error``.

    One whose ``decode`` takes any buffer, and returns what does not refer to it, may say
    ``in_place = True``: it is then given long messages where they lie, as memoryviews of memory
    that is shared with a peer of this user.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str | None: ...

    def encode(self, obj: T, /) -> Parts:
        """Return the bytes of ``obj``; any exception becomes an EncodeError."""

    def decode(self, buffer: Any, /) -> T:
        """Return the object in ``buffer``; any exception becomes a DecodeError."""
