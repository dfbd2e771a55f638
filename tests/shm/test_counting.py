"""How few system calls and wake-ups messages take, as the kernel and the channel count them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aioipc
from aioipc import Channel
from tests.children import Peers, come_to_rest
from tests.programs import program
from tests.scale import patience_s
from tests.shm.bare import OPTIONS
from tests.traced import calls_by_phase

in_loop = pytest.mark.asyncio


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def settled(left: Channel[bytes], right: Channel[bytes]) -> None:
    """Have the HELLOs out of the way, and nobody asleep."""
    for one, other in ((left, right), (right, left)):
        await one.send(b"settled")
        assert await other.receive() == b"settled"
    await turns()


class Bells:
    """The bells that a channel rang since this was made."""

    def __init__(self, channel: Channel[bytes]) -> None:
        self._channel = channel
        self._before = channel.statistics()

    @property
    def rung(self) -> int:
        return self._channel.statistics().bells_rung - self._before.bells_rung

    @property
    def calls(self) -> int:
        now = self._channel.statistics()
        return now.write_calls + now.read_calls - self._before.write_calls - self._before.read_calls


@in_loop
async def test_messages_for_somebody_awake_ring_no_bell() -> None:
    left, right = aioipc.pair("shm", codec="raw")
    async with left, right:
        await settled(left, right)
        await left.send(b"whoever slept last is woken now")
        await right.receive()
        bells = Bells(left), Bells(right)
        for _ in range(100):
            await left.send(b"x" * 100)
            await turns()  # what comes second in a turn is shown at its end
            assert right.receive_nowait() == b"x" * 100
        await left.send_many([b"x" * 100] * 100)
        got: list[bytes] = []
        while len(got) < 100:
            got += await right.receive_many()
        await turns()
        assert [one.calls for one in bells] == [0, 0]


@in_loop
async def test_send_many_to_a_sleeper_is_one_bell() -> None:
    left, right = aioipc.pair("shm", polling="block", codec="raw")
    async with left, right:
        await settled(left, right)
        for _ in range(10):
            receiving = asyncio.create_task(right.receive())
            await turns()
            bells = Bells(left)
            await left.send_many([b"x" * 100] * 100)
            assert bells.rung == 1
            assert await receiving == b"x" * 100
            assert len(await right.receive_many(100)) == 99
            await turns()
            assert bells.rung == 1
            assert bells.calls == 1


@in_loop
async def test_a_turn_of_sends_to_a_sleeper_is_one_bell() -> None:
    left, right = aioipc.pair("shm", polling="block", codec="raw")
    async with left, right:
        await settled(left, right)
        receiving = asyncio.create_task(right.receive())
        await turns()
        bells = Bells(left)
        for number in range(100):
            left.send_nowait(b"%d" % number)
        assert await receiving == b"0"
        got: list[bytes] = []
        while len(got) < 99:
            got += await right.receive_many()
        assert got == [b"%d" % number for number in range(1, 100)]
        assert bells.rung == 1


@in_loop
async def test_a_full_ring_is_one_bell_for_much_room() -> None:
    """A receiver that takes one message after the other does not wake the sender for each."""
    left, right = aioipc.pair("shm", polling="block", **OPTIONS)
    async with left, right:
        await settled(left, right)
        messages = [b"x" * 1_000] * 1_000
        sending = asyncio.create_task(left.send_many(messages))
        bells = Bells(right)
        for message in messages:
            assert await right.receive() == message
        await sending
        rounds = 1_000 * 1_008 // (64 * 1024)
        assert bells.rung <= 5 * rounds, "a quarter of the ring at a time"


# The same, as the kernel counts it

TRACED = """
left, right = aioipc.pair("shm", codec="raw", polling="block")
for one, other in ((left, right), (right, left), (left, right)):
    await one.send(b"settled")
    await other.receive()
await asyncio.sleep(0)
phase("send")
for _ in range(100):
    left.send_nowait(b"x" * 100)
phase("end of turn")
await asyncio.sleep(0)
await asyncio.sleep(0)
phase("receive")
for _ in range(100):
    right.receive_nowait()
phase("large")
left.send_nowait(b"y" * 100_000)
right.receive_nowait()
phase("sleep")
receiving = asyncio.create_task(right.receive())
await asyncio.sleep(0)
await asyncio.sleep(0)
phase("send_many")
await left.send_many([b"x" * 100] * 100)
phase("receive_many")
await receiving
await right.receive_many(100)
phase("end")
left.abort()
right.abort()
"""


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_kernel_counts_the_same(loop: str, tmp_path: Path) -> None:
    counted = calls_by_phase(TRACED, loop, tmp_path=tmp_path)
    for quiet in ("send", "receive", "large"):
        assert not counted[quiet], quiet
    assert not [call for call in counted["end of turn"] if "bell" in call]
    assert counted["send_many"]["write of a bell"] == 1
    assert counted["receive_many"]["preadv2 of a bell"] == 1
    assert "write of a bell" not in counted["receive_many"]


# Idle

IDLE = """
import time
async with aioipc.connect(sys.argv[1], polling=sys.argv[2]) as channel:
    await channel.send("warm")
    for _ in range(200):
        await channel.send(await channel.receive())
    say("idle")
    await channel.receive()
    say("done")
"""


@in_loop
@pytest.mark.parametrize("polling", ["block", "adaptive"])
async def test_an_idle_pair_never_wakes(polling: str, peers: Peers) -> None:
    """Two processes that wait for each other do not even look."""
    serve = """
    async with aioipc.listen("shm:", polling=sys.argv[1]) as listener:
        say(listener.address)
        channel = await listener.accept()
    async for obj in channel:
        await channel.send(obj)
    await channel.aclose()
    """
    server = program(peers, serve, polling)
    client = program(peers, IDLE, await server.next_line(), polling)
    assert await client.next_line() == "idle"
    await come_to_rest(server, client)
