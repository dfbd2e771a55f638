"""TLS between a byte stream and whoever uses it: `ssl.SSLObject` over memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

from aioipc.abc import Buffer, Capability
from aioipc.errors import (
    AccessDenied,
    AddressError,
    ClosedError,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
)
from aioipc.loop.waiting import wait_writable
from aioipc.transports._tcp import TCPStream

__all__ = ["TLSStream"]

_CHUNK_BYTES = 64 * 1024
_RECORD_BYTES = 16 * 1024
_BACKLOG_BYTES = 128 * 1024
"""What may be encrypted before some of it has left."""

_Callback = Callable[[], object]


class TLSStream:
    """A ByteTransport: encrypted on the stream below it, plain above.

    The handshake begins at once and goes on as the peer answers; until it is done a read
    answers None and a write 0.

    Args:
        stream: The connection, which it takes over.
        context: Certificates, and who is trusted.
        server_name: Whom this side, a client, wants to talk to; None for a server.
    """

    peer = None

    def __init__(
        self, stream: TCPStream, context: ssl.SSLContext, *, server_name: str | None = None
    ) -> None:
        self._below = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        self._plain = b""  # taken out of the way of the end of this direction
        self._unsent = memoryview(b"")
        self._shaken = False
        self._write_ended = False
        self._failure: IPCError | None = None
        self._on_readable: _Callback | None = None
        self._on_writable: _Callback | None = None
        self._below.on_readable(self._readable)

    # Facts

    @property
    def address(self) -> str:
        return self._below.address

    @property
    def capabilities(self) -> Capability:
        return self._below.capabilities

    @property
    def poll_source(self) -> int | None:
        """The connection: who read all that is there waits for more of it."""
        return self._below.poll_source

    @property
    def watch(self) -> Any:
        """What binds it to its loop."""
        return self._below.watch

    @property
    def heartbeat(self) -> Callable[[Any], Any] | None:
        """Makes what notices that the peer fell silent."""
        return self._below.heartbeat

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """What the peer proved to be, as `ssl.SSLSocket.getpeercert`; None without a proof."""
        return (self._ssl.getpeercert() or None) if self._shaken else None

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptor of the connection, encrypted; none once it is closed."""
        return self._below.fds

    @property
    def is_socket(self) -> bool:
        """That descriptor is a socket's."""
        return True

    @property
    def tls_facts(self) -> dict[str, Any]:
        """What asyncio's transports tell of TLS, by the names that they have there."""
        return {
            "ssl_object": self._ssl,
            "peercert": self.peer_certificate,
            "cipher": self._ssl.cipher(),
            "compression": self._ssl.compression(),
        }

    @property
    def is_writing(self) -> bool:
        """Whether something waits for room in the stream below."""
        return bool(self._unsent)

    # The handshake

    def try_handshake(self) -> bool:
        """Go on with the handshake: True when it is done.

        Raises:
            AccessDenied: A certificate is not trusted.
            HandshakeError: The two cannot agree.
            PeerCrashed: The peer is gone.
        """
        self._check()
        while not self._shaken:
            try:
                self._ssl.do_handshake()
                self._shaken = True
            except ssl.SSLWantReadError:
                if not self._push() or not self._feed():
                    return False
            except ssl.SSLError as error:
                raise self._failed(error) from None
        return self._push()

    def _failed(self, error: ssl.SSLError) -> IPCError:
        """Tell the peer, as far as there is room, and remember why it is over."""
        self._failure = self._explain(error)
        with contextlib.suppress(IPCError):
            self._push()
        return self._failure

    def _explain(self, error: ssl.SSLError) -> IPCError:
        if isinstance(error, ssl.SSLCertVerificationError):
            who = "client" if self._ssl.server_side else "server"
            return AccessDenied(
                errno.EACCES,
                f"{self.address}: the certificate of the {who} is not trusted: "
                f"{error.verify_message}",
            )
        if isinstance(error, ssl.SSLEOFError):
            return PeerCrashed(f"{self.address}: the connection ended without the end of TLS")
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
            return AccessDenied(
                errno.EACCES, f"{self.address}: the peer refuses this certificate: {reason}"
            )
        if self._ssl.server_side and "peer did not return a certificate" in reason:
            return AccessDenied(errno.EACCES, f"{self.address}: {reason}")
        if not self._shaken:
            return HandshakeError(f"{self.address}: no TLS with this peer: {reason}")
        return ProtocolError(f"{self.address}: the peer broke the rules of TLS: {reason}")

    # Bytes

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        self._check()
        if self._plain:
            count = min(len(buffer), len(self._plain))
            buffer[:count] = self._plain[:count]
            self._plain = self._plain[count:]
            return count
        if not self._shaken and not self.try_handshake():
            return None
        while True:
            try:
                # The stubs of the standard library do not know that this is a number then.
                count = cast("int", self._ssl.read(len(buffer), buffer))
                with contextlib.suppress(IPCError):  # each write raises it
                    self._push()  # TLS may have had to answer
                return count
            except ssl.SSLWantReadError:
                if not self._feed():
                    return None
            except ssl.SSLZeroReturnError:
                return 0
            except ssl.SSLError as error:
                raise self._failed(error) from None

    def _feed(self) -> bool:
        """Read from the stream below: False if there is nothing."""
        count = self._below.try_read_into(self._chunk)
        if count is None:
            return False
        if count:
            self._incoming.write(self._chunk[:count])
        else:
            self._incoming.write_eof()
        return True

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        self._check()
        if fds:
            raise AddressError(f"{self.address} carries no descriptors")
        if self._write_ended:
            raise ClosedError(f"{self.address}: this side ended its sending direction")
        if not self.try_handshake():
            return 0
        written = 0
        for part in parts:
            view = memoryview(part).cast("B")
            while view and self._outgoing.pending < _BACKLOG_BYTES:
                count = self._ssl.write(view[:_RECORD_BYTES])
                written += count
                view = view[count:]
        self._push()
        return written

    def _push(self) -> bool:
        """Write what is encrypted to the stream below: True when all of it left."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            count = self._below.try_write((self._unsent,))
            if not count:
                self._below.on_writable(self._writable)
                return False
            self._unsent = self._unsent[count:]
        return True

    def try_flush(self) -> bool:
        """Push out what was accepted: True when all of it left."""
        self._check()
        return self._push()

    def take_fds(self) -> list[int]:
        return []

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    # Readiness

    def on_readable(self, callback: _Callback | None, /) -> None:
        self._on_readable = callback
        # What is read below at once may be several records, and one of them is read at a time.
        if callback is not None and (self._plain or self._incoming.pending or self._ssl.pending()):
            asyncio.get_running_loop().call_soon(self._readable)
        elif callback is not None:
            self._below.on_readable(self._readable)

    def _readable(self) -> None:
        if not self._shaken and self._failure is None:
            with contextlib.suppress(IPCError):  # each read and write raises it
                if not self.try_handshake() and not self._shaken:
                    self._below.on_readable(self._readable)
                    return
            self._call_writer()
        callback, self._on_readable = self._on_readable, None
        if callback is not None:
            callback()

    def on_writable(self, callback: _Callback | None, /) -> None:
        self._on_writable = callback
        if callback is None:
            return
        if self._shaken or self._unsent:
            self._below.on_writable(self._writable)
        else:
            self._below.on_readable(self._readable)  # it is the peer's turn

    def _writable(self) -> None:
        with contextlib.suppress(IPCError):  # each write raises it
            if not self._push():
                return
        if self._write_ended:
            self._below.close_write()
        self._call_writer()

    def _call_writer(self) -> None:
        callback, self._on_writable = self._on_writable, None
        if callback is not None:
            callback()

    # The end

    def close_write(self) -> None:
        if self._write_ended:
            return
        self._write_ended = True
        with contextlib.suppress(IPCError):
            if self._shaken and self._failure is None:
                self._say_end()
            if self._push():
                self._below.close_write()

    def _say_end(self) -> None:
        """Queue TLS's own end. OpenSSL then reads on, and stumbles over data that is there."""
        with contextlib.suppress(ssl.SSLError):
            if self._ssl.pending():
                self._plain += self._ssl.read(self._ssl.pending())
        waiting = self._incoming.read()
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._incoming.write(waiting)

    async def wait_delivered(self) -> None:
        """End this direction, and wait until the peer has all that was written.

        Raises:
            IPCError: It cannot have it any more.

        Cancellation:
            Abandons the wait.
        """
        self.close_write()
        while not self.try_flush():
            await wait_writable(self)
        await self._below.wait_delivered()

    def close(self) -> None:
        # Without TLS's own end, which `close_write` says: the peer sees that this was cut off.
        self._on_readable = self._on_writable = None
        self._below.close()
