"""The msgpack codec against the msgpack library, and the differences that it documents."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import struct
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack as reference
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioipc import codecs
from aioipc.native._scan import MAX_DEPTH, scan

msgpack: Any = codecs.get("msgpack")


def packb(obj: Any) -> Any:
    return reference.packb(obj, use_bin_type=True, datetime=True)


def unpackb(message: bytes) -> Any:
    return reference.unpackb(message, raw=False, strict_map_key=True, use_list=True, timestamp=3)


def decoded(message: bytes) -> Any:
    """What a channel makes of a message."""
    scan("msgpack", message, MAX_DEPTH, 10**6)
    return msgpack.decode(message)


REFUSED = object()


def outcome(function: Callable[[Any], Any], argument: Any) -> Any:
    """The result, or that there is none."""
    try:
        return function(argument)
    except Exception:
        return REFUSED


def alike(ours: Any, theirs: Any) -> bool:
    """Equal in type and value; NaN equals itself, datetimes may be rounded differently."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, dict):
        return [*ours] == [*theirs] and alike([*ours.values()], [*theirs.values()])
    if isinstance(ours, dt.datetime):
        return bool(abs(ours - theirs) <= dt.timedelta(microseconds=1))
    return repr(ours) == repr(theirs)


def holds_ext(obj: Any) -> bool:
    if isinstance(obj, list | dict):
        return any(map(holds_ext, obj.values() if isinstance(obj, dict) else obj))
    return isinstance(obj, reference.ExtType)


# --- what both do --------------------------------------------------------------------------


class Number(int):
    def __int__(self) -> int:
        return 7

    def __repr__(self) -> str:
        return "seven"


class Text(str):
    def __str__(self) -> str:
        return "seven"


class Real(float):
    def __float__(self) -> float:
        return 7.0


class Bytes(bytes):
    pass


class Array(bytearray):
    pass


class Items(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


class Pair(NamedTuple):
    left: Any
    right: Any


class Level(enum.IntEnum):
    LOW = 1


class Flags(enum.IntFlag):
    READ = 1
    WRITE = 2


class Colour(enum.StrEnum):
    RED = "red"


def view(data: bytes) -> memoryview:
    return memoryview(data)


def aware(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC)


TEXT = st.text(st.characters(codec="utf-8"))
INTEGERS = st.integers(-(2**63), 2**64 - 1)
MOMENTS = st.datetimes().map(aware)
KEYS = TEXT | st.binary() | TEXT.map(Text) | st.binary().map(Bytes)
SCALARS = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats()
    | TEXT
    | st.binary()
    | st.binary().map(bytearray)
    | st.binary().map(view)
    | MOMENTS
    | INTEGERS.map(Number)
    | TEXT.map(Text)
    | st.floats().map(Real)
    | st.binary().map(Bytes)
    | st.binary().map(Array)
    | st.sampled_from([Level.LOW, Flags.READ, Flags.READ | Flags.WRITE, Colour.RED])
    | st.datetimes().map(aware).map(reference.Timestamp.from_datetime)
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(Items)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(Table)
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
    )


OBJECTS = st.recursive(SCALARS, containers, max_leaves=30)


@settings(max_examples=500)
@given(OBJECTS)
def test_what_msgpack_packs_gives_the_same_bytes(obj: Any) -> None:
    assert msgpack.encode(obj) == packb(obj)


@settings(max_examples=500)
@given(OBJECTS)
def test_what_msgpack_packs_gives_the_same_objects(obj: Any) -> None:
    message = packb(obj)
    assert alike(decoded(message), unpackb(message))


@settings(max_examples=1000)
@given(data=st.data())
def test_broken_messages_are_taken_or_refused_alike(data: st.DataObject) -> None:
    message = bytearray(packb(data.draw(OBJECTS)))
    for index in data.draw(st.lists(st.integers(0, len(message) - 1), max_size=3)):
        message[index] = data.draw(st.integers(0, 255))
    assert_alike(bytes(message))


@settings(max_examples=1000)
@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda data: b"\xc7\x0c\xff" + data))
@example(b"")
@example(b"\xd6\xff\x00\x00\x00\x01")
@example(b"\xd7\xff" + struct.pack(">Q", 999_999_999 << 34))
def test_any_bytes_are_taken_or_refused_alike(message: bytes) -> None:
    assert_alike(message)


