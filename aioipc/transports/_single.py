"""The acceptor of what has no connections: a FIFO, inherited descriptors."""

from __future__ import annotations

from collections.abc import Callable

from aioipc.abc import ByteTransport, MessageTransport, PortTransport

__all__ = ["SingleAcceptor"]


class SingleAcceptor:
    """Yields one transport, which was there from the start.

    Args:
        stream: What it yields; closed with the acceptor if nobody took it.
    """

    def __init__(self, stream: ByteTransport | MessageTransport | PortTransport) -> None:
        self.address = stream.address
        self._stream: ByteTransport | MessageTransport | PortTransport | None = stream

    def try_accept(self) -> ByteTransport | MessageTransport | PortTransport:
        stream, self._stream = self._stream, None
        if stream is None:
            raise EOFError(f"{self.address} has one connection only")
        return stream

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        if callback is not None:
            callback()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
