"""Peers that break the protocol: each hurts its own connection, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import random
import socket
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

import aioipc
from aioipc import (
    AccessDenied,
    Channel,
    CodecMismatch,
    EndOfStream,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    Limits,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    TruncatedFrame,
    VersionMismatch,
)
from aioipc._opening import ChannelOptions
from aioipc.abc import Buffer, ByteTransport, Capability
from aioipc.kernel.owned import OwnedFd
from aioipc.loop.patience import Patience
from aioipc.transports import memory
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import MAGIC, Goodbye, GoodbyeCode, Hello
from tests.children import PATIENCE_S
from tests.conftest import LOOPS
from tests.links import Link
from tests.scale import patience_s, scaled
from tests.shortage import open_fds
from tests.victim import Victim, attacked

asyncio_only = pytest.mark.asyncio

LIMIT = 100_000
LIMITS = Limits(max_message_bytes=LIMIT, handshake_s=PATIENCE_S)
PLACES = ("unix", "tcp")
places = pytest.mark.parametrize("place", PLACES)
ends = pytest.mark.parametrize("place", [*PLACES, "pipe"])
"""Where nobody can listen, there is a channel to attack all the same."""


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return pack_header(len(payload), kind, flags) + payload


def hello(codec: str = "raw", **facts: Any) -> bytes:
    return frame(Kind.HELLO, Hello(codec, 2**26, **facts).pack())


def hello_of(*, magic: bytes = MAGIC, codec: bytes = b"raw", size: int | None = None) -> bytes:
    """A HELLO that `Hello` would not make."""
    size = len(codec) if size is None else size
    return frame(
        Kind.HELLO, struct.pack("<8sHHIQ16sIB", magic, 1, 0, 0, 1, bytes(16), 1, size) + codec
    )


GREETING = hello()
PART = frame(Kind.DATA, b"ab", Flag.MORE)
BYE = frame(Kind.GOODBYE)


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Take apart what a victim said, which has to be whole."""
    while data:
        length, kind = struct.unpack_from("<IB", data)
        assert 8 + length <= len(data), "the last frame is cut"
        yield kind, data[8 : 8 + length]
        data = data[8 + length :]


class Bare:
    """A bare socket, which sends what it likes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def at(cls, address: str) -> Bare:
        scheme, _, rest = address.partition(":")
        if scheme == "unix":
            peer = cls(socket.socket(socket.AF_UNIX))
            await peer._loop.sock_connect(peer.sock, rest)
        else:
            host, _, port = rest.removeprefix("//").rpartition(":")
            peer = cls(socket.socket())
            await peer._loop.sock_connect(peer.sock, (host, int(port)))
        return peer

    async def send(self, data: bytes) -> None:
        """Send all of it, or as much as the victim lets itself be sent."""
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(self.sock, data)

    async def finish(self, data: bytes = b"") -> None:
        """Send all of it, and then the end of the stream."""
        await self.send(data)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    async def receive(self, size: int = 65536) -> bytes:
        try:
            return await self._loop.sock_recv(self.sock, size)
        except ConnectionError:
            return b""

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := await self.receive(size - len(data))):
            data += more
        return data

    async def told(self) -> list[tuple[int, bytes]]:
        """What the victim said until it ended the connection."""
        data = b""
        while more := await self.receive():
            data += more
        return list(frames(data))

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


class BarePipes(Bare):
    """The same with a pipe for each direction."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = OwnedFd(reads), OwnedFd(writes)
        os.set_blocking(reads, True)
        os.set_blocking(writes, True)
        fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 2**18)  # what a socket has room for

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            while data:
                data = data[await asyncio.to_thread(os.write, self._writes.fileno(), data) :]

    async def finish(self, data: bytes = b"") -> None:
        await self.send(data)
        self._writes.close()

    async def receive(self, size: int = 65536) -> bytes:
        return await asyncio.to_thread(os.read, self._reads.fileno(), size)

    def close(self) -> None:
        self._reads.close()
        self._writes.close()


# A listener that is attacked


def address_in(place: str, directory: Path, name: str) -> str:
    return f"unix:{directory}/{name}" if place == "unix" else "tcp://127.0.0.1:0"


@contextlib.asynccontextmanager
async def serving(
    place: str,
    directory: Path,
    *,
    limits: Limits = LIMITS,
    codec: str = "raw",
    name: str = "victim",
) -> AsyncIterator[Victim]:
    async with asyncio.timeout(patience_s(PATIENCE_S)):
        address = address_in(place, directory, name)
        async with attacked(address, codec=codec, limits=limits) as victim:
            yield victim


@pytest.fixture
def victims(runtime_dir: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Victim]]:
    return lambda place, **options: serving(place, runtime_dir, **options)


Victims = Callable[..., contextlib.AbstractAsyncContextManager[Victim]]


# A client that is attacked


@contextlib.asynccontextmanager
async def attacked_client(
    place: str, directory: Path, **options: Any
) -> AsyncIterator[tuple[Channel[bytes], Bare]]:
    """A channel, and the bare socket of the server that it has connected to, or bare pipes."""
    options = {"codec": "raw", "limits": LIMITS, **options}
    if place == "pipe":
        channel, other = aioipc.pair("pipe", **options)
        _, (reads, writes) = other.detach()
        async with asyncio.timeout(PATIENCE_S), channel:
            with BarePipes(reads, writes) as pipes:
                yield channel, pipes
        return
    family = socket.AF_UNIX if place == "unix" else socket.AF_INET
    async with asyncio.timeout(PATIENCE_S):
        with socket.socket(family) as server:
            server.bind(str(directory / "server") if place == "unix" else ("127.0.0.1", 0))
            server.listen()
            host = directory / "server" if place == "unix" else None
            address = f"unix:{host}" if host else f"tcp://127.0.0.1:{server.getsockname()[1]}"
            async with aioipc.connect(address, **options) as channel:
                with Bare(server.accept()[0]) as bare:
                    yield channel, bare
            if host:
                host.unlink()


# What there is to get wrong: data, what the victim raises, how it says it, what it tells


