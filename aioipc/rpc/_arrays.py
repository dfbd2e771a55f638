"""numpy arrays in calls. Loaded where one is declared or passed, because numpy is an extra."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from aioipc.codecs.layout import Layout, Order, elements, np, sendable

__all__ = ["described", "elements", "fitting", "inline", "of_numpy", "outline", "view"]


class _Inline(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An array whose elements lie in the message."""

    dtype: Any
    shape: Any
    order: Order
    elements: memoryview


_unpack_inline = msgspec.msgpack.Decoder(_Inline).decode


def of_numpy(obj: Any) -> Any:
    """An array, as it is; or the plain value that a scalar of numpy has.

    Raises:
        TypeError: It cannot be sent.
    """
    if isinstance(obj, np.ndarray):
        return sendable(obj)
    item = obj.item()
    if isinstance(item, np.generic):
        raise TypeError(f"a {type(obj).__name__} has no plain value")
    return item


def described(array: np.ndarray[Any, Any]) -> Any:
    """The facts about an array."""
    return Layout.of(array).described()


def inline(array: np.ndarray[Any, Any], facts: Any) -> bytes:
    """An array for the message."""
    return msgspec.msgpack.encode((*facts, elements(array)))


def outline(data: memoryview) -> np.ndarray[Any, Any]:
    """An array from the message: a copy, because it may lie there anywhere.

    Raises:
        ValueError: It makes no sense.
    """
    placed = _unpack_inline(data)
    layout = Layout.parse(placed.dtype, placed.shape, placed.order)
    if len(placed.elements) != layout.nbytes:
        raise ValueError(f"{len(placed.elements):,} bytes came for an array of {layout.nbytes:,}")
    return layout.view(bytes(placed.elements))


def view(facts: Any, map_: Callable[[int], memoryview]) -> np.ndarray[Any, Any]:
    """An array in memory that came.

    Args:
        facts: About it, from a peer.
        map_: Gives the memory, once it is known how many bytes it has to have.

    Raises:
        ValueError: It makes no sense.
    """
    layout = Layout.parse(*facts)
    return layout.view(map_(layout.nbytes))


def fitting(obj: Any, type_: Any) -> Any:
    """Return what was declared to be of that type, if the elements are.

    Raises:
        ValueError: They are not.
    """
    declared = _scalar_of(type_) if isinstance(obj, np.ndarray) else None
    if declared is not None and not np.issubdtype(obj.dtype, declared):
        raise ValueError(f"Expected an array of {declared.__name__}, got one of {obj.dtype}")
    return obj


def _scalar_of(type_: Any) -> Any:
    """Of ``numpy.ndarray[shape, numpy.dtype[scalar]]`` the scalar; None if it is any."""
    for dtype in typing.get_args(type_)[1:]:
        (scalar,) = typing.get_args(dtype) or (None,)
        if isinstance(scalar, type) and issubclass(scalar, np.generic):
            return scalar
    return None
