"""HELLO and GOODBYE: their bytes, who is refused and why, and no bytes that surprise."""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioipc.errors import (
    AccessDenied,
    CodecMismatch,
    DeadlineExceeded,
    EndOfStream,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    ResourceExhausted,
    RingCorrupted,
    VersionMismatch,
)
from aioipc.wire.hello import (
    MAGIC,
    MAX_REASON_BYTES,
    VERSION,
    Goodbye,
    GoodbyeCode,
    Handshake,
    HandshakeTimeout,
    Hello,
    WireCapability,
    exception_for,
    goodbye_for,
)

NONCE = bytes(range(16))
HELLO = Hello("json", 0x0102030405, WireCapability.FDS, pid=0x0A0B0C0D, nonce=NONCE)
BOTH = WireCapability.FDS | WireCapability.SHARED_BUFFERS
# fmt: off
PACKED = (
    b"\x89aioipc\n"                     # magic
    b"\x01\x00" b"\x00\x00"             # version 1.0
    b"\x01\x00\x00\x00"                 # capabilities
    b"\x05\x04\x03\x02\x01\x00\x00\x00"  # max_message_bytes
    + NONCE +
    b"\x0d\x0c\x0b\x0a"                 # pid
    b"\x04json"
)
# fmt: on


def test_bytes_of_a_hello() -> None:
    assert HELLO.pack() == PACKED
    assert Hello.parse(PACKED) == HELLO
    assert Hello.parse(memoryview(bytearray(PACKED))) == HELLO


def test_a_hello_speaks_for_this_process() -> None:
    first, second = Hello("raw", 1), Hello("raw", 1)

    assert (first.pid, first.version) == (os.getpid(), VERSION)
    assert len(first.nonce) == 16
    assert first.nonce != second.nonce


def test_codec_name_too_long() -> None:
    assert Hello.parse(Hello("x" * 255, 1).pack()).codec == "x" * 255
    with pytest.raises(ValueError, match="at most 255 bytes"):
        Hello("x" * 256, 1).pack()


def test_unknown_capabilities_are_kept() -> None:
    packed = PACKED[:12] + b"\x02\x00\x00\x80" + PACKED[16:]

    assert Hello.parse(packed).capabilities == 0x80000002
    assert WireCapability.SHARED_BUFFERS in Hello.parse(packed).capabilities


NOT_HELLOS: dict[bytes, tuple[type[IPCError], str]] = {
    b"": (HandshakeError, "does not speak aioipc: it began with b''"),
    b"GET / HTTP/1.1\r\n": (HandshakeError, "began with b'GET / HT'"),
    MAGIC: (HandshakeError, "8 bytes: at least 45"),
    PACKED[:44]: (HandshakeError, "44 bytes: at least 45"),
    PACKED[:-1]: (HandshakeError, "48 bytes: 49 are due"),
    PACKED + b"\0": (HandshakeError, "50 bytes: 49 are due"),
    PACKED[:-1] + b"\xff": (HandshakeError, "codec is not UTF-8"),
    MAGIC + b"\x02\x00\x07\x00": (VersionMismatch, "speaks version 2.7, this side 1.0"),
    MAGIC + b"\x00\x00\x00\x00" + PACKED[12:]: (VersionMismatch, "version 0.0"),
}


@pytest.mark.parametrize("payload", NOT_HELLOS)
def test_not_a_hello(payload: bytes) -> None:
    kind, told = NOT_HELLOS[payload]
    with pytest.raises(kind) as caught:
        Handshake(Hello("json", 1)).receive(payload)
    assert type(caught.value) is kind
    assert told in str(caught.value)


def test_handshake_agrees_on_the_smaller_limit_and_the_common_capabilities() -> None:
    server = Handshake(Hello("json", 1000, BOTH))
    client = Handshake(Hello("json", 500, WireCapability.FDS | WireCapability(0x100)))

    assert server.receive(client.own.pack()) == client.own
    assert client.receive(server.own.pack()) == server.own
    assert server.peer == client.own
    assert (server.max_send_bytes, client.max_send_bytes) == (500, 500)
    assert server.capabilities == client.capabilities == WireCapability.FDS


