"""Peers on the network that say nothing any more (case 37), at 1/15 of the usual times."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aioipc
from aioipc import Channel, IPCError, Limits, PeerCrashed, WouldBlock
from aioipc.transports._heartbeat import Heartbeat
from aioipc.wire.framing import Kind, pack_header
from aioipc.wire.hello import Hello
from tests.children import Peers
from tests.links import DUPLEX, Link, steps
from tests.programs import ends, program, stuck_send

pytestmark = pytest.mark.asyncio

LIMITS = Limits(heartbeat_s=1, silence_s=3)
SILENCE = r"the peer has been silent for [\d.]+ s, (3|0\.6) s are the limit"
QUICK = Limits(heartbeat_s=0.2, silence_s=0.6)
"""Where the peer really is silent."""

SAY_ONE_THING = """
limits = aioipc.Limits(heartbeat_s=1, silence_s=3)
async with aioipc.connect(sys.argv[1], limits=limits) as channel:
    await channel.send("one thing")
    await channel.flush()
    say("said")
    await hear()
    async for message in channel:
        await channel.send(message)
"""
"""Then it receives nothing until it is told, but its loop turns."""


@asynccontextmanager
async def talkative(
    peers: Peers, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Any, Channel[Any]]]:
    """A process that said one thing, and the channel to it."""
    async with aioipc.listen("tcp://127.0.0.1:0", limits=limits) as listener:
        peer = program(peers, SAY_ONE_THING, listener.address)
        async with await listener.accept() as channel:
            assert await peer.next_line() == "said"
            yield peer, channel


@asynccontextmanager
async def bare(limits: Limits = LIMITS) -> AsyncIterator[tuple[socket.socket, Channel[bytes]]]:
    """A bare socket that has said HELLO, and the channel at its other end."""
    async with aioipc.listen("tcp://127.0.0.1:0", codec="raw", limits=limits) as listener:
        host, _, port = listener.address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.setblocking(False)
            hello = Hello("raw", 2**20).pack()
            sock.send(pack_header(len(hello), Kind.HELLO) + hello)
            channel = await listener.accept()
            try:
                yield sock, channel
            finally:
                channel.abort()


async def frames(sock: socket.socket) -> AsyncIterator[int]:
    """The kinds of what a channel says."""
    loop = asyncio.get_running_loop()
    data = b""
    while more := await loop.sock_recv(sock, 65536):
        data += more
        while len(data) >= 8 and len(data) >= (size := 8 + int.from_bytes(data[:4], "little")):
            yield data[4]
            data = data[size:]


async def test_a_stopped_process(peers: Peers) -> None:
    """Who waits for it to speak, and who waits for it to listen, is told in time."""
    async with talkative(peers) as (peer, channel), talkative(peers) as (deaf, full):
        assert await channel.receive() == "one thing"
        receiving = asyncio.create_task(channel.receive())
        assert await full.receive() == "one thing"
        for process in (peer, deaf):
            process.signal(signal.SIGSTOP)
        sending = await stuck_send(full)
        started = time.monotonic()
        with pytest.raises(PeerCrashed, match=SILENCE):
            await receiving
        with pytest.raises(PeerCrashed, match=SILENCE):
            await sending
        assert time.monotonic() - started < 45 / 15 + 2
        for end in (channel, full):
            with pytest.raises(PeerCrashed, match=SILENCE):
                await end.receive()
            with pytest.raises(PeerCrashed, match=SILENCE):
                await end.send("too late")


async def test_what_it_had_said_before_is_received(peers: Peers) -> None:
    async with talkative(peers, QUICK) as (peer, channel):
        peer.signal(signal.SIGSTOP)
        given_up = asyncio.Event()
        tell = channel.port.fell_silent

        def fell_silent(error: IPCError) -> None:
            tell(error)
            given_up.set()

        channel.port.fell_silent = fell_silent
        await given_up.wait()
        assert await channel.receive() == "one thing"
        with pytest.raises(PeerCrashed, match=SILENCE):
            await channel.receive()


async def test_who_lives_is_not_given_up(peers: Peers) -> None:
    """Idle, not receiving for longer than a silence may be, or done with sending."""
    async with (
        talkative(peers) as (idle, channel),
        talkative(peers) as (busy, full),
        talkative(peers) as (_, unread),
        bare() as (answering, foreign),
        bare() as (finished, half),
    ):
        assert await channel.receive() == "one thing"
        with contextlib.suppress(WouldBlock):
            while True:
                full.send_nowait("x" * 10_000)
        said = full.statistics().messages_sent
        finished.send(pack_header(0, Kind.GOODBYE))
        finished.shutdown(socket.SHUT_WR)

        async def answer() -> None:
            async for kind in frames(answering):
                if kind == Kind.PING:
                    answering.send(pack_header(0, Kind.PONG))

        async def read() -> None:
            with contextlib.suppress(PeerCrashed):
                await foreign.receive()

        answers = [asyncio.create_task(answer()), asyncio.create_task(read())]
        await asyncio.sleep(1.5 * LIMITS.silence_s)  # so long a quiet time is what is looked at
        await channel.send("still there")
        for process in (idle, busy):
            process.tell()
        assert await channel.receive() == "still there"
        assert await full.receive() == "one thing"
        for _ in range(said):
            assert await full.receive() == "x" * 10_000
        assert await unread.receive() == "one thing"
        await foreign.send(b"still there")
        await half.send(b"still there")
        await ends(half)
        for task in answers:
            task.cancel()
        await asyncio.wait(answers)


async def test_a_peer_that_never_answers() -> None:
    async with bare(QUICK) as (sock, channel):
        with pytest.raises(PeerCrashed, match=SILENCE):
            await channel.receive()
        kinds = [kind async for kind in frames(sock)]
        assert kinds[0] == Kind.HELLO
        assert kinds.count(Kind.PING) in (2, 3)
        assert sock.recv(1) == b""


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with aioipc.connect(
            f"tcp://127.0.0.1:{server.getsockname()[1]}", limits=QUICK
        ) as channel:
            with pytest.raises(PeerCrashed, match=SILENCE):
                await channel.receive()


@pytest.mark.parametrize(
    "link", [kind for kind in DUPLEX if not kind.startswith("t")], indirect=True
)
async def test_others_have_none(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kernel objects end with the process, so there is no timer."""
    started = []
    monkeypatch.setattr(Heartbeat, "__init__", lambda *arguments: started.append(arguments))
    async with link(limits=LIMITS) as (left, right):
        await left.send("x")
        await right.receive()
        await steps(3)
    assert not started


async def test_the_kernel_probes_machines_that_are_gone() -> None:
    async with (
        aioipc.listen_stream("tcp://127.0.0.1:0") as listener,
        await aioipc.connect_stream(listener.address) as near,
        await listener.accept() as far,
    ):
        for stream in (near, far):
            view = socket.socket(fileno=stream.transport.fileno())  # type: ignore[attr-defined]
            try:
                assert view.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                probing = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
                found = [view.getsockopt(socket.IPPROTO_TCP, option) for option in probing]
                assert found == [15, 10, 3]
            finally:
                view.detach()


async def test_silence_is_longer_than_the_pause_between_beats() -> None:
    with pytest.raises(ValueError, match="silence_s must be more than heartbeat_s, 5, not 5"):
        Limits(heartbeat_s=5, silence_s=5)
