"""Ends of loops and programs, and channels opened and closed over and over: 81, 84, 86."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import aioipc
from tests.children import Peers
from tests.links import SMALL_RING
from tests.programs import loop_name, program
from tests.scale import patience_s, scaled

ROOT = Path(__file__).parents[1]

LEFT_OPEN = """
import asyncio, gc, os, sys, warnings
import aioipc
from aioipc.kernel import statistics

new_loop = asyncio.new_event_loop if sys.argv[2] == "asyncio" else aioipc.new_event_loop
new_loop().close()  # uvloop keeps two descriptors for the life of the process
statistics.open_row(statistics.Kind.CHANNEL, "")  # opens what the process keeps
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
@pytest.mark.parametrize("kind", ["unix", "pipe", "shm"])
def test_a_loop_that_closes_under_open_channels(peers: Peers, kind: str, loop: str) -> None:
    peer = peers.script(LEFT_OPEN, kind, loop)
    warned, left = peer.line(), peer.line()
    assert (warned, left) == ("2", "0")
    assert peer.wait() == 0


@pytest.mark.parametrize("doing", ["send", "receive", "both"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["unix", "pipe", "shm"])
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
@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_descriptors_used_again_carry_nothing_over(address: str) -> None:
    """Each connection says who it is; no word of another one ever arrives."""
    async with aioipc.listen(address) as listener:
        for number in range(scaled(500, full=100_000)):
            async with aioipc.connect(listener.address) as client:
                await client.send(number)
                async with await listener.accept() as server:
                    assert await server.receive() == number
                    await server.send([number])
                    assert await client.receive() == [number]


@pytest.mark.asyncio
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory", "shm"])
async def test_opening_and_closing_for_ever_costs_nothing(kind: str) -> None:
    limits = aioipc.Limits(ring_bytes=SMALL_RING)

    async def cycle(times: int) -> None:
        for _ in range(times):
            left, right = aioipc.pair(kind, limits=limits)
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


@pytest.mark.asyncio
async def test_a_loop_that_closes_under_everything(peers: Peers) -> None:
    """Each object warns once, whatever it waited for; nothing stays open, no name, no child."""
    peer = peers.module("tests.peers.leaving", loop_name(), cwd=ROOT)
    said = (await asyncio.to_thread(peer.rest)).split()
    # Five listeners and that of the FIFO; two ends of seven links, and cat.
    assert said == ["Channel"] * 15 + ["Listener"] * 6 + ["done"]
    assert await peer.ended() == 0


SERVE = """
async with aioipc.listen(sys.argv[1]) as listener:
    say("listening")
    await listener.serve(echo)
"""
FLOOD = """
async with aioipc.connect(sys.argv[1], limits=aioipc.Limits(linger_s=0.2)) as channel:
    task = asyncio.create_task(channel.send(bytes(50_000_000)))
    await asyncio.sleep(0)
    say("sending")
    await task
"""


@pytest.mark.asyncio
async def test_ctrl_c_ends_a_server_and_its_name(peers: Peers, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    server = program(peers, SERVE, address, stderr=subprocess.DEVNULL)
    assert await server.next_line() == "listening"
    async with aioipc.connect(address) as busy, aioipc.connect(address) as idle:
        await busy.send("works")
        assert await busy.receive() == "works"
        server.signal(signal.SIGINT)
        for channel in (busy, idle):
            with pytest.raises((aioipc.EndOfStream, aioipc.PeerCrashed)):
                await channel.receive()
    assert await server.ended() == -signal.SIGINT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_ctrl_c_in_the_middle_of_a_send_that_nobody_reads(peers: Peers) -> None:
    """What was accepted is given up after the linger deadline; there is no hang."""
    async with aioipc.listen("unix:") as listener:
        client = program(peers, FLOOD, listener.address, stderr=subprocess.DEVNULL)
        async with await listener.accept() as channel:
            assert await client.next_line() == "sending"
            started = time.monotonic()
            client.signal(signal.SIGINT)
            assert await client.ended() == -signal.SIGINT
            assert time.monotonic() - started < 5
            with pytest.raises(aioipc.TruncatedFrame):
                await channel.receive()


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["close", "abort", "drop", "peer"])
async def test_a_number_that_is_used_again_is_left_alone(how: str) -> None:
    """Whoever has the number now keeps its registration, and its bytes."""
    loop = asyncio.get_running_loop()
    left, right = aioipc.pair("unix")
    receiving = asyncio.ensure_future(left.receive())
    await asyncio.sleep(0)
    fd = left._stream.fileno()
    if how == "peer":
        right.abort()
    await _cancelled_or_crashed(receiving)
    if how == "drop":
        drop = [left]
        del left, receiving
        with pytest.warns(ResourceWarning, match="unclosed"):
            drop.clear()
    elif how == "abort":
        left.abort()
    else:
        await left.aclose()
    ours, theirs = socket.socketpair()
    if ours.fileno() != fd:
        with ours:
            ours = socket.socket(fileno=os.dup2(ours.fileno(), fd, inheritable=False))
    heard = asyncio.Event()
    loop.add_reader(fd, heard.set)
    if how != "drop":
        await left.aclose()
        left.abort()
        with pytest.raises(aioipc.ClosedError):
            await left.receive()
    gc.collect()
    theirs.send(b"for the new owner")
    await heard.wait()
    assert ours.recv(100) == b"for the new owner"
    loop.remove_reader(fd)
    ours.close()
    theirs.close()
    right.abort()


async def _cancelled_or_crashed(receiving: asyncio.Future[object]) -> None:
    receiving.cancel()
    with contextlib.suppress(asyncio.CancelledError, aioipc.PeerCrashed):
        await receiving


async def _echo(channel: aioipc.Channel[object]) -> None:
    async for obj in channel:
        await channel.send(obj)


def children() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


@pytest.mark.asyncio
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize(
    "address",
    ["unix:name", "unix:@{}", "shm:name", "tcp://127.0.0.1:0", "fifo:{}/fifo", "exec:cat"],
)
async def test_connecting_and_closing_for_ever_costs_nothing(
    address: str, runtime_dir: Path
) -> None:
    """Neither descriptors nor memory nor processes, whichever way it ends."""
    address = address.format(runtime_dir)
    cycle = _through_cat if address == "exec:cat" else _through_listener
    for number in range(30):
        await cycle(address, number)
    gc.collect()
    fds, others, resident = fds_open(), children(), resident_bytes()
    for number in range(scaled(120, full=20_000)):
        await cycle(address, number)
    gc.collect()
    assert fds_open() == fds
    assert children() <= others
    assert resident_bytes() - resident < 1024 * 1024


async def _through_cat(address: str, number: int) -> None:
    async with aioipc.connect(address, framing="lines", codec="text") as channel:
        await channel.send(f"{number}")
        assert await channel.receive() == f"{number}"


async def _through_listener(address: str, number: int) -> None:
    allow = aioipc.same_user if "@" in address else None
    async with aioipc.listen(address, allow=allow) as listener:
        near = await aioipc.connect(listener.address)
        async with near, await listener.accept() as far:
            await near.send(number)
            assert await far.receive() == number
            for channel in ((), (near,), (far,), (near, far))[number % 4]:
                channel.abort()


@pytest.mark.asyncio
@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_traffic_for_ever_costs_nothing(address: str) -> None:
    """The full run takes 3 minutes, after 30 s to warm up."""
    async with aioipc.listen(address, codec="raw") as listener:
        serving = asyncio.create_task(listener.serve(_echo))
        async with aioipc.connect(listener.address, codec="raw") as channel:

            async def talk(duration_s: float) -> None:
                ends_s = time.monotonic() + duration_s
                while time.monotonic() < ends_s:
                    for size in (0, 10, 5_000, 200_000):
                        await channel.send(bytes(size))
                        assert len(await channel.receive()) == size

            await talk(scaled(1, full=30))
            gc.collect()
            fds, resident = fds_open(), resident_bytes()
            await talk(scaled(1, full=180))
            gc.collect()
            assert fds_open() == fds
            assert resident_bytes() - resident < 1024 * 1024
        serving.cancel()


@pytest.mark.asyncio
async def test_run_in_a_running_loop() -> None:
    main = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="await in a loop that is running"):
        aioipc.run(main)
    main.close()


def test_run_with_the_standard_descriptors_closed(peers: Peers) -> None:
    """uvloop ends the process when it closes a number below 3 that it was given."""
    peer = peers.script("""
        import os, aioipc
        answer = os.dup(1)
        for fd in (0, 1, 2):
            os.close(fd)

        async def main():
            left, right = aioipc.pair("unix")
            async with left, right:
                await left.send("x")
                assert await right.receive() == "x"

        aioipc.run(main())
        os.write(answer, b"fine")
    """)
    assert peer.rest() == "fine"
    assert peer.wait() == 0
