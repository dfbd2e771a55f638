"""The limits of one endpoint, in one place."""

from __future__ import annotations

import operator
from dataclasses import dataclass

__all__ = ["Limits", "check_count"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an endpoint allows its peers and itself.

    Sizes are in bytes, durations (``_s``) in seconds. Every value is checked when the
    object is made; a value out of range is a ``ValueError`` that names the range, one of another
    type a ``TypeError``.
    """

    max_message_bytes: int = 64 * MIB
    """Largest encoded message to or from the same user, or over loopback."""
    max_foreign_message_bytes: int = 1 * MIB
    """Largest encoded message to or from another user or another machine."""
    max_depth: int = 64
    """How deep arrays and maps may nest in a received msgpack or json message."""
    max_elements: int = 1_000_000
    """How many values a received msgpack or json message may hold."""
    max_connections: int = 16_384
    """Connections that one listener holds open at once."""
    max_connections_per_foreign_uid: int = 256
    """Connections that one listener holds open for each other user."""
    max_handshakes: int = 64
    """Connections of one listener whose HELLO is still incomplete."""
    handshake_s: float = 5.0
    """How long a peer may take for its HELLO."""
    connect_s: float = 10.0
    """How long making a connection may take."""
    message_s: float = 60.0
    """How long a message that has begun may take to come whole, and a second more for each MiB;
    only time in which it is waited for counts."""
    linger_s: float = 5.0
    """How long a close may take to deliver what was already accepted."""
    max_fds: int = 253
    """Descriptors that one received message may bring along, over transports that carry them.
    With 0 the peer is told that none are taken."""
    max_calls: int = 128
    """Remote calls that one side of a connection has open at once; more of them wait."""
    heartbeat_s: float = 15.0
    """After how long without anything sent to a peer on the network it gets a sign of life."""
    silence_s: float = 45.0
    """After how long without anything from a peer on the network it counts as crashed."""
    max_patterns: int = 1024
    """Patterns of one subscriber."""
    max_topics: int = 65_536
    """Topics of which a publisher keeps messages for late subscribers."""
    max_queued_messages: int = 65_536
    """Messages that a subscriber may ask a publisher to keep waiting for it."""
    max_queued_bytes: int = 64 * MIB
    """Bytes that messages waiting for one subscriber may have together."""
    ring_bytes: int = 1 * MIB
    """Size of one direction of a shared-memory ring, a power of two."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            kinds, wanted = _SECONDS if name.endswith("_s") else _COUNT
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(
                    f"{name} must be {wanted}, not {value!r} of type {type(value).__name__}"
                )
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low:,} and {high:,}, not {value:,}")
        if self.silence_s <= self.heartbeat_s:
            raise ValueError(
                f"silence_s must be more than heartbeat_s, {self.heartbeat_s:g}, "
                f"not {self.silence_s:g}"
            )
        if self.ring_bytes & (self.ring_bytes - 1):
            raise ValueError(f"ring_bytes must be a power of two, not {self.ring_bytes:,}")


def check_count(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return the value of an argument that counts something.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is out of range.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an int, not {value!r} of type {type(value).__name__}")
    number: int = operator.index(value)  # type: ignore[arg-type]
    if number < low or (high is not None and number > high):
        right = f"at least {low:,}" if high is None else f"between {low:,} and {high:,}"
        raise ValueError(f"{name} must be {right}, not {number:,}")
    return number


_COUNT = (int,), "an int"
_SECONDS = (int, float), "an int or a float"

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_message_bytes", 1, 2**32 - 1),
    ("max_foreign_message_bytes", 1, 2**32 - 1),
    ("max_depth", 1, 1024),
    ("max_elements", 1, 2**40),
    ("max_connections", 1, 2**20),
    ("max_connections_per_foreign_uid", 1, 2**20),
    ("max_handshakes", 1, 2**16),
    ("handshake_s", 0.001, 3600),
    ("connect_s", 0.001, 3600),
    ("message_s", 0.001, 24 * 3600),
    ("linger_s", 0, 3600),
    ("max_fds", 0, 253),
    ("max_calls", 1, 2**20),
    ("heartbeat_s", 0.001, 3600),
    ("silence_s", 0.001, 24 * 3600),
    ("max_patterns", 1, 2**20),
    ("max_topics", 1, 2**24),
    ("max_queued_messages", 1, 2**24),
    ("max_queued_bytes", 1, 2**40),
    ("ring_bytes", 64 * KIB, 1024 * MIB),
)
