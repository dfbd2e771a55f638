"""Connections within one process that tear, delay and break where you say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aioipc._opening import ChannelOptions
from aioipc.abc import Buffer, ByteTransport, Capability, Codec, PeerCredentials
from aioipc.channel import Channel
from aioipc.errors import PeerCrashed
from aioipc.limits import Limits
from aioipc.stream import ByteStream
from aioipc.transports import memory

__all__ = ["Faults", "FaultyStream", "faulty_pair", "faulty_streams", "faulty_transports"]

_Callback = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What befalls the bytes that one end writes.

    Attributes:
        tear_bytes: At most so many are written, and so many read, at once.
        delay_turns: For so many turns of the loop nothing can be read when something could.
        kill_at_byte: So many arrive, and then the connection is reset in both directions.
    """

    tear_bytes: int | None = None
    delay_turns: int = 0
    kill_at_byte: int | None = None


def faulty_transports(
    forth: Faults | None = None, back: Faults | None = None
) -> tuple[FaultyStream, FaultyStream]:
    """Two connected ends of a ``memory:`` connection with faults, for rules of your own.

    Args:
        forth: What befalls the bytes that the first end writes.
        back: What befalls those that the second end writes.
    """
    left, right = memory.pair()
    forth, back = forth or Faults(), back or Faults()
    wire = _Wire()
    return FaultyStream(left, wire, forth, back), FaultyStream(right, wire, back, forth)


def faulty_streams(
    forth: Faults | None = None, back: Faults | None = None, *, limits: Limits | None = None
) -> tuple[ByteStream, ByteStream]:
    """Two byte streams over `faulty_transports`."""
    left, right = faulty_transports(forth, back)
    limits = limits or Limits()
    return ByteStream(left, limits), ByteStream(right, limits)


def faulty_pair(
    forth: Faults | None = None,
    back: Faults | None = None,
    *,
    codec: str | Codec[Any] = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
) -> tuple[Channel[Any], Channel[Any]]:
    """Two channels over `faulty_transports`, with the options of `aioipc.pair`.

    A HELLO stands before the first message, and each message has a header of eight bytes: they
    count in ``kill_at_byte``.
    """
    options = ChannelOptions.check(codec, framing, limits, polling)
    left, right = (
        options.open_channel(options.open_port(end)) for end in faulty_transports(forth, back)
    )
    return left, right


class _Wire:
    """What both ends share."""

    def __init__(self) -> None:
        self.is_cut = False
        self.ends: list[FaultyStream] = []


class FaultyStream:
    """A ByteTransport that passes on what the faults let through.

    Args:
        stream: What it is over.
        wire: What it has in common with its other end.
        writing: What befalls what it writes.
        reading: What befalls what it reads.
    """

    def __init__(
        self, stream: ByteTransport, wire: _Wire, writing: Faults, reading: Faults
    ) -> None:
        self._stream = stream
        self._wire = wire
        self._writing = writing
        self._reading = reading
        self._written = 0
        self._read = 0
        self._delayed = 0
        self._closed = False
        self.peer: PeerCredentials | None = None
        self.poll_source: int | None = None
        wire.ends.append(self)

    @property
    def address(self) -> str:
        return self._stream.address

    @property
    def capabilities(self) -> Capability:
        return self._stream.capabilities

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        if self._is_delayed:
            return None
        end = self._reading.kill_at_byte
        size = min(len(buffer), self._reading.tear_bytes or len(buffer))
        if end is not None:
            size = min(size, end - self._read)
        if size or not len(buffer):
            count = self._stream.try_read_into(buffer[:size])
            self._read += count or 0
            if count or not self._wire.is_cut:
                return count
        self._wire.is_cut = True
        raise PeerCrashed(f"{self.address}: the connection was cut after {self._read} bytes")

    @property
    def _is_delayed(self) -> bool:
        self._delayed = (self._delayed + 1) % (self._reading.delay_turns + 1)
        return self._delayed != 0

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        if self._wire.is_cut and not self._closed:
            raise PeerCrashed(f"{self.address}: the connection is cut")
        data = memoryview(b"".join(parts))[: self._writing.tear_bytes]
        end = self._writing.kill_at_byte
        if end is not None and self._written + len(data) >= end:
            data = data[: end - self._written]
        count = self._stream.try_write((data,))
        self._written += count
        if end is not None and self._written >= end:
            self._cut()
        return count

    def _cut(self) -> None:
        self._wire.is_cut = True
        for end in self._wire.ends:
            end._stream.close_write()  # whoever waits looks again

    def on_readable(self, callback: _Callback | None, /) -> None:
        self._stream.on_readable(callback)

    def on_writable(self, callback: _Callback | None, /) -> None:
        if callback is not None and self._wire.is_cut:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._stream.on_writable(callback)

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        if not self._wire.is_cut:
            self._stream.close_write()

    def close(self) -> None:
        self._closed = True
        self._stream.close()
