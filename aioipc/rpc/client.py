"""connect: call the methods of a service in another process."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.connect import connect as connect_channel
from aioipc.limits import Limits
from aioipc.rpc import _codec
from aioipc.rpc._connection import Connection
from aioipc.rpc._handlers import handlers_of
from aioipc.rpc._proxy import Proxy, proxy_of

__all__ = ["ClientOpening", "connect", "connection_of"]

T = TypeVar("T")


class ClientOpening(Generic[T]):
    """A proxy about to be connected: ``async with`` it, or ``await`` it.

    What was awaited is closed by ``await rpc.connection_of(proxy).aclose()``.
    """

    def __init__(self, open_: Callable[[], Any], interface: Callable[..., T]) -> None:
        self._open = open_
        self._interface = interface
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._connect().__await__()

    async def _connect(self) -> T:
        self._connection = await self._open()
        return self._connection.proxy(self._interface)

    async def __aenter__(self) -> T:
        return await self._connect()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connection is not None, "entered before it is left"
        await self._connection.aclose()


def connect(
    address: str | Address | Channel[Any],
    interface: Callable[..., T],
    *,
    serve: object = None,
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
        limits: Sizes and deadlines; ``limits.max_calls`` is how many calls are open at once.
        polling: As for `aioipc.connect`.
        allow: As for `aioipc.connect`.

    Raises:
        TypeError: The interface has methods that cannot be called remotely.
        Others: As `aioipc.connect`.

    Cancellation:
        Undoes: nothing stays open.
    """
    proxy_of(interface)  # it complains here, where the interface is named
    handlers = {} if serve is None else handlers_of(serve, None)

    async def open_() -> Connection:
        channel = address
        if not isinstance(channel, Channel):
            channel = await connect_channel(
                channel,
                codec=_codec,
                limits=limits,
                polling=polling,
                allow=allow,
            )
        return Connection(channel, connected=True, handlers=handlers)

    return ClientOpening(open_, interface)


def connection_of(proxy: object) -> Connection:
    """The connection behind what `connect` gave.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(proxy, Proxy):
        raise TypeError(f"rpc.connect gives proxies, and {proxy!r} is none")
    return proxy._calls.connection  # type: ignore[attr-defined,no-any-return]
