"""Where a message begins and ends on a byte stream.

Between aioipc peers every frame and every ring record starts with the header below; the native
core splits those. The framers here are for programs that know nothing of aioipc: lines (JSON
lines, MCP over stdio), headers (language servers) and none at all.

A framer is fed the bytes as they come and asked for messages until it has none. What it keeps is
bounded by the limit plus what was fed last, and every byte is looked at a bounded number of times,
however the stream was cut.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

from aioipc.abc import Buffer
from aioipc.errors import EncodeError, FrameTooLarge, ProtocolError, TruncatedFrame

__all__ = [
    "FRAMERS",
    "HEADER",
    "MAX_HEADER_BLOCK_BYTES",
    "Flag",
    "Framer",
    "HeadersFramer",
    "Kind",
    "LinesFramer",
    "MultiprocessingFramer",
    "NoneFramer",
    "pack_header",
]

HEADER = struct.Struct("<IBBH")
"""The 8 bytes before every payload: length, kind, flags, number of descriptors."""

MAX_HEADER_BLOCK_BYTES = 8 * 1024
"""How long the headers before one body may be."""


class Kind(enum.IntEnum):
    """What a frame is."""

    DATA = 1
    PAD = 2
    HELLO = 3
    GOODBYE = 4
    PING = 5
    PONG = 6


class Flag(enum.IntFlag):
    """What else there is to know about a frame."""

    MORE = 1
    """The message continues in the next frame."""
    SHARED = 2
    """The body describes SharedBuffers, whose memory files are the attached descriptors."""


def pack_header(length: int, kind: int, flags: int = 0, fds: int = 0) -> bytes:
    """The header of a frame whose payload has ``length`` bytes and brings ``fds`` descriptors."""
    return HEADER.pack(length, kind, flags, fds)


class Framer(Protocol):
    """Splits one byte stream into messages, and makes messages fit for one.

    Feed what was read, then take messages until there is none; at the end of the stream, once
    no message is left, ask `finish` for what may still be one.
    """

    def __init__(self, max_message_bytes: int, /) -> None: ...

    def feed(self, data: Buffer, /) -> None:
        """Take in bytes that were read."""

    def next_message(self) -> bytes | None:
        """The next whole message, or None if more bytes are needed.

        Raises:
            FrameTooLarge: The message is over the limit, or says that it will be.
            ProtocolError: The bytes are not in this framing.
        """

    def finish(self) -> bytes | None:
        """What is left at the end of the stream, if that is a message.

        Raises:
            TruncatedFrame: It is the beginning of one.
        """

    def frame(self, parts: Sequence[Buffer], /) -> Sequence[Buffer]:
        """The buffers to write for one message that consists of ``parts``.

        Raises:
            FrameTooLarge: The message is over the limit.
            EncodeError: The framing cannot carry the message.
        """


class _Framer:
    """What the framers share: one growing buffer, and where its unread part starts."""

    def __init__(self, max_message_bytes: int, /) -> None:
        self._limit = max_message_bytes
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: Buffer, /) -> None:
        # Deleting at the front of a bytearray moves a pointer; its tail is copied only when
        # less than half is left, so this is linear over the stream.
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    @property
    def _pending(self) -> int:
        return len(self._buffer) - self._start

    def _take(self, size: int) -> bytes:
        begin, self._start = self._start, self._start + size
        return memoryview(self._buffer)[begin : self._start].tobytes()

    def _check(self, size: int, hint: str = "") -> None:
        if size > self._limit:
            raise FrameTooLarge(size, self._limit, hint)


class LinesFramer(_Framer):
    """A message is a line; the newline that ends it is not part of it.

    Nothing else is special: an empty line is an empty message, a carriage return is content.
    """

    def __init__(self, max_message_bytes: int, /) -> None:
        super().__init__(max_message_bytes)
        self._seen = 0  # bytes of the unread part that hold no newline

    def next_message(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._start + self._seen)
        if end < 0:
            self._seen = self._pending
            self._check(self._seen, "the line has no end yet")
            return None
        self._check(end - self._start)
        message = self._take(end - self._start)
        self._start += 1
        self._seen = 0
        return message

    def finish(self) -> bytes | None:
        self._seen = 0
        return self._take(self._pending) if self._pending else None

    def frame(self, parts: Sequence[Buffer], /) -> Sequence[Buffer]:
        self._check(_size(parts))
        if any(map(_has_newline, parts)):
            raise EncodeError("the message contains a newline, which would end its line early")
        return [*parts, b"\n"]


class HeadersFramer(_Framer):
    r"""A message is a body after ``Content-Length: N\r\n\r\n``, as language servers send it.

    Other headers are allowed and ignored.
    """

    def __init__(self, max_message_bytes: int, /) -> None:
        super().__init__(max_message_bytes)
        self._seen = 0  # bytes of the unread part that hold no end of the headers
        self._length: int | None = None  # of the body, once its headers are read

    def next_message(self) -> bytes | None:
        if self._length is None and not self._read_headers():
            return None
        assert self._length is not None
        if self._pending < self._length:
            return None
        message = self._take(self._length)
        self._length = None
        return message

    def finish(self) -> bytes | None:
        if self._length is not None:
            raise TruncatedFrame(
                f"the stream ended after {self._pending:,} of {self._length:,} bytes of a message"
            )
        if self._pending:
            raise TruncatedFrame(f"the stream ended after {self._pending:,} bytes of headers")
        return None

    def frame(self, parts: Sequence[Buffer], /) -> Sequence[Buffer]:
        size = _size(parts)
        self._check(size)
        return [b"Content-Length: %d\r\n\r\n" % size, *parts]

    def _read_headers(self) -> bool:
        end = self._buffer.find(_BLANK_LINE, self._start + self._seen)
        size = self._pending - len(_BLANK_LINE) + 1 if end < 0 else end - self._start
        if size > MAX_HEADER_BLOCK_BYTES:
            limit = f"{MAX_HEADER_BLOCK_BYTES:,} bytes"
            raise ProtocolError(f"the headers of a message are over the limit of {limit}")
        if end < 0:
            self._seen = max(0, size)
            return False
        length = _content_length(bytes(self._buffer[self._start : end]))
        self._check(length)
        self._start = end + len(_BLANK_LINE)
        self._seen = 0
        self._length = length
        return True


class MultiprocessingFramer(_Framer):
    """A message follows its length, as `multiprocessing.connection.Connection` sends it.

    The length is 4 bytes in network order; from 2 GiB on it is -1, and 8 more bytes have it.
    """

    def __init__(self, max_message_bytes: int, /) -> None:
        super().__init__(max_message_bytes)
        self._length: int | None = None  # of the message whose beginning was read

    def next_message(self) -> bytes | None:
        if self._length is None:
            self._length = self._read_length()
        if self._length is None or self._pending < self._length:
            return None
        message = self._take(self._length)
        self._length = None
        return message

    def finish(self) -> bytes | None:
        if self._length is not None or self._pending:
            whole = "?" if self._length is None else f"{self._length:,}"
            raise TruncatedFrame(
                f"the stream ended after {self._pending:,} of {whole} bytes of a message"
            )
        return None

    def frame(self, parts: Sequence[Buffer], /) -> Sequence[Buffer]:
        size = _size(parts)
        self._check(size)
        if size > _MOST_SHORT:
            return [_SHORT.pack(-1), _LONG.pack(size), *parts]
        return [_SHORT.pack(size), *parts]

    def _read_length(self) -> int | None:
        if self._pending < _SHORT.size:
            return None
        begin = self._start
        length: int
        (length,) = _SHORT.unpack_from(self._buffer, begin)
        begin += _SHORT.size
        if length == -1:
            if self._pending < _SHORT.size + _LONG.size:
                return None
            (length,) = _LONG.unpack_from(self._buffer, begin)
            begin += _LONG.size
        if length < 0:
            raise ProtocolError(f"the length of a message is {length:,} bytes")
        self._check(length)
        self._start = begin
        return length


class NoneFramer(_Framer):
    """No boundaries: a message is what a read brought, at most the limit at a time."""

    def next_message(self) -> bytes | None:
        return self._take(min(self._pending, self._limit)) if self._pending else None

    def finish(self) -> bytes | None:
        return self.next_message()

    def frame(self, parts: Sequence[Buffer], /) -> Sequence[Buffer]:
        self._check(_size(parts))
        return parts


FRAMERS: dict[str, type[Framer]] = {
    "lines": LinesFramer,
    "headers": HeadersFramer,
    "multiprocessing": MultiprocessingFramer,
    "none": NoneFramer,
}
"""The framings for foreign programs by name; ``length`` is built into the native core."""

_SHORT = struct.Struct("!i")
_LONG = struct.Struct("!Q")
_MOST_SHORT = 0x7FFFFFFF
_NEWLINE = re.compile(rb"\n")
_BLANK_LINE = b"\r\n\r\n"
_DIGITS = re.compile(rb"[0-9]{1,19}")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def _size(parts: Iterable[Buffer]) -> int:
    return sum(map(_bytes_of, parts))


def _bytes_of(part: Buffer) -> int:
    if isinstance(part, bytes | bytearray):
        return len(part)
    view = memoryview(part)  # whose len() counts elements, as that of an array does
    if not view.c_contiguous:
        raise EncodeError(
            f"a message is made of contiguous buffers, not of such a {type(part).__name__}"
        )
    return view.nbytes


def _has_newline(part: Buffer) -> bool:
    if isinstance(part, bytes | bytearray):
        return b"\n" in part
    return _NEWLINE.search(part) is not None  # the `in` of others compares elements


def _content_length(block: bytes) -> int:
    headers = map(_header, block.split(b"\r\n"))
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) != 1:
        raise ProtocolError(f"a message has {len(lengths)} Content-Length headers instead of one")
    if not _DIGITS.fullmatch(lengths[0]):
        raise ProtocolError(f"Content-Length is {lengths[0][:40]!r}, which is not a size in bytes")
    return int(lengths[0])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name):
        raise ProtocolError(f"not a header: {line[:40]!r}")
    return name.lower(), value.strip(b" \t")
