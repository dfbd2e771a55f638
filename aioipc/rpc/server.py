"""serve: let other processes call the methods of an object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import anyio
from anyio.abc import AsyncResource

from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import IPCError, told_of
from aioipc.limits import Limits
from aioipc.listener import Listener, listen
from aioipc.rpc import _codec
from aioipc.rpc._callee import Handlers
from aioipc.rpc._connection import Connection
from aioipc.rpc._handlers import handlers_of
from aioipc.transports import can_listen

__all__ = ["Server", "serve"]

log = logging.getLogger("aioipc.rpc")


class Server(AsyncResource):
    """Serves an object to whoever connects, or to the one peer of a channel.

    Made by `serve`. It works from the time it is opened until it is closed.
    """

    def __init__(
        self, source: Listener[Any] | Channel[Any], handlers: Handlers, limits: Limits
    ) -> None:
        self._source = source
        self._handlers = handlers
        self._limits = limits
        self._connections: set[Connection] = set()
        self._is_closing = False
        # Its owner is this object: `aclose` ends it and waits for it.
        self._work = asyncio.get_running_loop().create_task(self._serve())

    @property
    def address(self) -> str:
        """Where it is served: the port that was chosen, the name that was made up."""
        return self._source.address

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that are open."""
        return frozenset(self._connections)

    async def wait(self) -> None:
        """Wait until there is nothing more to serve.

        That is for ever at an address, and until the peer is gone over a single channel.

        Raises:
            Exception: Serving failed.

        Cancellation:
            Abandons the wait; the server goes on until it is closed.
        """
        await asyncio.wait([self._work])
        if not self._work.cancelled():
            self._work.result()

    async def aclose(self) -> None:
        """Close the server. Idempotent.

        No other call is taken. Those that run may finish, for at most ``limits.linger_s``
        seconds; what still runs then is cancelled, and its caller gets RemoteCancelled.

        Cancellation:
            Cancels at once what runs.
        """
        self._is_closing = True
        try:
            if isinstance(self._source, Listener):
                await self._source.aclose()
            if not self._work.done():
                await self._finish()
        finally:
            self._work.cancel()
            await asyncio.wait([self._work])
            await self._source.aclose()

    async def _finish(self) -> None:
        async with anyio.create_task_group() as tasks:
            for connection in self._connections:
                tasks.start_soon(connection.finish, self._limits.linger_s)

    def _serve(self) -> Coroutine[Any, Any, None]:
        if isinstance(self._source, Listener):
            return self._source.serve(self._serve_one)
        return self._serve_one(self._source)

    async def _serve_one(self, channel: Channel[Any]) -> None:
        async with Connection(channel, connected=False, handlers=self._handlers) as connection:
            self._connections.add(connection)
            try:
                if self._is_closing:  # it was accepted before; nothing of it was read
                    await connection.finish(self._limits.linger_s)
                await connection.wait_ended()
            except IPCError as error:
                log.warning("%s", told_of(channel.address, error))
            finally:
                self._connections.discard(connection)


def serve(
    address: str | Address | Channel[Any],
    service: object,
    *,
    interface: type | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> Opening[Server]:
    """Serve an object: ``async with rpc.serve("shm:store", MemoryStore(), interface=Store)``.

    Its methods run concurrently, each call in a context of its own, where
    `aioipc.rpc.current_call` tells who calls and how long the caller will wait.

    Args:
        address: Where; see docs/addresses.md. At an address without listeners (``stdio:``,
            ``fd:``, ``pipe:``) the one peer there is served; so is that of a channel that was
            made with ``codec=rpc.CODEC``.
        service: The object.
        interface: A ``typing.Protocol`` or class that declares what can be called; by default
            the object's own class. Nothing else of the object can be reached.
        limits: Sizes, deadlines and how many may connect and call.
        polling: As for `aioipc.connect`.
        allow: As for `aioipc.listen`.

    Raises:
        TypeError: The interface cannot be called remotely, or the service does not keep it; or
            an argument is of a wrong type.
        Others: As `aioipc.listen`.

    Cancellation:
        Undoes: nothing stays open.
    """
    handlers = handlers_of(service, interface)
    known = check_limits(limits)
    check_allow(allow)

    async def open_() -> Server:
        if isinstance(address, Channel):
            return Server(address, handlers, known)
        way = listen if can_listen(Address.parse(address)) else connect
        source = await way(
            address,
            codec=_codec,
            limits=known,
            polling=polling,
            allow=allow,
        )
        return Server(source, handlers, known)

    return Opening(open_)
