"""Codecs: how an object becomes one message and back.

A codec is a module, or any object, with ``name``, ``format``, ``encode`` and ``decode`` (see
`aioipc.abc.Codec`). Those that the table names load when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from aioipc.abc import Codec

__all__ = ["BUILT_IN", "ENTRY_POINTS", "get", "is_trusted_only", "offer", "typed"]

BUILT_IN: dict[str, str] = {
    name: f"{__name__}.{name}" for name in ("json", "msgpack", "pickle", "raw", "text")
}
"""The codecs that can be asked for by name, and their modules; a new one has its row here.

Those that need a floor above this one are offered from there, by aioipc/__init__.py, which every
import of a part of the package runs first.
"""

ENTRY_POINTS = "aioipc.codecs"
"""The entry point group in which other packages offer codecs."""

T = TypeVar("T")


def get(codec: str | Codec[T]) -> Codec[Any]:
    """The codec of that name; a codec itself is returned as it is.

    Raises:
        ValueError: There is no codec of that name.
        TypeError: The object is not a codec.
    """
    if not isinstance(codec, str):
        return _checked(codec)
    return _checked(_load(BUILT_IN[codec])) if codec in BUILT_IN else _installed(codec)


@overload
def typed(type_: type[T]) -> Codec[T]: ...
@overload
def typed(type_: Any) -> Codec[Any]: ...  # a union, which type checkers do not call a type
def typed(type_: Any) -> Codec[Any]:
    """A codec that decodes into ``type_`` and refuses messages that do not fit it.

    It is msgpack on the wire, so the peer may use the plain ``"msgpack"`` codec.

    Args:
        type_: Anything that msgspec can decode into: a Struct, a dataclass, ``list[int]``,
            a union of Structs with tags.
    """
    return _load(f"{__name__}._typed").Typed(type_)  # type: ignore[no-any-return]


def offer(name: str, module: str) -> None:
    """Let a codec be asked for by its name.

    Args:
        name: That, which belongs to nobody yet.
        module: What keeps the contract. It is loaded when the codec is first asked for.
    """
    assert name not in BUILT_IN, f"there is a codec {name!r}"
    BUILT_IN[name] = module


def is_trusted_only(codec: Codec[Any]) -> bool:
    """Whether decoding a hostile message could do harm, as with pickle."""
    return bool(getattr(codec, "trusted_only", False))


def __getattr__(name: str) -> Any:
    if name in BUILT_IN:
        return _load(BUILT_IN[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load(module: str) -> Any:
    return importlib.import_module(module)


def _installed(name: str) -> Codec[Any]:
    # It brings email, zipfile and csv: too much for an import, little for an unknown name.
    from importlib.metadata import entry_points  # noqa: PLC0415

    points = entry_points(group=ENTRY_POINTS)
    if name not in points.names:
        known = ", ".join(sorted({*BUILT_IN, *points.names}))
        raise ValueError(f"no codec is called {name!r}; known are {known}")
    return _checked(points[name].load())


def _checked(codec: Codec[Any]) -> Codec[Any]:
    missing = [part for part in ("name", "format", "encode", "decode") if not hasattr(codec, part)]
    if missing:
        raise TypeError(f"{codec!r} is not a codec: it has no {' and no '.join(missing)}")
    return codec
