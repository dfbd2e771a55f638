"""Nobody sleeps while there is something to do (case 48), by the tripwire and by getting done."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import Channel, Limits
from aioipc.wire.framing import Kind
from tests.children import PATIENCE_S, Peers
from tests.links import fill, steps
from tests.peers.load import payload
from tests.programs import program
from tests.scale import patience_s, scaled
from tests.shm.bare import CAPACITY, BareEnd, played_server

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(patience_s(60))]

MESSAGES = scaled(3_000, full=1_000_000)
LONGEST_PAUSE_S = 50e-6

HUNT = """
import random, time
seed, count = int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
limits = aioipc.Limits(ring_bytes=65536)

async def pause():
    until = time.perf_counter() + chance.random() * 50e-6
    if chance.random() < 0.2:
        await asyncio.sleep(0)
    while time.perf_counter() < until:
        pass

async with aioipc.connect(sys.argv[1], codec="raw", limits=limits, polling=sys.argv[4]) as channel:
    for _ in range(count):
        message = await channel.receive()
        await pause()
        await channel.send(message)
        await pause()
    say(channel.statistics().lost_wakeups)
    await hear()
"""


async def pause(chance: random.Random) -> None:
    """Let a little time pass, in the loop or at work."""
    until_s = time.perf_counter() + chance.random() * LONGEST_PAUSE_S
    if chance.random() < 0.2:
        await asyncio.sleep(0)
    while time.perf_counter() < until_s:
        pass


@pytest.mark.parametrize("polling", ["block", "adaptive"])
@pytest.mark.parametrize("in_flight", [1, 300])
async def test_nobody_is_forgotten(
    polling: str,
    in_flight: int,
    peers: Peers,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message at a time has both asleep most of the time; many of them fill the rings."""
    monkeypatch.setenv("AIOIPC_DEBUG", "1")
    limits = Limits(ring_bytes=CAPACITY)
    places = asyncio.Semaphore(in_flight)
    async with aioipc.listen("shm:", codec="raw", limits=limits, polling=polling) as listener:
        seed = chance.getrandbits(32)
        peer = program(peers, HUNT, listener.address, seed, MESSAGES, polling)
        async with asyncio.timeout(PATIENCE_S):
            channel = await listener.accept()

        async def send() -> None:
            for number in range(MESSAGES):
                await places.acquire()
                await channel.send(payload(number, 8 + number % 700))
                if chance.random() < 0.3:
                    await pause(chance)

        async with channel:
            sending = asyncio.create_task(send())
            for number in range(MESSAGES):
                assert await channel.receive() == payload(number, 8 + number % 700)
                places.release()
                if chance.random() < 0.3:
                    await pause(chance)
            await sending
            assert await peer.next_line() == "0"
            assert channel.statistics().lost_wakeups == 0
            assert channel.statistics().messages_received == MESSAGES
            peer.tell()
            assert await peer.ended() == 0


@pytest.fixture
def quick_tripwire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOIPC_DEBUG", "1")
    monkeypatch.setattr("aioipc.transports._ring._TRIPWIRE_S", 0.01)


async def test_the_tripwire_finds_a_message_without_a_bell(
    quick_tripwire: None, runtime_dir: Path
) -> None:
    async with played_server(runtime_dir) as (opening, sock):
        with BareEnd.offering(sock.dup()) as end:
            sock.close()
            async with await opening as channel:
                end.greet()
                receiving = asyncio.create_task(channel.receive())
                await asyncio.sleep(0.05)
                assert channel.statistics().lost_wakeups == 0
                end.writes.put(Kind.DATA, b"nobody rang")
                assert await receiving == b"nobody rang"
                assert channel.statistics().lost_wakeups == 1


async def test_the_tripwire_finds_room_without_a_bell(
    quick_tripwire: None, runtime_dir: Path
) -> None:
    async with played_server(runtime_dir) as (opening, sock):
        with BareEnd.offering(sock.dup()) as end:
            sock.close()
            async with await opening as channel:
                end.greet()
                sending = asyncio.create_task(channel.send_many([bytes(1_000)] * 100))
                await asyncio.sleep(0.05)
                assert not sending.done()
                assert channel.statistics().lost_wakeups == 0
                while not sending.done():
                    assert sum(1 for _ in end.reads.take()) >= 0
                    await asyncio.sleep(0.01)
                await sending
                assert channel.statistics().lost_wakeups >= 1


async def test_without_the_variable_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIOIPC_DEBUG", raising=False)
    left, right = aioipc.pair("shm")
    async with left, right:
        await left.send(1)
        assert await right.receive() == 1
        assert left.port.transport._tripwire is None


async def gives_up(waiting: asyncio.Task[Any]) -> None:
    await steps(10)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def have_greeted(left: Channel[Any], right: Channel[Any]) -> None:
    for one, other in ((left, right), (right, left)):
        await one.send(b"hello")
        await other.receive()


@pytest.mark.parametrize("then", ["sends", "closes"])
async def test_room_for_who_comes_after_one_who_wanted_more(then: str) -> None:
    """And gave up. The peer makes room for the shorter message, then has other things to do."""
    limits = Limits(ring_bytes=CAPACITY, linger_s=PATIENCE_S)
    left, right = aioipc.pair("shm", codec="raw", limits=limits, polling="block")
    async with left, right:
        await have_greeted(left, right)
        sent = fill(left, (1_016, 0))
        await gives_up(asyncio.create_task(left.send(b"x" * 16_000)))
        waiting = asyncio.create_task(left.aclose() if then == "closes" else left.send(b"short"))
        await steps(10)
        for message in sent[:8]:
            assert await right.receive() == message
        async with asyncio.timeout(PATIENCE_S / 2):
            await waiting
        for message in sent[8:]:
            assert await right.receive() == message
        if then == "closes":
            with pytest.raises(aioipc.EndOfStream):
                await right.receive()
        else:
            assert await right.receive() == b"short"


async def test_who_borrows_no_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message comes when one who receives has found nothing, and does not sleep yet."""
    left, right = aioipc.pair("shm", codec="raw", polling="block")
    async with left, right, contextlib.AsyncExitStack() as borrowed:
        await have_greeted(left, right)
        await left.send_many([b"borrowed"] * 64 + [b"last"])
        for _ in range(64):
            await borrowed.enter_async_context(right.borrow())
        await gives_up(asyncio.create_task(borrowed.enter_async_context(right.borrow())))
        assert await right.receive() == b"last"
        port = type(right.port)
        on_readable = port.on_readable

        def on_readable_late(port: Any, callback: Any) -> None:
            monkeypatch.undo()
            left.send_nowait(b"late")
            left.port.try_flush()
            on_readable(port, callback)

        monkeypatch.setattr(port, "on_readable", on_readable_late)
        async with asyncio.timeout(PATIENCE_S):
            assert await right.receive() == b"late"
