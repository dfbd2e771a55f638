"""The arrays codec: elements as they were, no copies, and no message that does harm."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import aioipc
from aioipc import DecodeError, EncodeError, Limits, codecs
from tests.links import link_over
from tests.scale import scaled

codec: Any = codecs.get("arrays")
Ext = msgspec.msgpack.Ext
FIRST = Ext(65, bytes(4))


def encoded(obj: Any) -> bytes:
    parts = codec.encode(obj)
    return b"".join(parts) if isinstance(parts, list) else bytes(parts)


def packed(arrays: Any, obj: Any = FIRST) -> bytes:
    """A message as a peer of any kind may write it."""
    return msgspec.msgpack.encode([arrays, obj])


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    if left.dtype.names is not None:  # one by one: what lies between them may be anything
        return all(same(left[name], right[name]) for name in left.dtype.names)
    # Bytes, because what is not a number is not equal to itself.
    return left.tobytes() == right.tobytes()


dtypes = npst.scalar_dtypes() | npst.unicode_string_dtypes() | npst.byte_string_dtypes()
records = st.lists(dtypes, min_size=1, max_size=3).map(
    lambda formats: np.dtype(
        [(f"f{n}", each, (2,) * (n % 2)) for n, each in enumerate(formats)], align=len(formats) > 2
    )
)
every_dtype = (dtypes | records).filter(lambda dtype: dtype.itemsize > 0)
shapes = npst.array_shapes(min_dims=0, min_side=0, max_side=4)


@settings(deadline=None, max_examples=scaled(30, full=1000))
@given(st.lists(npst.arrays(every_dtype, shapes), max_size=4), st.sampled_from("CF"))
def test_round_trip(arrays: list[np.ndarray[Any, Any]], order: Any) -> None:
    arrays = [np.asarray(array, order=order) for array in arrays]
    got = codec.decode(encoded({"arrays": arrays, "n": 1}))
    assert got["n"] == 1
    for array, copy in zip(arrays, got["arrays"], strict=True):
        assert same(copy, array)
        assert copy.flags.aligned
        assert not copy.flags.writeable


@pytest.mark.parametrize("obj", [None, 1, "text", b"bytes", [1, [2]], {"a": 1.5}])
def test_what_else_msgpack_carries(obj: Any) -> None:
    assert codec.decode(encoded(obj)) == obj


def test_any_strides() -> None:
    whole = np.arange(24).reshape(2, 3, 4)
    for array in (whole[:, ::2], whole[::-1], whole.T, whole[1, :, 1:3], np.broadcast_to(7, 5)):
        assert same(codec.decode(encoded(array)), np.asarray(array))


def test_scalars_become_plain_values() -> None:
    scalars = [np.float64(1.5), np.float32(2), np.int16(-3), np.bool_(True), np.str_("x")]
    assert codec.decode(encoded(scalars)) == [1.5, 2.0, -3, True, "x"]


def test_nothing_is_copied() -> None:
    array = np.arange(1000.0)
    parts = codec.encode({"a": array})
    assert any(np.shares_memory(np.frombuffer(part, "u1"), array) for part in parts)
    message = b"".join(parts)
    assert np.shares_memory(codec.decode(message)["a"], np.frombuffer(message, "u1"))


def test_a_message_is_msgpack_for_anybody() -> None:
    arrays, obj = msgspec.msgpack.decode(encoded([np.array([1, 2], "<i4"), "x"]))
    ((dtype, shape, order, data),) = arrays
    assert (dtype, shape, order, obj) == ("<i4", [2], "C", [Ext(65, bytes(4)), "x"])
    assert data.endswith(b"\x01\0\0\0\x02\0\0\0")
    assert codec.decode(packed([["<i4", [2], "C", data[-8:]]])).tolist() == [1, 2]


class Derived(np.ndarray):
    """An array that may mean more than its elements."""


@pytest.mark.parametrize(
    "obj",
    [
        np.array([None]),
        np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]),
        np.zeros(1, dtype=[(("title", "a"), "i4")]),
        np.zeros(3, "V0"),
        np.ma.masked_array([1, 2], mask=[False, True]),
        np.zeros(2).view(Derived),
        np.longdouble(1),
        object(),
    ],
)
def test_what_cannot_be_sent(obj: Any) -> None:
    with pytest.raises(TypeError):
        codec.encode([obj])


GOOD = ["<i4", [2], "C", bytes(8)]
FIELDS = {"names": ["a"], "formats": ["<i4"], "offsets": [0], "itemsize": 4}

HOSTILE = {
    "objects": packed([["|O", [1], "C", bytes(8)]]),
    "objects of 8 bytes": packed([["|O8", [1], "C", bytes(8)]]),
    "objects by name": packed([["object", [1], "C", bytes(8)]]),
    "several types in one": packed([["<i4,|O", [1], "C", bytes(12)]]),
    "objects in a field": packed([[FIELDS | {"formats": ["|O"]}, [1], "C", bytes(8)]]),
    "objects in a pair": packed([[["|O", [1]], [1], "C", bytes(8)]]),
    "a field beyond its element": packed([[FIELDS | {"offsets": [1]}, [1], "C", bytes(4)]]),
    "a field before its element": packed([[FIELDS | {"offsets": [-1]}, [1], "C", bytes(4)]]),
    "a negative element": packed([[FIELDS | {"itemsize": -4}, [1], "C", bytes(4)]]),
    "more names than types": packed([[FIELDS | {"names": ["a", "b"]}, [1], "C", bytes(4)]]),
    "one name twice": packed(
        [
            [
                {"names": ["a"] * 2, "formats": ["|i1"] * 2, "offsets": [0, 1], "itemsize": 2},
                [1],
                "C",
                bytes(2),
            ]
        ]
    ),
    "metadata": packed([[FIELDS | {"titles": ["x"]}, [1], "C", bytes(4)]]),
    "a number for a type": packed([[7, [1], "C", bytes(4)]]),
    "a long text for a type": packed([["<U" + "9" * 1000, [1], "C", bytes(4)]]),
    "elements of nothing": packed([["|S0", [2**40], "C", b""]]),
    "pairs of nothing": packed([[["<i4", [0]], [2**40], "C", b""]]),
    "too few bytes": packed([["<i4", [2], "C", bytes(7)]]),
    "too many bytes": packed([["<i4", [2], "C", bytes(24)]]),
    "a negative extent": packed([["<i4", [-2], "C", bytes(8)]]),
    "two negative extents": packed([["<i4", [-1, -2], "C", bytes(8)]]),
    "a product over 64 bits": packed([["<i4", [2**32, 2**32], "C", bytes(8)]]),
    "a product that wraps to 8 bytes": packed([["<i4", [2**62, 2, 2**62 + 1], "C", bytes(8)]]),
    "nothing, but often": packed([["<i4", [0, 2**62, 2**62], "C", b""]]),
    "an extent over 64 bits": packed([["<i4", [2**64 - 1], "C", bytes(8)]]),
    "too many dimensions": packed([["<i4", [1] * 100, "C", bytes(4)]]),
    "an unknown order": packed([["<i4", [2], "A", bytes(8)]]),
    "strides": packed([[*GOOD, [-4]]]),
    "memory that did not come": packed([["<i4", [2], "C", None]]),
    "a text for data": packed([["<i4", [2], "C", "12345678"]]),
    "an array too many": packed([GOOD], Ext(65, b"\1\0\0\0")),
    "a short index": packed([GOOD], Ext(65, b"\0")),
    "a long index": packed([GOOD], Ext(65, bytes(8))),
    "another ext": packed([GOOD], Ext(66, bytes(4))),
    "an ext of arrays without one": packed([], FIRST),
    "no arrays": msgspec.msgpack.encode({"a": 1}),
    "one part": msgspec.msgpack.encode([[]]),
    "three parts": msgspec.msgpack.encode([[], 1, 2]),
    "bytes behind the end": packed([GOOD]) + b"\0",
    "nothing": b"",
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_messages(message: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - any kind; the channel translates it
        codec.decode(message)


@pytest.mark.asyncio
async def test_hostile_peers_get_nowhere() -> None:
    """Each message is one DecodeError, and the channel goes on."""
    deep = b"\x92" + b"\x91" * 100 + b"\x90" + b"\xc0"
    many = packed([], [None] * 2000)
    messages = [*HOSTILE.values(), deep, many, packed([[[["<i4", [1]]] * 60, [1], "C", b"1234"]])]
    limits = Limits(max_elements=1000)
    async with (
        aioipc.listen("unix:", codec="arrays", limits=limits) as listener,
        aioipc.connect(listener.address, codec=Forged()) as left,
    ):
        await left.send(encoded("first"))
        right = await listener.accept()
        async with right:
            assert await right.receive() == "first"
            for message in messages:
                await left.send(message)
                with pytest.raises(DecodeError):
                    await right.receive()
            await left.send(encoded(np.arange(3)))
            assert (await right.receive()).tolist() == [0, 1, 2]


class Forged:
    """Says that it is the arrays codec, and sends any bytes."""

    name = "arrays"
    format = None
    encode = decode = staticmethod(bytes)


@settings(deadline=None, max_examples=scaled(50, full=10_000))
@given(st.binary(), st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_decoded_or_raise(message: bytes, at: int, other: bytes) -> None:
    good = encoded(
        [np.arange(6, dtype="<i2").reshape(2, 3), np.zeros(2, [("a", "<f4"), ("b", "S3")])]
    )
    at %= len(good)
    for each in (message, good[:at] + other + good[at + len(other) :], good[:at]):
        try:
            obj = codec.decode(each)
        except Exception:
            continue
        for array in obj if isinstance(obj, list) else []:
            if isinstance(array, np.ndarray):
                assert array.nbytes == math.prod(array.shape) * array.dtype.itemsize
                array.tolist()


@pytest.mark.parametrize("kind", ["unix", "shm", "pipe", "memory", "packets", "tcp"])
@pytest.mark.asyncio
async def test_large_arrays_over_every_kind(kind: str) -> None:
    array = np.random.default_rng(7).integers(0, 255, (300, 5000), "u1")
    async with link_over(kind)(codec="arrays") as (left, right):
        for obj in ([array, "x", array[:2]], {"a": array.T}):
            sending = left.send(obj)
            _, got = await asyncio.gather(sending, right.receive())
            first = got["a"] if isinstance(got, dict) else got[0]
            assert same(first, array.T if isinstance(got, dict) else array)
        with pytest.raises(EncodeError, match="cannot be sent"):
            await left.send(np.array([None]))
        await left.send("next")
        assert await right.receive() == "next"
