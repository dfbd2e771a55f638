"""Framings for foreign programs: the same messages however the stream is cut."""

from __future__ import annotations

import array
import functools
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc.abc import Buffer
from aioipc.errors import (
    EncodeError,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    ProtocolError,
    TruncatedFrame,
)
from aioipc.wire.framing import (
    FRAMERS,
    HEADER,
    MAX_HEADER_BLOCK_BYTES,
    Flag,
    Framer,
    HeadersFramer,
    Kind,
    LinesFramer,
    MultiprocessingFramer,
    NoneFramer,
    pack_header,
)

LIMIT = 1000


def drain(framer: Framer) -> Iterator[bytes]:
    while (message := framer.next_message()) is not None:
        yield message


def receive(framer: Framer, chunks: Iterable[Buffer]) -> list[bytes]:
    """The messages of a whole stream, taken as early as they are there."""
    messages: list[bytes] = []
    for chunk in chunks:
        framer.feed(chunk)
        messages.extend(drain(framer))
    last = framer.finish()
    return messages if last is None else [*messages, last]


def whole(stream: bytes) -> list[bytes]:
    return [stream]


def byte_by_byte(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def in_two_at(cut: int) -> Callable[[bytes], list[bytes]]:
    return lambda stream: [stream[:cut], stream[cut:]]


CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": whole,
    "byte by byte": byte_by_byte,
    **{f"in two at {cut}": in_two_at(cut) for cut in range(1, 40, 3)},
}


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    places = draw(st.lists(st.integers(0, len(stream)), max_size=10))
    edges = sorted([0, *places, len(stream)])
    return [stream[begin:end] for begin, end in pairwise(edges)]


# --- the header of aioipc's own frames ---------------------------------------------------


def test_header_is_eight_bytes_little_endian() -> None:
    assert HEADER.size == 8
    packed = pack_header(0x01020304, Kind.HELLO, Flag.MORE | Flag.SHARED, 0x0506)
    assert packed == bytes([4, 3, 2, 1, 3, 3, 6, 5])


def test_numbers_of_the_wire_format() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "DATA": 1, "PAD": 2, "HELLO": 3, "GOODBYE": 4, "PING": 5, "PONG": 6,
    }  # fmt: skip
    assert {flag.name: flag.value for flag in Flag} == {"MORE": 1, "SHARED": 2}


# --- lines ---------------------------------------------------------------------------------

LINES: dict[bytes, list[bytes]] = {
    b"": [],
    b"\n": [b""],
    b"one\n": [b"one"],
    b"one\ntwo\n": [b"one", b"two"],
    b"one\n\n\ntwo\n": [b"one", b"", b"", b"two"],
    b"one\r\ntwo\r\n": [b"one\r", b"two\r"],
    b"one\ntwo": [b"one", b"two"],
    b"no newline at all": [b"no newline at all"],
}


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("stream", LINES)
def test_lines(stream: bytes, cuts: str) -> None:
    assert receive(LinesFramer(LIMIT), CUTS[cuts](stream)) == LINES[stream]


def test_line_of_exactly_the_limit() -> None:
    line = b"x" * LIMIT
    assert receive(LinesFramer(LIMIT), [line, b"\n", line]) == [line, line]


@pytest.mark.parametrize("cuts", ["whole", "byte by byte"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_line_over_the_limit(end: bytes, cuts: str) -> None:
    framer = LinesFramer(LIMIT)
    with pytest.raises(FrameTooLarge) as caught:
        receive(framer, CUTS[cuts](b"ok\n" + b"x" * (LIMIT + 1) + end))
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)
    with pytest.raises(FrameTooLarge):
        framer.next_message()


def test_messages_before_one_over_the_limit_arrive() -> None:
    framer = LinesFramer(LIMIT)
    framer.feed(b"one\ntwo\n" + b"x" * (LIMIT + 1))
    assert framer.next_message() == b"one"
    assert framer.next_message() == b"two"
    with pytest.raises(FrameTooLarge):
        framer.next_message()


def test_line_parts_are_sent_as_they_are() -> None:
    parts: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b"three")]
    assert b"".join(LinesFramer(LIMIT).frame(parts)) == b"onetwothree\n"


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, functools.partial(array.array, "b")]
)
def test_newline_inside_a_line_is_refused(kind: Callable[[bytes], Buffer]) -> None:
    with pytest.raises(EncodeError, match="newline"):
        LinesFramer(LIMIT).frame([b"one", kind(b"two\nthree")])


