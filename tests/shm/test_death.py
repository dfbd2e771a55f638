"""Processes that share a ring, killed in the middle of things (cases 39, 40 and 52).

That a killed sender delivers a prefix and a killed receiver ends every send, over this
transport as over all others, is in tests/test_peer_death.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import Channel, EndOfStream, Limits, PeerCrashed, WouldBlock
from tests.children import PATIENCE_S, Peers
from tests.links import until
from tests.peers.nursery import Counter, Nursery, message
from tests.programs import program
from tests.scale import patience_s, scaled
from tests.shm.bare import CAPACITY, OPTIONS, BareEnd, played_server

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(patience_s(60))]

KILLS = scaled(10, full=500)  # on each of two loops
LONGEST_LIFE_S = 0.02
MOST_IN_HAND = 8
"""Messages that a receiver of these tests looks at and has not given back."""


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Counter]:
    """How many messages a receiver had when it died."""
    with Counter.at_zero(tmp_path / "counter") as counter:
        yield counter


@contextlib.asynccontextmanager
async def peer_process(
    kind: str, nursery: Nursery, role: str, limits: Limits | None = None, **options: Any
) -> AsyncIterator[tuple[Channel[bytes], int]]:
    """Yield a channel to a forked process, and the pid."""
    settings = OPTIONS | {"limits": limits or OPTIONS["limits"]}
    loop = "uvloop" if "asyncio" in repr(asyncio.get_running_loop()) else "asyncio"
    if kind == "pair":
        channel, theirs = aioipc.pair("shm", **settings)
        _, fds = theirs.detach()
        pid = nursery.start(loop, role, fds=fds, scheme="shm", **options)
        for fd in fds:
            os.close(fd)
    else:
        async with aioipc.listen("shm:", **settings) as listener:
            pid = nursery.start(loop, role, address=listener.address, **options)
            async with asyncio.timeout(PATIENCE_S):
                channel = await listener.accept()
    try:
        yield channel, pid
    finally:
        channel.abort()


kinds = pytest.mark.parametrize("kind", ["listen", "pair"])


# A receiver that dies: what it left


@kinds
@pytest.mark.parametrize("ring_bytes", [CAPACITY, 1024 * 1024])
async def test_what_a_killed_receiver_left_is_known(
    kind: str, ring_bytes: int, nursery: Nursery, taken: Counter, chance: random.Random
) -> None:
    """Each message was retired or is left: the count is exact, and so are the payloads."""
    limits = Limits(ring_bytes=ring_bytes)
    for _ in range(KILLS):
        taken.value = 0
        async with peer_process(kind, nursery, "count", limits, counter=taken.path) as (
            channel,
            pid,
        ):
            accepted: list[bytes] = []
            sending = asyncio.create_task(send_all(channel, accepted))
            await asyncio.sleep(chance.random() * LONGEST_LIFE_S)  # the instant of the kill
            nursery.kill(pid)
            left = await unconsumed(channel, sending)
            retired = len(accepted) - len(left)
            assert left == accepted[retired:]
            assert retired <= taken.value + 1, "taken, but not counted yet"
            kept = sum(8 + (len(m) + 7 & ~7) for m in accepted[retired : taken.value])
            assert kept <= ring_bytes // 4 + 4096, "taken, and given back a little later"


async def unconsumed(channel: Channel[bytes], sending: asyncio.Task[PeerCrashed]) -> list[bytes]:
    """What the peer that was killed had not taken; the error counts the same."""
    async with asyncio.timeout(PATIENCE_S):
        crash = await sending
    left = channel.unconsumed()
    assert crash.unconsumed == len(left)
    return left


async def send_all(channel: Channel[bytes], accepted: list[bytes]) -> PeerCrashed:
    """Send until it fails, now one message and now several in a turn."""
    try:
        while True:
            one = message(len(accepted), large=False)
            await channel.send(one)
            accepted.append(one)
            with contextlib.suppress(WouldBlock):
                for _ in range(len(accepted) % 7):
                    one = message(len(accepted), large=False)
                    channel.send_nowait(one)
                    accepted.append(one)
    except PeerCrashed as crash:
        return crash


@kinds
async def test_what_was_not_taken_is_sent_again(
    kind: str, nursery: Nursery, tmp_path: Path, chance: random.Random
) -> None:
    """Case 40: each message is worked on once at least, and its number tells who had it before."""
    journal = tmp_path / "journal"
    journal.touch()
    limits = Limits(ring_bytes=CAPACITY)
    ledger = Ledger()
    for _ in range(KILLS):
        async with peer_process(kind, nursery, "journal", limits, journal=str(journal)) as (
            channel,
            pid,
        ):
            before = journal.stat().st_size
            sending = asyncio.create_task(ledger.send_all(channel))
            await until(lambda: journal.stat().st_size > before)  # noqa: B023 - called here
            await asyncio.sleep(chance.random() * LONGEST_LIFE_S)  # the instant of the kill
            nursery.kill(pid)
            ledger.due = await unconsumed(channel, sending) + ledger.due
    async with peer_process(kind, nursery, "journal", limits, journal=str(journal)) as (
        channel,
        pid,
    ):
        await channel.send_many(ledger.due)
        await channel.send_eof()
        assert await asyncio.to_thread(nursery.wait, pid) == 0
    numbers = array.array("Q", journal.read_bytes())
    assert sorted(set(numbers)) == list(range(ledger.count))
    assert len(numbers) - ledger.count <= KILLS * MOST_IN_HAND


class Ledger:
    """What one sender sends to one receiver after the other."""

    def __init__(self) -> None:
        self.count = 0
        self.due: list[bytes] = []

    async def send_all(self, channel: Channel[bytes]) -> PeerCrashed:
        """Send what others did not take, and then what is new, until it fails."""
        try:
            while self.due:
                await channel.send(self.due[0])
                self.due.pop(0)
            while True:
                await self.send_next(channel)
        except PeerCrashed as crash:
            return crash

    async def send_next(self, channel: Channel[bytes]) -> None:
        """Send the next message, every third one written in place."""
        one = message(self.count, large=False)
        if self.count % 3:
            await channel.send(one)
        else:
            async with channel.reserve(len(one)) as slot:
                slot.view[:] = one
        self.count += 1


@kinds
async def test_nothing_that_was_gathered_is_forgotten(kind: str, nursery: Nursery) -> None:
    """Messages of a turn are shown at its end; the peer may be dead by then."""
    async with peer_process(kind, nursery, "sleep") as (channel, pid):
        await channel.send(b"shown at once")
        for number in range(5):
            channel.send_nowait(b"%d" % number)
        nursery.kill(pid)
        with pytest.raises(PeerCrashed) as raised:
            await sent_to_the_end(channel)
        left = channel.unconsumed()
        assert left[:6] == [b"shown at once", *(b"%d" % number for number in range(5))]
        assert set(left[6:]) <= {b"more"}
        assert raised.value.unconsumed == len(left)


async def sent_to_the_end(channel: Channel[bytes]) -> None:
    while True:
        await channel.send(b"more")
        await channel.flush()


@kinds
@pytest.mark.parametrize("large", [CAPACITY // 2, 5 * CAPACITY])
async def test_a_large_message_that_was_not_taken(kind: str, large: int, nursery: Nursery) -> None:
    """It counts once, whether or not all of its parts found room."""
    limits = Limits(ring_bytes=CAPACITY)
    async with peer_process(kind, nursery, "sleep", limits) as (channel, pid):
        await channel.send(b"first")
        channel.send_nowait(bytes(large))
        nursery.kill(pid)
        with pytest.raises(PeerCrashed) as raised:
            await sent_to_the_end(channel)
        assert raised.value.unconsumed is not None
        more = channel.unconsumed().count(b"more")
        assert raised.value.unconsumed == 2 + more


@pytest.mark.parametrize("fragments", [1, 2, 3])
async def test_a_message_that_was_taken_in_part_is_not_given_back(
    fragments: int, runtime_dir: Path
) -> None:
    """The end of a message is no message; one that begins where the ring does is."""
    async with played_server(runtime_dir) as (opening, sock):
        with BareEnd.offering(sock.dup()) as end:
            sock.close()
            async with await opening as channel:
                end.greet()
                large = bytes(3 * CAPACITY // 4 + 4096)  # four fragments, the last a short one
                channel.send_nowait(large)
                channel.send_nowait(b"whole")
                await channel.flush()
                taken = end.reads.take()
                for _ in range(1 + fragments):  # a HELLO comes first
                    next(taken)
                end.sock.close()
                with pytest.raises(PeerCrashed) as raised:
                    await sent_to_the_end(channel)
                left = channel.unconsumed()
                assert left[0] == b"whole"
                assert set(left[1:]) <= {b"more"}
                assert raised.value.unconsumed == 1 + len(left)


@kinds
async def test_who_sleeps_for_room_is_woken(kind: str, nursery: Nursery) -> None:
    async with peer_process(kind, nursery, "sleep") as (channel, pid):
        with contextlib.suppress(WouldBlock):
            while True:
                channel.send_nowait(bytes(1_000))
        waiting = [asyncio.create_task(channel.send(bytes(10_000))) for _ in range(3)]
        flushing = asyncio.create_task(channel.flush())
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        nursery.kill(pid)
        async with asyncio.timeout(PATIENCE_S):
            for task in waiting:
                with pytest.raises(PeerCrashed):
                    await task
            with contextlib.suppress(PeerCrashed):
                await flushing


@kinds
async def test_who_sleeps_for_a_message_is_woken(kind: str, nursery: Nursery) -> None:
    async with peer_process(kind, nursery, "sleep") as (channel, pid):
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        nursery.kill(pid)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PeerCrashed):
                await receiving


# Stopped, and gone on


@kinds
async def test_a_stopped_receiver_goes_on_where_it_was(
    kind: str, nursery: Nursery, taken: Counter
) -> None:
    limits = Limits(ring_bytes=CAPACITY)
    async with peer_process(kind, nursery, "count", limits, counter=taken.path) as (channel, pid):
        count = 0
        for _ in range(5):
            os.kill(pid, signal.SIGSTOP)
            with contextlib.suppress(WouldBlock):
                while True:
                    channel.send_nowait(message(count, large=False))
                    count += 1
            waiting = asyncio.create_task(channel.send(message(count, large=False)))
            count += 1
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(PATIENCE_S):
                await waiting
                await channel.flush()
        async with asyncio.timeout(PATIENCE_S):
            while taken.value < count:  # noqa: ASYNC110 - a number in a file
                await asyncio.sleep(0)
        assert taken.value == count
        nursery.kill(pid)


@kinds
async def test_a_stopped_sender_delivers_when_it_goes_on(
    kind: str, nursery: Nursery, taken: Counter
) -> None:
    async with peer_process(kind, nursery, "send", counter=taken.path, large=True) as (
        channel,
        pid,
    ):
        number = 0
        for _ in range(5):
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(200):
                    assert await channel.receive() == message(number, large=True)
                    number += 1
            os.kill(pid, signal.SIGSTOP)
            with contextlib.suppress(WouldBlock):
                while True:
                    assert channel.receive_nowait() == message(number, large=True)
                    number += 1
            waiting = asyncio.create_task(channel.receive())
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(PATIENCE_S):
                assert await waiting == message(number, large=True)
            number += 1
        nursery.kill(pid)


# The end: case 52


@kinds
async def test_a_clean_end_behind_a_full_ring(kind: str, nursery: Nursery) -> None:
    """All is delivered, long after whoever sent it has gone."""
    async with peer_process(kind, nursery, "fill_and_leave") as (channel, pid):
        assert await asyncio.to_thread(nursery.wait, pid) == 0
        got = [one async for one in channel]
        assert len(got) > 50
        assert got == [message(number, large=False) for number in range(len(got))]
        with pytest.raises(EndOfStream):
            await channel.receive()


async def test_nothing_is_left_when_both_are_killed(peers: Peers) -> None:
    """The memory has no name, so that it goes with the last process that maps it."""
    code = """
    async with aioipc.listen("shm:") as listener:
        say(listener.address)
        channel = await listener.accept()
        await channel.send(bytes(1000))
        say(os.getpid())
        async for obj in channel:
            await channel.send(obj)
    """
    talk = """
    channel = await aioipc.connect(sys.argv[1])
    while True:
        await channel.send(await channel.receive())
        say("talking")
    """
    before = set(os.listdir("/dev/shm"))
    server = program(peers, code)
    client = program(peers, talk, await server.next_line())
    assert await client.next_line() == "talking"
    server.signal(signal.SIGKILL)
    client.signal(signal.SIGKILL)
    assert (server.wait(), client.wait()) == (-9, -9)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "aioipc" in name}
    for socket in Path(os.environ["AIOIPC_RUNTIME_DIR"]).rglob("*"):
        if not socket.is_dir():
            socket.unlink()  # the name, which the next server would take over
