"""The death of a peer whose socket lives on in a child that inherited it: fault case 22."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

import aioipc
from aioipc import EndOfStream, PeerCrashed
from tests.children import Peers
from tests.programs import program

KINDS = ("unix:", "unix+seqpacket:", "shm:")

LEAVES_A_CHILD = """
import subprocess
if sys.argv[2] == "connect":
    channel = await aioipc.connect(sys.argv[1])
else:
    listener = await aioipc.listen(sys.argv[1])
    say(listener.address)
    channel = await listener.accept()
await channel.send("hello")
copy = os.dup(channel.port.socket_fd)
child = subprocess.Popen(["sleep", "1000"], pass_fds=[copy])
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
    assert await channel.receive() == "hello"
    orphans.append(int(await peer.next_line()))
    waiting = asyncio.create_task(channel.receive())
    peer.tell()
    assert await waiting == "last"
    waiting = asyncio.create_task(channel.receive())
    await asyncio.sleep(0)
    peer.kill()
    async with asyncio.timeout(1):
        with pytest.raises(PeerCrashed):
            await waiting
        with pytest.raises(PeerCrashed):
            await channel.send("is anybody there?")
    await channel.aclose()


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
