"""``pipe:`` two anonymous pipes between this process and a child."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AddressError,
    Capability,
    ClosedError,
    EndOfStream,
    PeerCrashed,
    TruncatedFrame,
)
from tests.children import Peers
from tests.programs import ECHO, converse, ends, program

pytestmark = pytest.mark.asyncio


async def test_two_ends_in_one_process() -> None:
    left, right = aioipc.pair("pipe")
    async with left, right:
        assert left.address == right.address == "pipe:"
        assert left.peer is None
        assert left.capabilities == (
            Capability.STREAM | Capability.DUPLEX | Capability.BACKPRESSURE
        )
        await left.send("to the right")
        await right.send("to the left")
        assert await left.receive() == "to the left"
        assert await right.receive() == "to the right"


async def test_an_end_for_a_child(peers: Peers) -> None:
    left, right = aioipc.pair("pipe")
    async with left:
        address, fds = right.detach()
        assert address == f"fd:{fds[0]},{fds[1]}"
        peer = program(peers, ECHO, address, pass_fds=fds)
        for fd in fds:
            os.close(fd)
        await converse(left)
    assert await peer.ended() == 0


async def test_the_child_is_killed(peers: Peers) -> None:
    left, right = aioipc.pair("pipe")
    async with left:
        address, fds = right.detach()
        peer = program(
            peers,
            """
            async with aioipc.connect(sys.argv[1]) as channel:
                await channel.send("the last word")
                await channel.flush()
                say("sent")
                await asyncio.Event().wait()
            """,
            address,
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        assert await peer.next_line() == "sent"
        peer.kill()
        assert await left.receive() == "the last word"
        with pytest.raises(PeerCrashed, match=r"without a goodbye|has ended") as caught:
            await left.receive()
        assert caught.value.status in (None, -9), "its pipe ends shortly before itself"
        with pytest.raises(PeerCrashed):
            await left.send("too late")


async def test_the_child_is_killed_inside_a_message(peers: Peers) -> None:
    left, right = aioipc.pair("pipe", codec="raw")
    async with left:
        address, fds = right.detach()
        peer = program(
            peers,
            """
            async with aioipc.connect(sys.argv[1], codec="raw") as channel:
                task = asyncio.create_task(channel.send(bytes(10_000_000)))
                await asyncio.sleep(0)
                say("sending")
                await task
            """,
            address,
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        assert await peer.next_line() == "sending"
        peer.kill()
        with pytest.raises(TruncatedFrame, match="inside a message"):
            await left.receive()


async def test_a_grandchild_hides_the_death_of_one_that_never_spoke(peers: Peers) -> None:
    """Without its HELLO the end comes with the last copy of the descriptor, and not before."""
    left, right = aioipc.pair("pipe")
    async with left:
        address, fds = right.detach()
        peer = program(
            peers,
            """
            import subprocess
            fds = [int(fd) for fd in sys.argv[1].removeprefix("fd:").split(",")]
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=fds)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            address,
            pass_fds=fds,
        )
        for fd in fds:
            os.close(fd)
        assert await peer.ended() == -9
        # cat ends because its stdin did; only then is the pipe at its end.
        with pytest.raises(PeerCrashed):
            await left.receive()


async def test_each_direction_ends_by_itself() -> None:
    left, right = aioipc.pair("pipe")
    async with left, right:
        await left.send("last")
        await left.send_eof()
        assert await right.receive() == "last"
        await ends(right)
        await right.send("answer")
        assert await left.receive() == "answer"
        with pytest.raises(ClosedError):
            await left.send("more")


@pytest.mark.parametrize("framing", ["lines", "headers", "none"])
async def test_foreign_framings(framing: str) -> None:
    left, right = aioipc.pair("pipe", codec="text", framing=framing)
    async with left, right:
        await left.send("")
        await left.send("there")
        if framing != "none":
            assert await right.receive() == ""
        assert await right.receive() == "there"
        await right.send("back")
        assert await left.receive() == "back"
        await left.send_eof()
        with pytest.raises(EndOfStream):
            await right.receive()


@pytest.mark.parametrize("verb", ["connect", "listen"])
async def test_it_has_pairs_only(verb: str) -> None:
    with pytest.raises(AddressError, match=f"pipe: has no {verb}, only pair"):
        getattr(aioipc, verb)("pipe:")


async def test_nothing_follows_the_colon() -> None:
    with pytest.raises(AddressError, match="wrong rest 'x'; right would be nothing"):
        aioipc.pair("pipe:x")


async def test_detach_comes_first(tmp_path: Path) -> None:
    left, right = aioipc.pair("pipe")
    async with left, right:
        await right.send("something")
        with pytest.raises(RuntimeError, match="before the first send"):
            right.detach()
        await left.receive()
    with pytest.raises(ClosedError):
        right.detach()


async def test_detach_closes_the_channel() -> None:
    left, right = aioipc.pair("pipe")
    async with left:
        _, fds = right.detach()
        with pytest.raises(ClosedError, match="detached"):
            await right.receive()
        assert len(set(fds)) == 2
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
        with pytest.raises(PeerCrashed):
            async with asyncio.timeout(10):
                await left.receive()