# --- headers -------------------------------------------------------------------------------

HEADERS: dict[bytes, list[bytes]] = {
    b"": [],
    b"Content-Length: 0\r\n\r\n": [b""],
    b"Content-Length: 3\r\n\r\none": [b"one"],
    b"Content-Length: 3\r\n\r\noneContent-Length: 5\r\n\r\nthree": [b"one", b"three"],
    b"content-length:3\r\n\r\none": [b"one"],
    b"CONTENT-LENGTH: \t 003 \r\n\r\none": [b"one"],
    b"Content-Type: text/x; charset=utf-8\r\nContent-Length: 3\r\nX-Y: :\r\n\r\none": [b"one"],
    b"Content-Length: 4\r\n\r\n\r\n\r\n": [b"\r\n\r\n"],
}

NOT_HEADERS: dict[bytes, str] = {
    b"\r\n\r\n": "not a header: b''",
    b"hello\r\n\r\n": "not a header: b'hello'",
    b": 3\r\n\r\n": "not a header",
    b"Content Length: 3\r\n\r\n": "not a header",
    b"Content-Length : 3\r\n\r\n": "not a header",
    b"X-Y: 3\r\n\r\n": "0 Content-Length headers",
    b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n": "2 Content-Length headers",
    b"Content-Length: \r\n\r\n": "Content-Length is b''",
    b"Content-Length: -1\r\n\r\n": "Content-Length is b'-1'",
    b"Content-Length: +1\r\n\r\n": "Content-Length is b'+1'",
    b"Content-Length: 1_0\r\n\r\n": "Content-Length is b'1_0'",
    b"Content-Length: 1.0\r\n\r\n": "Content-Length is b'1.0'",
    b"Content-Length: 0x10\r\n\r\n": "Content-Length is b'0x10'",
    b"Content-Length: \xd9\xa3\r\n\r\n": "Content-Length is",
    b"Content-Length: " + 5000 * b"9" + b"\r\n\r\n": "Content-Length is b'999",
    b"Content-Length: 3\n\n" + MAX_HEADER_BLOCK_BYTES * b"x": "over the limit of 8,192 bytes",
    b"X: " + MAX_HEADER_BLOCK_BYTES * b"x" + b"\r\n\r\n": "over the limit of 8,192 bytes",
}


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("stream", HEADERS)
def test_headers(stream: bytes, cuts: str) -> None:
    assert receive(HeadersFramer(LIMIT), CUTS[cuts](stream)) == HEADERS[stream]