def test_before_the_hello_nothing_is_agreed() -> None:
    handshake = Handshake(Hello("json", 1000, BOTH))

    assert handshake.peer is None
    assert handshake.max_send_bytes == 1000
    assert handshake.capabilities == WireCapability(0)


def test_another_minor_version_is_welcome() -> None:
    peer = Hello("json", 1, version=(1, 7))

    assert Handshake(Hello("json", 1)).receive(peer.pack()).version == (1, 7)


def test_another_codec_is_refused() -> None:
    handshake = Handshake(Hello("msgpack", 1))
    with pytest.raises(CodecMismatch, match="uses codec 'json', this side 'msgpack'"):
        handshake.receive(HELLO.pack())
    assert handshake.peer is None


def test_connection_to_oneself_is_refused() -> None:
    handshake = Handshake(HELLO)
    with pytest.raises(HandshakeError, match="leads back to this side itself"):
        handshake.receive(HELLO.pack())


def test_second_hello_is_refused() -> None:
    handshake = Handshake(Hello("json", 1))
    handshake.receive(HELLO.pack())
    with pytest.raises(HandshakeError, match="second HELLO"):
        handshake.receive(replace(HELLO, nonce=bytes(16)).pack())
    assert handshake.peer == HELLO


@given(
    st.builds(
        Hello,
        st.text(max_size=60),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1).map(WireCapability),
        st.integers(0, 2**32 - 1),
        st.binary(min_size=16, max_size=16),
        st.tuples(st.just(VERSION[0]), st.integers(0, 2**16 - 1)),
    )
)
def test_every_hello_arrives(hello: Hello) -> None:
    assert Hello.parse(hello.pack()) == hello


@settings(max_examples=500)
@given(st.data())
def test_any_bytes_are_a_hello_or_a_handshake_error(data: st.DataObject) -> None:
    payload = bytearray(PACKED)
    for index in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=5)):
        payload[index] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))] + data.draw(st.binary(max_size=9))
    for received in (bytes(payload), data.draw(st.binary(max_size=100))):
        with contextlib.suppress(HandshakeError):
            Handshake(Hello("json", 1)).receive(received)


# --- GOODBYE -------------------------------------------------------------------------------


def test_bytes_of_a_goodbye() -> None:
    assert Goodbye().pack() == b""
    assert Goodbye(GoodbyeCode.CODEC_MISMATCH, "no\xe4").pack() == b"\x02\x00no\xc3\xa4"
    assert Goodbye(GoodbyeCode.NORMAL, "bye").pack() == b"\x00\x00bye"
    assert Goodbye.parse(b"") == Goodbye(GoodbyeCode.NORMAL)
    assert Goodbye.parse(b"\x02\x00no") == Goodbye(GoodbyeCode.CODEC_MISMATCH, "no")


def test_numbers_of_the_codes() -> None:
    assert [code.name for code in sorted(GoodbyeCode)] == [
        "NORMAL",
        "VERSION_MISMATCH",
        "CODEC_MISMATCH",
        "HANDSHAKE_FAILED",
        "HANDSHAKE_TIMEOUT",
        "ACCESS_DENIED",
        "QUOTA_EXCEEDED",
        "PROTOCOL_ERROR",
        "FRAME_TOO_LARGE",
        "HANDLER_FAILED",
    ]
    assert [*GoodbyeCode] == [*range(10)]


@pytest.mark.parametrize("reason", ["x" * 5000, "\xe4" * 5000, "x" + "\U0001f600" * 5000])
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    payload = Goodbye(GoodbyeCode.PROTOCOL_ERROR, reason).pack()

    assert MAX_REASON_BYTES - 3 <= len(payload) - 2 <= MAX_REASON_BYTES
    assert reason.startswith(Goodbye.parse(payload).reason)


def test_a_reason_that_is_not_utf8_is_replaced() -> None:
    assert Goodbye.parse(b"\x07\x00a\xffb").reason == "a\ufffdb"
    assert Goodbye(7, "a\ud800b").pack() == b"\x07\x00a?b"


