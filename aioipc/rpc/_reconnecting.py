"""Calls over one connection after the other."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from aioipc._renewal import Renewal
from aioipc.errors import PeerCrashed, RemoteCancelled
from aioipc.rpc._caller import OwnCall
from aioipc.rpc._connection import Connection
from aioipc.rpc._interface import Method
from aioipc.rpc._notifying import Repeats
from aioipc.rpc._streams import ResultStream

__all__ = ["Reconnecting"]


class Reconnecting:
    """Makes calls, and another connection when the far side is gone.

    Args:
        open_: Makes a connection.
        connection: The first one.

    Raises:
        ImportError: stamina, which spreads the attempts, is not installed.
    """

    def __init__(self, open_: Callable[[], Awaitable[Connection]], connection: Connection) -> None:
        self._renewal = Renewal(open_, connection)
        self._repeats = Repeats()

    @property
    def connection(self) -> Connection:
        """The present connection, or the last one."""
        return self._renewal.current

    async def call(self, method: Method, args: tuple[Any, ...]) -> Any:
        """Call a method and wait for its result, as `Caller.call`.

        Cancellation:
            Cancels the method on the far side, or gives the wait for the connection up.
        """
        while True:
            connection = await self._renewal.get()
            asked = connection.ask(method, args)
            try:
                return await asked
            except (PeerCrashed, RemoteCancelled) as error:
                if asked.call is None:
                    _give_up(connection, error)
                elif asked.call.last is not None:
                    raise  # the method itself declares it
                elif not (asked.call.never_ran or method.is_idempotent):
                    raise
                elif method.upload is not None:
                    raise  # what was taken out of a stream is not there for a second time

    async def notify(self, method: Method, args: tuple[Any, ...]) -> None:
        """Call a method whose result nobody wants."""
        missed = self._repeats.of(self.notify, method, args)
        while True:
            connection = await self._renewal.get()
            try:
                return await connection.caller.notify(method, args, missed=missed)
            except (PeerCrashed, RemoteCancelled) as error:
                _give_up(connection, error)

    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]:
        """Call a method that gives a stream, which ends with the connection that it began on."""
        return ResultStream(method, functools.partial(self.open, method, args))

    async def open(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        """Make a call, over a new connection if the present one cannot take it."""
        while True:
            connection = await self._renewal.get()
            try:
                return await connection.caller.open(method, args)
            except (PeerCrashed, RemoteCancelled) as error:  # so it did not run
                _give_up(connection, error)

    async def aclose(self) -> None:
        """Close the connection for good. Idempotent."""
        await self._renewal.aclose()
        await self._repeats.wait_over()


def _give_up(connection: Connection, error: PeerCrashed | RemoteCancelled) -> None:
    """A call could not be made over a connection, and none is; those before may be answered."""
    if isinstance(error, PeerCrashed):
        connection.call_no_more()
