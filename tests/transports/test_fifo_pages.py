"""Many frames in one write to a FIFO: none crosses the end of a page, so none is torn or mixed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import aioipc
from aioipc.kernel.fifo import keeps_pages_whole
from aioipc.wire.framing import HEADER, Kind, pack_header
from aioipc.wire.hello import Hello
from tests.scale import scaled

PAGE = 4096
MOST = PAGE - HEADER.size
WRITERS = 3
HEAD = 3
"""Bytes of a message that say who sent it, and how many that one had sent before."""

sizes = st.one_of(
    st.integers(HEAD, MOST),
    st.integers(MOST - 12, MOST),  # leaves no room, or none for a PAD
    st.sampled_from([64, 1000, 2040, 2041]),
)
writers = st.integers(0, WRITERS - 1)
steps = st.one_of(
    st.tuples(st.just("send"), writers, st.lists(sizes, min_size=1, max_size=8)),
    st.tuples(st.just("read"), st.sampled_from([1, 100, PAGE, 3 * PAGE]), st.none()),
    st.tuples(st.just("turn"), st.none(), st.none()),
)


class Reader:
    """The other end, by system calls alone: what it read has to be whole frames."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.data = b""
        self.received: list[list[bytes]] = [[] for _ in range(WRITERS)]

    def read(self, most: int) -> bool:
        try:
            read = os.read(self.fd, most)
        except BlockingIOError:
            return False
        self.data += read
        while len(self.data) >= HEADER.size:
            length, kind, flags, fds = HEADER.unpack_from(self.data)
            if len(self.data) < HEADER.size + length:
                break
            payload = self.data[HEADER.size : HEADER.size + length]
            self.data = self.data[HEADER.size + length :]
            assert (flags, fds) == (0, 0)
            if kind == Kind.PAD:
                assert not payload.strip(b"\0"), "a PAD tells nothing"
            elif kind == Kind.DATA:
                self.received[payload[0]].append(payload)
            else:
                assert kind == Kind.HELLO
        return bool(read)


def message(writer: int, number: int, size: int) -> bytes:
    return (bytes([writer]) + number.to_bytes(2, "little")).ljust(size, bytes([writer + 1]))


async def connect(path: Path, capacity: int) -> tuple[Reader, list[aioipc.Channel[Any]]]:
    reader = Reader(path)
    fcntl.fcntl(reader.fd, fcntl.F_SETPIPE_SZ, capacity)
    return reader, [await aioipc.connect(f"fifo:{path}", codec="raw") for _ in range(WRITERS)]


async def play(path: Path, capacity: int, script: list[tuple[Any, ...]]) -> None:
    reader, writers = await connect(path, capacity)
    sent: list[list[bytes]] = [[] for _ in writers]
    for verb, which, of in script:
        match verb:
            case "send":
                with contextlib.suppress(aioipc.WouldBlock):
                    for size in of:
                        what = message(which, len(sent[which]), size)
                        writers[which].send_nowait(what)
                        sent[which].append(what)
            case "read":
                reader.read(which)
            case "turn":
                await asyncio.sleep(0)
    flushing = asyncio.gather(*(writer.flush() for writer in writers))
    while not flushing.done():
        reader.read(PAGE)
        await asyncio.sleep(0)
    await flushing
    for writer in writers:
        await writer.aclose()
    while reader.read(PAGE):
        pass
    os.close(reader.fd)
    assert reader.data == b""
    assert reader.received == sent


PART = [
    ("send", 0, [64, 3000, 1500]),
    ("turn", None, None),
    ("read", PAGE, None),
    ("send", 1, [100]),
]
"""The second write has more than a page, for which there is no room; what it leaves a page later
stands behind the message of another writer."""


