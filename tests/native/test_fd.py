"""FdStream: reads and writes without a buffer of the caller's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from aioipc.errors import ClosedError, PeerCrashed
from aioipc.native._fd import FdStream
from aioipc.transports._stream import STREAM, socket_stream

MOST_READ_BYTES = 256 * 1024


@pytest.fixture
def ends() -> Iterator[tuple[FdStream, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    with right:
        stream = socket_stream(left, address="unix:test", capabilities=STREAM)
        try:
            yield stream, right
        finally:
            stream.close()


def test_a_read_takes_what_is_there(ends: tuple[FdStream, socket.socket]) -> None:
    stream, peer = ends
    assert stream.try_read(100) is None
    peer.send(b"one two")
    assert stream.try_read(3) == b"one"
    assert stream.try_read(1 << 40) == b" two"
    assert stream.try_read(100) is None
    peer.close()
    assert stream.try_read(100) == b""
    assert stream.try_read(100) == b"", "it stays at its end"


def test_a_read_is_bounded(ends: tuple[FdStream, socket.socket]) -> None:
    stream, peer = ends
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MOST_READ_BYTES)
    data = bytes(range(256)) * 2048
    sent = peer.send(data, socket.MSG_DONTWAIT)
    got = []
    while piece := stream.try_read(len(data)):
        assert len(piece) <= MOST_READ_BYTES
        got.append(piece)
    assert b"".join(got) == data[:sent]


def test_what_was_read_stays(ends: tuple[FdStream, socket.socket]) -> None:
    stream, peer = ends
    peer.send(b"first")
    first = stream.try_read(100)
    peer.send(b"other")
    assert stream.try_read(100) == b"other"
    assert first == b"first"


def test_reading_fails_as_reading_into_a_buffer_does(
    ends: tuple[FdStream, socket.socket],
) -> None:
    stream, peer = ends
    assert stream.try_write((b"never read",)) == 10
    peer.close()
    with pytest.raises(PeerCrashed, match="read from unix:test"):
        stream.try_read(100)
    stream.close()
    with pytest.raises(ClosedError, match="unix:test is closed"):
        stream.try_read(100)


@pytest.mark.parametrize(
    "parts", [(b"abc",), [b"abc"], (b"a", b"bc"), (bytearray(b"abc"),), b"abc"]
)
def test_any_parts_are_written(ends: tuple[FdStream, socket.socket], parts: object) -> None:
    stream, peer = ends
    assert stream.try_write(parts) == 3  # type: ignore[arg-type]
    assert peer.recv(100) == b"abc"


def test_a_full_socket_takes_nothing(ends: tuple[FdStream, socket.socket]) -> None:
    stream, _ = ends
    while stream.try_write((bytes(65536),)):
        pass
    assert stream.try_write((b"x",)) == 0
    stream.close()
    with pytest.raises(ClosedError):
        stream.try_write((b"x",))
