"""Ends of loops and programs, and channels opened and closed over and over: 81, 84, 86."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

import aioipc
from tests.children import Peers
from tests.scale import patience_s, scaled

LEFT_OPEN = """
import asyncio, gc, os, sys, warnings
import aioipc

new_loop = asyncio.new_event_loop if sys.argv[2] == "asyncio" else aioipc.new_event_loop
new_loop().close()  # uvloop keeps two descriptors for the life of the process
before = set(os.listdir("/proc/self/fd"))
async def main():
    pair = aioipc.pair(sys.argv[1])
    await pair[0].send("x")
    await pair[1].receive()
    return pair
loop = new_loop()
pair = loop.run_until_complete(main())
loop.close()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    del pair
    gc.collect()
del loop
gc.collect()
print(len([w for w in caught if w.category is ResourceWarning]))
print(len(set(os.listdir("/proc/self/fd")) - before))
"""

INTERRUPTED = """
import asyncio, sys
import aioipc

async def main():
    left, right = aioipc.pair(sys.argv[1], codec="raw")
    async with left, right:
        print("ready", flush=True)
        if sys.argv[3] == "send":
            while True:
                await left.send(bytes(100_000))
        elif sys.argv[3] == "receive":
            await right.receive()
        else:
            while True:  # both, which never waits for long
                await left.send(b"x")
                await right.receive()
factory = asyncio.new_event_loop if sys.argv[2] == "asyncio" else aioipc.new_event_loop
try:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["unix", "pipe"])
def test_a_loop_that_closes_under_open_channels(peers: Peers, kind: str, loop: str) -> None:
    peer = peers.script(LEFT_OPEN, kind, loop)
    warned, left = peer.line(), peer.line()
    assert (warned, left) == ("2", "0")
    assert peer.wait() == 0


@pytest.mark.parametrize("doing", ["send", "receive", "both"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["unix", "pipe"])
def test_ctrl_c_in_the_middle(peers: Peers, kind: str, loop: str, doing: str) -> None:
    peer = peers.script(INTERRUPTED, kind, loop, doing)
    assert peer.line() == "ready"
    peer.signal(signal.SIGINT)
    assert peer.line() == "interrupted"
    assert peer.wait() == 0


def fds_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.asyncio
@pytest.mark.timeout(patience_s(60))
async def test_descriptors_used_again_carry_nothing_over() -> None:
    """Each connection says who it is; no word of another one ever arrives."""
    async with aioipc.listen("unix:") as listener:
        for number in range(scaled(1_000, full=100_000)):
            async with aioipc.connect(listener.address) as client:
                await client.send(number)
                async with await listener.accept() as server:
                    assert await server.receive() == number
                    await server.send([number])
                    assert await client.receive() == [number]


@pytest.mark.asyncio
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory"])
async def test_opening_and_closing_for_ever_costs_nothing(kind: str) -> None:
    async def cycle(times: int) -> None:
        for _ in range(times):
            left, right = aioipc.pair(kind)
            async with left, right:
                await left.send("x")
                assert await right.receive() == "x"

    await cycle(300)
    gc.collect()
    fds, resident = fds_open(), resident_bytes()
    await cycle(scaled(2_000, full=100_000))
    gc.collect()
    assert fds_open() == fds
    assert resident_bytes() - resident < 1024 * 1024