@example(capacity=PAGE, script=PART)
@settings(max_examples=scaled(300, full=5000))
@given(capacity=st.sampled_from([PAGE, 2 * PAGE, 4 * PAGE]), script=st.lists(steps, max_size=60))
def test_writers_share_a_fifo_that_is_often_full(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, script: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("pages") / "fifo"
    os.mkfifo(path)
    asyncio.run(play(path, capacity, script))


@pytest.mark.asyncio
async def test_writes_hold_two_pages(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader, (writer, *others) = await connect(path, 64 * 1024)
    for other in others:
        await other.aclose()
    await writer.send(message(1, 0, 100))  # the first of a turn leaves at once
    before = writer.statistics().write_calls
    await writer.send_many([message(0, 0, 1000)] * 40)
    await writer.flush()
    writes = writer.statistics().write_calls - before
    assert 5 <= writes < 10, "8 messages in each, but where the loop turned"
    await writer.aclose()
    while reader.read(PAGE):
        pass
    os.close(reader.fd)
    assert len(reader.received[0]) == 40


@pytest.mark.asyncio
async def test_where_pages_are_not_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a write has at most as many bytes as POSIX promises for."""
    monkeypatch.setattr("aioipc.transports.fifo.keeps_pages_whole", lambda: False)
    async with (
        aioipc.listen(f"fifo:{tmp_path}/fifo", codec="raw") as listener,
        await listener.accept() as receiving,
        aioipc.connect(f"fifo:{tmp_path}/fifo", codec="raw") as sending,
    ):
        await sending.send(b"first")
        before = sending.statistics().write_calls
        await sending.send_many([b"x" * 1000] * 12)
        await sending.flush()
        assert sending.statistics().write_calls - before >= 3
        assert await receiving.receive() == b"first"
        assert [await receiving.receive() for _ in range(12)] == [b"x" * 1000] * 12


def write(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as writer:
        writer.write(data)


@pytest.mark.asyncio
class TestAWriterInAnotherLanguage:
    @pytest.fixture
    def hello(self) -> bytes:
        payload = Hello("raw", 2**20).pack()
        return pack_header(len(payload), Kind.HELLO) + payload

    async def test_pads(self, tmp_path: Path, hello: bytes) -> None:
        data = hello + pack_header(1, Kind.DATA) + b"x"
        rest = PAGE - len(data) - HEADER.size
        data += pack_header(rest, Kind.PAD) + bytes(rest)
        data += pack_header(0, Kind.PAD) + pack_header(1, Kind.DATA) + b"y"
        async with (
            aioipc.listen(f"fifo:{tmp_path}/fifo", codec="raw") as listener,
            await listener.accept() as receiving,
        ):
            write(tmp_path / "fifo", data)
            assert await receiving.receive() == b"x"
            assert await receiving.receive() == b"y"

    @pytest.mark.parametrize(
        ("greets", "pad", "says"),
        [
            (False, pack_header(1, Kind.PAD) + b"x", "does not speak aioipc"),
            (True, pack_header(PAGE + 1, Kind.PAD), "kind 2 announces 4,097 bytes"),
            (True, pack_header(0, Kind.PAD, 1), "flags 0x1 that were not agreed"),
        ],
    )
    async def test_bad_pads(
        self, tmp_path: Path, hello: bytes, greets: bool, pad: bytes, says: str
    ) -> None:
        async with (
            aioipc.listen(f"fifo:{tmp_path}/fifo", codec="raw") as listener,
            await listener.accept() as receiving,
        ):
            write(tmp_path / "fifo", greets * hello + pad)
            with pytest.raises(aioipc.ProtocolError, match=says):
                await receiving.receive()


class TestTheKernel:
    @pytest.fixture(autouse=True)
    def untried(self) -> Iterator[None]:
        keeps_pages_whole.cache_clear()
        yield
        keeps_pages_whole.cache_clear()

    def test_it_keeps_pages_whole(self) -> None:
        assert keeps_pages_whole()

    @pytest.mark.parametrize("answer", [PAGE - 10, 0, 4 * PAGE])
    def test_it_does_not(self, monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
        """One that fills the pipe to the last byte, or says that it has more room than it has."""
        real = os.write

        def say(fd: int, data: bytes) -> int:
            return real(fd, data) if len(data) < PAGE else answer

        monkeypatch.setattr(os, "write", say)
        assert not keeps_pages_whole()

    def test_there_is_no_room_to_try_it_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(fcntl, "fcntl", refuse)
        assert not keeps_pages_whole()
