"""How two peers greet each other and part.

HELLO is the first frame in each direction. It travels in the same write as the first message,
without waiting for the other's, so it costs no round trip. GOODBYE is the last frame: an end
without it means that the peer crashed.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from aioipc.errors import (
    AccessDenied,
    CodecMismatch,
    EndOfStream,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    ResourceExhausted,
    VersionMismatch,
)

__all__ = [
    "MAGIC",
    "MAX_REASON_BYTES",
    "VERSION",
    "Goodbye",
    "GoodbyeCode",
    "Handshake",
    "HandshakeTimeout",
    "Hello",
    "WireCapability",
    "exception_for",
    "goodbye_for",
]

MAGIC = b"\x89aioipc\n"
"""The first 8 bytes of a HELLO; no text starts with them."""

VERSION = (1, 0)
"""Major and minor. Another major cannot be understood; another minor can."""

MAX_REASON_BYTES = 1024
"""How long the reason in a GOODBYE may be, in UTF-8."""

_VERSION = struct.Struct("<8sHH")
_HELLO = struct.Struct("<8sHHIQ16sIB")
_CODE = struct.Struct("<H")
_NONCE_BYTES = 16
_MAX_CODEC_BYTES = 255


class WireCapability(enum.IntFlag):
    """Optional behaviour. It is used once both peers have announced it."""

    FDS = 1
    """File descriptors may travel with messages."""
    SHARED_BUFFERS = 2
    """Buffers that live in memory files may travel by descriptor."""


_NO_CAPABILITY = WireCapability(0)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says about itself.

    Attributes:
        codec: The name of the codec of its messages.
        max_message_bytes: The longest message that it accepts.
        capabilities: The optional behaviour that it understands.
        pid: Its process id, for people to read and to notice its end; it never authorises
            anything.
        nonce: 16 random bytes, by which a connection to oneself is noticed.
        version: Major and minor version of its protocol.
    """

    codec: str
    max_message_bytes: int
    capabilities: WireCapability = _NO_CAPABILITY
    pid: int = field(default_factory=os.getpid)
    nonce: bytes = field(default_factory=lambda: os.urandom(_NONCE_BYTES), repr=False)
    version: tuple[int, int] = VERSION

    def pack(self) -> bytes:
        """The payload of a HELLO frame."""
        codec = self.codec.encode()
        if len(codec) > _MAX_CODEC_BYTES:
            raise ValueError(f"a codec's name has at most {_MAX_CODEC_BYTES} bytes: {self.codec}")
        head = (self.capabilities, self.max_message_bytes, self.nonce, self.pid, len(codec))
        return _HELLO.pack(MAGIC, *self.version, *head) + codec

    @classmethod
    def parse(cls, payload: bytes | bytearray | memoryview) -> Hello:
        """Understand the payload of a HELLO frame.

        Raises:
            HandshakeError: It is not a HELLO.
            VersionMismatch: It is one of another major version.
        """
        payload = bytes(payload)
        version = _parse_version(payload)
        if len(payload) < _HELLO.size:
            raise _wrong_length(payload, f"at least {_HELLO.size}")
        _, _, _, capabilities, max_message_bytes, nonce, pid, size = _HELLO.unpack_from(payload)
        if len(payload) != _HELLO.size + size:
            raise _wrong_length(payload, f"{_HELLO.size + size}")
        codec = _utf8(payload[_HELLO.size :], "the name of the peer's codec")
        offered = WireCapability(capabilities)
        return cls(codec, max_message_bytes, offered, pid, nonce, version)


def _parse_version(payload: bytes) -> tuple[int, int]:
    """Magic and version come first because another major may lay out the rest differently."""
    if not payload.startswith(MAGIC):
        raise HandshakeError(f"the peer does not speak aioipc: it began with {payload[:8]!r}")
    if len(payload) < _VERSION.size:
        raise _wrong_length(payload, f"at least {_HELLO.size}")
    _, major, minor = _VERSION.unpack_from(payload)
    if major != VERSION[0]:
        ours = ".".join(map(str, VERSION))
        raise VersionMismatch(f"the peer speaks version {major}.{minor}, this side {ours}")
    return major, minor


def _wrong_length(payload: bytes, due: str) -> HandshakeError:
    return HandshakeError(f"a HELLO of {len(payload):,} bytes: {due} are due")


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise HandshakeError(f"{what} is not UTF-8: {data[:40]!r}") from None


class Handshake:
    """The exchange of one HELLO each, seen from one side.

    Until the peer's HELLO came, what was agreed is what this side allows by itself: its own
    limit and no optional behaviour.
    """

    def __init__(self, own: Hello) -> None:
        self.own = own
        self.peer: Hello | None = None

    def receive(self, payload: bytes | bytearray | memoryview) -> Hello:
        """Take in the peer's HELLO.

        Raises:
            HandshakeError: It is not a HELLO, it is this side's own, or it is the second one.
            VersionMismatch: The peer speaks another major version.
            CodecMismatch: The peer encodes its messages differently.
        """
        if self.peer is not None:
            raise HandshakeError("the peer sent a second HELLO")
        peer = Hello.parse(payload)
        if peer.nonce == self.own.nonce:
            raise HandshakeError("the connection leads back to this side itself")
        if peer.codec != self.own.codec:
            raise CodecMismatch(f"the peer uses codec {peer.codec!r}, this side {self.own.codec!r}")
        self.peer = peer
        return peer

    @property
    def max_send_bytes(self) -> int:
        """The longest message that may be sent: what both sides allow."""
        limit = self.own.max_message_bytes
        return limit if self.peer is None else min(limit, self.peer.max_message_bytes)

    @property
    def capabilities(self) -> WireCapability:
        """The optional behaviour that both sides have announced."""
        if self.peer is None:
            return _NO_CAPABILITY
        return self.own.capabilities & self.peer.capabilities


