"""How an array lies in memory, in plain values: its dtype, its shape and its order.

What a peer says of one is checked before anything is made of it: no Python objects, no elements
of 0 bytes, no negative extents.

numpy is an extra: whoever needs it takes it from here, where its absence is explained.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec

try:
    import numpy as np
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "arrays that travel need numpy; install it with: pip install 'aioipc[arrays]'",
        name=error.name,
    ) from error

__all__ = ["Layout", "Order", "elements", "np", "sendable"]

Order = Literal["C", "F"]

_PLAIN_DTYPE = re.compile(
    r"[<>|=]([biufcSUV][0-9]{1,9}|[mM]8(\[[0-9]{0,9}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """The dtype of an array with fields."""

    names: list[str]
    formats: list[Any]
    offsets: list[int]
    itemsize: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is to know of an array besides its elements.

    Attributes:
        dtype: Of its elements.
        shape: Its extents.
        order: Which index moves fastest: "C" the last one, "F" the first one.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Order

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> Self:
        """That of an array; one with gaps is taken as if it had none."""
        return cls(array.dtype, array.shape, _order_of(array))

    @classmethod
    def parse(cls, dtype: Any, shape: Any, order: Any) -> Self:
        """What `described` said.

        Raises:
            ValueError: It makes no sense.
        """
        parsed, shape = _parse(dtype), _extents(shape)
        if order not in ("C", "F"):
            raise ValueError(f"the order of an array is C or F, not {order!r:.40}")
        if parsed.itemsize == 0:
            raise ValueError("an array has elements of 0 bytes")
        if any(extent < 0 for extent in shape):
            raise ValueError(f"an array has the shape {shape}")
        return cls(parsed, tuple(shape), order)

    def described(self) -> tuple[Any, tuple[int, ...], Order]:
        """Itself in values that msgpack has.

        Raises:
            TypeError: The elements mean nothing to others.
        """
        return _describe(self.dtype), self.shape, self.order

    @property
    def nbytes(self) -> int:
        """How many bytes the elements have."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: Any, offset: int = 0) -> np.ndarray[Any, Any]:
        """An array, to be read only, whose elements begin at ``offset``."""
        array: np.ndarray[Any, Any] = np.ndarray(
            self.shape, self.dtype, buffer, offset, order=self.order
        )
        array.flags.writeable = False
        return array


def sendable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array that its layout and its elements say all about.

    Raises:
        TypeError: There is more to it, as a mask, or less.
    """
    if type(array) not in (np.ndarray, np.memmap) and not hasattr(array, "memory"):
        raise TypeError(f"a {type(array).__qualname__} is more than its elements: send those")
    if array.dtype.itemsize == 0:
        raise TypeError(f"an array of {array.dtype!r} has elements of 0 bytes")
    return array


def elements(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of an array in the order of its layout: where they lie, or a copy without gaps."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    # reshape and view, because not every dtype has the buffer interface.
    flat = array.reshape(-1, order=_order_of(array)).view(np.ndarray).view(np.uint8)
    return flat.data


def _order_of(array: np.ndarray[Any, Any]) -> Order:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _describe(dtype: np.dtype[Any]) -> Any:
    """A dtype in msgpack: its text, a pair with a shape, or a map of fields."""
    if dtype.names is not None and dtype.fields is not None:
        fields = [dtype.fields[each] for each in dtype.names]
        if any(len(field) > 2 for field in fields):
            raise TypeError(f"an array of {dtype!r} cannot be sent: its fields have titles")
        formats = [_describe(field[0]) for field in fields]
        return _Fields(list(dtype.names), formats, [field[1] for field in fields], dtype.itemsize)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), shape]
    if not _PLAIN_DTYPE.fullmatch(dtype.str) or np.dtype(dtype.str).type is not dtype.type:
        raise TypeError(f"an array of {dtype!r} cannot be sent")
    return dtype.str


def _parse(described: Any) -> np.dtype[Any]:
    """The dtype that `_describe` described; never one of Python objects."""
    if isinstance(described, str):
        if not _PLAIN_DTYPE.fullmatch(described):
            raise ValueError(f"{described[:40]!r} is not the dtype of an array that travels")
        return np.dtype(described)
    if isinstance(described, list) and len(described) == 2:
        return np.dtype((_parse(described[0]), tuple(_extents(described[1]))))
    fields = msgspec.convert(described, _Fields)
    formats = [_parse(each) for each in fields.formats]
    return np.dtype(
        {
            "names": fields.names,
            "formats": formats,
            "offsets": fields.offsets,
            "itemsize": fields.itemsize,
        }
    )


def _extents(shape: Any) -> list[int]:
    return msgspec.convert(shape, list[int])
