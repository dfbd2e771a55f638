"""``unix+seqpacket:`` connections that keep the boundaries of packets (cases 34 to 36)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    AddressError,
    Capability,
    Channel,
    ConnectError,
    EndOfStream,
    FrameTooLarge,
    Limits,
    PeerCrashed,
    PeerCredentials,
    ProtocolError,
    ResourceExhausted,
    TruncatedFrame,
    WouldBlock,
)
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import GoodbyeCode, Hello
from tests.children import Peers
from tests.links import steps
from tests.programs import ECHO, SERVE_ECHO, converse, ends, program, stuck_send

pytestmark = pytest.mark.asyncio

US = (os.geteuid(), os.getegid())
MOST = 65_536
"""Bytes in a packet."""


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return pack_header(len(payload), kind, flags) + payload


GREETING = frame(Kind.HELLO, Hello("raw", 2**26).pack())
BYE = frame(Kind.GOODBYE)


@asynccontextmanager
async def bare(**options: Any) -> AsyncIterator[tuple[socket.socket, Channel[bytes]]]:
    """A bare socket, and the channel at its other end."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left:
        left.setblocking(False)
        async with aioipc.connect(f"fd:{right.detach()}", codec="raw", **options) as channel:
            yield left, channel


async def packet(sock: socket.socket) -> bytes:
    """The next one from a channel."""
    return await asyncio.get_running_loop().sock_recv(sock, 2 * MOST)


# Between processes


