"""The scan before decoding: complete for msgpack, exact in depth and elements, cheap on bombs."""

from __future__ import annotations

import contextlib
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioipc.errors import CodecError, DecodeError
from aioipc.native._scan import MAX_DEPTH, error_of, scan

DEPTH, ELEMENTS = 64, 1_000_000


def check(format: str | None, data: bytes, *, depth: int = DEPTH, elements: int = ELEMENTS) -> None:
    scan(format, data, depth, elements)


def passes(format: str, data: bytes, *, depth: int = DEPTH, elements: int = ELEMENTS) -> bool:
    try:
        scan(format, data, depth, elements)
    except DecodeError:
        return False
    return True


# --- what is counted -----------------------------------------------------------------------


def depth_of(obj: Any) -> int:
    if isinstance(obj, dict):
        return 1 + max(map(depth_of, obj.values()), default=0)
    if isinstance(obj, list):
        return 1 + max(map(depth_of, obj), default=0)
    return 0


def elements_of(obj: Any) -> int:
    if isinstance(obj, dict):
        return 2 * len(obj) + sum(map(elements_of, obj.values()))
    if isinstance(obj, list):
        return len(obj) + sum(map(elements_of, obj))
    return 0


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
JSON_TEXT = st.text() | st.text('"\\,:[]{} \n')


def nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
        max_leaves=40,
    )


def limits_are_exact(format: str, data: bytes, obj: Any) -> None:
    depth, elements = depth_of(obj), elements_of(obj)
    check(format, data, depth=depth, elements=elements)
    if depth:
        with pytest.raises(DecodeError, match=rf"deeper than the limit of {depth - 1}$"):
            check(format, data, depth=depth - 1, elements=elements)
    if elements:
        with pytest.raises(DecodeError, match=rf"more .* the limit of {elements - 1:,}$"):
            check(format, data, depth=depth, elements=elements - 1)


@given(nested(SCALARS | st.text() | st.binary(), st.text() | st.binary()))
def test_msgpack_limits_are_exact(obj: Any) -> None:
    limits_are_exact("msgpack", msgpack.packb(obj), obj)


