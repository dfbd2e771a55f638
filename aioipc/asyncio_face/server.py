"""Server: whoever comes to an address gets a protocol."""

from __future__ import annotations

import asyncio
import logging
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from aioipc._bytes import Entrance, Place
from aioipc.abc import Acceptor, ByteTransport
from aioipc.asyncio_face._compat import TransportSocket
from aioipc.asyncio_face.transport import Transport

__all__ = ["Server"]

log = logging.getLogger("aioipc.asyncio_face")


class Server(asyncio.AbstractServer):
    """An `asyncio.Server` at any address; made by `create_server` and `start_server`.

    `wait_closed` waits for the connections as well, on every version of Python, as asyncio does
    from 3.12 on; `close_clients` and `abort_clients` are there on every version, too.

    Args:
        loop: The loop that it belongs to.
        acceptor: Where peers come.
        protocol_factory: Makes the protocol for each.
        place: The address, and how it was asked for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        acceptor: Acceptor,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        place: Place,
    ) -> None:
        self._loop = loop
        self._acceptor = acceptor
        self._protocol_factory = protocol_factory
        self._limits = place.limits
        # Weak, so that a transport that is dropped open still warns.
        self._clients: weakref.WeakSet[Transport] = weakref.WeakSet()
        self._waiters: list[asyncio.Future[None]] = []
        self._serving_forever: asyncio.Future[None] | None = None
        self._serving = False
        self._closed = False
        self._entrance = Entrance(
            acceptor,
            place.allow,
            place.limits,
            enter=self._enter,
            has_room=self._has_room,
        )

    @property
    def address(self) -> str:
        """Where peers reach it: the port that was chosen, the name that was made up."""
        return self._entrance.address

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening socket where there is one; nothing once it is closed."""
        sock: Any = getattr(self._acceptor, "socket", None)
        return () if self._closed or sock is None else (TransportSocket(sock),)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it belongs to."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether peers are taken in."""
        return self._serving

    def start(self) -> None:
        """Take peers in. Idempotent."""
        if not self._serving and not self._closed:
            self._serving = True
            self._entrance.look()

    async def start_serving(self) -> None:
        """Take peers in. Idempotent."""
        self.start()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Take peers in until this is cancelled.

        Raises:
            RuntimeError: It is closed, or somebody is waiting already.

        Cancellation:
            Closes the server and waits for its connections to end.
        """
        if self._serving_forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        self.start()
        self._serving_forever = self._loop.create_future()
        try:
            await self._serving_forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._serving_forever = None

    def close(self) -> None:
        """Take in nobody any more; connections stay open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._serving = False
        self._entrance.close()
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()
        self._wake()

    def close_clients(self) -> None:
        """Close every connection."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Cut every connection off."""
        for transport in list(self._clients):
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and every connection has ended.

        Cancellation:
            Abandons the wait.
        """
        if not self._closed or self._clients:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def aclose(self) -> None:
        """Close the server and its connections, after what was written to them left. Idempotent.

        Cancellation:
            Cuts off the connections that are left.
        """
        self.close()
        self.close_clients()
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.abort_clients()
            raise

    def _has_room(self) -> bool:
        return len(self._clients) < self._limits.max_connections

    def _enter(self, stream: ByteTransport) -> None:
        try:
            protocol = self._protocol_factory()
            Transport(self._loop, stream, protocol, server=self, limits=self._limits)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._entrance.left(stream.peer)
            stream.close()
            self._loop.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": error,
                }
            )

    def _attach(self, transport: Transport) -> None:
        self._clients.add(transport)

    def _detach(self, transport: Transport) -> None:
        was_full = not self._has_room()
        self._clients.discard(transport)
        self._entrance.left(transport.get_extra_info("peercred"))
        self._wake()
        if was_full and self._serving:
            self._entrance.look()

    def _wake(self) -> None:
        if self._closed and not self._clients:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._closed = True
            self._entrance.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "serving" if self._serving else "open"
        return f"<aioipc server {self.address} {state}>"
