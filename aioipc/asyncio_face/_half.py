"""What the reading half and the writing half of a transport share."""

from __future__ import annotations

from aioipc.abc import ByteTransport
from aioipc.asyncio_face._compat import FlowControl
from aioipc.asyncio_face._facts import Facts
from aioipc.native._bytes import BytePort

__all__ = ["OURS", "Half"]

OURS = (SystemExit, KeyboardInterrupt)
"""What a protocol raises to end the program; all else that it raises ends its connection."""


class Half(FlowControl):
    """One direction of a transport, over the stream of both: they are mixed into one object.

    So a byte passes no other object on its way, and a transport that is dropped goes at once.
    """

    _stream: ByteTransport | None = None
    _port: BytePort
    """The same stream: what goes through here is counted, and known to who polls."""
    _facts: Facts
    _closing: bool
    """Nothing is read any more, and nothing written but what waits to leave."""
    _conn_lost: bool
    """Nothing is written any more, either."""
    _readable: bool
    _writable: bool

    def _fatal_error(self, error: BaseException, message: str) -> None:
        """Be lost for a reason that somebody should know."""
        raise NotImplementedError

    def _lose(self, error: BaseException | None) -> None:
        """Be lost, and say so to the protocol in the next turn of the loop. Idempotent."""
        raise NotImplementedError
