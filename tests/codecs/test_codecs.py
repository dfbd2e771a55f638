"""raw, text, json, pickle and typed: what goes in comes out, and nothing else does."""

from __future__ import annotations

import dataclasses
import json as reference
import math
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc import codecs
from aioipc.codecs import typed
from aioipc.native._scan import scan

raw: Any = codecs.get("raw")
text: Any = codecs.get("text")
json: Any = codecs.get("json")
pickled: Any = codecs.get("pickle")


def decoded(codec: Any, message: bytes) -> Any:
    """What a channel makes of a message."""
    scan(codec.format, message, 64, 1_000_000)
    return codec.decode(message)


# --- raw and text --------------------------------------------------------------------------


def test_raw_returns_its_argument() -> None:
    for obj in (b"abc", bytearray(b"abc"), memoryview(b"abc")):
        assert raw.encode(obj) is obj
        assert raw.decode(obj) == b"abc"
        assert type(raw.decode(obj)) is bytes


@pytest.mark.parametrize("obj", ["text", 5, None, [b"x"]])
def test_raw_takes_only_buffers(obj: Any) -> None:
    with pytest.raises(TypeError):
        raw.encode(obj)


@given(st.text(st.characters(codec="utf-8")))
def test_text_round_trip(obj: str) -> None:
    message = text.encode(obj)
    assert message == obj.encode()
    assert text.decode(message) == text.decode(memoryview(message)) == obj


def test_text_refuses_what_is_not_text() -> None:
    with pytest.raises(TypeError):
        text.encode(b"bytes")
    with pytest.raises(UnicodeEncodeError):
        text.encode("\ud800")
    for message in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        with pytest.raises(UnicodeDecodeError):
            text.decode(message)


# --- json ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
    ),
    max_leaves=30,
)


@given(JSON)
def test_json_means_the_same_as_in_the_standard_library(obj: Any) -> None:
    theirs = reference.dumps(obj)
    expected = reference.loads(theirs)

    assert reference.loads(json.encode(obj)) == expected
    assert decoded(json, json.encode(obj)) == expected
    assert decoded(json, theirs.encode()) == expected
    assert decoded(json, reference.dumps(obj, indent=1, ensure_ascii=False).encode()) == expected


@given(st.binary(max_size=40) | st.text('{}[]",:0123456789.eE+-\\utfnl ').map(str.encode))
def test_json_is_as_strict_as_the_standard_library(message: bytes) -> None:
    try:
        ours = decoded(json, message)
    except Exception:
        return  # it may refuse more: see the docstring of the codec
    assert ours == reference.loads(message.decode())


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (math.nan, b"null"),
        (-math.inf, b"null"),
        (b"\x00\xff", b'"AP8="'),
        ({1: 2}, b'{"1":2}'),
        ((1, 2), b"[1,2]"),
    ],
)
def test_json_documented_encodings(obj: Any, message: bytes) -> None:
    assert json.encode(obj) == message


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"nul",
        b"[1,]",
        b"[1] 2",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"01",
        b'"\xff"',
        b'"\\ud800"',
        b"'x'",
        b'{"a":1,}',
        b"{1:2}",
        b"\xef\xbb\xbf1",
    ],
)
def test_json_refused_messages(message: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decoded(json, message)


@pytest.mark.parametrize(
    "obj", [pytest.param(10**5000, id="huge"), object(), 1j, {(1, 2): 3}, "\ud800"]
)
def test_json_refused_objects(obj: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        json.encode(obj)


def test_json_last_of_equal_keys_wins_as_in_the_standard_library() -> None:
    assert decoded(json, b'{"a":1,"a":2}') == {"a": 2}


# --- pickle --------------------------------------------------------------------------------


class Trap:
    """Counts how often it was unpickled."""

    sprung = 0

    def __reduce__(self) -> Any:
        return Trap.spring, ()

    @staticmethod
    def spring() -> None:
        Trap.sprung += 1


@given(st.binary() | st.integers() | st.sets(st.text()))
def test_pickle_round_trip(obj: Any) -> None:
    assert pickled.decode(memoryview(pickled.encode(obj))) == obj


def test_pickle_is_for_trusted_peers_only() -> None:
    assert codecs.is_trusted_only(pickled)
    assert not any(codecs.is_trusted_only(codec) for codec in (raw, text, json, typed(int)))


@pytest.mark.parametrize("name", sorted({*codecs.BUILT_IN} - {"pickle"}))
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_other_codec_unpickles(name: str, protocol: int) -> None:
    message = pickle.dumps(Trap(), protocol)
    try:
        decoded(codecs.get(name), message)
    except Exception as error:
        assert isinstance(error, ValueError)
    assert Trap.sprung == 0


@pytest.mark.parametrize("message", [b"", b"\x80", b"garbage", b"\x80\x05", b"cposix\nno_such\n."])
def test_pickle_garbage_raises_exceptions(message: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - any kind; the channel translates it
        pickled.decode(message)


# --- typed ---------------------------------------------------------------------------------


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Line:
    start: Point
    name: str = "line"


def test_typed_round_trip() -> None:
    codec: Any = typed(Line)

    assert codec.name == "msgpack"
    assert repr(codec) == "typed(Line)"
    assert decoded(codec, codec.encode(Line(Point(1, 2)))) == Line(Point(1, 2))


def test_typed_talks_to_plain_msgpack() -> None:
    plain: Any = codecs.get("msgpack")
    codec: Any = typed(Line)

    line: Any = {"start": {"x": 1, "y": 2}, "name": "line"}
    assert decoded(plain, codec.encode(Line(Point(1, 2)))) == line
    assert decoded(codec, plain.encode(line)) == Line(Point(1, 2))
    assert decoded(codec, plain.encode({"start": {"x": 1}})) == Line(Point(1))


def test_typed_keys_may_be_of_any_type() -> None:
    codec: Any = typed(dict[int, str])

    assert decoded(codec, codec.encode({1: "one"})) == {1: "one"}


@pytest.mark.parametrize(
    "obj", [None, [], {}, {"start": None}, {"start": {"x": "1"}}, {"start": {"x": 1}, "name": 2}]
)
def test_typed_refuses_what_does_not_fit(obj: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(typed(Line), msgspec.msgpack.encode(obj))


# --- all of them ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["json", "msgpack", "pickle"])
def test_endless_objects_raise_exceptions(name: str) -> None:
    endless: list[Any] = []
    for _ in range(200_000):
        endless = [endless]
    with pytest.raises(RecursionError):
        codecs.get(name).encode(endless)
    while endless:  # taken apart gently: freeing it at once would recurse as deep
        endless = endless[0]


@pytest.mark.parametrize("name", ["json", "msgpack", "text"])
@given(message=st.binary())
def test_any_bytes_are_decoded_or_raise_exceptions(name: str, message: bytes) -> None:
    try:
        decoded(codecs.get(name), message)
    except Exception as error:
        assert isinstance(error, ValueError)


@pytest.mark.parametrize("name", ["json", "msgpack", "text"])
def test_a_codec_is_usable_after_an_error(name: str) -> None:
    codec: Any = codecs.get(name)
    for _ in range(3):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any kind
            codec.decode(b"\xff\xff")
        with pytest.raises(Exception):  # noqa: B017, PT011 - any kind
            codec.encode(object())
        assert codec.decode(codec.encode("fine")) == "fine"
