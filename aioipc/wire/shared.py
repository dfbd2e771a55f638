"""What peers say about memory that one has lent to the other: the payload of a SHARED frame.

::

    u32 what   u32 number   u64 size

Little endian. ``what`` says whether a descriptor comes along. How memory comes back is no frame,
which might have to wait behind messages that nobody receives: its number, as one byte, is written
to a pipe (docs/wire-format.md).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from aioipc.errors import ProtocolError

__all__ = ["MOST_NUMBERS", "Shared", "What"]

MOST_NUMBERS = 64
"""Numbers of memory are from 1 to this."""

_SHARED = struct.Struct("<IIQ")


class What(enum.IntEnum):
    """What a SHARED frame is about."""

    PIPE = 1
    """The descriptor is the end of a pipe to which the receiver writes what it gives back."""
    MEMORY = 2
    """The descriptor is memory of ``size`` bytes, to be called ``number`` from now on."""
    MESSAGE = 3
    """The first ``size`` bytes of memory ``number`` are a message; it is lent until given back."""
    FORGET = 4
    """Memory ``number`` will not be lent again."""


_WITH_DESCRIPTOR = (What.PIPE, What.MEMORY)


@dataclass(frozen=True, slots=True)
class Shared:
    """The payload of one such frame."""

    what: What
    number: int = 0
    size: int = 0

    @property
    def fds(self) -> int:
        """How many descriptors belong to it."""
        return 1 if self.what in _WITH_DESCRIPTOR else 0

    def pack(self) -> bytes:
        """Its bytes."""
        return _SHARED.pack(self.what, self.number, self.size)

    @classmethod
    def parse(cls, payload: bytes) -> Shared:
        """Understand a payload.

        Raises:
            ProtocolError: It makes no sense.
        """
        if len(payload) != _SHARED.size:
            raise ProtocolError(f"a SHARED frame of {len(payload):,} bytes: {_SHARED.size} are due")
        what, number, size = _SHARED.unpack(payload)
        try:
            what = What(what)
        except ValueError:
            raise ProtocolError(f"a SHARED frame is about the unknown thing {what}") from None
        if what != What.PIPE and not 1 <= number <= MOST_NUMBERS:
            raise ProtocolError(
                f"memory cannot have number {number:,}: 1 to {MOST_NUMBERS} are possible"
            )
        return cls(what, number, size)