@pytest.mark.parametrize("cuts", ["whole", "byte by byte"])
@pytest.mark.parametrize("stream", NOT_HEADERS)
def test_not_headers(stream: bytes, cuts: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        receive(HeadersFramer(LIMIT), CUTS[cuts](stream))
    assert NOT_HEADERS[stream] in str(caught.value)


@pytest.mark.parametrize("cuts", ["whole", "byte by byte"])
def test_longest_header_block(cuts: str) -> None:
    head = b"Content-Length: 1\r\nX: "
    head += b"x" * (MAX_HEADER_BLOCK_BYTES - len(head))
    assert receive(HeadersFramer(LIMIT), CUTS[cuts](head + b"\r\n\r\n!")) == [b"!"]


def test_body_over_the_limit_is_refused_by_its_header() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        receive(HeadersFramer(LIMIT), [b"Content-Length: 999999999999999999\r\n\r\n"])
    assert (caught.value.size, caught.value.limit) == (999_999_999_999_999_999, LIMIT)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (b"Content-Le", "after 10 bytes of headers"),
        (b"Content-Length: 3\r\n\r\n", "after 0 of 3 bytes"),
        (b"Content-Length: 3\r\n\r\non", "after 2 of 3 bytes"),
        (b"Content-Length: 1\r\n\r\n!\r", "after 1 bytes of headers"),
    ],
)
def test_end_inside_a_message(stream: bytes, told: str) -> None:
    with pytest.raises(TruncatedFrame, match=told) as caught:
        receive(HeadersFramer(LIMIT), byte_by_byte(stream))
    assert isinstance(caught.value, PeerCrashed)


def test_headers_are_sent_as_language_servers_do() -> None:
    framed = HeadersFramer(LIMIT).frame([b"on", memoryview(b"e\n")])
    assert b"".join(framed) == b"Content-Length: 4\r\n\r\none\n"


@pytest.mark.parametrize("wide", [memoryview(bytes(8)).cast("I"), array.array("I", [0, 0])])
def test_bytes_of_wide_elements_are_counted(wide: Any) -> None:
    assert HeadersFramer(LIMIT).frame([wide])[0] == b"Content-Length: 8\r\n\r\n"


# --- multiprocessing -----------------------------------------------------------------------


def test_messages_are_sent_as_multiprocessing_does() -> None:
    framed = MultiprocessingFramer(LIMIT).frame([b"on", memoryview(b"e")])
    assert b"".join(framed) == b"\0\0\0\x03one"


def test_a_long_length_of_multiprocessing() -> None:
    wire = struct.pack("!iQ", -1, 3) + b"one" + struct.pack("!i", 3) + b"two"
    assert receive(MultiprocessingFramer(LIMIT), [wire[:7], wire[7:]]) == [b"one", b"two"]


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31 - 1, 2**63])
def test_too_large_for_multiprocessing(length: int) -> None:
    header = struct.pack("!i", length) if length < 2**31 else struct.pack("!iQ", -1, length)
    with pytest.raises(FrameTooLarge) as caught:
        receive(MultiprocessingFramer(LIMIT), [header])
    assert caught.value.size == length


def test_a_negative_length_of_multiprocessing() -> None:
    with pytest.raises(ProtocolError, match="-2 bytes"):
        receive(MultiprocessingFramer(LIMIT), [struct.pack("!i", -2)])


@pytest.mark.parametrize("wire", [b"\0\0", b"\0\0\0\x03on", struct.pack("!iI", -1, 0)])
def test_truncated_multiprocessing(wire: bytes) -> None:
    framer = MultiprocessingFramer(LIMIT)
    framer.feed(wire)
    assert framer.next_message() is None
    with pytest.raises(TruncatedFrame):
        framer.finish()


# --- none ----------------------------------------------------------------------------------


def test_without_framing_a_read_is_a_message() -> None:
    assert receive(NoneFramer(LIMIT), [b"one", b"", b"two"]) == [b"one", b"two"]


def test_without_framing_a_long_read_comes_in_pieces() -> None:
    stream = bytes(range(250)) * 9
    messages = receive(NoneFramer(LIMIT), [stream])
    assert [len(message) for message in messages] == [1000, 1000, 250]
    assert b"".join(messages) == stream


def test_without_framing_parts_are_sent_as_they_are() -> None:
    parts = [b"one\n", b"two"]
    assert NoneFramer(LIMIT).frame(parts) == parts


# --- every framing -------------------------------------------------------------------------

framings = pytest.mark.parametrize("framing", FRAMERS)


