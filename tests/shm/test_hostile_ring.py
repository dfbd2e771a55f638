"""A peer that writes what it likes into the memory: it hurts its own connection, no other."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    Channel,
    HandshakeError,
    IPCError,
    PeerCrashed,
    ProtocolError,
    RingCorrupted,
    WouldBlock,
)
from aioipc.wire.framing import Flag, Kind
from aioipc.wire.hello import Goodbye, GoodbyeCode
from tests.children import PATIENCE_S
from tests.scale import patience_s, scaled
from tests.shm.bare import (
    C_WAIT,
    CAPACITY,
    CLOSED,
    HEAD,
    MOST,
    P_WAIT,
    TAIL,
    BareEnd,
    BareRing,
    played_server,
    serving,
    span,
)
from tests.shortage import open_fds
from tests.victim import Victim

pytestmark = pytest.mark.asyncio

MAXREC = CAPACITY // 4


@contextlib.asynccontextmanager
async def attacked(
    directory: Path, *, socket_bells: bool = False, **options: Any
) -> AsyncIterator[tuple[Channel[Any], BareEnd]]:
    """A channel, and the server that it has connected to."""
    async with (
        asyncio.timeout(patience_s(PATIENCE_S)),
        played_server(directory, **options) as (opening, sock),
    ):
        with BareEnd.offering(sock.dup(), socket_bells=socket_bells) as end:
            sock.close()
            async with await opening as channel:
                yield channel, end


async def greeted(victim: Victim) -> BareEnd:
    """A client that has behaved so far."""
    end = await BareEnd.at(victim.address)
    end.greet()
    end.say(Kind.DATA, b"hello")
    assert await end.heard(Kind.DATA) == b"hello"
    return end


# Positions: case 42

POSITIONS: dict[str, Callable[[int], int]] = {
    "one more": lambda at: at + 1,
    "unaligned": lambda at: at + 4,
    "one less": lambda at: at - 8,
    "half a ring back": lambda at: at - CAPACITY // 2,
    "a ring and a word": lambda at: at + CAPACITY + 8,
    "a bit far away": lambda at: at ^ 1 << 63,
    "the other half": lambda at: at ^ 1 << 32,
    "just below 2^64": lambda at: MOST - 8,
    "all bits": lambda at: MOST - 1,
}
positions = pytest.mark.parametrize("position", POSITIONS)


@positions
async def test_a_bad_tail(position: str, runtime_dir: Path) -> None:
    async with serving(runtime_dir) as victim:
        await victim.assert_serves()
        fds = open_fds()
        with await greeted(victim) as end:
            bad = POSITIONS[position](end.writes.word(TAIL)) % MOST
            end.writes.set_word(TAIL, bad)
            end.ring()
            ending = await victim.endings.get()
            assert type(ending) is RingCorrupted
            assert f"an impossible tail position, {bad:#x}" in str(ending)
            told = Goodbye.parse(await end.heard(Kind.GOODBYE))
            assert told.code == GoodbyeCode.PROTOCOL_ERROR
            await victim.assert_serves()
        await victim.assert_settled(fds)


@pytest.mark.parametrize("position", [name for name in POSITIONS if name != "one less"])
async def test_a_bad_head(position: str, runtime_dir: Path) -> None:
    """It shows when the room that was known of is used up, which is when it is looked at."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"hello")
        assert await channel.receive() == b"hello"
        await channel.send(b"answer")
        assert await end.heard(Kind.DATA) == b"answer"
        await channel.send(b"so that there is something in the ring")
        await channel.flush()
        bad = POSITIONS[position](end.reads.word(HEAD)) % MOST
        end.reads.set_word(HEAD, bad)
        for send in (channel.send_nowait, channel.send_nowait):
            with pytest.raises(RingCorrupted, match=f"an impossible head position, {bad:#x}"):
                fill_up(send)
        with pytest.raises(IPCError):
            await channel.receive()


