"""What processes write, line by line as it comes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import sys
from collections.abc import Callable

from aioipc.kernel.descriptors import unread_bytes
from aioipc.kernel.owned import OwnedFd
from aioipc.process.callbacks import call
from aioipc.transports._stream import STREAM, descriptor_stream

__all__ = ["Lines", "to_stderr"]

_READ_BYTES = 65536
_MOST_LINE_BYTES = 8192
_KEPT_LINES = 20
_MOST_KEPT_CHARACTERS = 500


def to_stderr(prefix: str) -> Callable[[str], object]:
    """What writes lines to the standard error of this process, with something before each."""

    def write(line: str) -> None:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # full, or closed
                sys.stderr.write(f"{prefix}{line}\n")
                sys.stderr.flush()

    return write


class Lines:
    """Gives each line of a pipe to a function, and keeps the last ones.

    Lines of more than 8 KiB come in pieces, and bytes that are no UTF-8 as escapes. A function that
    raises, of which the loop's handler is told, gets the next line all the same.
    """

    def __init__(self, pipe: OwnedFd, take: Callable[[str], object]) -> None:
        self._stream = descriptor_stream(pipe.detach(), -1, address="output:", capabilities=STREAM)
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._begun = b""
        self._last: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._closed = False
        self._stream.on_readable(self._readable)

    @property
    def last(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        return tuple(self._last)

    def finish(self) -> None:
        """Take what is there now, and not what others go on writing. Idempotent."""
        left = 0 if self._closed else unread_bytes(self._stream.fileno())
        while left > 0 and not self._closed and (data := self._read(left)):
            left -= len(data)
        self.close()

    def close(self) -> None:
        """Take nothing any more. Idempotent."""
        self._closed = True
        self._stream.close()
        begun, self._begun = self._begun, b""
        if begun:
            self._give_all(begun)

    def _readable(self) -> None:
        if self._read() == b"":
            self.close()
        else:
            self._stream.on_readable(self._readable)

    def _read(self, most_bytes: int = _READ_BYTES) -> bytes | None:
        data = self._stream.try_read(most_bytes)
        if data:
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                self._give_all(line)
            if len(self._begun) >= _MOST_LINE_BYTES:
                begun, self._begun = self._begun, b""
                self._give_all(begun)
        return data

    def _give_all(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, _MOST_LINE_BYTES):
            self._give(line[start : start + _MOST_LINE_BYTES])

    def _give(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip("\r")
        self._last.append(text[:_MOST_KEPT_CHARACTERS])
        call(self._loop, self._take, text)