@dataclass(frozen=True)
class Abuse:
    data: bytes
    raised: type[IPCError]
    says: str
    code: GoodbyeCode


def _breach(data: bytes, says: str) -> Abuse:
    return Abuse(data, ProtocolError, says, GoodbyeCode.PROTOCOL_ERROR)


def _bad_hello(data: bytes, says: str) -> Abuse:
    return Abuse(data, HandshakeError, says, GoodbyeCode.HANDSHAKE_FAILED)


def _too_large(data: bytes, size: int) -> Abuse:
    says = f"a message of {size:,} bytes is over the limit of 100,000 bytes"
    return Abuse(data, FrameTooLarge, says, GoodbyeCode.FRAME_TOO_LARGE)


BEFORE_HELLO: dict[str, Abuse] = {
    "data first": _bad_hello(frame(Kind.DATA, b"x"), "does not speak aioipc"),
    "goodbye first": _bad_hello(BYE, "does not speak aioipc"),
    "ping first": _bad_hello(frame(Kind.PING), "does not speak aioipc"),
    "pong first": _bad_hello(frame(Kind.PONG), "does not speak aioipc"),
    "a huge frame first": _bad_hello(
        pack_header(2**32 - 1, 255, 255, 65535), "does not speak aioipc"
    ),
    "http": _bad_hello(b"GET / HTTP/1.1\r\n\r\n", r"it began with b'GET / HTTP/1.1\r\n'"),
    "zeros": _bad_hello(bytes(64), "does not speak aioipc"),
    "an empty hello": _bad_hello(frame(Kind.HELLO), "does not speak aioipc"),
    "another magic": _bad_hello(hello_of(magic=b"\x89AIOIPC\n"), "does not speak aioipc"),
    "only the magic": _bad_hello(frame(Kind.HELLO, MAGIC), "a HELLO of 8 bytes"),
    "a short hello": _bad_hello(frame(Kind.HELLO, Hello("raw", 1).pack()[:40]), "of 40 bytes"),
    "a codec cut short": _bad_hello(hello_of(size=4), "a HELLO of 48 bytes"),
    "trailing bytes": _bad_hello(hello_of(size=2), "a HELLO of 48 bytes"),
    "a codec that is no text": _bad_hello(hello_of(codec=b"r\xffw"), "is not UTF-8"),
    "a long hello": _bad_hello(pack_header(4097, Kind.HELLO), "does not speak aioipc"),
    "an endless hello": _bad_hello(pack_header(2**32 - 1, Kind.HELLO), "does not speak aioipc"),
    "a hello with flags": _bad_hello(
        pack_header(48, Kind.HELLO, Flag.MORE), "does not speak aioipc"
    ),
    "a hello with descriptors": _bad_hello(
        pack_header(48, Kind.HELLO, 0, 1), "does not speak aioipc"
    ),
    "another version": Abuse(
        hello(version=(2, 7)),
        VersionMismatch,
        "the peer speaks version 2.7, this side 1.0",
        GoodbyeCode.VERSION_MISMATCH,
    ),
    "another codec": Abuse(
        hello("json"),
        CodecMismatch,
        "the peer uses codec 'json', this side 'raw'",
        GoodbyeCode.CODEC_MISMATCH,
    ),
}

AFTER_HELLO: dict[str, Abuse] = {
    "kind 0": _breach(frame(0), "unknown kind 0"),
    "a pad": _breach(frame(Kind.PAD, b"x"), "unknown kind 2"),
    "kind 7": _breach(frame(7, b"what"), "unknown kind 7"),
    "kind 255": _breach(frame(255), "unknown kind 255"),
    "a shared message": _breach(frame(Kind.DATA, b"x", Flag.SHARED), "flags 0x2"),
    "an unknown flag": _breach(frame(Kind.DATA, b"x", 0x80), "flags 0x80"),
    "an unknown flag and more": _breach(frame(Kind.DATA, b"x", 0x81), "flags 0x81"),
    "a ping in parts": _breach(frame(Kind.PING, b"x", Flag.MORE), "flags 0x1"),
    "one descriptor": _breach(pack_header(0, Kind.DATA, 0, 1), "announces 1 descriptors"),
    "all descriptors": _breach(pack_header(9, Kind.DATA, 0, 65535), "65535 descriptors"),
    "a second hello": _bad_hello(hello(), "a second HELLO"),
    "a second hello of another codec": _bad_hello(hello("json"), "a second HELLO"),
    "a long ping": _breach(pack_header(4097, Kind.PING), "kind 5 announces 4,097 bytes"),
    "a long pong": _breach(pack_header(2**31, Kind.PONG), "kind 6 announces 2,147,483,648"),
    "an endless goodbye": _breach(pack_header(2**32 - 1, Kind.GOODBYE), "kind 4 announces"),
    "a goodbye of one byte": _breach(frame(Kind.GOODBYE, b"x"), "a GOODBYE of 1 bytes"),
    "a goodbye with a long reason": _breach(
        frame(Kind.GOODBYE, bytes(2 + 1024 + 1)), "a GOODBYE of 1,027 bytes"
    ),
    "a goodbye between parts": _breach(PART + BYE, "between the parts of a message"),
    "a hello between parts": _bad_hello(PART + hello(), "a second HELLO"),
    "the longest length": _too_large(pack_header(2**32 - 1, Kind.DATA), 2**32 - 1),
    "one over the limit": _too_large(pack_header(LIMIT + 1, Kind.DATA), LIMIT + 1),
    "one over the limit, whole": _too_large(frame(Kind.DATA, bytes(LIMIT + 1)), LIMIT + 1),
    "a part over the limit": _too_large(pack_header(LIMIT + 1, Kind.DATA, 1), LIMIT + 1),
    "parts over the limit in sum": _too_large(
        frame(Kind.DATA, bytes(60_000), 1) * 2, 120_000
    ),
    "a last part over the limit in sum": _too_large(
        frame(Kind.DATA, bytes(LIMIT), 1) + frame(Kind.DATA, b"x"), LIMIT + 1
    ),
    "a last part of all there is": _too_large(
        PART + pack_header(2**32 - 1, Kind.DATA), 2**32 + 1
    ),
}  # fmt: skip

