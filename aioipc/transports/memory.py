"""``memory:`` both ends in one process and one loop: no kernel object, the same behaviour."""

from __future__ import annotations

import asyncio
import collections
import errno
import weakref
from collections.abc import Callable, Sequence

from aioipc.abc import Allow, Buffer, PeerCredentials
from aioipc.address import Address
from aioipc.errors import ClosedError, ConnectError, PeerCrashed, ResourceExhausted
from aioipc.limits import Limits
from aioipc.transports._names import generated_name
from aioipc.transports._stream import STREAM

__all__ = ["CAPABILITIES", "MemoryStream", "connect", "listen", "pair"]

CAPABILITIES = STREAM
BUFFER_BYTES = 256 * 1024
"""What one direction holds before the writer has to wait, as a pipe would."""

_Callback = Callable[[], object]
_acceptors: weakref.WeakValueDictionary[str, MemoryAcceptor] = weakref.WeakValueDictionary()


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> MemoryStream:
    """Connect to a listener of this process.

    Raises:
        ConnectError: Nobody listens under that name.
        RuntimeError: Somebody does, in another loop.
    """
    acceptor = _acceptors.get(address.name or "")
    if acceptor is None:
        raise ConnectError(f"connect to {address}: nobody listens there in this process")
    return acceptor.connect()


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> MemoryAcceptor:
    """Listen under a name, which is known in this process only.

    Raises:
        ResourceExhausted: Somebody listens under that name.
    """
    name = address.name or generated_name()
    if name in _acceptors:
        raise ResourceExhausted(errno.EADDRINUSE, f"listen on memory:{name}: address in use")
    acceptor = _acceptors[name] = MemoryAcceptor(name)
    return acceptor


def pair(
    address: str = "memory:pair", *, limits: Limits | None = None
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends."""
    forth, back = _Pipe(), _Pipe()
    return MemoryStream(address, back, forth), MemoryStream(address, forth, back)


class _Pipe:
    """One direction: bytes, a bound, an end, and who waits at either end of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.broken = False
        self.reader = _Bell()
        self.writer = _Bell()

    @property
    def room(self) -> int:
        return BUFFER_BYTES - len(self.data)


class _Bell:
    """A callback that the loop calls, never the one who rings; once, however often it is rung."""

    def __init__(self) -> None:
        self.callback: _Callback | None = None
        self._rung = False

    def ring(self) -> None:
        if self.callback is not None and not self._rung:
            asyncio.get_running_loop().call_soon(self._call)
            self._rung = True

    def _call(self) -> None:
        self._rung = False
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class MemoryStream:
    """A ByteTransport whose other end is in the same loop."""

    def __init__(self, address: str, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.address = address
        self.peer: PeerCredentials | None = None
        self.capabilities = CAPABILITIES
        self.poll_source: int | None = None
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        pipe = self._incoming
        self._check()
        if not pipe.data:
            return 0 if pipe.ended else None
        count = min(len(buffer), len(pipe.data))
        buffer[:count] = pipe.data[:count]
        del pipe.data[:count]
        pipe.writer.ring()
        return count

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        pipe = self._outgoing
        self._check()
        if pipe.ended:
            raise ClosedError(f"{self.address}: this side ended its sending direction")
        if pipe.broken:
            raise PeerCrashed(f"write to {self.address}: the other end is closed")
        written = 0
        for part in parts:
            piece = memoryview(part).cast("B")[: pipe.room]
            pipe.data += piece
            written += len(piece)
        if written:
            pipe.reader.ring()
        return written

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.address} is closed")

    def on_readable(self, callback: _Callback | None, /) -> None:
        pipe = self._incoming
        pipe.reader.callback = callback
        if pipe.data or pipe.ended:
            pipe.reader.ring()

    def on_writable(self, callback: _Callback | None, /) -> None:
        pipe = self._outgoing
        pipe.writer.callback = callback
        if pipe.room or pipe.broken:
            pipe.writer.ring()

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        self._outgoing.ended = True
        self._outgoing.reader.ring()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._incoming.reader.callback = self._outgoing.writer.callback = None
        self._incoming.broken = True
        self._incoming.data.clear()
        try:
            self._incoming.writer.ring()
            self.close_write()
        except RuntimeError:  # no loop runs any more, so nobody waits
            self._outgoing.ended = True


class MemoryAcceptor:
    """Where connections of this process arrive."""

    def __init__(self, name: str) -> None:
        self.address = f"memory:{name}"
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[MemoryStream] = collections.deque()
        self._bell = _Bell()

    def connect(self) -> MemoryStream:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self.address} belongs to another event loop")
        near, far = pair(self.address)
        self._waiting.append(far)
        self._bell.ring()
        return near

    def try_accept(self) -> MemoryStream | None:
        return self._waiting.popleft() if self._waiting else None

    def on_readable(self, callback: _Callback | None, /) -> None:
        self._bell.callback = callback
        if self._waiting:
            self._bell.ring()

    def close(self) -> None:
        if _acceptors.get(self._name) is self:
            del _acceptors[self._name]
        while self._waiting:
            self._waiting.popleft().close()
