"""Proxies: objects whose methods run in another process."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aioipc.rpc._interface import Method, Shape, describe

if TYPE_CHECKING:
    from aioipc.rpc._streams import ResultStream

__all__ = ["Calls", "Proxy", "calls_of", "proxy_of"]

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)


class Calls(Protocol):
    """What a proxy calls through."""

    @property
    def connection(self) -> Any: ...
    def call(self, method: Method, args: tuple[Any, ...]) -> Awaitable[Any]: ...
    async def notify(self, method: Method, args: tuple[Any, ...]) -> None: ...
    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]: ...
    async def aclose(self) -> None: ...


class Proxy:
    """Has the methods of an interface; each runs on the far side."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._calls!r}>"


def calls_of(proxy: object) -> Calls:
    """What a proxy calls through.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(proxy, Proxy):
        raise TypeError(f"rpc.connect gives proxies, and {proxy!r} is none")
    return proxy._calls


@functools.lru_cache(maxsize=256)
def proxy_of(interface: Any) -> type[Any]:
    """The class of the proxies for an interface.

    Raises:
        TypeError: It is no interface; see `describe`.
    """
    methods = describe(interface).methods
    face = {name: _FACES[method.shape](method) for name, method in methods.items()}
    return type(
        interface.__name__, (Proxy,), face | {"__slots__": (), "__doc__": interface.__doc__}
    )


def _dressed(method: Method, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = method.name
    function.__qualname__ = str(method)
    function.__doc__ = method.doc
    function.__signature__ = method.signature.replace(  # type: ignore[attr-defined]
        parameters=[_SELF, *method.signature.parameters.values()]
    )
    return function


# Arguments that are complete already, the usual case, are passed on as they are.


def _call(method: Method) -> Callable[..., Any]:
    count = method.count if method.is_positional else -1

    async def call(self: Proxy, /, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != count:
            args = method.bind(args, kwargs)
        return await self._calls.call(method, args)

    return _dressed(method, call)


def _stream(method: Method) -> Callable[..., Any]:
    def stream(self: Proxy, /, *args: Any, **kwargs: Any) -> Any:
        return self._calls.stream(method, method.bind(args, kwargs))

    return _dressed(method, stream)


def _notification(method: Method) -> Callable[..., Any]:
    async def notify(self: Proxy, /, *args: Any, **kwargs: Any) -> Any:
        await self._calls.notify(method, method.bind(args, kwargs))

    return _dressed(method, notify)


_FACES: dict[Shape, Callable[[Method], Callable[..., Any]]] = {
    Shape.CALL: _call,
    Shape.STREAM: _stream,
    Shape.NOTIFICATION: _notification,
}
