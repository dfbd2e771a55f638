"""The ``arrays`` codec: msgpack whose values may be numpy arrays.

A message is msgpack, for any library to read: ``[arrays, object]``. In the object an array is an
ext of type 65, four bytes that say which one (little endian); ``arrays`` has for each of them
``[dtype, shape, order, data]``. The data are its elements, behind up to 15 bytes that make them
lie at a multiple of 16 in the message; where the memory of a `SharedArray` travels by its
descriptor they are nil. So encoding copies no array, and decoding gives views of the message.

It lives beside `SharedArray`, which it makes; `aioipc.codecs` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from aioipc.abc import Buffer, HasFileno
from aioipc.codecs.layout import Layout, Order, elements, np, sendable
from aioipc.codecs.msgpack import plain, refuse_ext
from aioipc.errors import DecodeError, ProtocolError
from aioipc.memory.array import SharedArray

__all__ = ["decode", "encode", "format", "name", "passes_fds"]

name = "arrays"
format = "msgpack"  # noqa: A001 - the contract's word
passes_fds = True

_ARRAY = 65
_ALIGNED = 16
_LONGEST = 2**32 - 1 - _ALIGNED  # of a msgpack bin
_NO_ARRAYS = b"\x92\x90"

_Take = Callable[[int], list[int]]


class _Placed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One array of a message."""

    dtype: Any
    shape: list[int]
    order: Order
    data: memoryview | None


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
        found.append(sendable(obj))
        return msgspec.msgpack.Ext(_ARRAY, (len(found) - 1).to_bytes(4, "little"))
    if isinstance(obj, np.generic):
        item = obj.item()
        if not isinstance(item, np.generic):
            return item
    return plain(obj)


def _joined(
    found: list[np.ndarray[Any, Any]], body: bytes, fds: list[HasFileno] | None
) -> list[Buffer]:
    parts: list[Buffer] = [b"\x92\xdd" + len(found).to_bytes(4, "big")]
    at = len(parts[0])
    for array in found:
        passed = array.passed() if isinstance(array, SharedArray) else None
        if fds is not None and passed is not None:
            fds.append(passed[0])
            pieces: list[Buffer] = [_head(array) + b"\xc0"]
        else:
            pieces = _with_elements(array, at)
        at += sum(map(len, pieces))
        parts += pieces
    parts.append(body)
    return parts


def _with_elements(array: np.ndarray[Any, Any], at: int) -> list[Buffer]:
    if array.nbytes > _LONGEST:
        raise ValueError(f"an array of {array.nbytes:,} bytes is over the limit of {_LONGEST:,}")
    head = _head(array)
    padding = -(at + len(head) + 5) % _ALIGNED
    size = (array.nbytes + padding).to_bytes(4, "big")
    return [head + b"\xc6" + size + bytes(padding), elements(array)]


def _head(array: np.ndarray[Any, Any]) -> bytes:
    return b"\x94" + b"".join(map(_pack, Layout.of(array).described()))


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
    layout = Layout.parse(placed.dtype, placed.shape, placed.order)
    if placed.data is None:
        return _adopted(layout, take)
    padding = len(placed.data) - layout.nbytes
    if not 0 <= padding < _ALIGNED:
        raise ValueError(f"{len(placed.data):,} bytes came for an array of {layout.nbytes:,}")
    return layout.view(placed.data, padding)


def _adopted(layout: Layout, take: _Take | None) -> np.ndarray[Any, Any]:
    fds = take(1) if take is not None else []
    if not fds:
        raise ValueError("the memory of a shared array did not come with it")
    try:
        return SharedArray.from_fd(fds[0], layout.shape, layout.dtype, order=layout.order)
    except ProtocolError as error:  # which would end the channel, where this is one bad message
        raise DecodeError(f"a shared array is none: {error}") from error
