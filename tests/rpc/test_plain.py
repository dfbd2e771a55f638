"""Calls and results that go without the codec are the same bytes, and mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc.native._plain import PlainCall, PlainMessages, PlainReturn, write_call, write_return
from aioipc.native._scan import scan
from aioipc.rpc._codec import decode, encode
from aioipc.wire.rpc import Call, Message, Return

LIMITS = {"max_depth": 64, "max_elements": 1000}

numbers = st.one_of(
    st.integers(0, 2**63 - 1),
    st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1]),
)
names = st.text(min_size=1, max_size=40)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def read(data: bytes, **limits: int) -> PlainCall | PlainReturn | None:
    return PlainMessages().read(data, **(LIMITS | limits))


def joined(written: bytes | tuple[bytes, ...]) -> bytes:
    return written if isinstance(written, bytes) else b"".join(written)


@given(numbers, names, st.lists(values, max_size=4))
def test_a_call(number: int, name: str, args: list[Any]) -> None:
    packed = encode(args)
    written = joined(write_call(number, encode(name), packed))
    assert written == encode(Call(number, name, args))
    call = read(written)
    if len(written) < 4096:
        assert isinstance(call, PlainCall)
        assert (call.id, call.method, call.args) == (number, name, packed)
        assert call.remaining_ns is None
        assert call.metadata is None


@given(numbers, values)
def test_a_result(number: int, value: Any) -> None:
    packed = encode(value)
    written = joined(write_return(number, packed))
    assert written == encode(Return(number, value))
    outcome = read(written)
    if len(written) < 4096:
        assert isinstance(outcome, PlainReturn)
        assert (outcome.id, outcome.value) == (number, packed)


@pytest.mark.parametrize("size", [4000, 5000, 100_000])
def test_long_ones_are_written_the_same_and_read_by_the_codec(size: int) -> None:
    text = "x" * size
    call = joined(write_call(7, encode("m"), encode([text])))
    outcome = joined(write_return(7, encode(text)))
    assert call == encode(Call(7, "m", [text]))
    assert outcome == encode(Return(7, text))
    if size > 4096:
        assert read(call) is None
        assert read(outcome) is None


def _same(plain: PlainCall | PlainReturn, whole: Message) -> bool:
    if isinstance(plain, PlainReturn):
        return (
            isinstance(whole, Return)
            and plain.id == whole.id
            and plain.value == bytes(memoryview(whole.value))
        )
    return (
        isinstance(whole, Call)
        and (plain.id, plain.method) == (whole.id, whole.method)
        and plain.args == bytes(memoryview(whole.args))
        and whole.remaining_ns is None
        and whole.metadata is None
    )


messages = st.one_of(
    st.builds(Return, numbers, values),
    st.builds(
        Call,
        numbers,
        names,
        st.lists(values, max_size=3),
        st.none() | st.integers(0, 2**63 - 1),
        st.none() | st.dictionaries(st.text(), st.text(), max_size=2),
    ),
).map(encode)


@given(messages, st.data())
def test_whatever_a_peer_sends_means_what_the_codec_says(data: bytes, draw: st.DataObject) -> None:
    """Cut, longer, or with a byte changed: what is read here, the codec reads the same."""
    how = draw.draw(st.sampled_from(["as it is", "cut", "longer", "changed"]))
    if how == "cut":
        data = data[: draw.draw(st.integers(0, len(data)))]
    elif how == "longer":
        data += draw.draw(st.binary(min_size=1, max_size=4))
    elif how == "changed":
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    plain = read(data)
    if plain is not None:
        scan("msgpack-any-key", data, **LIMITS)
        assert _same(plain, decode(data))


@given(st.binary(max_size=64))
def test_noise(noise: bytes) -> None:
    call = b"\x96\x01" + noise
    for data in (noise, b"\x93\x02" + noise, call, call + b"\xc0\xc0"):
        plain = read(data)
        if plain is not None:
            assert _same(plain, decode(data))


def test_limits_are_those_of_the_whole_message() -> None:
    deep = encode([[[[1]]]])
    call = joined(write_call(1, encode("m"), deep))
    assert read(call, max_depth=5) is not None
    assert read(call, max_depth=4) is None
    assert read(call, max_elements=6) is None


def test_a_name_that_is_no_text() -> None:
    assert read(b"\x96\x01\x01\xa2\xff\xfe\x90\xc0\xc0") is None
