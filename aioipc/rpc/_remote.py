"""Interfaces that are known only from what a server tells of itself."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import msgspec

from aioipc.errors import RemoteError
from aioipc.rpc._caller import Caller
from aioipc.rpc._handlers import INTERFACE_QUESTION
from aioipc.rpc._interface import Method, notification

__all__ = ["RemoteInterface", "RemoteMethod", "RemoteParameter", "ask_interface", "method_of"]


class RemoteParameter(msgspec.Struct):
    """One parameter of a method, as its server tells."""

    name: str
    type: str
    keyword_only: bool = False
    default: str | None = None


class RemoteMethod(msgspec.Struct):
    """One method, as its server tells."""

    name: str
    shape: str
    parameters: list[RemoteParameter]
    returns: str
    doc: str | None = None
    upload: int | None = None
    raises: list[str] = []
    idempotent: bool = False


class RemoteInterface(msgspec.Struct):
    """What a server can be called for."""

    name: str
    methods: list[RemoteMethod]
    doc: str | None = None


async def ask_interface(caller: Caller) -> RemoteInterface:
    """What the far side can be called for.

    Raises:
        RemoteError: What it says makes no sense.
        Others: As any call.
    """
    told = await caller.call(INTERFACE_QUESTION, ())
    try:
        return msgspec.convert(told, RemoteInterface)
    except msgspec.ValidationError as error:
        raise RemoteError(f"the description of the interface makes no sense: {error}") from None


def method_of(interface: RemoteInterface, method: RemoteMethod) -> Method:
    """A method that can be called, with arguments and results of any type.

    Raises:
        RemoteError: What its server tells of it makes no sense.
    """
    stub = _STUBS.get(method.shape)
    if stub is None:
        raise RemoteError(f"{interface.name}.{method.name} has the unknown shape {method.shape!r}")
    try:
        signature = _signature(method)
    except ValueError as error:
        raise RemoteError(f"{interface.name}.{method.name} cannot be called: {error}") from None
    return Method(interface.name, method.name, stub(signature))


def _signature(method: RemoteMethod) -> inspect.Signature:
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature([own, *map(_parameter, method.parameters)])


def _parameter(told: RemoteParameter) -> inspect.Parameter:
    if told.keyword_only:
        return inspect.Parameter(told.name, inspect.Parameter.KEYWORD_ONLY)
    return inspect.Parameter(told.name, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _call(signature: inspect.Signature) -> Callable[..., Any]:
    async def call(self: object) -> Any: ...

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _stream(signature: inspect.Signature) -> Callable[..., Any]:
    def stream(self: object) -> AsyncIterator[Any]:
        raise NotImplementedError  # only what it declares counts

    stream.__signature__ = signature  # type: ignore[attr-defined]
    return stream


_STUBS: Final[Mapping[str, Callable[[inspect.Signature], Callable[..., Any]]]] = {
    "call": _call,
    "stream": _stream,
    "notification": lambda signature: notification(_call(signature)),
}