@given(nested(SCALARS | JSON_TEXT, JSON_TEXT), st.sampled_from([None, 0, 2]), st.booleans())
@example([{}, [], {"": {}}], 2, False)
@example(['\\"', "\\\\", '"' * 40, "\\" * 41, "x" * 50 + '\\",['], None, True)
def test_json_limits_are_exact(obj: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(obj, indent=indent, ensure_ascii=ascii)
    limits_are_exact("json", text.encode("utf-8", "surrogatepass"), obj)


@pytest.mark.parametrize("text", ["[ ]", "[\r\n\t ]", "{ }", "[[ ],{\n}]"])
def test_json_empty_containers_hold_nothing(text: str) -> None:
    obj = json.loads(text)
    limits_are_exact("json", text.encode(), obj)


# --- msgpack: structure --------------------------------------------------------------------

TYPES: dict[str, bytes] = {
    "fixint": b"\x7f",
    "fixmap": b"\x81\xa1a\x01",
    "fixarray": b"\x92\x01\x02",
    "fixstr": b"\xbf" + b"x" * 31,
    "nil": b"\xc0",
    "false": b"\xc2",
    "true": b"\xc3",
    "bin 8": b"\xc4\x03abc",
    "bin 16": b"\xc5\x01\x00" + b"x" * 256,
    "bin 32": b"\xc6\x00\x01\x00\x00" + b"x" * 65536,
    "ext 8": b"\xc7\x03\x05abc",
    "ext 16": b"\xc8\x01\x00\x05" + b"x" * 256,
    "ext 32": b"\xc9\x00\x01\x00\x00\x05" + b"x" * 65536,
    "float 32": b"\xca????",
    "float 64": b"\xcb????????",
    "uint 8": b"\xcc?",
    "uint 16": b"\xcd??",
    "uint 32": b"\xce????",
    "uint 64": b"\xcf????????",
    "int 8": b"\xd0?",
    "int 16": b"\xd1??",
    "int 32": b"\xd2????",
    "int 64": b"\xd3????????",
    "fixext 1": b"\xd4\x05?",
    "fixext 2": b"\xd5\x05??",
    "fixext 4": b"\xd6\x05????",
    "fixext 8": b"\xd7\x05????????",
    "fixext 16": b"\xd8\x05????????????????",
    "str 8": b"\xd9\x03abc",
    "str 16": b"\xda\x01\x00" + b"x" * 256,
    "str 32": b"\xdb\x00\x01\x00\x00" + b"x" * 65536,
    "array 16": b"\xdc\x01\x00" + b"\x01" * 256,
    "array 32": b"\xdd\x00\x01\x00\x00" + b"\x01" * 65536,
    "map 16": b"\xde\x01\x00" + b"\xa0\x01" * 256,
    "map 32": b"\xdf\x00\x01\x00\x00" + b"\xa0\x01" * 65536,
    "negative fixint": b"\xe0",
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_msgpack_type(kind: str) -> None:
    data = TYPES[kind]
    check("msgpack", data)
    check("msgpack", b"\x93\x01" + data + b"\x02")
    with pytest.raises(DecodeError, match="goes on after its value"):
        check("msgpack", data + b"\xc0")
    for end in {*range(min(len(data), 300)), len(data) - 1}:
        with pytest.raises(DecodeError, match="ends inside a value"):
            check("msgpack", data[:end])


def test_every_first_byte_agrees_with_the_reference() -> None:
    for first in range(256):
        data = bytes([first]) + bytes(70_000)
        sizes = [size for size in range(1, 300) if passes("msgpack-any-key", data[:size])]
        unpacked = [size for size in range(1, 300) if is_msgpack(data[:size])]
        assert sizes == unpacked, hex(first)
        assert len(sizes) == (first != 0xC1)


def is_msgpack(data: bytes) -> bool:
    try:
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(data)
        unpacker.skip()
        return bool(unpacker.tell() == len(data))
    except (ValueError, msgpack.OutOfData):
        return False


@pytest.mark.parametrize("inside", [b"", b"\x91", b"\x81\xa1a"])
def test_reserved_byte(inside: bytes) -> None:
    with pytest.raises(DecodeError, match="0xC1"):
        check("msgpack", inside + b"\xc1")


KEYS: dict[bytes, bool] = {TYPES[kind]: kind.startswith(("fixstr", "str", "bin")) for kind in TYPES}


@pytest.mark.parametrize("key", KEYS)
def test_map_keys_are_text_or_bytes(key: bytes) -> None:
    for data in (
        b"\x81" + key + b"\x01",
        b"\x82\xa0\x01" + key + b"\x01",
        b"\x92\x82\xa0\x81\xa0\x01" + key + b"\x01\x02",
        b"\xde\x00\x02\xa0\x92\x01\x02" + key + b"\x01",
    ):
        check("msgpack-any-key", data)
        if KEYS[key]:
            check("msgpack", data)
            continue
        with pytest.raises(DecodeError, match="key in the msgpack message is neither str nor"):
            check("msgpack", data)


@pytest.mark.parametrize("value", TYPES.values(), ids=TYPES)
def test_map_values_are_anything(value: bytes) -> None:
    check("msgpack", b"\x82\xa0" + value + b"\xa0\x91" + value)


@settings(max_examples=500)
@given(data=st.data())
def test_broken_msgpack_agrees_with_the_reference(data: st.DataObject) -> None:
    obj = data.draw(nested(SCALARS | st.text() | st.binary(), st.text()))
    broken = bytearray(msgpack.packb(obj))
    for index in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=3)):
        broken[index] = data.draw(st.integers(0, 255))
    for message in (bytes(broken), data.draw(st.binary(max_size=60))):
        assert passes("msgpack-any-key", message, depth=MAX_DEPTH) == is_msgpack(message)


@settings(max_examples=500)
@given(st.binary() | st.binary().map(lambda data: b"\xdd\0\0\1\0" + data), st.integers(0, 40))
def test_any_bytes_pass_or_are_a_decode_error(data: bytes, limit: int) -> None:
    for format in ("msgpack", "msgpack-any-key", "json"):
        passes(format, data)
        passes(format, data, depth=limit, elements=limit)


@given(st.text('[]{}",:\\ \n0x', max_size=200))
def test_any_brackets_are_walked(text: str) -> None:
    passes("json", text.encode(), depth=5, elements=50)


# --- depth ---------------------------------------------------------------------------------


def nested_lists(format: str, depth: int) -> bytes:
    if format == "json":
        return b"[" * depth + b"]" * depth
    return b"\x91" * (depth - 1) + b"\x90"


formats = pytest.mark.parametrize("format", ["msgpack", "msgpack-any-key", "json"])


@formats
@pytest.mark.parametrize("limit", [1, 64, MAX_DEPTH])
def test_depth(format: str, limit: int) -> None:
    check(format, nested_lists(format, limit), depth=limit)
    with pytest.raises(DecodeError, match=f"deeper than the limit of {limit:,}$"):
        check(format, nested_lists(format, limit + 1), depth=limit)


