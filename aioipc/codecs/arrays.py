"""The ``arrays`` codec: msgpack whose values may be numpy arrays.

A message is msgpack, for any library to read: ``[arrays, object]``. In the object an array is an
ext of type 65, four bytes that say which one (little endian); ``arrays`` has for each of them
``[dtype, shape, order, data]``. The data are its elements, behind up to 15 bytes that make them
lie at a multiple of 16 in the message; where the memory of a `SharedArray` travels by its
descriptor they are nil. So encoding copies no array, and decoding gives views of the message.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import msgspec

from aioipc.abc import Buffer, HasFileno
from aioipc.codecs.msgpack import plain, refuse_ext
from aioipc.errors import DecodeError, ProtocolError

try:
    import numpy as np
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the arrays codec needs numpy; install it with: pip install 'aioipc[arrays]'",
        name=error.name,
    ) from error

__all__ = ["decode", "encode", "format", "name", "passes_fds"]

name = "arrays"
format = "msgpack"  # noqa: A001 - the contract's word
passes_fds = True

_ARRAY = 65
_ALIGNED = 16
_LONGEST = 2**32 - 1 - _ALIGNED  # of a msgpack bin
_NO_ARRAYS = b"\x92\x90"
_SHARED = "aioipc.memory.array"  # on a floor above, and needed where one arrives

_PLAIN_DTYPE = re.compile(
    r"[<>|=]([biufcSUV][0-9]{1,9}|[mM]8(\[[0-9]{0,9}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)

_Take = Callable[[int], list[int]]


class _Placed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One array of a message."""

    dtype: Any
    shape: list[int]
    order: Literal["C", "F"]
    data: memoryview | None


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """The dtype of an array with fields."""

    names: list[str]
    formats: list[Any]
    offsets: list[int]
    itemsize: int


class _Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    arrays: list[_Placed]
    object: msgspec.Raw


_pack = msgspec.msgpack.Encoder().encode
_unpack_message = msgspec.msgpack.Decoder(_Message).decode
_unpack_plain = msgspec.msgpack.Decoder(ext_hook=refuse_ext).decode


# Encoding


def encode(obj: Any, fds: list[HasFileno] | None = None, /) -> Buffer | list[Buffer]:
    """Return the pieces of the message; the elements of arrays stay where they are.

    Args:
        obj: What msgpack can encode, with arrays anywhere in it.
        fds: Takes the memory of shared arrays that is to travel by its descriptor; None if
            nothing can, and their elements are sent.

    Raises:
        TypeError: There is something else in it, an array of objects for example.
        ValueError: An array has more than 4 GiB.
    """
    found: list[np.ndarray[Any, Any]] = []
    body = msgspec.msgpack.Encoder(enc_hook=partial(_replace, found)).encode(obj)
    if not found:
        return _NO_ARRAYS + body
    return _joined(found, body, fds)


def _replace(found: list[np.ndarray[Any, Any]], obj: Any) -> Any:
    """What stands in the object for something that msgspec does not know."""
    if isinstance(obj, np.ndarray):
        found.append(_checked(obj))
        return msgspec.msgpack.Ext(_ARRAY, (len(found) - 1).to_bytes(4, "little"))
    if isinstance(obj, np.generic):
        item = obj.item()
        if not isinstance(item, np.generic):
            return item
    return plain(obj)


