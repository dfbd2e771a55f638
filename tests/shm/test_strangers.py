"""Rings between two users, whose bells are bytes on the socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    Channel,
    EndOfStream,
    FrameTooLarge,
    HandshakeError,
    Limits,
    PeerCrashed,
    PeerCredentials,
    WouldBlock,
)
from tests.children import PATIENCE_S, Peer, Peers
from tests.kernel.strangers import NOBODY, as_root, public
from tests.programs import AS_NOBODY, program
from tests.shm.bare import CAPACITY, LIMITS

__all__ = ["public"]

pytestmark = [pytest.mark.asyncio, as_root]

BECOME = AS_NOBODY.replace('"transports.unix"', '"transports.unix", "transports.shm"')
CONNECT = (
    BECOME
    + """
limits = aioipc.Limits(ring_bytes=65536)
polling = sys.argv[3] if len(sys.argv) > 3 else "adaptive"
try:
    channel = await aioipc.connect(sys.argv[1], codec="raw", limits=limits, polling=polling)
except aioipc.IPCError as error:
    say(type(error).__name__, error)
    return
say("connected")
"""
)
CLIENTS = {
    "echo": "await echo(channel); await channel.aclose()",
    "sleep": "await hear()",
    "bye": "await hear(); await channel.send(b'bye'); await channel.aclose(); await hear()",
    "crash": "await hear(); await channel.send(b'bye'); await channel.flush(); os._exit(0)",
}


@contextlib.asynccontextmanager
async def stranger(
    directory: Path, peers: Peers, role: str, polling: str = "adaptive"
) -> AsyncIterator[tuple[Channel[bytes], Peer]]:
    """Yield a channel to a process of another user."""
    address = f"shm:{directory}/socket"
    async with aioipc.listen(
        address, codec="raw", limits=LIMITS, polling=polling, allow=lambda peer: True
    ) as listener:
        client = program(peers, CONNECT + CLIENTS[role], address, role, polling)
        async with asyncio.timeout(PATIENCE_S):
            channel = await listener.accept()
    assert await client.next_line() == "connected"
    try:
        yield channel, client
    finally:
        channel.abort()


@pytest.mark.parametrize("polling", ["block", "adaptive"])
async def test_there_and_back(polling: str, public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "echo", polling) as (channel, client):
        assert channel.peer is not None
        assert (channel.peer.pid, channel.peer.uid) == (client.pid, NOBODY)
        for number in range(500):
            await channel.send(b"%d" % number)
            assert await channel.receive() == b"%d" % number
        large = bytes(range(256)) * 2_000  # several times what the ring holds
        for _ in range(5):
            sending = asyncio.create_task(channel.send(large))
            assert await channel.receive() == large
            await sending
        assert channel.statistics().bells_rung > 0
        await channel.send_eof()
        with pytest.raises(EndOfStream):
            await channel.receive()
        assert await client.ended() == 0


async def test_sleepers_are_woken(public: Path, peers: Peers) -> None:
    """Each in turn has nothing to receive, and no room to send."""
    async with stranger(public, peers, "echo", "block") as (channel, _):
        for _ in range(20):
            receiving = asyncio.create_task(channel.receive())
            await asyncio.sleep(0)
            await channel.send(b"wake up")
            assert await receiving == b"wake up"
        messages = [b"%d" % number + bytes(1_000) for number in range(1_000)]
        sending = asyncio.create_task(channel.send_many(messages))
        for message in messages:
            assert await channel.receive() == message
        await sending


async def test_messages_are_limited(public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "echo") as (channel, _):
        with pytest.raises(FrameTooLarge, match="over the limit of 1,048,576 bytes"):
            await channel.send(bytes(2**20 + 1))
        sending = asyncio.create_task(channel.send(bytes(2**20)))
        assert await channel.receive() == bytes(2**20)
        await sending


@pytest.mark.parametrize("waiting", ["to receive", "for room"])
async def test_a_killed_stranger(waiting: str, public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "sleep") as (channel, client):
        sent = 0
        if waiting == "for room":
            with contextlib.suppress(WouldBlock):
                while True:
                    channel.send_nowait(bytes(1_000))
                    sent += 1
            task: asyncio.Task[object] = asyncio.create_task(channel.send(bytes(1_000)))
        else:
            task = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        client.kill()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PeerCrashed) as raised:
                await task
        if sent:
            assert raised.value.unconsumed == sent


async def test_a_stranger_that_closes(public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "bye") as (channel, client):
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        client.tell()
        assert await receiving == b"bye"
        with pytest.raises(EndOfStream):
            await channel.receive()
        client.tell()
        assert await client.ended() == 0


async def test_a_stranger_that_leaves(public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "crash") as (channel, client):
        client.tell()
        assert await channel.receive() == b"bye"
        with pytest.raises(PeerCrashed):
            await channel.receive()


async def test_a_stranger_that_hears_of_our_end(public: Path, peers: Peers) -> None:
    async with stranger(public, peers, "echo") as (channel, client):
        await channel.aclose()
        assert await client.ended() == 0


# Who trusts whom


async def test_the_default_keeps_them_out(public: Path, peers: Peers) -> None:
    async with aioipc.listen(f"shm:{public}/socket") as listener:
        client = program(peers, CONNECT, listener.address)
        line = await client.next_line()
        assert line.startswith("AccessDenied")
        assert "Permission denied" in line


async def test_allow_keeps_them_out(
    public: Path, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    def only_us(peer: PeerCredentials) -> bool:
        return peer.uid == 0

    async with aioipc.listen(f"shm:{public}/socket", allow=only_us) as listener:
        client = program(peers, CONNECT, listener.address)
        line = await client.next_line()
        assert line.startswith("AccessDenied")
        assert f"uid {NOBODY} may not connect" in line
    assert len(caplog.messages) == 1


SERVER = (
    BECOME
    + """
