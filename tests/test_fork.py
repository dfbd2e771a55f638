"""What a forked or started child gets of our channels: nothing that it could break. 79, 80."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import Channel
from tests.children import Peers, in_child
from tests.links import Link
from tests.programs import loop_name

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).parents[1]

LIST_FDS = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{name}"))
    except FileNotFoundError:  # the listing's own
        pass
"""


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


def listed_by_a_child() -> set[str]:
    """What a program has open that was started with everything inheritable handed down."""
    command = [sys.executable, "-c", LIST_FDS]
    told = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, check=True)
    return set(told.stdout.decode().split())


def is_refused(operation: Callable[[], Any]) -> None:
    with pytest.raises(aioipc.ForkError):
        operation()


async def test_every_use_in_a_forked_child_is_refused(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"before")

        def look() -> None:
            is_refused(lambda: left.send_nowait(b"from the child"))
            is_refused(right.receive_nowait)
            is_refused(lambda: left.send(b"from the child").send(None))
            is_refused(lambda: right.receive().send(None))
            is_refused(left.detach)

        assert in_child(look) == 0
        assert await right.receive() == b"before"


async def test_a_child_that_closes_its_copies_leaves_the_parent_alone(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"1")
        assert await right.receive() == b"1"  # its reader is registered now

        def look() -> None:
            left.abort()
            right.abort()

        assert in_child(look) == 0
        for number in range(100):
            await left.send(bytes([number]))
            assert await right.receive() == bytes([number])


def fds_of(channel: Channel[Any]) -> tuple[int, ...]:
    return tuple(channel._stream.fds)


@pytest.mark.parametrize("kind", ["unix", "pipe"])
async def test_the_copies_of_a_child_are_closed(kind: str) -> None:
    left, right = aioipc.pair(kind)
    async with left, right:
        await left.send("x")
        fds = fds_of(left) + fds_of(right)

        def look() -> None:
            for fd in fds:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)

        assert in_child(look) == 0
        assert await right.receive() == "x"


async def test_the_end_of_the_parent_is_seen_although_a_child_lives() -> None:
    left, right = aioipc.pair("unix")
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writes)
        os.read(reads, 1)  # until the parent lets go
        os._exit(0)
    try:
        async with right:
            left.abort()
            with pytest.raises(aioipc.PeerCrashed):
                await right.receive()
    finally:
        os.close(writes)
        os.close(reads)
        reap(pid)


@pytest.mark.parametrize("kind", ["unix", "pipe"])
async def test_a_started_program_inherits_nothing_of_ours(kind: str) -> None:
    left, right = aioipc.pair(kind)
    async with left, right, aioipc.listen("unix:"):
        await left.send("x")
        await right.receive()
        ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in fds_of(left) + fds_of(right)}
        assert not ours & listed_by_a_child()


async def test_everything_that_can_be_open(peers: Peers) -> None:
    """Children close or drop all of it, and use a loop of their own; the parent goes on."""
    peer = peers.module("tests.peers.forking", loop_name(), cwd=ROOT)
    assert await peer.next_line() == "fine"
    assert await peer.ended() == 0
