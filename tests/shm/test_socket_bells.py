"""A peer of another user, whose bells are bytes on the socket, and who may mean harm.

Whoever plays it here is of the same user: what the memory and the socket say is all that counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import aioipc
from aioipc import Channel, RingCorrupted, WouldBlock
from aioipc.wire.framing import Kind
from aioipc.wire.hello import Goodbye, GoodbyeCode
from tests.children import Peers
from tests.links import until
from tests.shm.bare import C_WAIT, HEAD, MOST, P_WAIT, TAIL, BareEnd, serving
from tests.shm.test_hostile_ring import (
    POSITIONS,
    RECORDS,
    attacked,
    fill_up,
    positions,
    send_some,
)

pytestmark = pytest.mark.asyncio

READ_BYTES = 4096


@contextlib.asynccontextmanager
async def beside_a_good_one(
    directory: Path,
) -> AsyncIterator[tuple[Channel[bytes], BareEnd, Channel[bytes]]]:
    """A channel and its hostile peer; a good connection of the same loop, at work to the end."""
    async with (
        serving(directory) as victim,
        aioipc.connect(victim.address, codec="raw") as good,
        attacked(directory, socket_bells=True) as (channel, end),
    ):
        end.greet()
        end.say(Kind.DATA, b"hello")
        assert await channel.receive() == b"hello"
        yield channel, end, good
        await talk(good)


async def talk(good: Channel[bytes]) -> None:
    for number in range(20):
        await good.send(b"%d" % number)
        assert await good.receive() == b"%d" % number


# Lies: cases 42 and 43


@positions
async def test_a_bad_tail(position: str, runtime_dir: Path) -> None:
    async with beside_a_good_one(runtime_dir) as (channel, end, _good):
        bad = POSITIONS[position](end.writes.word(TAIL)) % MOST
        await assert_noticed(
            channel, end, lambda: end.writes.set_word(TAIL, bad), f"tail position, {bad:#x}"
        )


@pytest.mark.parametrize("kind", RECORDS)
async def test_a_bad_record(kind: str, runtime_dir: Path) -> None:
    async with beside_a_good_one(runtime_dir) as (channel, end, _good):
        await assert_noticed(channel, end, lambda: RECORDS[kind](end.writes), "record header, 0x")


async def assert_noticed(
    channel: Channel[bytes], end: BareEnd, lie: Callable[[], None], says: str
) -> None:
    """Check that who sleeps is woken by a lie, calls it one, and says so."""
    receiving = asyncio.create_task(channel.receive())
    await until(lambda: end.writes.word(C_WAIT))
    lie()
    end.ring()
    with pytest.raises(RingCorrupted, match=f"an impossible {says}"):
        await receiving
    told = Goodbye.parse(await end.heard(Kind.GOODBYE))
    assert told.code == GoodbyeCode.PROTOCOL_ERROR


@pytest.mark.parametrize("position", [name for name in POSITIONS if name != "one less"])
async def test_a_bad_head(position: str, runtime_dir: Path) -> None:
    async with beside_a_good_one(runtime_dir) as (channel, end, _good):
        with contextlib.suppress(WouldBlock):
            fill_up(channel.send_nowait)
        sending = asyncio.create_task(channel.send(bytes(1_000)))
        await until(lambda: end.reads.word(P_WAIT))
        bad = POSITIONS[position](end.reads.word(HEAD)) % MOST
        end.reads.set_word(HEAD, bad)
        end.ring()
        with pytest.raises(RingCorrupted, match=f"head position, {bad:#x}"):
            await sending


# Bells: cases 46 and 47


async def test_who_never_reads_its_bells_keeps_nobody(runtime_dir: Path) -> None:
    """A socket without room says EAGAIN, which is as good as rung."""
    bells = 1_000
    async with beside_a_good_one(runtime_dir) as (channel, end, _good):
        got: list[bytes] = []
        rung = channel.statistics().bells_rung
        for number in range(bells):
            end.reads.set_word(C_WAIT, 1)
            await channel.send(b"%d" % number)
            await channel.flush()
            got += [payload for kind, payload in end.reads.take() if kind == Kind.DATA]
        assert got == [b"%d" % number for number in range(bells)]
        assert channel.statistics().bells_rung - rung == bells
        assert 0 < len(all_bytes(end.sock)) < bells, "more than the socket has room for"
        answering = asyncio.create_task(end.heard(Kind.DATA))
        await until(lambda: end.reads.word(C_WAIT))
        await channel.send(b"heard again")
        assert await answering == b"heard again"


def all_bytes(sock: socket.socket) -> bytes:
    """Take what waits in a socket."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            data += sock.recv(READ_BYTES)
    return data


async def test_bells_are_read_a_little_in_a_turn(runtime_dir: Path) -> None:
    """However many wait, and whoever goes on ringing."""
    async with beside_a_good_one(runtime_dir) as (channel, end, _good):
        fd = channel.port.socket_fd
        before = -1
        while before != (before := unread(fd)):
            send_some(end.sock)
        assert before > 10 * READ_BYTES
        while before:
            await asyncio.sleep(0)
            left = unread(fd)
            assert before - left <= READ_BYTES
            before = left


def unread(fd: int) -> int:
    """How many bytes wait in a socket: unix(7)."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    count: int = struct.unpack("i", answer)[0]
    return count


FLOOD = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while True:
    try:
        sock.send(bytes(4096))
    except BlockingIOError:
        pass
"""


async def test_a_flood_of_bells_keeps_nobody_else_from_working(
    runtime_dir: Path, peers: Peers
) -> None:
    """From a process that does nothing else; what it rings for is found among them."""
    async with beside_a_good_one(runtime_dir) as (channel, end, good):
        receiving = asyncio.create_task(channel.receive())
        fd = end.sock.fileno()
        flood = peers.script(FLOOD, fd, pass_fds=[fd])
        heard = channel.statistics().read_calls
        await until(lambda: channel.statistics().read_calls > heard + 10)
        await talk(good)
        assert not receiving.done()
        heard = channel.statistics().read_calls
        await until(lambda: channel.statistics().read_calls > heard)
        end.say(Kind.DATA, b"among them")
        assert await receiving == b"among them"
        flood.kill()