@framings
def test_too_large_to_send(framing: str) -> None:
    framer = FRAMERS[framing](LIMIT)
    assert framer.frame([b"x" * LIMIT])
    with pytest.raises(FrameTooLarge) as caught:
        framer.frame([b"x" * LIMIT, memoryview(b"x")])
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)


@framings
def test_a_buffer_with_gaps_is_refused(framing: str) -> None:
    with pytest.raises(EncodeError, match="contiguous"):
        FRAMERS[framing](LIMIT).frame([b"one", memoryview(b"two")[::2]])


@pytest.mark.parametrize("framing", ["lines", "headers", "multiprocessing"])
@given(data=st.data())
def test_what_is_framed_arrives(framing: str, data: st.DataObject) -> None:
    bodies = st.binary(max_size=50).map(lambda body: body.replace(b"\n", b""))
    messages = data.draw(st.lists(bodies, max_size=10))
    sender = FRAMERS[framing](LIMIT)
    stream = b"".join(part for message in messages for part in sender.frame([message]))

    assert receive(FRAMERS[framing](LIMIT), data.draw(cut(stream))) == messages


@framings
@given(
    data=st.data(),
    stream=st.binary() | st.text("Content-Length: 0123456789\r\n").map(str.encode),
)
def test_cuts_make_no_difference(framing: str, stream: bytes, data: st.DataObject) -> None:
    def outcome(chunks: list[bytes]) -> object:
        messages: list[bytes] = []
        try:
            messages = receive(FRAMERS[framing](20), chunks)
        except IPCError as error:
            return type(error)
        return messages if framing != "none" else b"".join(messages)

    assert outcome(data.draw(cut(stream))) == outcome([stream])


@framings
def test_fed_memory_may_be_used_again(framing: str) -> None:
    framer = FRAMERS[framing](LIMIT)
    framed = {"multiprocessing": b"\0\0\0\x03one"}
    block = bytearray(framed.get(framing, b"Content-Length: 3\r\n\r\none\n"))
    framer.feed(memoryview(block))
    block[:] = bytes(len(block))
    block.clear()
    assert b"\0" not in b"".join(drain(framer))


def cpu_seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    return min(once() for _ in range(2))


def in_chunks(stream: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(stream)
    return (view[i : i + size] for i in range(0, len(stream), size))


MIB = 1024 * 1024
STREAMS: dict[str, Callable[[int], bytes]] = {
    "one line": lambda size: b"x" * size + b"\n",
    "short lines": lambda size: b"x\n" * (size // 2),
    "one body": lambda size: b"Content-Length: %d\r\n\r\n" % size + b"x" * size,
    "short bodies": lambda size: b"Content-Length: 1\r\n\r\nx" * (size // 22),
}


@pytest.mark.parametrize(
    ("stream", "size", "chunk"),
    [
        ("one line", 8 * MIB, 65536),
        ("one line", MIB // 16, 1),
        ("short lines", MIB // 4, 10 * MIB),
        ("one body", 8 * MIB, 65536),
        ("one body", MIB // 16, 1),
        ("short bodies", MIB // 2, 10 * MIB),
    ],
)
def test_cost_is_linear(stream: str, size: int, chunk: int) -> None:
    framer = LinesFramer if "line" in stream else HeadersFramer

    def cost(size: int) -> float:
        data = STREAMS[stream](size)
        return cpu_seconds(lambda: receive(framer(100 * MIB), in_chunks(data, chunk)))

    # Eight times as much takes eight times as long, not 64 times; fresh pages take their share.
    assert cost(8 * size) < 24 * cost(size) + 0.1


@pytest.mark.parametrize("stream", ["one line", "one body"])
def test_memory_for_a_long_message(stream: str) -> None:
    framer = LinesFramer if "line" in stream else HeadersFramer
    size = 4 * MIB
    chunks = list(in_chunks(STREAMS[stream](size), 65536))
    tracemalloc.start()
    try:
        [message] = receive(framer(size), chunks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(message) == size
    assert peak < 4 * size