class GoodbyeCode(enum.IntEnum):
    """Why a peer closes."""

    NORMAL = 0
    VERSION_MISMATCH = 1
    CODEC_MISMATCH = 2
    HANDSHAKE_FAILED = 3
    HANDSHAKE_TIMEOUT = 4
    ACCESS_DENIED = 5
    QUOTA_EXCEEDED = 6
    PROTOCOL_ERROR = 7
    FRAME_TOO_LARGE = 8
    HANDLER_FAILED = 9


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last word of a peer: a code (an unknown one is kept as a number) and a reason."""

    code: int = GoodbyeCode.NORMAL
    reason: str = ""

    def pack(self) -> bytes:
        """The payload of a GOODBYE frame, empty for a normal end; a long reason is cut."""
        if self.code == GoodbyeCode.NORMAL and not self.reason:
            return b""
        return _CODE.pack(self.code) + _cut(self.reason.encode("utf-8", "replace")).encode()

    @classmethod
    def parse(cls, payload: bytes | bytearray | memoryview) -> Goodbye:
        """Understand the payload of a GOODBYE frame.

        Bytes that are not UTF-8 are replaced: the connection is ending, and the code says why.

        Raises:
            ProtocolError: It has one byte, or more than a code and the longest reason.
        """
        payload = bytes(payload)
        if not payload:
            return cls()
        if not _CODE.size <= len(payload) <= _CODE.size + MAX_REASON_BYTES:
            limit = _CODE.size + MAX_REASON_BYTES
            raise ProtocolError(f"a GOODBYE of {len(payload):,} bytes: 0 or 2 to {limit:,} are due")
        (code,) = _CODE.unpack_from(payload)
        return cls(_known(code), payload[_CODE.size :].decode("utf-8", "replace"))


def _cut(reason: bytes) -> str:
    return reason[:MAX_REASON_BYTES].decode("utf-8", "ignore")


def _known(code: int) -> int:
    try:
        return GoodbyeCode(code)
    except ValueError:
        return code


class HandshakeTimeout(TimeoutError):
    """No HELLO came in time. Never raised, but told to the peer: `goodbye_for`.

    Any other TimeoutError is a handler's own and no matter of the handshake.
    """


def exception_for(goodbye: Goodbye, address: str) -> IPCError:
    """What to raise where ``goodbye`` was received, from the peer at ``address``."""
    kind, told = _EXCEPTIONS.get(goodbye.code, _UNKNOWN)
    told = f"{address}: {told}"
    # Its words are the peer's, who means itself by "this side"; repr keeps them on one line.
    return kind(f"{told}; it says: {goodbye.reason!r}" if goodbye.reason else told)


def goodbye_for(error: BaseException) -> Goodbye:
    """What to tell a peer whose connection ``error`` ends."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Goodbye(code, str(error))
    # Whatever else it is, its text is not the peer's business.
    return Goodbye(GoodbyeCode.HANDLER_FAILED)


_UNKNOWN: tuple[Callable[[str], IPCError], str] = (PeerCrashed, "the peer gave up")

_EXCEPTIONS: dict[int, tuple[Callable[[str], IPCError], str]] = {
    GoodbyeCode.NORMAL: (EndOfStream, "the peer finished"),
    GoodbyeCode.VERSION_MISMATCH: (VersionMismatch, "the peer speaks another version"),
    GoodbyeCode.CODEC_MISMATCH: (CodecMismatch, "the peer uses another codec"),
    GoodbyeCode.HANDSHAKE_FAILED: (HandshakeError, "the peer refused the handshake"),
    GoodbyeCode.HANDSHAKE_TIMEOUT: (HandshakeError, "the HELLO reached the peer too late"),
    GoodbyeCode.ACCESS_DENIED: (AccessDenied, "the peer denied access"),
    GoodbyeCode.QUOTA_EXCEEDED: (QuotaExceeded, "the peer is at its limit"),
    GoodbyeCode.PROTOCOL_ERROR: (ProtocolError, "the peer saw a breach of the protocol"),
    GoodbyeCode.FRAME_TOO_LARGE: (PeerCrashed, "the peer refused a message over its limit"),
    GoodbyeCode.HANDLER_FAILED: (PeerCrashed, "the peer's handler failed"),
}

_CODES: tuple[tuple[type[BaseException], GoodbyeCode], ...] = (
    (VersionMismatch, GoodbyeCode.VERSION_MISMATCH),
    (CodecMismatch, GoodbyeCode.CODEC_MISMATCH),
    (HandshakeError, GoodbyeCode.HANDSHAKE_FAILED),
    (HandshakeTimeout, GoodbyeCode.HANDSHAKE_TIMEOUT),
    (AccessDenied, GoodbyeCode.ACCESS_DENIED),
    (ResourceExhausted, GoodbyeCode.QUOTA_EXCEEDED),
    (FrameTooLarge, GoodbyeCode.FRAME_TOO_LARGE),
    (ProtocolError, GoodbyeCode.PROTOCOL_ERROR),
)
"""Subclasses before their bases."""
