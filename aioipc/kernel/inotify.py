"""News about files, as a descriptor that becomes readable: inotify(7)."""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from aioipc.kernel.owned import OwnedFd
from aioipc.native._os import inotify_add_watch, inotify_init1

__all__ = ["Event", "Inotify", "Mask"]

_HEADER = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_READ_BYTES = 64 * 1024


class Mask(enum.IntFlag):
    """What happens to a watched file, or in a watched directory."""

    ATTRIB = 0x4
    OPEN = 0x20
    MOVED_TO = 0x80
    CREATE = 0x100
    MOVE_SELF = 0x800
    OVERFLOW = 0x4000
    IGNORED = 0x8000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        watch: The number of the watch, -1 where the queue overflowed.
        mask: What happened.
        name: In a watched directory, the name it happened to; else empty.
    """

    watch: int
    mask: Mask
    name: str


class Inotify(OwnedFd):
    """A set of watches. Readable when something has happened; never blocks."""

    __slots__ = ()

    def __init__(self) -> None:
        # IN_NONBLOCK and IN_CLOEXEC are these numbers: inotify_init(2).
        super().__init__(inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def watch(self, path: str, mask: Mask) -> int:
        """Watch a file, through symlinks, and return the number of the watch.

        Raises:
            PermissionError: The file may not be read.
            OSError: ENOSPC where this user has too many watches.
        """
        return inotify_add_watch(self.fileno(), os.fsencode(path), mask)

    def take(self) -> list[Event]:
        """Take what has happened since the last call, at most 64 KiB of it."""
        try:
            return list(_parse(os.read(self.fileno(), _READ_BYTES)))
        except BlockingIOError:
            return []


def _parse(data: bytes) -> Iterator[Event]:
    offset = 0
    while offset < len(data):
        watch, mask, _, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        yield Event(watch, Mask(mask), os.fsdecode(name))
