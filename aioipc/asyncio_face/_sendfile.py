"""What ``loop.sendfile`` of asyncio asks of a transport: sendfile(2) where there is a socket.

uvloop has no ``loop.sendfile``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aioipc.asyncio_face._compat import FALLBACK, TRY_NATIVE
from aioipc.asyncio_face._half import Half

__all__ = ["Sendfile"]


class Sendfile(Half):
    """A transport that holds its writes back while the loop writes a file to its socket."""

    _empty_waiter: asyncio.Future[None] | None = None

    @property
    def _sendfile_compatible(self) -> Any:
        return FALLBACK if self._facts.socket is None else TRY_NATIVE

    @property
    def _sock(self) -> Any:
        return self._facts.socket

    @property
    def _sock_fd(self) -> int:
        return self._facts.fd

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        """A future that is done when all that was written has left."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        if not self.get_write_buffer_size():
            self._tell_empty()
        return self._empty_waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None

    def _tell_empty(self) -> None:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            # The loop watches the socket itself now, and forgets it afterwards.
            self._facts.unwatch_writing()
            self._empty_waiter.set_result(None)

    def _tell_lost(self, error: BaseException | None) -> None:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(
                error or ConnectionError("Connection is closed by peer")
            )
