"""What the server of a ring sends over the socket before there is a ring: an offer or a refusal.

::

    8s magic   u16 major   u16 minor   u8 kind   u8 side   u16 reserved (0)   u64 value

An OFFER comes with descriptors: the memory and, with EVENTFD bells, the receiver's bell and
the sender's. ``side`` is the receiver's and ``value`` the capacity of each ring. A REFUSAL says
in ``value`` how many bytes of a GOODBYE (docs/wire-format.md) follow. Little endian.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from aioipc.errors import HandshakeError, VersionMismatch
from aioipc.wire.hello import MAX_REASON_BYTES, VERSION, Goodbye

__all__ = ["MAGIC", "Kind", "Offer", "missing", "pack_refusal", "parse"]

MAGIC = b"\x89aioring"
"""The first 8 bytes, which neither a HELLO nor any text starts with."""

_OFFER = struct.Struct("<8sHHBBHQ")
_MIN_CAPACITY = 64 * 1024
_MAX_CAPACITY = 1024 * 1024 * 1024

_MAX_GOODBYE = 2 + MAX_REASON_BYTES


class Kind(enum.IntEnum):
    """What the message is."""

    REFUSAL = 0
    OFFER_EVENTFD = 1
    """A ring whose bells are eventfds."""
    OFFER_SOCKET = 2
    """A ring whose bells are bytes on the socket, between users who do not trust each other."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A ring to take part in.

    Attributes:
        capacity: Bytes of data in each direction, a power of two.
        side: The receiver's: 0 writes the first ring of the memory, 1 the second.
        socket_bells: Whether the bells are bytes on the socket.
    """

    capacity: int
    side: int
    socket_bells: bool = False

    @property
    def fds(self) -> int:
        """How many descriptors belong to it."""
        return 1 if self.socket_bells else 3

    def pack(self) -> bytes:
        """The bytes of the message."""
        kind = Kind.OFFER_SOCKET if self.socket_bells else Kind.OFFER_EVENTFD
        return _OFFER.pack(MAGIC, *VERSION, kind, self.side, 0, self.capacity)


def pack_refusal(goodbye: Goodbye) -> bytes:
    """The bytes that say why there is no ring."""
    payload = goodbye.pack()
    return _OFFER.pack(MAGIC, *VERSION, Kind.REFUSAL, 0, 0, len(payload)) + payload


def missing(data: bytes) -> int:
    """How many more bytes there are to come before `parse`.

    Raises:
        HandshakeError: It is no offer, and no refusal.
    """
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise HandshakeError(f"the peer offers no ring: it began with {data[:16]!r}")
    if len(data) < _OFFER.size:
        return _OFFER.size - len(data)
    _, _, _, kind, _, _, value = _OFFER.unpack_from(data)
    return _OFFER.size + value - len(data) if kind == Kind.REFUSAL and value <= _MAX_GOODBYE else 0


def parse(data: bytes) -> Offer | Goodbye:
    """Understand a whole message.

    Raises:
        HandshakeError: It is neither an offer nor a refusal.
        VersionMismatch: The peer speaks another major version.
    """
    _, major, minor, kind, side, _, value = _OFFER.unpack_from(data)
    if major != VERSION[0]:
        ours = ".".join(map(str, VERSION))
        raise VersionMismatch(f"the peer offers a ring of version {major}.{minor}, not {ours}")
    if kind == Kind.REFUSAL:
        if value > _MAX_GOODBYE:
            raise HandshakeError(f"a refusal of {value:,} bytes: {_MAX_GOODBYE:,} are the most")
        return Goodbye.parse(data[_OFFER.size :])
    if kind not in (Kind.OFFER_EVENTFD, Kind.OFFER_SOCKET):
        raise HandshakeError(f"the peer offers a ring of the unknown kind {kind}")
    if side > 1:
        raise HandshakeError(f"the peer offers side {side} of a ring, which has 0 and 1")
    if not _MIN_CAPACITY <= value <= _MAX_CAPACITY or value & (value - 1):
        raise HandshakeError(
            f"the peer offers a ring of {value:,} bytes; powers of two from "
            f"{_MIN_CAPACITY:,} to {_MAX_CAPACITY:,} are possible"
        )
    return Offer(value, side, kind == Kind.OFFER_SOCKET)