@pytest.fixture(params=["path", "name", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "path": f"unix+seqpacket:{tmp_path}/socket",
        "name": "unix+seqpacket:a-name",
        "abstract": f"unix+seqpacket:@aioipc-test-{os.getpid()}",
    }[str(request.param)]


@pytest.mark.leaves_names
async def test_a_server_in_another_process(address: str, peers: Peers) -> None:
    code = SERVE_ECHO.replace("sys.argv[1])", "sys.argv[1], allow=aioipc.same_user)")
    server = program(peers, code, address)
    assert await server.next_line() == address
    async with aioipc.connect(address) as channel:
        assert channel.address == address
        assert channel.peer == PeerCredentials(server.pid, *US)
        assert channel.capabilities == (
            Capability.MESSAGE
            | Capability.DUPLEX
            | Capability.BACKPRESSURE
            | Capability.CREDENTIALS
            | Capability.FDS
        )
        await converse(channel)
    async with aioipc.connect(address) as channel:
        await channel.send("works")
        assert await channel.receive() == "works"
        server.kill()
        with pytest.raises(PeerCrashed):
            await channel.receive()
        await steps(2)  # else it is gathered, if all of this took no turn of the loop
        with pytest.raises(PeerCrashed):
            await channel.send("too late")
    with pytest.raises(ConnectError):
        await aioipc.connect(address)


async def test_an_end_for_a_child(peers: Peers) -> None:
    left, right = aioipc.pair("unix+seqpacket")
    async with left:
        address, fds = right.detach()
        assert address == f"fd:{fds[0]}"
        peer = program(peers, ECHO, address, pass_fds=fds)
        os.close(fds[0])
        assert left.peer == PeerCredentials(os.getpid(), *US)
        await converse(left)
    assert await peer.ended() == 0


async def test_a_name_is_taken_once() -> None:
    async with aioipc.listen("unix+seqpacket:name"), aioipc.listen("unix:name"):
        with pytest.raises(ResourceExhausted, match="address in use"):
            await aioipc.listen("unix+seqpacket:name")


async def test_a_socket_of_another_kind_serves_that_path(tmp_path: Path) -> None:
    async with aioipc.listen(f"unix:{tmp_path}/socket"):
        with pytest.raises(ConnectError, match="Protocol wrong type"):
            await aioipc.connect(f"unix+seqpacket:{tmp_path}/socket")


@pytest.mark.parametrize("framing", ["lines", "headers", "none"])
async def test_a_framing_has_nothing_to_do(framing: str) -> None:
    for call in (aioipc.connect, aioipc.listen, lambda _, **options: aioipc.pair(KIND, **options)):
        with pytest.raises(ValueError, match="carries whole messages"):
            call("unix+seqpacket:name", framing=framing)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, pytest.raises(AddressError, match="carries whole messages"):
        await aioipc.connect(f"fd:{right.detach()}", framing=framing)


KIND = "unix+seqpacket"


async def test_it_is_no_byte_stream() -> None:
    async with aioipc.listen("unix+seqpacket:name"):
        with pytest.raises(AddressError, match="carries messages, not bytes"):
            await aioipc.connect_stream("unix+seqpacket:name")
    with pytest.raises(AddressError, match="carries messages, not bytes"):
        await aioipc.listen_stream("unix+seqpacket:name")


async def test_a_socket_without_connections_is_no_descriptor_of_ours() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right, pytest.raises(AddressError, match="without connections"):
        await aioipc.connect(f"fd:{right.fileno()}")


async def test_a_socket_of_packets_goes_both_ways() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, pytest.raises(AddressError, match="for both ways"):
        await aioipc.connect(f"fd:{left.fileno()},{right.fileno()}")


# What is in the packets


async def test_a_packet_holds_whole_frames() -> None:
    async with bare() as (sock, channel):
        await channel.send(b"first")
        await channel.send_many([b"%d" % number for number in range(100)])
        sending = asyncio.create_task(channel.send(b"l" * 200_000))  # more than a socket may hold
        data: list[bytes] = []
        while sum(map(len, data)) < len(GREETING) + 102 * 8 + 5 + 190 + 200_000 + 3 * 8:
            data.append(await packet(sock))
        await sending
        assert len(data) <= 7
        assert max(map(len, data)) <= MOST
        joined = b""
        for one in data:
            rest = one
            while rest:
                size = int.from_bytes(rest[:4], "little")
                assert len(rest) >= 8 + size
                joined += rest[8 : 8 + size] if rest[4] == Kind.DATA else b""
                rest = rest[8 + size :]
        assert joined == b"first" + b"".join(b"%d" % n for n in range(100)) + b"l" * 200_000


@pytest.mark.parametrize("size", [0, 1, 57_335, 57_336, 57_337, 65_528, 65_529, 114_673, 3_000_000])
async def test_every_size(size: int) -> None:
    left, right = aioipc.pair(KIND, codec="raw")
    async with left, right:
        for message in (bytes(size), bytearray(size)):
            sending = asyncio.create_task(left.send(message))
            assert await right.receive() == message
            await sending


async def test_many_messages_leave_in_few_packets() -> None:
    left, right = aioipc.pair(KIND, codec="raw")
    async with left, right:
        await left.send_many([b"x" * 64] * 100)
        await left.flush()
        got: list[bytes] = []
        while len(got) < 100:
            got += await right.receive_many(100)
        assert left.statistics().write_calls <= 3
        assert right.statistics().read_calls <= 4


@pytest.mark.parametrize("in_look_ahead", [False, True])
async def test_what_was_sent_before_a_close_with_unread_data(in_look_ahead: bool) -> None:
    """The kernel reports the reset first, and then what came before it (case 38)."""
    async with bare() as (sock, channel):
        sock.send(GREETING)
        sock.send(frame(Kind.DATA, b"one") + frame(Kind.DATA, b"two"))
        await channel.send(b"never read")
        sock.close()
        if in_look_ahead:
            await channel.send(b"too late")  # gathered, for this turn has sent already
            with pytest.raises(PeerCrashed):
                await channel.flush()
        assert await channel.receive() == b"one"
        assert await channel.receive() == b"two"
        with pytest.raises(PeerCrashed):
            await channel.receive()


# Breaches


BREACHES: dict[str, tuple[bytes, str]] = {
    "an empty packet": (b"", "an empty packet"),
    "half a header": (frame(Kind.DATA, b"x")[:5], "ends inside a header, after 5 bytes"),
    "a header alone": (pack_header(5, Kind.DATA), "ends inside a frame of 5 bytes, after 0"),
    "half a frame": (frame(Kind.DATA, b"hello")[:-2], "ends inside a frame of 5 bytes, after 3"),
    "half a frame behind one": (
        frame(Kind.DATA, b"whole") + frame(Kind.DATA, b"hello")[:-2],
        "ends inside a frame of 5 bytes, after 3",
    ),
    "a long packet": (frame(Kind.DATA, bytes(MOST)), "a packet over the limit of 65,536 bytes"),
    "a frame longer than any packet": (
        frame(Kind.DATA, bytes(99_999))[:1_000],
        "ends inside a frame of 99,999 bytes, after 992",
    ),
    "an unknown kind": (frame(9), "unknown kind 9"),
}


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("polling", ["block", "busy"])
async def test_a_breach(breach: str, polling: str) -> None:
    data, message = BREACHES[breach]
    async with bare(polling=polling) as (sock, channel):
        sock.send(GREETING)
        sock.send(frame(Kind.DATA, b"good"))
        assert await channel.receive() == b"good"
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        sock.send(data)
        if "behind one" in breach:
            assert await receiving == b"whole"
            receiving = asyncio.create_task(channel.receive())
        with pytest.raises(ProtocolError, match=message):
            await receiving
        with pytest.raises(ProtocolError, match=message):
            await channel.send(b"too late")
        said = await packet(sock)
        assert said.startswith(GREETING[:8])
        code = said[len(GREETING) + 8 :][:2] or (await packet(sock))[8:10]
        assert int.from_bytes(code, "little") == GoodbyeCode.PROTOCOL_ERROR
        assert await packet(sock) == b""


async def test_an_empty_packet_with_others_behind_it() -> None:
    async with bare() as (sock, channel):
        sock.send(GREETING)
        sock.send(b"")
        sock.send(frame(Kind.DATA, b"never seen"))
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError, match="an empty packet"):
            await channel.receive()