def _checked(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if type(array) not in (np.ndarray, np.memmap) and not hasattr(array, "memory"):
        raise TypeError(f"a {type(array).__qualname__} is more than its elements: send those")
    if array.dtype.itemsize == 0:
        raise TypeError(f"an array of {array.dtype!r} has elements of 0 bytes")
    return array


def _joined(
    found: list[np.ndarray[Any, Any]], body: bytes, fds: list[HasFileno] | None
) -> list[Buffer]:
    parts: list[Buffer] = [b"\x92\xdd" + len(found).to_bytes(4, "big")]
    at = len(parts[0])
    for array in found:
        memory = _memory_that_travels(array)
        if fds is not None and memory is not None:
            fds.append(memory)
            pieces: list[Buffer] = [_head(array) + b"\xc0"]
        else:
            pieces = _with_elements(array, at)
        at += sum(map(len, pieces))
        parts += pieces
    parts.append(body)
    return parts


def _memory_that_travels(array: np.ndarray[Any, Any]) -> HasFileno | None:
    """The anonymous memory that all of an array lies in, while its descriptor is open."""
    memory = getattr(array, "memory", None)
    is_open = memory is not None and memory.name is None and memory.fileno() >= 0
    return memory if is_open else None


def _with_elements(array: np.ndarray[Any, Any], at: int) -> list[Buffer]:
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    if array.nbytes > _LONGEST:
        raise ValueError(f"an array of {array.nbytes:,} bytes is over the limit of {_LONGEST:,}")
    head = _head(array)
    padding = -(at + len(head) + 5) % _ALIGNED
    size = (array.nbytes + padding).to_bytes(4, "big")
    # reshape and view, because not every dtype has the buffer interface.
    flat = array.reshape(-1, order=_order(array)).view(np.ndarray).view(np.uint8)
    return [head + b"\xc6" + size + bytes(padding), flat.data]


def _head(array: np.ndarray[Any, Any]) -> bytes:
    described = (_describe(array.dtype), array.shape, _order(array))
    return b"\x94" + b"".join(map(_pack, described))


def _order(array: np.ndarray[Any, Any]) -> Literal["C", "F"]:
    return "C" if array.flags.c_contiguous else "F"


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


# Decoding


def decode(buffer: Buffer, take: _Take | None = None, /) -> Any:
    """Return the object; its arrays are read-only views of the message, or of shared memory.

    Args:
        buffer: The message, which stays in memory as long as one of its arrays.
        take: Gives the next descriptors that came with it.

    Raises:
        ValueError: It is no such message.
    """
    if bytes(buffer[:2]) == _NO_ARRAYS:
        return _unpack_plain(memoryview(buffer)[2:])
    message = _unpack_message(buffer)
    arrays = [_array(placed, take) for placed in message.arrays]
    return msgspec.msgpack.Decoder(ext_hook=partial(_find, arrays)).decode(message.object)


def _find(arrays: list[np.ndarray[Any, Any]], code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        return refuse_ext(code, data)
    index = int.from_bytes(data, "little")
    if len(data) != 4 or index >= len(arrays):
        raise ValueError(f"there is no array {index:,} in a message of {len(arrays):,}")
    return arrays[index]


def _array(placed: _Placed, take: _Take | None) -> np.ndarray[Any, Any]:
    dtype = _parsed(placed.dtype)
    if dtype.itemsize == 0:
        raise ValueError("an array has elements of 0 bytes")
    if any(extent < 0 for extent in placed.shape):
        raise ValueError(f"an array has the shape {placed.shape}")
    nbytes = math.prod(placed.shape) * dtype.itemsize
    if placed.data is None:
        return _adopted(placed, dtype, take)
    padding = len(placed.data) - nbytes
    if not 0 <= padding < _ALIGNED:
        raise ValueError(f"{len(placed.data):,} bytes came for an array of {nbytes:,}")
    array: np.ndarray[Any, Any] = np.ndarray(
        placed.shape, dtype, placed.data, padding, order=placed.order
    )
    array.flags.writeable = False
    return array


def _adopted(placed: _Placed, dtype: np.dtype[Any], take: _Take | None) -> np.ndarray[Any, Any]:
    fds = take(1) if take is not None else []
    if not fds:
        raise ValueError("the memory of a shared array did not come with it")
    make = importlib.import_module(_SHARED).SharedArray.from_fd
    try:
        array: np.ndarray[Any, Any] = make(fds[0], tuple(placed.shape), dtype, order=placed.order)
    except ProtocolError as error:  # which would end the channel, where this is one bad message
        raise DecodeError(f"a shared array is none: {error}") from error
    return array


def _parsed(described: Any) -> np.dtype[Any]:
    """The dtype that `_describe` described; never one of Python objects."""
    if isinstance(described, str):
        if not _PLAIN_DTYPE.fullmatch(described):
            raise ValueError(f"{described[:40]!r} is not the dtype of an array that travels")
        return np.dtype(described)
    if isinstance(described, list) and len(described) == 2:
        return np.dtype((_parsed(described[0]), tuple(_extents(described[1]))))
    fields = msgspec.convert(described, _Fields)
    formats = [_parsed(each) for each in fields.formats]
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