ABUSES = {
    **BEFORE_HELLO,
    **{
        name: Abuse(GREETING + abuse.data, abuse.raised, abuse.says, abuse.code)
        for name, abuse in AFTER_HELLO.items()
    },
}


@asyncio_only
@places
@pytest.mark.parametrize("name", ABUSES)
async def test_abuse_of_a_listener(
    place: str, name: str, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    abuse = ABUSES[name]
    async with victims(place) as victim:
        await victim.assert_serves()
        fds = open_fds()
        with await Bare.at(victim.address) as peer:
            await peer.send(abuse.data)
            (kind, _), *others = await peer.told()
        assert kind == Kind.HELLO, "HELLO comes first"
        ((kind, payload),) = others
        goodbye = Goodbye.parse(payload)
        assert (kind, goodbye.code) == (Kind.GOODBYE, abuse.code)
        assert abuse.says in goodbye.reason
        if name in AFTER_HELLO:
            assert type(await victim.endings.get()) is abuse.raised
        await victim.assert_serves()
        await victim.assert_settled(fds)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert abuse.says in record.getMessage()


@asyncio_only
@ends
@pytest.mark.parametrize("name", ABUSES)
async def test_abuse_of_a_client(
    place: str, name: str, runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    abuse = ABUSES[name]
    async with attacked_client(place, runtime_dir) as (channel, peer):
        await peer.send(abuse.data)
        for _ in range(2):
            with pytest.raises(abuse.raised) as raised:
                await channel.receive()
            assert type(raised.value) is abuse.raised
            assert abuse.says in str(raised.value)
            assert str(raised.value).startswith(f"{channel.address}: ")
        (kind, _), (last, payload) = await peer.told()
        assert (kind, last) == (Kind.HELLO, Kind.GOODBYE)
        told = Goodbye.parse(payload)
        assert told.code == abuse.code
        assert channel.address not in told.reason, "the peer has a name of its own for it"
        with pytest.raises(IPCError):
            await channel.send(b"x")
    assert not caplog.records


@asyncio_only
async def test_what_came_before_the_abuse_is_received(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await peer.send(GREETING + frame(Kind.DATA, b"one") + frame(Kind.DATA, b"two") + frame(9))
        assert await channel.receive() == b"one"
        assert await channel.receive_many() == [b"two"]
        with pytest.raises(ProtocolError, match="unknown kind 9"):
            await channel.receive_many()


@asyncio_only
async def test_what_is_not_in_the_framing_names_the_address() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"hello\r\n\r\n")
        async with aioipc.connect(f"fd:{theirs.detach()}", framing="headers") as channel:
            with pytest.raises(ProtocolError, match=f"^{channel.address}: not a header: b'hello'"):
                await channel.receive()


# Among the writers of a FIFO, whom nobody can tell apart

FIFO_ABUSES = AFTER_HELLO.keys() - {
    *("a pad", "a second hello", "a second hello of another codec", "a hello between parts"),
    *("a goodbye of one byte", "a goodbye with a long reason", "a goodbye between parts"),
}
"""There is padding, each writer says HELLO, and none can end what others write."""


@contextlib.asynccontextmanager
async def reader_and_writer(path: Path) -> AsyncIterator[tuple[Channel[bytes], Channel[bytes]]]:
    """The receiving end of a FIFO, and one that sends to it as it should."""
    address = f"fifo:{path}"
    async with (
        asyncio.timeout(PATIENCE_S),
        aioipc.listen(address, codec="raw", limits=LIMITS) as listener,
        await listener.accept() as reader,
        aioipc.connect(address, codec="raw", limits=LIMITS) as writer,
    ):
        await writer.send(b"as it should")
        assert await reader.receive() == b"as it should"
        yield reader, writer


def write(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as fifo:
        fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, 2**18)
        fifo.write(data)


async def is_told(writer: Channel[bytes]) -> None:
    """A writer hears that nobody reads any more: it does not wait for ever."""
    with contextlib.suppress(PeerCrashed):
        await writer.send(b"to nobody")
    with pytest.raises(PeerCrashed):
        await writer.flush()


@asyncio_only
@pytest.mark.parametrize("name", sorted(FIFO_ABUSES))
async def test_abuse_of_a_reader(name: str, runtime_dir: Path) -> None:
    """It reads no more, all writers learn of it, and go on with the next reader."""
    abuse = ABUSES[name]
    path = runtime_dir / "fifo"
    async with reader_and_writer(path) as (reader, writer):
        write(path, frame(Kind.DATA, b"whole") + abuse.data)
        assert await reader.receive() == b"whole"
        for _ in range(2):
            with pytest.raises(abuse.raised) as raised:
                await reader.receive()
            assert type(raised.value) is abuse.raised
            assert abuse.says in str(raised.value)
        await is_told(writer)
    async with reader_and_writer(path):
        pass


@asyncio_only
@pytest.mark.timeout(patience_s(60))
async def test_garbage_among_writers(runtime_dir: Path, chance: random.Random) -> None:
    path = runtime_dir / "fifo"
    for _ in range(scaled(50, full=10_000)):
        async with reader_and_writer(path) as (reader, writer):
            write(path, chance.randbytes(8 + chance.randrange(4088)))
            with pytest.raises(IPCError):
                await rest_of(reader)
            await is_told(writer)


# Both sides of a disagreement


@asyncio_only
@places
async def test_each_side_of_a_codec_mismatch_names_both(
    place: str, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        victims(place, codec="msgpack") as victim,
        aioipc.connect(victim.address, codec="json") as channel,
    ):
        with pytest.raises(CodecMismatch) as raised:
            await channel.receive()
    assert "msgpack" in str(raised.value)
    assert "json" in str(raised.value)
    assert "the peer uses codec 'json', this side 'msgpack'" in caplog.text


@asyncio_only
@places
async def test_a_refusal_decides_the_exception_of_a_send(place: str, victims: Victims) -> None:
    async def send_for_ever(channel: Channel[str]) -> None:
        while True:
            await channel.send("x" * 1000)
            await asyncio.sleep(0)

    async with (
        victims(place) as victim,
        aioipc.connect(victim.address, codec="text", limits=LIMITS) as channel,
    ):
        with pytest.raises(CodecMismatch, match=r"'text'.*'raw'|'raw'.*'text'"):
            await send_for_ever(channel)


@asyncio_only
async def test_a_version_mismatch_told_by_the_peer_names_both(runtime_dir: Path) -> None:
    reason = "the peer speaks version 1.0, this side 2.7"
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        goodbye = Goodbye(GoodbyeCode.VERSION_MISMATCH, reason)
        await peer.finish(GREETING + frame(Kind.GOODBYE, goodbye.pack()))
        with pytest.raises(VersionMismatch, match=r"version 1\.0, this side 2\.7"):
            await channel.receive()


@asyncio_only
async def test_another_minor_version_is_understood(victims: Victims) -> None:
    async with victims("unix") as victim:
        with await Bare.at(victim.address) as peer:
            await peer.finish(hello(version=(1, 99)) + frame(Kind.DATA, b"x") + BYE)
            assert (Kind.DATA, b"x") in await peer.told()


@asyncio_only
async def test_a_connection_to_oneself(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await channel.send(b"x")
        await peer.send(await peer.receive())
        with pytest.raises(HandshakeError, match="leads back to this side itself"):
            await channel.receive()


# GOODBYE with every code

GOODBYES: dict[int, type[IPCError]] = {
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
    10: PeerCrashed,
    65535: PeerCrashed,
}


@asyncio_only
@pytest.mark.parametrize("code", GOODBYES)
async def test_a_goodbye_with_every_code(
    code: int, runtime_dir: Path, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(GoodbyeCode) <= set(GOODBYES)
    kind = GOODBYES[code]
    farewell = frame(Kind.GOODBYE, struct.pack("<H", code) + b"a\nreason \xff")
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await peer.send(GREETING + frame(Kind.DATA, b"first") + farewell)
        assert await channel.receive() == b"first"
        with pytest.raises(kind) as raised:
            await channel.receive()
        assert type(raised.value) is kind
        assert "\n" not in str(raised.value)
    async with victims("unix") as victim:
        with await Bare.at(victim.address) as peer:
            await peer.finish(GREETING + farewell + frame(Kind.DATA, b"after the end"))
            await peer.told()
        assert type(await victim.endings.get()) is kind
        await victim.assert_serves()
    assert len(caplog.records) <= 1


@asyncio_only
async def test_an_ended_peer_that_goes_on_is_not_listened_to(victims: Victims) -> None:
    async with victims("unix") as victim:
        with await Bare.at(victim.address) as peer:
            await peer.send(GREETING + BYE + frame(99) * 1000 + bytes(100_000))
            assert [kind for kind, _ in await peer.told()] == [Kind.HELLO, Kind.GOODBYE]
        assert type(await victim.endings.get()) is EndOfStream


# PING


@asyncio_only
@places
async def test_a_ping_is_answered(place: str, runtime_dir: Path, victims: Victims) -> None:
    pings = [b"", b"x", bytes(4096)]
    async with victims(place) as victim:
        with await Bare.at(victim.address) as peer:
            await peer.send(GREETING)
            data = b"".join(frame(Kind.PING, ping) for ping in pings)
            await peer.finish(data + frame(Kind.PONG, b"unasked") + BYE)
            _, *answers = await peer.told()
            assert answers == [*((Kind.PONG, ping) for ping in pings), (Kind.GOODBYE, b"")]
    async with attacked_client(place, runtime_dir) as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        await peer.send(GREETING + frame(Kind.PING, b"you?"))
        size = len(GREETING) + 8 + 4
        assert list(frames(await peer.exactly(size)))[1] == (Kind.PONG, b"you?")
        await peer.send(frame(Kind.DATA, b"x"))
        assert await receiving == b"x"


@asyncio_only
async def test_a_ping_between_the_parts_of_a_message(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await peer.send(GREETING + PART + frame(Kind.PING) + PART + frame(Kind.DATA, b"!"))
        assert await channel.receive() == b"abab!"


# The end inside a frame: case 5


CUTS = [1, 7, 8, 9, 8 + 99_999]


def cut_off(cut: int) -> bytes:
    """A stream that ends inside its second message."""
    whole = GREETING + frame(Kind.DATA, b"whole")
    return whole + frame(Kind.DATA, bytes(LIMIT))[:cut]


@asyncio_only
@places
@pytest.mark.parametrize("cut", CUTS)
async def test_an_end_inside_a_frame(
    place: str, cut: int, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    async with victims(place) as victim:
        fds = open_fds()
        with await Bare.at(victim.address) as peer:
            await peer.finish(cut_off(cut))
            told = await peer.told()
        assert told[1] == (Kind.DATA, b"whole")
        assert type(await victim.endings.get()) is TruncatedFrame
        await victim.assert_serves()
        await victim.assert_settled(fds)
    assert not caplog.records, "a peer that dies is no breach"


@asyncio_only
@ends
@pytest.mark.parametrize("cut", CUTS)
async def test_an_end_inside_a_frame_to_a_client(place: str, cut: int, runtime_dir: Path) -> None:
    async with attacked_client(place, runtime_dir) as (channel, peer):
        await peer.finish(cut_off(cut))
        assert await channel.receive() == b"whole"
        with pytest.raises(TruncatedFrame):
            await channel.receive()


@asyncio_only
async def test_an_end_between_the_parts_of_a_message(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await peer.finish(GREETING + PART)
        with pytest.raises(TruncatedFrame):
            await channel.receive()


@asyncio_only
@places
async def test_an_end_inside_the_hello(
    place: str, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    async with victims(place) as victim:
        await victim.assert_serves()
        fds = open_fds()
        for cut in range(len(GREETING)):
            with await Bare.at(victim.address) as peer:
                await peer.finish(GREETING[:cut])
                await peer.told()
        await victim.assert_serves()
        await victim.assert_settled(fds)
    assert len(caplog.records) <= len(GREETING)


@asyncio_only
@ends
@pytest.mark.parametrize("cut", [0, 1, len(GREETING) - 1])
async def test_an_end_inside_the_hello_to_a_client(place: str, cut: int, runtime_dir: Path) -> None:
    async with attacked_client(place, runtime_dir) as (channel, peer):
        await peer.finish(GREETING[:cut])
        with pytest.raises(PeerCrashed) as raised:
            await channel.receive()
        assert type(raised.value) is (TruncatedFrame if cut else PeerCrashed)


# Garbage: case 6


async def ends_in_peace(victim: Victim, blob: bytes) -> None:
    with await Bare.at(victim.address) as peer:
        await peer.finish(blob)
        await peer.told()


async def side_by_side(jobs: Sequence[Any], width: int = 16) -> None:
    for start in range(0, len(jobs), width):
        async with asyncio.TaskGroup() as tasks:
            for job in jobs[start : start + width]:
                tasks.create_task(job)


@asyncio_only
@places
@pytest.mark.timeout(patience_s(60))
async def test_garbage(
    place: str, victims: Victims, chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    count = scaled(200, full=10_000)
    blobs = [chance.randbytes(chance.randrange(4096)) for _ in range(count)]
    async with victims(place) as victim:
        await victim.assert_serves()
        fds = open_fds()
        await side_by_side([ends_in_peace(victim, blob) for blob in blobs])
        assert victim.endings.empty(), "none of them was served"
        await victim.assert_serves()
        await victim.assert_settled(fds)
    assert len(caplog.records) <= count
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@asyncio_only
@places
@pytest.mark.timeout(patience_s(60))
async def test_garbage_after_a_hello(
    place: str, victims: Victims, chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    count = scaled(200, full=10_000)
    blobs = [GREETING + chance.randbytes(chance.randrange(4096)) for _ in range(count)]
    async with victims(place) as victim:
        await victim.assert_serves()
        fds = open_fds()
        await side_by_side([ends_in_peace(victim, blob) for blob in blobs])
        for _ in range(count):
            assert isinstance(await victim.endings.get(), ProtocolError | PeerCrashed)
        await victim.assert_serves()
        await victim.assert_settled(fds)
    assert len(caplog.records) <= count
    assert all(record.exc_info is None for record in caplog.records)


@asyncio_only
@pytest.mark.timeout(patience_s(60))
async def test_garbage_from_a_pipe(runtime_dir: Path, chance: random.Random) -> None:
    for _ in range(scaled(50, full=10_000)):
        blob = chance.randbytes(8 + chance.randrange(4088))
        for greeting, endings in ((b"", ProtocolError), (GREETING, ProtocolError | PeerCrashed)):
            async with attacked_client("pipe", runtime_dir) as (channel, peer):
                await peer.finish(greeting + blob)
                with pytest.raises(IPCError) as raised:
                    await rest_of(channel)
                assert isinstance(raised.value, endings), raised.value


async def rest_of(channel: Channel[bytes]) -> None:
    while True:
        await channel.receive()


@asyncio_only
@pytest.mark.timeout(patience_s(60))
async def test_a_valid_stream_with_a_byte_changed(
    victims: Victims, chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever comes of it, the listener goes on: bits of headers are worth more than noise."""
    count = scaled(200, full=10_000)
    valid = GREETING + frame(Kind.DATA, b"a") + PART * 2 + frame(Kind.DATA) + frame(Kind.PING) + BYE
    blobs = []
    for _ in range(count):
        blob = bytearray(valid)
        blob[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
        blobs.append(bytes(blob))
    async with victims("unix") as victim:
        fds = open_fds()
        await side_by_side([ends_in_peace(victim, blob) for blob in blobs])
        while not victim.endings.empty():
            assert isinstance(victim.endings.get_nowait(), IPCError)
        await victim.assert_settled(fds)
        await victim.assert_serves()
    assert len(caplog.records) <= count
    for record in caplog.records:
        if record.exc_info:  # the handler failed to send: the peer's limit was a byte changed, too
            assert record.exc_info[0] is FrameTooLarge


# Lengths and memory: cases 7 and 9


@contextlib.contextmanager
def peak_below(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit_bytes


@asyncio_only
@ends
@pytest.mark.parametrize("over", [64 * 2**20 + 1, 2**32 - 1])
async def test_a_length_is_refused_before_memory_is_taken(
    place: str, over: int, runtime_dir: Path
) -> None:
    async with attacked_client(place, runtime_dir, limits=Limits()) as (channel, peer):
        await peer.send(GREETING + pack_header(over, Kind.DATA))
        with peak_below(64 * 1024), pytest.raises(FrameTooLarge) as raised:
            await channel.receive()
        assert (raised.value.size, raised.value.limit) == (over, 64 * 2**20)


@asyncio_only
@ends
async def test_exactly_the_limit_is_accepted(place: str, runtime_dir: Path) -> None:
    whole = bytes(LIMIT)
    parts = frame(Kind.DATA, bytes(LIMIT - 1), 1) + frame(Kind.DATA, b"\0")
    async with attacked_client(place, runtime_dir) as (channel, peer):
        sending = asyncio.create_task(peer.send(GREETING + frame(Kind.DATA, whole) + parts))
        assert await channel.receive() == whole
        assert await channel.receive() == whole
        await sending


@asyncio_only
@pytest.mark.slow
async def test_exactly_the_default_limit_is_accepted(runtime_dir: Path) -> None:
    whole = bytes(64 * 2**20)
    async with attacked_client("unix", runtime_dir, limits=Limits()) as (channel, peer):
        sending = asyncio.create_task(peer.send(GREETING + frame(Kind.DATA, whole)))
        assert await channel.receive() == whole
        await sending


@asyncio_only
async def test_memory_follows_what_came_not_what_was_announced(
    runtime_dir: Path, victims: Victims
) -> None:
    count = scaled(20, full=100)
    announced, block = 16 * 2**20, 128 * 1024
    trickle = bytes(1000)
    async with victims("unix", limits=Limits()) as victim, contextlib.AsyncExitStack() as stack:
        peers = [stack.enter_context(await Bare.at(victim.address)) for _ in range(count)]
        with peak_below(count * (block + 8 * 1024) + 2**20):
            for peer in peers:
                await peer.send(GREETING + pack_header(announced, Kind.DATA))
            for _ in range(10):
                for peer in peers:
                    await peer.send(trickle)
                await victim.assert_serves()
        for peer in peers:
            await peer.finish()
        for _ in peers:
            assert type(await victim.endings.get()) is TruncatedFrame


@asyncio_only
async def test_memory_doubles_with_what_came(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir, limits=Limits()) as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        with peak_below(2 * 2**20):
            await peer.send(GREETING + pack_header(64 * 2**20, Kind.DATA))
            sent = 0
            for _ in range(10):
                await peer.send(bytes(50_000))
                sent += 50_000
                while channel.statistics().read_calls < 1:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await peer.finish()
        with pytest.raises(TruncatedFrame):
            await channel.receive()


# Slow peers: case 8, and the flood of case 34


async def drip(peer: Bare, data: bytes, pause_s: float) -> list[tuple[int, bytes]]:
    """Send byte by byte, until the other side ends it; what it said until then."""
    telling = asyncio.create_task(peer.told())
    for byte in data:
        await peer.send(bytes([byte]))
        done, _ = await asyncio.wait([telling], timeout=pause_s)
        if done:
            return telling.result()
    telling.cancel()
    pytest.fail("nobody was impatient")


@asyncio_only
@places
@pytest.mark.timeout(patience_s(60))
async def test_a_hello_byte_by_byte_is_cut_off_at_the_deadline(
    place: str, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own deadline: one that all share would have ended the one who came first."""
    count = scaled(20, full=200)
    limits = Limits(handshake_s=0.4, max_handshakes=256)
    async with (
        victims(place, limits=limits) as victim,
        victims(place, limits=Limits(handshake_s=3600), name="patient") as patient,
    ):
        fds = open_fds()
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(await Bare.at(patient.address))
            await first.send(GREETING[:1])
            peers = [stack.enter_context(await Bare.at(victim.address)) for _ in range(count)]
            drips = [asyncio.create_task(drip(peer, GREETING, 0.1)) for peer in peers]
            await victim.assert_serves()
            assert not any(task.done() for task in drips), "the good client did not have to wait"
            for said in await asyncio.gather(*drips):
                (begin, _), (last, payload) = said
                assert (begin, last) == (Kind.HELLO, Kind.GOODBYE)
                assert Goodbye.parse(payload).code == GoodbyeCode.HANDSHAKE_TIMEOUT
            await first.finish(GREETING[1:] + frame(Kind.DATA, b"in time") + BYE)
            assert (Kind.DATA, b"in time") in await first.told()
        await victim.assert_serves()
        await victim.assert_settled(fds)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == count
    assert all("sent no HELLO within 0.4 s" in message for message in messages)


@asyncio_only
async def test_a_hello_in_pieces_that_is_in_time(victims: Victims) -> None:
    async with victims("unix") as victim:
        with await Bare.at(victim.address) as peer:
            for byte in GREETING[:-1]:
                await peer.send(bytes([byte]))
                await asyncio.sleep(0)
            await victim.assert_serves()
            await peer.finish(GREETING[-1:] + frame(Kind.DATA, b"at last") + BYE)
            assert (Kind.DATA, b"at last") in await peer.told()


@asyncio_only
async def test_silent_peers_do_not_keep_others_out(
    victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(handshake_s=0.1, max_handshakes=4)
    count = scaled(12, full=1_000)
    async with victims("unix", limits=limits) as victim:
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(await Bare.at(victim.address))
            begun_s = time.monotonic()
            await victim.assert_serves()
            took_s = time.monotonic() - begun_s
        # Who is silent gives way early to those who wait behind it, but not at once.
        turns = count // limits.max_handshakes - 1
        assert took_s >= 0.05 * limits.handshake_s * turns, "no more at a time than allowed"
    assert len(caplog.records) <= count


# Messages that do not come whole: case 9

UNFINISHED: dict[str, tuple[bytes, str]] = {
    "a header": (b"abc", "3 of 8"),
    "a message": (frame(Kind.DATA, bytes(500))[:100], "100 of 508"),
    "a long message": (frame(Kind.DATA, bytes(90_000))[:100], "100 of 90,008"),
    "parts": (PART, "2 of 10"),
    "parts, and one begun": (PART + frame(Kind.DATA, b"cdef")[:10], "12 of 14"),
    "a ping": (frame(Kind.PING, b"ping")[:9], "9 of 12"),
}


@pytest_asyncio.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """Those that were made for messages that had begun."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    timers = []

    def recording(
        delay_s: float, callback: Any, *arguments: Any, **options: Any
    ) -> asyncio.TimerHandle:
        handle = call_later(delay_s, callback, *arguments, **options)
        if isinstance(getattr(callback, "__self__", None), Patience):
            timers.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_later", recording)
    return timers


async def until_waiting(channel: Channel[bytes], waits: int) -> None:
    """Wait until a receive has gone to sleep so many times."""
    async with asyncio.timeout(PATIENCE_S):
        while channel.statistics().receive_waits < waits:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


@asyncio_only
@places
async def test_a_message_byte_by_byte_is_cut_off(
    place: str, victims: Victims, caplog: pytest.LogCaptureFixture
) -> None:
    count = scaled(10, full=100)
    limits = Limits(message_s=0.1)
    async with victims(place, limits=limits) as victim:
        fds = open_fds()
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(await Bare.at(victim.address)) for _ in range(count)]
            for peer in peers:
                await peer.send(GREETING + pack_header(50_000, Kind.DATA))
            drips = [asyncio.create_task(drip(peer, bytes(1_000), 0.02)) for peer in peers]
            await victim.assert_serves()
            for said in await asyncio.gather(*drips):
                (first, _), (last, payload) = said
                goodbye = Goodbye.parse(payload)
                assert (first, last) == (Kind.HELLO, Kind.GOODBYE)
                assert goodbye.code == GoodbyeCode.PROTOCOL_ERROR
                assert "did not finish a message within 0.148 s" in goodbye.reason
        for _ in peers:
            assert type(await victim.endings.get()) is ProtocolError
        await victim.assert_serves()
        await victim.assert_settled(fds)
    assert len(caplog.records) == count


@asyncio_only
@places
@pytest.mark.parametrize("name", UNFINISHED)
async def test_what_is_begun_has_to_be_finished(place: str, name: str, runtime_dir: Path) -> None:
    begun, came = UNFINISHED[name]
    limits = Limits(message_s=0.02)
    async with attacked_client(place, runtime_dir, limits=limits) as (channel, peer):
        await peer.send(GREETING + frame(Kind.DATA, b"whole") + begun)
        assert await channel.receive() == b"whole"
        for _ in range(2):
            with pytest.raises(ProtocolError, match=f": {came} bytes came"):
                await channel.receive()
        (kind, _), (last, payload) = await peer.told()
        assert (kind, last) == (Kind.HELLO, Kind.GOODBYE)
        assert Goodbye.parse(payload).code == GoodbyeCode.PROTOCOL_ERROR
        with pytest.raises(IPCError):
            await channel.send(b"x")


@asyncio_only
async def test_over_a_pipe_it_has_to_be_finished_too() -> None:
    (theirs, to_us), (from_us, ours) = os.pipe(), os.pipe()
    os.write(to_us, GREETING + PART)
    try:
        address = f"fd:{theirs},{ours}"
        async with aioipc.connect(address, codec="raw", limits=Limits(message_s=0.02)) as channel:
            with pytest.raises(ProtocolError, match="2 of 10 bytes"):
                await channel.receive()
        told = list(frames(os.read(from_us, 65536)))
        assert [kind for kind, _ in told] == [Kind.HELLO, Kind.GOODBYE]
    finally:
        for fd in (theirs, to_us, from_us, ours):
            with contextlib.suppress(OSError):  # the channel took it over
                os.close(fd)


@asyncio_only
async def test_the_reader_of_a_fifo_outlives_a_writer_that_did_not_finish(
    runtime_dir: Path,
) -> None:
    limits = Limits(message_s=0.02)
    async with aioipc.listen(f"fifo:{runtime_dir}/fifo", codec="raw", limits=limits) as listener:
        fd = os.open(runtime_dir / "fifo", os.O_WRONLY)
        try:
            os.write(fd, GREETING + PART)
            channel = await anext(aiter(listener))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * limits.message_s):
                    await channel.receive()
            os.write(fd, GREETING + frame(Kind.DATA, b"another writer's"))
            assert await channel.receive() == b"another writer's"
        finally:
            os.close(fd)
        await channel.aclose()


@asyncio_only
@places
async def test_a_message_in_time_has_one_timer(
    place: str, runtime_dir: Path, timers: list[asyncio.TimerHandle]
) -> None:
    async with attacked_client(place, runtime_dir) as (channel, peer):
        await peer.send(GREETING)
        for count in (1, 2):
            receiving = asyncio.create_task(channel.receive())
            rest = frame(Kind.DATA, bytes(LIMIT))
            for size in (5, 100, 100, 100):
                waits = channel.statistics().receive_waits
                await peer.send(rest[:size])
                await until_waiting(channel, waits + 1)
                rest = rest[size:]
            await peer.send(rest)
            assert await receiving == bytes(LIMIT)
            assert len(timers) == count, "it is one for all waits"
            assert timers[-1].cancelled()


@asyncio_only
async def test_an_application_may_take_its_time(
    runtime_dir: Path, timers: list[asyncio.TimerHandle]
) -> None:
    limits = Limits(message_s=0.05)
    message = frame(Kind.DATA, b"at last")
    async with attacked_client("unix", runtime_dir, limits=limits) as (channel, peer):
        await peer.send(GREETING + message[:10])
        receiving = asyncio.create_task(channel.receive())
        await until_waiting(channel, 1)
        while not timers:  # noqa: ASYNC110 - the HELLO may come first
            await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert timers[-1].cancelled()
        await asyncio.sleep(3 * limits.message_s)  # the time in question
        await peer.send(message[10:])
        assert await channel.receive() == b"at last"


@asyncio_only
async def test_waits_for_one_message_count_together(runtime_dir: Path) -> None:
    limits = Limits(message_s=0.1)
    async with attacked_client("unix", runtime_dir, limits=limits) as (channel, peer):
        await peer.send(GREETING + PART)
        with pytest.raises(ProtocolError, match="2 of 10 bytes"):
            await receive_in_turns(channel, limits.message_s / 5)


async def receive_in_turns(channel: Channel[bytes], turn_s: float) -> None:
    for _ in range(100):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(turn_s):
                await channel.receive()


@asyncio_only
async def test_each_message_has_its_time(runtime_dir: Path) -> None:
    limits = Limits(message_s=0.2)
    message = frame(Kind.DATA, b"one of many")
    async with attacked_client("unix", runtime_dir, limits=limits) as (channel, peer):
        receiving = asyncio.create_task(collect(channel, 6))
        await peer.send(GREETING + message[:10])
        for _ in range(5):
            await asyncio.sleep(limits.message_s / 4)  # the time in question
            await peer.send(message[10:] + message[:10])
        await peer.send(message[10:])
        assert await receiving == 6 * [b"one of many"]


async def collect(channel: Channel[bytes], count: int) -> list[bytes]:
    return [await channel.receive() for _ in range(count)]


@asyncio_only
async def test_a_busy_loop_is_not_the_fault_of_the_peer(
    runtime_dir: Path, timers: list[asyncio.TimerHandle]
) -> None:
    limits = Limits(message_s=0.02)
    message = frame(Kind.DATA, bytes(60_000))
    async with attacked_client("unix", runtime_dir, limits=limits) as (channel, peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        receiving = asyncio.create_task(channel.receive())
        await peer.send(GREETING + message[:10])
        while not timers:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        sent = 10 + peer.sock.send(message[10:])
        time.sleep(0.4)  # noqa: ASYNC251 - it is busy
        await peer.send(message[sent:])
        assert await receiving == bytes(60_000)


@asyncio_only
async def test_a_close_stops_the_timer(
    runtime_dir: Path, timers: list[asyncio.TimerHandle]
) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        await peer.send(GREETING + PART)
        while not timers:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        channel.abort()
        with pytest.raises(aioipc.ClosedError):
            await receiving
        assert timers[-1].cancelled()


# Small messages: case 17


TINY = 1_000_000


@asyncio_only
@pytest.mark.parametrize("link", ["unix-listen", "tcp", "pipe", "fifo"], indirect=True)
@pytest.mark.timeout(patience_s(60))
async def test_empty_and_tiny_messages(link: Link) -> None:
    messages = [b"", b"x"] * (TINY // 2)
    async with link(codec="raw") as (left, right):
        sending = asyncio.create_task(left.send_many(messages))
        got: list[bytes] = []
        while len(got) < len(messages):
            got += await right.receive_many()
        await sending
        assert got == messages


@asyncio_only
@ends
async def test_empty_messages_are_no_end(place: str, runtime_dir: Path) -> None:
    async with attacked_client(place, runtime_dir) as (channel, peer):
        await peer.finish(GREETING + frame(Kind.DATA) * 3 + frame(Kind.DATA, b"", 1))
        assert await channel.receive_many() == [b""] * 3
        with pytest.raises(TruncatedFrame):
            await channel.receive()


@asyncio_only
async def test_a_message_of_empty_parts(runtime_dir: Path) -> None:
    async with attacked_client("unix", runtime_dir) as (channel, peer):
        await peer.send(GREETING + frame(Kind.DATA, b"", Flag.MORE) * 1000 + frame(Kind.DATA))
        assert await channel.receive() == b""


# The same bytes, cut anywhere: case 16


class Script:
    """A ByteTransport whose reads bring what they were told to, then the end of the stream."""

    address = "script:"
    peer = None
    capabilities = Capability.STREAM | Capability.DUPLEX
    poll_source = None

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self._pause = False
        self.written = bytearray()

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        self._pause = not self._pause
        if self._pause and self._chunks:
            return None
        if not self._chunks:
            return 0
        chunk = self._chunks.pop(0)
        count = min(len(chunk), len(buffer))
        buffer[:count] = chunk[:count]
        if count < len(chunk):
            self._chunks.insert(0, chunk[count:])
        return count

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        data = b"".join(parts)
        self.written += data
        return len(data)

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        if callback is not None:
            asyncio.get_running_loop().call_soon(callback)

    on_writable = on_readable

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None: ...
    def close(self) -> None: ...


def channel_over(transport: ByteTransport, limits: Limits = LIMITS) -> Channel[bytes]:
    options = ChannelOptions.check("raw", None, limits, "adaptive")
    return options.open_channel(options.open_port(transport))


async def all_received(chunks: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    """The messages in a stream, and what was answered."""
    script = Script(chunks)
    async with channel_over(script) as channel:
        messages = [message async for message in channel]
    return messages, bytes(script.written)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(marks)]


message_parts = st.lists(
    st.one_of(st.binary(max_size=20), st.integers(0, 90_000).map(bytes)), min_size=1, max_size=3
).filter(lambda parts: sum(map(len, parts)) <= LIMIT)


@settings(max_examples=scaled(60, full=5_000))
@given(
    messages=st.lists(message_parts, max_size=6),
    places=st.lists(st.integers(0, 2**20), max_size=12),
    pinged=st.booleans(),
)
@pytest.mark.timeout(patience_s(60))
def test_the_same_messages_however_the_stream_is_cut(
    messages: list[list[bytes]], places: list[int], pinged: bool
) -> None:
    stream = bytearray(GREETING)
    for parts in messages:
        for part in parts[:-1]:
            stream += frame(Kind.DATA, part, Flag.MORE)
            stream += frame(Kind.PING, b"p") if pinged else b""
        stream += frame(Kind.DATA, parts[-1])
    data = bytes(stream + BYE)
    expected = [b"".join(parts) for parts in messages]
    pongs = sum(len(parts) - 1 for parts in messages) if pinged else 0
    cuts = [[data], cut(data, places)]
    if len(data) < 5_000:
        cuts.append([bytes([byte]) for byte in data])
    with asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner:
        for chunks in cuts:
            got, written = runner.run(all_received(chunks))
            assert got == expected
            kinds = [kind for kind, _ in frames(written)]
            assert kinds == [Kind.HELLO, *[Kind.PONG] * pongs, Kind.GOODBYE]


class OneByte:
    """Lets one byte through at each read and write."""

    def __init__(self, stream: ByteTransport) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def try_read_into(self, buffer: memoryview, /) -> int | None:
        return self._stream.try_read_into(buffer[:1])

    def try_write(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> int:
        for part in parts:
            if len(part):
                return self._stream.try_write([memoryview(part)[:1]])
        return 0


@asyncio_only
@pytest.mark.parametrize("size", [0, 1, 7, 8, 65_528, 65_529, LIMIT])
async def test_one_byte_at_a_time(size: int, chance: random.Random) -> None:
    message = chance.randbytes(size)
    ends = [channel_over(OneByte(end)) for end in memory.pair()]
    async with asyncio.timeout(PATIENCE_S), ends[0] as left, ends[1] as right:
        sending = asyncio.create_task(left.send_many([b"before", message, b"after"]))
        assert [await right.receive() for _ in range(3)] == [b"before", message, b"after"]
        await sending
        await left.send_eof()
        with pytest.raises(EndOfStream):
            await right.receive()