async def test_the_end_is_no_empty_packet() -> None:
    async with bare() as (sock, channel):
        sock.send(GREETING)
        sock.send(frame(Kind.DATA, b"last") + BYE)
        sock.shutdown(socket.SHUT_WR)
        assert await channel.receive() == b"last"
        await ends(channel)
        await channel.send(b"one direction goes on")
        assert (await packet(sock)).endswith(b"one direction goes on")
    async with bare() as (sock, channel):
        sock.send(GREETING)
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerCrashed, match="without a goodbye"):
            await channel.receive()


async def test_an_end_between_the_parts_of_a_message() -> None:
    async with bare() as (sock, channel):
        sock.send(GREETING)
        sock.send(frame(Kind.DATA, b"half", Flag.MORE))
        sock.close()
        with pytest.raises(TruncatedFrame):
            await channel.receive()


async def test_parts_over_the_limit() -> None:
    async with bare(limits=Limits(max_message_bytes=100_000)) as (sock, channel):
        sock.send(GREETING)
        sock.send(frame(Kind.DATA, bytes(60_000), Flag.MORE))
        sock.send(frame(Kind.DATA, bytes(60_000)))
        with pytest.raises(FrameTooLarge) as caught:
            await channel.receive()
        assert (caught.value.size, caught.value.limit) == (120_000, 100_000)
        with pytest.raises(FrameTooLarge):
            await channel.send(bytes(100_001))


# A receiver that does not receive (case 36)

RECEIVE = """
async with aioipc.connect(sys.argv[1]) as channel:
    say("ready")
    count = 0
    async for message in channel:
        count += 1
        await channel.send([count, len(message)])
"""


@pytest.mark.parametrize("size", [1_000, 300_000])
async def test_a_stopped_receiver(size: int, peers: Peers) -> None:
    left, right = aioipc.pair(KIND)
    async with left:
        address, fds = right.detach()
        peer = program(peers, RECEIVE, address, pass_fds=fds)
        os.close(fds[0])
        assert await peer.next_line() == "ready"
        peer.signal(signal.SIGSTOP)
        sent = 0
        with contextlib.suppress(WouldBlock):
            while True:
                left.send_nowait("x" * size)
                sent += 1
        cancelled = [asyncio.create_task(left.send("y" * size)) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in cancelled)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        assert all(task.cancelled() for task in cancelled)
        peer.signal(signal.SIGCONT)
        await left.send("last")
        for number in range(1, sent + 1):
            assert await left.receive() == [number, size]
        assert await left.receive() == [sent + 1, 4]


async def test_a_receiver_that_dies_ends_the_wait() -> None:
    left, right = aioipc.pair(KIND)
    async with left:
        waiting = await stuck_send(left)
        right.abort()
        with pytest.raises(PeerCrashed):
            await waiting


async def test_both_directions_end_by_themselves() -> None:
    left, right = aioipc.pair(KIND)
    async with left, right:
        await left.send_eof()
        with pytest.raises(EndOfStream):
            await right.receive()
        await right.send("still")
        assert await left.receive() == "still"


@pytest.mark.parametrize("room", [4_608, 20_000])
async def test_a_small_send_buffer(room: int) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room // 2)
    async with (
        aioipc.connect(f"fd:{left.detach()}", codec="raw") as near,
        aioipc.connect(f"fd:{right.detach()}", codec="raw") as far,
    ):
        for size in (0, 3_000, 100_000):
            sending = asyncio.create_task(near.send(bytes(size)))
            assert await far.receive() == bytes(size)
            await sending


SHORT_OF_MEMORY = """
    from tests.links import steps
    from tests.shortage import little_memory

    limits = aioipc.Limits(max_message_bytes=2**27)
    left, right = aioipc.pair(sys.argv[1], codec="raw", limits=limits)
    async with left, right:
        await left.send(b"hello")
        assert await right.receive() == b"hello"
        sending = asyncio.create_task(left.send(bytes(2**27)))
        await steps(5)
        with little_memory():
            try:
                await right.receive()
            except aioipc.ResourceExhausted as error:
                say(error)
        for failing in (right.receive(), sending):
            try:
                await failing
            except aioipc.IPCError as error:
                say(type(error).__name__, error)
"""


async def test_no_memory_for_the_parts_of_a_message(peers: Peers) -> None:
    """It does not come without some of them when there is memory again."""
    short = program(peers, SHORT_OF_MEMORY, KIND)
    assert "no memory for" in await short.next_line()
    for kind in ("ResourceExhausted", "QuotaExceeded"):
        line = await short.next_line()
        assert line.startswith(kind)
        assert "no memory for" in line
    assert await short.ended() == 0
