"""Processes whose clocks differ by days: time_namespaces(7)."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Protocol

import pytest

from aioipc import DeadlineExceeded, rpc, sync, timeout
from tests.children import Peer, Peers
from tests.programs import program

DAY_S = 86_400
YEAR_S = 365 * DAY_S

HOLDS = """
from time import monotonic
from aioipc import sync
lock = sync.Lock("x")
async with lock:
    say(monotonic())
    await hear()
    (holder,) = lock.holders()
    assert 0 <= holder.held_s < 60, holder
try:
    async with asyncio.timeout(0.05):
        await sync.Lock("y").acquire()
except TimeoutError:
    (holder,) = sync.Lock("y").holders()
    say(holder.held_s)
"""

SERVES = """
import time
from aioipc import rpc

class Sleeper:
    async def sleep(self) -> None:
        began = time.monotonic()
        try:
            await asyncio.sleep(60)
        finally:
            say(time.monotonic() - began)

async with rpc.serve("unix:sleeper", Sleeper()) as server:
    say("served")
    await hear()
"""


class Sleeper(Protocol):
    async def sleep(self) -> None: ...


@pytest.fixture(params=[DAY_S, YEAR_S])
def another_time(request: pytest.FixtureRequest) -> list[str]:
    """What a program is run within, for its clock to be ahead."""
    ahead = f"--monotonic={request.param}"
    command = ["unshare", "-Ur", "--time", ahead, "--fork", "--kill-child"]
    known = shutil.which("unshare") is not None
    if not known or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no time namespaces for this user")
    return command


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_since_when(another_time: list[str], peers: Peers) -> None:
    ours, theirs = sync.Lock("y"), sync.Lock("x")
    peer = program(peers, HOLDS, within=another_time)
    ahead_s = float(await peer.next_line()) - time.monotonic()
    assert ahead_s > DAY_S / 2, "its clock is ours"
    async with ours:
        (holder,) = theirs.holders()
        assert 0 <= holder.held_s < 60
        peer.tell()
        assert 0 <= float(await peer.next_line()) < 60
    await peer.ended()
    ours.close()
    theirs.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_deadlines_travel(another_time: list[str], peers: Peers) -> None:
    peer = await served(peers, another_time)
    async with rpc.connect("unix:sleeper", Sleeper) as sleeper:
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, TimeoutError)):
            async with timeout(0.3):
                await sleeper.sleep()
        assert 0.2 < time.monotonic() - began < 30
        assert 0.2 < float(await peer.next_line()) < 30
    peer.tell()
    await peer.ended()


async def served(peers: Peers, within: list[str]) -> Peer:
    peer = program(peers, SERVES, within=within)
    assert await peer.next_line() == "served"
    return peer