@pytest.mark.parametrize("payload", [b"\x00", bytes(2 + MAX_REASON_BYTES + 1)])
def test_not_a_goodbye(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="0 or 2 to 1,026 are due"):
        Goodbye.parse(payload)


EXCEPTIONS: dict[GoodbyeCode, type[IPCError]] = {
    GoodbyeCode.NORMAL: EndOfStream,
    GoodbyeCode.VERSION_MISMATCH: VersionMismatch,
    GoodbyeCode.CODEC_MISMATCH: CodecMismatch,
    GoodbyeCode.HANDSHAKE_FAILED: HandshakeError,
    GoodbyeCode.HANDSHAKE_TIMEOUT: HandshakeError,
    GoodbyeCode.ACCESS_DENIED: AccessDenied,
    GoodbyeCode.QUOTA_EXCEEDED: QuotaExceeded,
    GoodbyeCode.PROTOCOL_ERROR: ProtocolError,
    GoodbyeCode.FRAME_TOO_LARGE: PeerCrashed,
    GoodbyeCode.HANDLER_FAILED: PeerCrashed,
}


@pytest.mark.parametrize("code", GoodbyeCode)
def test_exception_for_each_code(code: GoodbyeCode) -> None:
    error = exception_for(Goodbye(code, "because\nof this"), "unix:/x")

    assert type(error) is EXCEPTIONS[code]
    assert "'because\\nof this'" in str(error)


def test_exception_for_an_unknown_code() -> None:
    goodbye = Goodbye.parse(struct.pack("<H", 999) + b"new")

    assert goodbye.code == 999
    assert type(exception_for(goodbye, "unix:/x")) is PeerCrashed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EndOfStream("secret of another channel"), GoodbyeCode.HANDLER_FAILED),
        (VersionMismatch("why"), GoodbyeCode.VERSION_MISMATCH),
        (CodecMismatch("why"), GoodbyeCode.CODEC_MISMATCH),
        (HandshakeError("why"), GoodbyeCode.HANDSHAKE_FAILED),
        (HandshakeTimeout("why"), GoodbyeCode.HANDSHAKE_TIMEOUT),
        (AccessDenied("why"), GoodbyeCode.ACCESS_DENIED),
        (QuotaExceeded("why"), GoodbyeCode.QUOTA_EXCEEDED),
        (ResourceExhausted("why"), GoodbyeCode.QUOTA_EXCEEDED),
        (ProtocolError("why"), GoodbyeCode.PROTOCOL_ERROR),
        (RingCorrupted("why"), GoodbyeCode.PROTOCOL_ERROR),
        (FrameTooLarge(2, 1, "why"), GoodbyeCode.FRAME_TOO_LARGE),
        (PeerCrashed("why"), GoodbyeCode.HANDLER_FAILED),
        (TimeoutError("secret of a handler"), GoodbyeCode.HANDLER_FAILED),
        (DeadlineExceeded("secret of a handler"), GoodbyeCode.HANDLER_FAILED),
        (KeyError("secret"), GoodbyeCode.HANDLER_FAILED),
        (KeyboardInterrupt("secret"), GoodbyeCode.HANDLER_FAILED),
    ],
)
def test_goodbye_for_each_exception(error: BaseException, code: GoodbyeCode) -> None:
    goodbye = goodbye_for(error)

    assert goodbye.code == code
    assert ("why" in goodbye.reason) is (code != GoodbyeCode.HANDLER_FAILED)
    assert "secret" not in goodbye.reason


@given(st.binary(max_size=MAX_REASON_BYTES + 10))
def test_any_bytes_are_a_goodbye_or_a_protocol_error(payload: bytes) -> None:
    try:
        goodbye = Goodbye.parse(payload)
    except ProtocolError:
        return

    assert isinstance(exception_for(goodbye, "unix:/x"), IPCError)
    assert Goodbye.parse(goodbye.pack()).code == goodbye.code
