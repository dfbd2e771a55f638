"""Calls over one connection after the other."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from aioipc.errors import ClosedError, ConnectError, PeerCrashed
from aioipc.rpc._caller import OwnCall
from aioipc.rpc._connection import Connection
from aioipc.rpc._interface import Method
from aioipc.rpc._streams import ResultStream

__all__ = ["Reconnecting"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class Reconnecting:
    """Makes calls, and another connection when the far side is gone.

    Args:
        open_: Makes a connection.
        connection: The first one.

    Raises:
        ImportError: stamina, which spreads the attempts, is not installed.
    """

    def __init__(self, open_: Callable[[], Awaitable[Connection]], connection: Connection) -> None:
        # An extra: who does not reconnect does not need it.
        import stamina  # noqa: PLC0415

        self._attempts = functools.partial(
            stamina.retry_context,
            on=(ConnectError, PeerCrashed),
            attempts=None,
            timeout=None,
            wait_initial=_FIRST_PAUSE_S,
            wait_max=_LONGEST_PAUSE_S,
            wait_jitter=_FIRST_PAUSE_S,
        )
        self._open = open_
        self._connecting = asyncio.Lock()
        self._is_closed = False
        self.connection = connection

    async def call(self, method: Method, args: tuple[Any, ...]) -> Any:
        """Call a method and wait for its result, as `Caller.call`.

        Cancellation:
            Cancels the method on the far side, or gives the wait for the connection up.
        """
        while True:
            call = await self.open(method, args)
            try:
                return await call.caller.outcome(call)
            except PeerCrashed:
                if not method.is_idempotent or call.error is None:
                    raise

    async def notify(self, method: Method, args: tuple[Any, ...]) -> None:
        """Call a method whose result nobody wants."""
        while True:
            connection = await self._connected()
            try:
                return await connection.caller.notify(method, args)
            except PeerCrashed as error:
                connection.end(error)

    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]:
        """Call a method that gives a stream, which ends with the connection that it began on."""
        return ResultStream(method, functools.partial(self.open, method, args))

    async def open(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call, over a new connection if the present one cannot take it."""
        while True:
            connection = await self._connected()
            try:
                return await connection.caller.open(method, args)
            except PeerCrashed as error:  # so it did not run
                connection.end(error)

    async def _connected(self) -> Connection:
        """The present connection, or another one once there is one."""
        if self.connection.ending is None:
            return self.connection
        async with self._connecting:
            if self._is_closed:
                raise ClosedError("this side closed the connection")
            if self.connection.ending is not None:
                await self.connection.aclose()
                async for attempt in self._attempts():
                    with attempt:
                        self.connection = await self._open()
        return self.connection

    async def aclose(self) -> None:
        """Close the connection for good. Idempotent."""
        self._is_closed = True
        await self.connection.aclose()
