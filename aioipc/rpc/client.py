"""connect: call the methods of a service in another process."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Generic, TypeVar

from aioipc._opening import check_allow, check_limits
from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect as connect_channel
from aioipc.limits import Limits
from aioipc.rpc import _codec
from aioipc.rpc._connection import Connection
from aioipc.rpc._handlers import handlers_of
from aioipc.rpc._proxy import Calls, calls_of, proxy_of
from aioipc.rpc._reconnecting import Reconnecting

__all__ = ["ClientOpening", "aclose", "connect", "connection_of"]

T = TypeVar("T")


class ClientOpening(Generic[T]):
    """A proxy about to be connected: ``async with`` it, or ``await`` it.

    What was awaited is closed by ``await rpc.aclose(proxy)``.
    """

    def __init__(self, open_: Callable[[], Awaitable[Calls]], interface: Callable[..., T]) -> None:
        self._open = open_
        self._interface = interface
        self._calls: Calls | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._connect().__await__()

    async def _connect(self) -> T:
        self._calls = await self._open()
        proxy: T = proxy_of(self._interface)(self._calls)
        return proxy

    async def __aenter__(self) -> T:
        return await self._connect()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._calls is not None, "entered before it is left"
        await self._calls.aclose()


def connect(
    address: str | Address | Channel[Any],
    interface: Callable[..., T],
    *,
    serve: object = None,
    reconnect: bool = False,
    limits: Limits | None = None,
    polling: str = "adaptive",
    allow: Allow | None = None,
) -> ClientOpening[T]:
    """Connect to a service: ``async with rpc.connect("shm:store", Store) as store``.

    Args:
        address: Where it is served; or a channel that was made with ``codec=rpc.CODEC``.
        interface: A ``typing.Protocol`` or a class, whose public methods are called. What is
            returned has these methods, to be awaited or, for streams, iterated over.
        serve: An object whose public methods the far side may call back, by
            ``rpc.current_call().client(Interface)``.
        reconnect: Whether to connect again when the far side is gone, with growing pauses. Calls
            made meanwhile wait, and those that a server that closes did not take are made over
            the next connection. Those that may have run raise PeerCrashed, unless their method
            is ``@rpc.idempotent`` and has no stream among its arguments: it is called again. Needs
            the extra ``reconnect``.
        limits: Sizes and deadlines; ``limits.max_calls`` is how many calls are open at once.
        polling: As for `aioipc.connect`.
        allow: As for `aioipc.connect`.

    Raises:
        TypeError: The interface has methods that cannot be called remotely, or an argument is
            of a wrong type.
        ValueError: A channel cannot be connected again.
        Others: As `aioipc.connect`.

    Cancellation:
        Undoes: nothing stays open.
    """
    proxy_of(interface)  # it complains here, where the interface is named
    handlers = {} if serve is None else handlers_of(serve, None)
    check_limits(limits)
    check_allow(allow)

    if reconnect and isinstance(address, Channel):
        raise ValueError("reconnect needs an address: a channel cannot be opened again")

    async def open_(context: Context) -> Connection:
        channel = address
        if not isinstance(channel, Channel):
            channel = await connect_channel(
                channel,
                codec=_codec,
                limits=limits,
                polling=polling,
                allow=allow,
            )
        return Connection(channel, connected=True, handlers=handlers, context=context)

    async def open_calls() -> Calls:
        context = copy_context()  # for all connections, whoever asks for the next one
        connection = await open_(context)
        if not reconnect:
            return connection.caller
        return Reconnecting(functools.partial(open_, context), connection)

    return ClientOpening(open_calls, interface)


def connection_of(proxy: object) -> Connection:
    """The connection behind what `connect` gave; with ``reconnect``, the present one.

    Raises:
        TypeError: It is something else.
    """
    connection: Connection = calls_of(proxy).connection
    return connection


async def aclose(proxy: object) -> None:
    """Close what `connect` gave. Idempotent.

    Calls that are open raise ClosedError, and their methods are cancelled.

    Raises:
        TypeError: It is no proxy.

    Cancellation:
        Closes at once, abruptly.
    """
    await calls_of(proxy).aclose()