def assert_alike(message: bytes) -> None:
    ours, theirs = outcome(decoded, message), outcome(unpackb, message)
    if holds_ext(theirs):
        assert ours is REFUSED
    else:
        assert alike(ours, theirs)


# --- limits and faults ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="0xC1"),
        pytest.param(b"\x01\x01", id="trailing byte"),
        pytest.param(b"\x92\x01", id="truncated"),
        pytest.param(b"\xa1\xff", id="bad UTF-8"),
        pytest.param(b"\xa3\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\x81\x01\x01", id="int key"),
        pytest.param(b"\x81\xcb????????\x01", id="float key"),
        pytest.param(b"\x81\xc0\x01", id="nil key"),
        pytest.param(b"\x81\xc3\x01", id="bool key"),
        pytest.param(b"\x81\x90\x01", id="array key"),
        pytest.param(b"\x81\x80\x01", id="map key"),
        pytest.param(b"\x81\xd6\xff????\x01", id="timestamp key"),
        pytest.param(b"\xd4\x05x", id="unknown ext"),
        pytest.param(b"\xc7\x00\x05", id="empty unknown ext"),
        pytest.param(b"\xd4\xffx", id="timestamp of 1 byte"),
        pytest.param(b"\xc7\x00\xff", id="empty timestamp"),
        pytest.param(b"\xd7\xff" + b"\xff" * 8, id="too many nanoseconds"),
        pytest.param(b"\xc7\x0c\xff\0\0\0\0" + struct.pack(">q", 2**60), id="huge timestamp"),
        pytest.param(b"\xc7\x0c\xff\0\0\0\0" + struct.pack(">q", -(2**63)), id="ancient timestamp"),
    ],
)
def test_refused_messages(message: bytes) -> None:
    assert outcome(decoded, message) is REFUSED
    assert decoded(b"\x81\xa1a\x01") == {"a": 1}


def test_last_of_equal_keys_wins_as_in_the_reference() -> None:
    assert decoded(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2} == unpackb(b"\x82\xa1a\x01\xa1a\x02")


@pytest.mark.parametrize(
    "obj",
    [
        2**64,
        -(2**63) - 1,
        "\ud800",
        {"\ud800": 1},
        object(),
        1j,
        range(3),
        iter([]),
        collections.deque(),
        memoryview(b"abcd")[::2],
        int,
        [object()],
        {"a": object()},
    ],
    ids=repr,
)
def test_refused_objects(obj: Any) -> None:
    assert outcome(packb, obj) is REFUSED or isinstance(obj, memoryview)
    if not isinstance(obj, memoryview):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            msgpack.encode(obj)


# --- the documented differences ------------------------------------------------------------


class Plain(enum.Enum):
    ONE = 1


@dataclasses.dataclass
class Data:
    a: int


class Struct(msgspec.Struct):
    a: int


@pytest.mark.parametrize(
    ("obj", "arrives"),
    [
        (Data(1), {"a": 1}),
        (Struct(1), {"a": 1}),
        ({1}, [1]),
        (frozenset({1}), [1]),
        (Plain.ONE, 1),
        (dt.datetime(2020, 1, 2, 3, 4), "2020-01-02T03:04:00"),  # noqa: DTZ001 - naive is meant
        (dt.date(2020, 1, 2), "2020-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(days=1), "P1D"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
    ],
    ids=repr,
)
def test_also_encoded(obj: Any, arrives: Any) -> None:
    assert outcome(packb, obj) is REFUSED
    assert decoded(msgpack.encode(obj)) == arrives


def test_ext_type_is_a_named_tuple() -> None:
    assert decoded(msgpack.encode(reference.ExtType(5, b"x"))) == [5, b"x"]


def test_nanoseconds_are_rounded() -> None:
    message = packb(reference.Timestamp(1, 1_999))
    assert decoded(message) == dt.datetime(1970, 1, 1, 0, 0, 1, 2, tzinfo=dt.UTC)
    assert unpackb(message) == dt.datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=dt.UTC)


def test_nan_and_the_infinities() -> None:
    assert math.isnan(decoded(msgpack.encode(math.nan)))
    assert decoded(msgpack.encode(-math.inf)) == -math.inf