def fill_up(send: Callable[[bytes], None]) -> None:
    while True:
        send(bytes(1000))


async def test_a_bad_head_wakes_who_waits_for_room(runtime_dir: Path) -> None:
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        with contextlib.suppress(WouldBlock):
            while True:
                channel.send_nowait(bytes(1000))
        sending = asyncio.create_task(channel.send(bytes(MAXREC)))
        await asyncio.sleep(0)
        assert end.reads.word(P_WAIT) > MAXREC
        end.reads.set_word(HEAD, 4)
        end.ring()
        with pytest.raises(RingCorrupted, match="head position, 0x4"):
            await sending


# Records: case 43


def record(length: int, kind: int = Kind.DATA, flags: int = 0, fds: int = 0, shown: int = 0):  # type: ignore[no-untyped-def]
    """Write the header of a record, of which ``shown`` bytes are published."""

    def write(ring: BareRing) -> None:
        tail = ring.word(TAIL)
        ring.header(tail, length, kind, flags, fds)
        ring.set_word(TAIL, tail + (shown or span(length)))

    return write


def across_the_end(ring: BareRing) -> None:
    """A record whose last 8 bytes lie behind the end of the data."""
    tail = ring.word(TAIL)
    while (room := CAPACITY - tail % CAPACITY) > 4096:
        ring.header(tail, min(room // 2, MAXREC) & ~7, Kind.PAD)
        tail += span(min(room // 2, MAXREC) & ~7)
    ring.header(tail, room, Kind.DATA)
    ring.set_word(TAIL, tail + span(room))


RECORDS: dict[str, Callable[[BareRing], None]] = {
    "one over a quarter": record(MAXREC + 1),
    "all there is": record(2**32 - 1, shown=CAPACITY // 2),
    "2^31": record(2**31, shown=8),
    "longer than what is shown": record(100, shown=8),
    "a word longer than what is shown": record(104, shown=104),
    "across the end": across_the_end,
    "a pad longer than what is shown": record(4096, Kind.PAD, shown=8),
    "an endless pad": record(2**32 - 8, Kind.PAD, shown=8),
    "a pad with flags": record(0, Kind.PAD, 1),
    "a pad with descriptors": record(0, Kind.PAD, 0, 1),
    "kind 0": record(0, 0),
    "kind 7": record(8, 7),
    "kind 33": record(8, 33),
    "kind 255": record(8, 255, 255, 65535),
    "a shared message": record(8, Kind.DATA, Flag.SHARED),
    "an unknown flag": record(8, Kind.DATA, 0x80),
    "a descriptor": record(8, Kind.DATA, 0, 1),
    "a ping in parts": record(8, Kind.PING, Flag.MORE),
}


@pytest.mark.parametrize("kind", RECORDS)
async def test_a_bad_record(kind: str, runtime_dir: Path) -> None:
    async with serving(runtime_dir) as victim:
        await victim.assert_serves()
        fds = open_fds()
        async with aioipc.connect(victim.address, codec="raw") as good:
            with await greeted(victim) as end:
                RECORDS[kind](end.writes)
                end.ring()
                ending = await victim.endings.get()
                assert type(ending) is RingCorrupted
                assert "an impossible record header, 0x" in str(ending)
                told = Goodbye.parse(await end.heard(Kind.GOODBYE))
                assert told.code == GoodbyeCode.PROTOCOL_ERROR
                await good.send(b"there before, and still")
                assert await good.receive() == b"there before, and still"
        await victim.endings.get()
        await victim.assert_settled(fds)


BREACHES: dict[str, tuple[Callable[[BareEnd], None], type[ProtocolError], str]] = {
    "a second hello": (lambda end: end.greet(), HandshakeError, "a second HELLO"),
    "a long ping": (
        lambda end: end.say(Kind.PING, bytes(4097)),
        ProtocolError,
        "kind 5 has 4,097 bytes",
    ),
    "a goodbye of one byte": (
        lambda end: end.say(Kind.GOODBYE, b"x"),
        ProtocolError,
        "a GOODBYE of 1 bytes",
    ),
    "a goodbye between parts": (
        lambda end: end.say_all((Kind.DATA, b"x", Flag.MORE), (Kind.GOODBYE, b"", 0)),
        ProtocolError,
        "between the parts of a message",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_breach_of_the_session(breach: str, runtime_dir: Path) -> None:
    act, kind, says = BREACHES[breach]
    async with serving(runtime_dir) as victim:
        with await greeted(victim) as end:
            act(end)
            ending = await victim.endings.get()
            assert type(ending) is kind
            assert says in str(ending)
            await end.heard(Kind.GOODBYE)
        await victim.assert_serves()


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.GOODBYE, Kind.PING])
async def test_no_hello_first(
    kind: int, runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(runtime_dir) as victim:
        with await BareEnd.at(victim.address) as end:
            end.say(kind, b"")
            told = Goodbye.parse(await end.heard(Kind.GOODBYE))
            assert told.code == GoodbyeCode.HANDSHAKE_FAILED
        await victim.assert_serves()
    (message,) = caplog.messages
    assert f"the peer began with record kind {kind} instead of HELLO" in message


async def test_a_bad_record_before_the_hello(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(runtime_dir) as victim:
        with await BareEnd.at(victim.address) as end:
            end.writes.set_word(TAIL, 4)
            end.ring()
            await end.heard(Kind.GOODBYE)
        await victim.assert_serves()
    (message,) = caplog.messages
    assert "an impossible tail position, 0x4" in message


@pytest.mark.timeout(patience_s(60))
async def test_any_bytes_in_the_memory(runtime_dir: Path, chance: random.Random) -> None:
    """Whatever a word says: the connection ends by a known error, or says nothing wrong."""
    async with serving(runtime_dir) as victim:
        await victim.assert_serves()
        fds = open_fds()
        for _ in range(scaled(40, full=2_000)):
            with await greeted(victim) as end:
                for _ in range(chance.randrange(1, 20)):
                    ring = chance.choice([end.reads, end.writes])
                    word = chance.choice([TAIL, HEAD, C_WAIT, P_WAIT])
                    value = chance.choice(
                        [chance.getrandbits(64), ring.word(word) ^ 1 << chance.randrange(64)]
                    )
                    ring.set_word(word, value)
                    at = ring.offset + 4096
                    ring.memory[at : at + 512] = chance.randbytes(512)
                    end.ring()
                    await asyncio.sleep(0)
            assert isinstance(await victim.endings.get(), ProtocolError | PeerCrashed)
        await victim.assert_serves()
        await victim.assert_settled(fds)


async def test_a_sleeper_is_not_what_the_peer_says(runtime_dir: Path) -> None:
    """c_wait and p_wait may be anything: bells in vain, and no more."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        for value in (1, 2**31, 2**63, MOST - 1):
            end.reads.set_word(C_WAIT, value)
            end.writes.set_word(P_WAIT, value)
            end.say(Kind.DATA, b"x")
            assert await channel.receive() == b"x"
            await channel.send(b"answer")
            assert await end.heard(Kind.DATA) == b"answer"


async def test_the_end_that_was_taken_back(runtime_dir: Path) -> None:
    """What a killed peer said last counts; a closed ring with no GOODBYE is an end all the same."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"last")
        end.writes.set_word(CLOSED, 2**32 - 1)
        end.ring()
        assert await channel.receive() == b"last"
        with pytest.raises(aioipc.EndOfStream):
            await channel.receive()


# Floods: cases 43, 46, 47


@contextlib.contextmanager
def flooding(act: Callable[[], None]) -> Iterator[None]:
    """Do something over and over again in another thread."""
    stop = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError, ValueError):
            while not stop.is_set():
                act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def refill(end: BareEnd, kind: int, flags: int = 0) -> Callable[[], None]:
    """Keep a ring full of the shortest records, which were all written before."""
    ring = end.writes
    for position in range(0, CAPACITY, 8):
        ring.header(position, 0, kind, flags)

    def act() -> None:
        ring.set_word(TAIL, ring.word(HEAD) + CAPACITY)
        if ring.word(C_WAIT):
            end.ring()

    return act


FLOODS: dict[str, Callable[[BareEnd], Callable[[], None]]] = {
    "pads": lambda end: refill(end, Kind.PAD),
    "parts of nothing": lambda end: refill(end, Kind.DATA, Flag.MORE),
    "pongs": lambda end: refill(end, Kind.PONG),
    "bells": lambda end: end.ring,
    "bytes on the socket": lambda end: lambda: send_some(end.sock),
}


def send_some(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        sock.send(bytes(4096))


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_keeps_nobody_else_from_working(flood: str, runtime_dir: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), serving(runtime_dir) as victim:
        with await greeted(victim) as end:
            await end.settled()
            with flooding(FLOODS[flood](end)):
                async with aioipc.connect(victim.address, codec="raw") as good:
                    for _ in range(20):
                        await good.send(b"served meanwhile?")
                        assert await good.receive() == b"served meanwhile?"
            assert isinstance(await victim.endings.get(), aioipc.EndOfStream)
        assert isinstance(await victim.endings.get(), PeerCrashed)


async def test_a_flood_of_pings(runtime_dir: Path) -> None:
    """Each wants an answer; who does not read them is cut off."""
    async with asyncio.timeout(PATIENCE_S), serving(runtime_dir) as victim:
        with await greeted(victim) as end:
            await end.settled()
            with flooding(refill(end, Kind.PING)):
                ending = await victim.endings.get()
            assert "the peer does not read" in str(ending)
        await victim.assert_serves()


# Bells: case 46


async def test_bells_that_may_block(runtime_dir: Path) -> None:
    """O_NONBLOCK is a flag of what both sides share. Reading must not rely on it."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        for fd in (end.own_bell, end.peer_bell):
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        channel.port._rung()  # nobody rang, or somebody else took it
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        end.ring()
        os.eventfd_read(end.peer_bell)
        channel.port._rung()
        end.say(Kind.DATA, b"heard all the same")
        assert await receiving == b"heard all the same"
        end.reads.set_word(C_WAIT, 1)
        await channel.send(b"answer")
        assert os.eventfd_read(end.own_bell) == 1


async def test_bells_at_their_maximum(runtime_dir: Path) -> None:
    """A counter that can count no further says EAGAIN, which is as good as rung."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"hello")
        assert await channel.receive() == b"hello"
        os.eventfd_write(end.own_bell, MOST - 2)
        end.reads.set_word(C_WAIT, 1)
        await channel.send(b"answer")
        assert os.eventfd_read(end.own_bell) >= MOST - 2
        assert (Kind.DATA, b"answer") in list(end.reads.take())
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(end.peer_bell, MOST - 2)
        end.say(Kind.DATA, b"again")
        assert await receiving == b"again"


async def test_bytes_on_the_socket_that_nobody_agreed_on(runtime_dir: Path) -> None:
    """And descriptors: the kernel closes what nobody asks for."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        fds = open_fds()
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                socket.send_fds(end.sock, [bytes(1000)], [0] * 100)
            end.say(Kind.DATA, b"x")
            assert await channel.receive() == b"x"
        assert open_fds() == fds


async def test_half_an_end(runtime_dir: Path) -> None:
    """Who ends the socket is gone, whatever it goes on writing."""
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"last")
        end.sock.shutdown(socket.SHUT_WR)
        assert await channel.receive() == b"last"
        with pytest.raises(PeerCrashed):
            await channel.receive()
        with pytest.raises(PeerCrashed):
            fill_up(channel.send_nowait)
