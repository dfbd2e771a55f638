"""What may be declared, and what the refusals say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any, Protocol

import pytest

from aioipc import rpc
from aioipc.rpc._interface import Shape, describe
from tests.rpc.store import MemoryStore, Store


def declared(**members: Any) -> type:
    return type("Declared", (), members)


def test_the_public_methods_and_nothing_else() -> None:
    class Base:
        async def inherited(self) -> int:
            return 1

        async def hidden(self) -> int:
            return 1

    class Service(Base):
        attribute = 5
        hidden = None  # type: ignore[assignment]

        @property
        def size(self) -> int:
            return 1

        async def own(self) -> None: ...

        async def _private(self) -> None: ...

        async def __aenter__(self) -> None: ...

    assert list(describe(Service).methods) == ["inherited", "own"]


def test_the_shapes() -> None:
    methods = describe(Store).methods
    assert methods["get"].shape is Shape.CALL
    assert methods["watch"].shape is Shape.STREAM
    assert methods["note"].shape is Shape.NOTIFICATION
    assert methods["total"].upload == 0
    assert methods["get"].upload is None
    assert methods["ping"].is_idempotent
    assert not methods["get"].is_idempotent
    assert list(methods["need"].raises) == ["Missing", "KeyError"]


def test_async_generators_are_streams() -> None:
    class Service:
        async def count(self) -> AsyncGenerator[int, None]:
            yield 1

        async def letters(self) -> AsyncIterable[str]:
            yield "a"

        async def unannotated(self):  # type: ignore[no-untyped-def]
            yield None

    shapes = {method.shape for method in describe(Service).methods.values()}
    assert shapes == {Shape.STREAM}


async def _late_iterator(self: object) -> AsyncIterator[int]:
    raise NotImplementedError


def _plain(self: object) -> int:
    return 1


async def _many(self: object, *values: int) -> None: ...


async def _named(self: object, **values: int) -> None: ...


async def _two(self: object, a: AsyncIterable[int], b: AsyncIterable[int]) -> None: ...


async def _unknown(self: object, a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_late_iterator, r"Declared\.m: .* declare it `def m\(\.\.\.\) -> AsyncIterator"),
        (_plain, r"Declared\.m: a call takes time, so declare it `async def m"),
        (_many, r"Declared\.m: \*values cannot be sent"),
        (_named, r"Declared\.m: \*\*values cannot be sent"),
        (_two, r"Declared\.m: one parameter may be a stream, not 2"),
        (_unknown, r"Declared\.m: its annotations cannot be resolved: .*Nowhere"),
    ],
)
def test_what_cannot_be_called_remotely(function: Any, words: str) -> None:
    interface = declared(m=function)
    with pytest.raises(TypeError, match=words):
        _ = rpc.connect("unix:x", interface)
    with pytest.raises(TypeError, match=words):
        _ = rpc.serve("unix:x", interface())


def test_an_interface_is_a_class_with_methods() -> None:
    with pytest.raises(TypeError, match="an interface is a class, not 5"):
        _ = rpc.connect("unix:x", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="declares no public method"):
        _ = rpc.connect("unix:x", declared())


def test_a_service_has_the_methods_that_its_interface_declares() -> None:
    class Half:
        async def get(self, key: str, default: int = 0) -> int:
            return default

    with pytest.raises(TypeError, match="Half has no method 'put'"):
        _ = rpc.serve("unix:x", Half(), interface=Store)

    class Asks(Protocol):
        async def get(self, key: str, *, deep: bool) -> int: ...

    with pytest.raises(TypeError, match=r"Half\.get does not take the arguments of Asks\.get"):
        _ = rpc.serve("unix:x", Half(), interface=Asks)
    _ = rpc.serve("unix:x", MemoryStore(), interface=Store)


def test_a_service_is_an_object_and_not_its_class() -> None:
    for interface in (None, Store):
        with pytest.raises(
            TypeError, match=r"^serve an object, not the class MemoryStore: Mem.*\(\)"
        ):
            _ = rpc.serve("unix:x", MemoryStore, interface=interface)

    class Static(Protocol):
        async def get(self, key: str) -> int: ...

    class Functions:
        @staticmethod
        async def get(key: str) -> int:
            return len(key)

    _ = rpc.serve("unix:x", Functions, interface=Static)


def test_only_exception_types_can_be_declared() -> None:
    with pytest.raises(TypeError, match="exception types"):
        rpc.raises(ValueError("x"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exception types"):
        rpc.raises(KeyboardInterrupt)  # type: ignore[arg-type]
    rpc.raises(KeyError, KeyError)
    with pytest.raises(TypeError, match="one exception type named 'KeyError'"):
        rpc.raises(KeyError, type("KeyError", (Exception,), {}))