async with aioipc.listen(sys.argv[1], allow=lambda peer: True) as listener:
    say("listening")
    await listener.serve(echo)
"""
)


async def test_a_client_does_not_take_part_in_their_rings(public: Path, peers: Peers) -> None:
    """Unless it says so; then there are no bells that they could block."""
    os.chown(public, NOBODY, NOBODY)
    address = f"shm:{public}/socket"
    server = program(peers, SERVER, address)
    assert await server.next_line() == "listening"
    with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
        await aioipc.connect(address)
    with pytest.raises(AccessDenied, match=f"its server runs as uid {NOBODY}, which allow="):
        await aioipc.connect(address, allow=lambda peer: peer.uid == 0)
    async with aioipc.connect(address, allow=lambda peer: peer.uid == NOBODY) as channel:
        assert channel.peer == PeerCredentials(server.pid, NOBODY, NOBODY)
        assert not channel.port.transport._rings.bells
        for number in range(100):
            await channel.send(number)
            assert await channel.receive() == number


HOSTILE = (
    AS_NOBODY
    + """
from tests.shm.bare import BareEnd
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1].partition(":")[2])
server.listen()
say("listening")
sock, _ = await asyncio.to_thread(server.accept)
BareEnd.offering(sock)
await hear()
"""
)


async def test_their_bells_are_refused(public: Path, peers: Peers) -> None:
    """O_NONBLOCK is a flag of what both sides share: it would be theirs to clear."""
    os.chown(public, NOBODY, NOBODY)
    address = f"shm:{public}/socket"
    code = HOSTILE.replace("from importlib", "import tests.shm.bare\nfrom importlib", 1)
    server = program(peers, code, address, env={"PYTHONPATH": os.getcwd()})
    assert await server.next_line() == "listening"
    limits = Limits(ring_bytes=CAPACITY)
    with pytest.raises(HandshakeError, match=f"uid {NOBODY} offers bells that it could block"):
        await aioipc.connect(address, limits=limits, allow=lambda peer: True)
