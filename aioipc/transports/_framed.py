"""Messages over byte streams: our own frames, and the framings of foreign programs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aioipc.abc import Buffer, ByteTransport, Capability, PeerCredentials
from aioipc.errors import (
    AddressError,
    ClosedError,
    EndOfStream,
    FrameTooLarge,
    IPCError,
    ProtocolError,
    name_address,
)
from aioipc.kernel.ancillary import let_fds_pass
from aioipc.limits import MIB
from aioipc.loop.patience import Patience
from aioipc.native._fd import FdStream
from aioipc.native._stream import StreamPort
from aioipc.transports._session import Session, passing
from aioipc.wire.framing import Framer
from aioipc.wire.hello import Hello, WireCapability

if TYPE_CHECKING:
    from aioipc.limits import Limits

__all__ = ["FramedTransport", "PeerPort", "message_limit"]

_READ_BYTES = 64 * 1024
_GATHER_BYTES = 64 * 1024


class PeerPort(Session, StreamPort):
    """The frames of docs/wire-format.md between two aioipc peers, over any byte stream.

    Args:
        stream: The byte stream. Where many writers share it, as on a FIFO, each write holds
            whole frames.
        codec: Name of the codec, which both sides must share.
        max_message_bytes: Limit in both directions.
        max_fds: The most descriptors that a message may bring along, where the stream carries
            any.
        message_s: How long a message that has begun may be waited for, and a second more for each
            MiB. Not on a FIFO, whose reader outlives its writers.
    """

    _patience: Patience | None = None

    def __init__(
        self,
        stream: ByteTransport,
        codec: str,
        max_message_bytes: int,
        max_fds: int = 0,
        *,
        message_s: float = math.inf,
    ) -> None:
        atomic_bytes = getattr(stream, "atomic_bytes", 0)
        alone = getattr(stream, "alone", False)
        packets = getattr(stream, "packets", False)
        pads = getattr(stream, "pads", False)
        super().__init__(
            stream,
            max_message_bytes,
            atomic_bytes=atomic_bytes,
            alone=alone,
            packets=packets,
            pads=pads,
        )
        reads = getattr(stream, "readable", True)
        writes = getattr(stream, "writable", True)
        capabilities = WireCapability(0)
        if max_fds and isinstance(stream, FdStream) and Capability.FDS in stream.capabilities:
            capabilities = passing(stream.peer, max_fds)
            let_fds_pass(stream.fileno(), True)
            self.expect_fds(max_fds)
        self.start_session(
            Hello(codec, max_message_bytes, capabilities),
            shared=getattr(stream, "shared", False),
            reads=reads,
            writes=writes,
        )
        if not writes:
            self.end_sending(AddressError(f"{stream.address} only receives"))
        if not reads:
            self.end_receiving(AddressError(f"{stream.address} only sends"))
        self._message_s = math.inf if self.is_shared else message_s
        start = getattr(stream, "heartbeat", None)
        self._heartbeat = None if start is None else start(self)

    def refuse_fds(self) -> None:
        super().refuse_fds()
        let_fds_pass(self.stream.fileno(), False)  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
        self._rest_abandoned()
        self.stop_watching()
        super().close()

    # What the native part asks

    def _rest_awaited(self) -> None:
        if self._message_s == math.inf:
            return
        if self._patience is None:
            self._patience = Patience(self._rest_overdue)
        message, _, announced = self.part()
        self._patience.wait(message, self._allowed_s(announced))

    def _rest_looked_for(self) -> None:
        if self._patience is not None:
            self._patience.pause()

    def _rest_abandoned(self) -> None:
        if self._patience is not None:
            self._patience.stop()

    def _rest_came(self) -> None:
        if self._patience is not None:
            self._patience.forget()

    def _rest_overdue(self) -> None:
        _, came, announced = self.part()
        if not came:  # taken in passing, by a send that wanted the HELLO
            self._rest_came()
            return
        self.give_up(
            ProtocolError(
                "the peer did not finish a message within "
                f"{self._allowed_s(announced):.3g} s: {came:,} of {announced:,} bytes came"
            )
        )

    def _allowed_s(self, announced: int) -> float:
        return self._message_s + announced / MIB

    @property
    def socket_fd(self) -> int:  # type: ignore[override]
        """The descriptor of the stream."""
        return self.stream.fileno()  # type: ignore[attr-defined, no-any-return]

    @property
    def transport(self) -> ByteTransport:  # type: ignore[override]
        """The byte stream."""
        return self.stream


class FramedTransport:
    """Messages over a byte stream, in a framing that foreign programs understand.

    Args:
        stream: The byte stream.
        framer: Splits what is read and frames what is sent.

    Attributes:
        system_calls: How often the stream was read and written.
    """

    def __init__(self, stream: ByteTransport, framer: Framer) -> None:
        self.stream = stream
        self._framer = framer
        shared = not getattr(stream, "alone", False)
        self._atomic_bytes = getattr(stream, "atomic_bytes", 0) if shared else 0
        self._ending: IPCError | None = None
        self._last: bytes | None = None
        self._write_ended = False
        self._gathered = bytearray()
        self._unsent: list[Buffer] = []
        self.system_calls = [0, 0]
        self._armed = False
        self._failure: IPCError | None = None
        self._on_writable: Callable[[], object] | None = None

    @property
    def peer(self) -> PeerCredentials | None:
        return self.stream.peer

    @property
    def address(self) -> str:
        return self.stream.address

    @property
    def capabilities(self) -> Capability:
        return self.stream.capabilities

    @property
    def poll_source(self) -> int | None:
        return self.stream.poll_source

    def try_receive(self) -> bytes | None:
        while True:
            try:
                message = self._framer.next_message()
            except ProtocolError as error:
                name_address(error, self.address)
                raise
            if message is not None:
                return message
            if self._ending is not None:
                return self._take_last()
            if not self._read():
                return None

    def _take_last(self) -> bytes:
        """What stood before the end of the stream without an end of its own; then the ending."""
        last, self._last = self._last, None
        if last is None:
            assert self._ending is not None
            raise self._ending.with_traceback(None)
        return last

    def _read(self) -> bool:
        chunk = memoryview(bytearray(_READ_BYTES))
        try:
            self.system_calls[0] += 1
            count = self.stream.try_read_into(chunk)
            if count:
                self._framer.feed(chunk[:count])
            elif count == 0:
                self._ending = EndOfStream(f"{self.address}: the stream ended")
                self._last = self._framer.finish()
        except IPCError as error:
            self._ending = error
            return True
        return count is not None

    def try_send(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        self._check_sending(fds)
        if not self.try_flush():
            return False
        views = [memoryview(part).cast("B") for part in self._framer.frame(parts)]
        whole = sum(len(view) for view in views)
        if self._atomic_bytes and whole > self._atomic_bytes:
            raise FrameTooLarge(whole, self._atomic_bytes, "the most that writers can share")
        self._unsent = [view for view in views if view]
        self.try_flush()
        if self._unsent and sum(len(part) for part in self._unsent) == whole:
            self._unsent = []  # nothing of it left: it was not accepted
            return False
        # The caller may change its buffers as soon as this returns.
        self._unsent = [bytes(part) for part in self._unsent]
        return True

    def try_gather(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        """`try_send`, but what is short leaves with the next `try_flush`."""
        self._check_sending(fds)
        size = sum(memoryview(part).nbytes for part in parts)
        full = len(self._gathered) + size > _GATHER_BYTES
        if full or self._unsent or self._atomic_bytes or self._failure is not None:
            return self.try_send(parts, fds)
        self._gathered += b"".join(self._framer.frame(parts))
        return True

    def _check_sending(self, fds: Sequence[int]) -> None:
        if fds:
            raise AddressError(f"{self.address} carries no descriptors in a foreign framing")
        if self._write_ended:
            raise ClosedError("this side ended its sending direction")

    def try_flush(self) -> bool:
        """Push out what was accepted; True when all of it left."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._gathered:
            self._unsent.append(self._gathered)
            self._gathered = bytearray()
        while self._unsent:
            try:
                self.system_calls[1] += 1
                count = self.stream.try_write(self._unsent)
            except IPCError as error:
                self._failure = error
                self._unsent = []
                raise
            if count == 0:
                self._arm()
                return False
            self._drop(count)
        try_flush = getattr(self.stream, "try_flush", None)
        if try_flush is not None and not try_flush():
            self._arm()
            return False
        return True

    def _drop(self, count: int) -> None:
        while self._unsent and count >= len(self._unsent[0]):
            count -= len(self._unsent[0])
            self._unsent.pop(0)
        if count:
            self._unsent[0] = memoryview(self._unsent[0])[count:]

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self.stream.on_writable(self._drain)

    def _drain(self) -> None:
        self._armed = False
        with contextlib.suppress(IPCError):  # each send raises it
            if not self.try_flush():
                return
        callback, self._on_writable = self._on_writable, None
        if callback is not None:
            callback()

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        self.stream.on_readable(callback)

    def on_writable(self, callback: Callable[[], object] | None, /) -> None:
        self._on_writable = callback
        if callback is not None:
            self._arm()

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        self._write_ended = True
        self.stream.close_write()

    def close(self) -> None:
        self._gathered.clear()
        self._unsent = []
        self.stream.close()


def message_limit(limits: Limits, *, foreign: bool) -> int:
    """How long a message may be, by who the peer is."""
    if foreign:
        return min(limits.max_foreign_message_bytes, limits.max_message_bytes)
    return limits.max_message_bytes
