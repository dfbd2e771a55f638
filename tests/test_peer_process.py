"""The death of a peer whose socket lives on in a child that inherited it: fault case 22."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import aioipc
from aioipc import Channel, EndOfStream, PeerCrashed
from tests.children import Peer, Peers
from tests.programs import loop_name, program, source

KINDS = ("unix:", "unix+seqpacket:", "shm:")
PAIRS = ("unix", "unix+seqpacket", "shm", "pipe")

LEAVES_A_CHILD = """
import subprocess
if sys.argv[2] == "listen":
    listener = await aioipc.listen(sys.argv[1])
    say(listener.address)
    channel = await listener.accept()
else:
    channel = await aioipc.connect(sys.argv[1])
await channel.send("hello")
stream = channel.port.transport
copies = [os.dup(fd) for fd in getattr(stream, "fds", [channel.port.socket_fd])]
child = subprocess.Popen(["sleep", "1000"], pass_fds=copies)
say(child.pid)
await hear()
await channel.send("last")
if await hear() == "leave":
    await channel.aclose()
await asyncio.sleep(1000)
"""


@pytest.fixture
def orphans() -> Iterator[list[int]]:
    """Processes that outlive their parent, for a while."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.leaves_names
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["connect", "listen"])
@pytest.mark.asyncio
async def test_a_grandchild_holds_the_socket(
    kind: str, role: str, peers: Peers, orphans: list[int]
) -> None:
    if role == "connect":
        async with aioipc.listen(kind) as listener:
            peer = program(peers, LEAVES_A_CHILD, listener.address, role)
            channel = await listener.accept()
    else:
        peer = program(peers, LEAVES_A_CHILD, kind, role)
        channel = await aioipc.connect(await peer.next_line())
    await assert_missed(channel, peer, orphans)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.asyncio
async def test_a_grandchild_holds_the_end_of_a_pair(
    kind: str, peers: Peers, orphans: list[int]
) -> None:
    channel, theirs = aioipc.pair(kind)
    peer = with_end(peers, LEAVES_A_CHILD, theirs, "pair")
    await assert_missed(channel, peer, orphans)


async def assert_missed(channel: Channel[str], peer: Peer, orphans: list[int]) -> None:
    """Kill a peer that leaves a child behind, and see its end, after what it has said."""
    async with channel:
        assert await channel.receive() == "hello"
        orphans.append(int(await peer.next_line()))
        waiting = asyncio.create_task(channel.receive())
        peer.tell()
        assert await waiting == "last"
        waiting = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        peer.signal(signal.SIGKILL)
        async with asyncio.timeout(1):
            with pytest.raises(PeerCrashed, match="the peer was killed by SIGKILL") as crash:
                await waiting
            assert crash.value.status == -signal.SIGKILL
            with pytest.raises(PeerCrashed):
                await channel.send("is anybody there?")
        assert await peer.ended() == -signal.SIGKILL, "it is for its parent to reap"


def with_end(peers: Peers, code: str, end: Channel[Any], *arguments: object) -> Peer:
    """Start a program whose first argument is the address of an end of a pair."""
    address, fds = end.detach()
    peer = program(peers, code, address, *arguments, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    return peer


REPORTS = """
channel = await aioipc.connect(sys.argv[1])
os.write(int(sys.argv[2]), (await channel.receive()).encode())
try:
    await channel.receive()
except aioipc.PeerCrashed:
    os.write(int(sys.argv[2]), b"crashed")
"""
MAKES_A_PAIR = """
import subprocess
left, right = aioipc.pair(sys.argv[1])
address, fds = right.detach()
report, command = sys.argv[2], [sys.executable, "-c", sys.argv[3], sys.argv[4]]
subprocess.Popen([*command, address, report], pass_fds=[*fds, int(report)])
for fd in fds:
    os.close(fd)
await left.send("hello")
stream = left.port.transport
copies = [os.dup(fd) for fd in getattr(stream, "fds", [left.port.socket_fd])]
say(subprocess.Popen(["sleep", "1000"], pass_fds=copies).pid)
await asyncio.sleep(1000)
"""


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.asyncio
async def test_a_child_misses_the_parent_that_made_the_pair(
    kind: str, peers: Peers, orphans: list[int]
) -> None:
    reader, writer = os.pipe()
    try:
        words = (kind, writer, source(REPORTS), loop_name())
        peer = program(peers, MAKES_A_PAIR, *words, pass_fds=[writer])
        orphans.append(int(await peer.next_line()))
        assert await asyncio.to_thread(os.read, reader, 10) == b"hello"
        peer.kill()
        assert await asyncio.to_thread(os.read, reader, 10) == b"crashed"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.asyncio
async def test_somebody_else_whom_a_hello_names_is_not_watched(kind: str, peers: Peers) -> None:
    stranger = peers.script("input()")
    channel, theirs = aioipc.pair(kind)
    peer = with_end(
        peers,
        """
        from dataclasses import replace
        from aioipc.wire.hello import Hello
        pack = Hello.pack
        Hello.pack = lambda own: pack(replace(own, pid=int(sys.argv[2])))
        channel = await aioipc.connect(sys.argv[1])
        await channel.send("hello")
        await hear()
        await channel.send("still here")
        await channel.aclose()
        """,
        theirs,
        stranger.pid,
    )
    async with channel:
        assert await channel.receive() == "hello"
        assert channel.port.peer_hello.pid == stranger.pid
        stranger.kill()
        waiting = asyncio.create_task(channel.receive())
        peer.tell()
        assert await waiting == "still here"
        with pytest.raises(EndOfStream):
            await channel.receive()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_what_arrived_comes_first(kind: str, peers: Peers, orphans: list[int]) -> None:
    async with aioipc.listen(kind) as listener:
        peer = program(peers, LEAVES_A_CHILD, listener.address, "connect")
        async with await listener.accept() as channel:
            orphans.append(int(await peer.next_line()))
            peer.tell()
            peer.tell("leave")
            peer.kill()
            found = [await channel.receive()]
            with contextlib.suppress(PeerCrashed, EndOfStream):
                found += [await channel.receive(), await channel.receive()]
            assert found in (["hello"], ["hello", "last"])


@pytest.mark.asyncio
async def test_many_channels_of_one_process_cost_one_descriptor(peers: Peers) -> None:
    async with aioipc.listen("unix:") as listener:
        program(
            peers,
            """
            channels = [await aioipc.connect(sys.argv[1]) for _ in range(50)]
            for channel in channels:
                await channel.send("hello")
            await asyncio.sleep(1000)
            """,
            listener.address,
        )
        channels = [await listener.accept() for _ in range(50)]
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in _fds()]
        assert sum("pidfd" in link for link in links) <= 1
        for channel in channels:
            await channel.aclose()
        assert not any("pidfd" in os.readlink(f"/proc/self/fd/{fd}") for fd in _fds())


def _fds() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{name}"):
            yield int(name)