@formats
def test_a_limit_beyond_the_largest_is_the_largest(format: str) -> None:
    check(format, nested_lists(format, MAX_DEPTH), depth=2**31 - 1)
    if format != "json":  # which needs no stack
        with pytest.raises(DecodeError):
            check(format, nested_lists(format, MAX_DEPTH + 1), depth=2**31 - 1)


@formats
@pytest.mark.parametrize("depth", [65, 1_023, 100_000])
def test_nesting_bombs_cost_nothing(format: str, depth: int) -> None:
    bomb = nested_lists(format, depth)
    begin = time.thread_time()
    with pytest.raises(DecodeError):
        check(format, bomb)
    assert time.thread_time() - begin < 0.010


# --- size ----------------------------------------------------------------------------------

MESSAGE = 1024 * 1024
BOMBS: dict[str, tuple[str, bytes]] = {
    "array32 of 2**32-1": ("msgpack", b"\xdd\xff\xff\xff\xff"),
    "map32 of 2**32-1": ("msgpack", b"\xdf\xff\xff\xff\xff"),
    "array32 of 2**32-1 with some": ("msgpack", b"\xdd\xff\xff\xff\xff" + b"\xc0" * MESSAGE),
    "nested arrays of 10**6": ("msgpack", (b"\xdd" + struct.pack(">I", 10**6)) * 500),
    "nested arrays of 10**6 with some": (
        "msgpack",
        (b"\xdd" + struct.pack(">I", 10**6)) * 60 + b"\xc0" * (MESSAGE + 10),
    ),
    "1 MiB of empty maps": (
        "msgpack",
        b"\xdd" + struct.pack(">I", MESSAGE) + b"\x80" * MESSAGE,
    ),
    "1 MiB of empty maps in json": ("json", b"[" + b"{}," * MESSAGE + b"{}]"),
    "1 MiB of small maps": (
        "msgpack",
        b"\xdd" + struct.pack(">I", MESSAGE // 2) + b"\x81\xa0\x80" * (MESSAGE // 2),
    ),
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "msgpack": msgspec.msgpack.decode,
    "json": msgspec.json.decode,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_size_bombs_cost_nothing(bomb: str) -> None:
    format, data = BOMBS[bomb]
    tracemalloc.start()
    try:
        with contextlib.suppress(DecodeError):
            check(format, data)
            DECODERS[format](data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


def test_as_many_elements_as_the_limit() -> None:
    check("msgpack", b"\xdd" + struct.pack(">I", ELEMENTS) + b"\x80" * ELEMENTS)
    check("json", b"[" + b"{}," * (ELEMENTS - 1) + b"{}]")


# --- json ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['"', '"abc', '"' + "x" * 100, '"' + "\\" * 77, "[1,", "]}", ""])
def test_json_syntax_is_left_to_the_decoder(text: str) -> None:
    check("json", text.encode(), depth=1, elements=2)


def test_json_closing_brackets_earn_no_depth() -> None:
    with pytest.raises(DecodeError):
        check("json", b"]" * 10_000 + b"[" * 100)


@pytest.mark.parametrize("length", [*range(70), 1000])
@pytest.mark.parametrize("escape", ["", '\\"', "\\\\", '\\\\\\"'])
def test_json_strings_of_every_length(length: int, escape: str) -> None:
    text = f'{{"{"k" * length}{escape}": ["{escape}{"[" * length}{escape}"]}}'
    limits_are_exact("json", text.encode(), json.loads(text))


# --- the face for Python -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: Callable[[bytes], Any]) -> None:
    scan("msgpack", kind(b"\x91\x01"), 1, 1)
    with pytest.raises(DecodeError):
        scan("msgpack", kind(b"\x91\xc1"), 1, 1)


def test_the_buffer_is_released() -> None:
    data = bytearray(b"\xc1")
    with pytest.raises(DecodeError):
        scan("msgpack", data, 1, 1)
    data.clear()


def test_not_a_buffer() -> None:
    with pytest.raises(TypeError):
        scan("msgpack", "text", 1, 1)  # type: ignore[arg-type]


def test_no_format_is_not_scanned() -> None:
    check(None, b"\xc1" * 100)


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="not 'cbor'"):
        check("cbor", b"")


def test_errors_are_codec_errors() -> None:
    for problem in range(1, 7):
        assert isinstance(error_of(problem, 64, 1000), CodecError)
    assert str(error_of(6, 64, 1000)).endswith("the limit of 1,000")
