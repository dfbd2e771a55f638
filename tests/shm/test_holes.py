"""Memory that a peer punches holes into: pages full of zeros, at any time (case 45)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

import aioipc
from aioipc import Channel, PeerCrashed, ProtocolError, RingCorrupted, WouldBlock
from aioipc.wire.offer import Offer
from tests.children import Peers
from tests.scale import patience_s, scaled
from tests.shm.bare import (
    CAPACITY,
    HEAD,
    HEAD_BYTES,
    OPTIONS,
    TAIL,
    bell,
    memory_file,
    serving,
)
from tests.shm.test_hostile_ring import attacked, greeted

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(patience_s(60))]

MESSAGE_PAGES = 4
MESSAGE_BYTES = 4096 * MESSAGE_PAGES - 8
"""With its header so long that each begins in the same page of four, behind the HELLO or not."""
RING_PAGES = (HEAD_BYTES + CAPACITY) // 4096
DATA_PAGES = [page for page in range(2 * RING_PAGES) if page % RING_PAGES]

Journey = tuple[int, type[BaseException] | None]
"""How many messages arrived with holes, and what ended the connection, if anything did."""


def punch(fd: int, at: int, size: int) -> None:
    """Take pages away: fallocate(2)."""
    keep_size_punch_hole = 1 | 2
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, keep_size_punch_hole, ctypes.c_long(at), ctypes.c_long(size))
    assert done == 0, os.strerror(ctypes.get_errno())


async def test_a_hole_is_no_record(runtime_dir: Path) -> None:
    async with serving(runtime_dir) as victim:
        with await greeted(victim) as end:
            punch(end.memory_fd, 0, end.map.size())
            end.writes.set_word(TAIL, 4096)
            end.ring()
            assert isinstance(await victim.endings.get(), RingCorrupted)
        await victim.assert_serves()


async def test_a_hole_where_the_sender_looks_for_room(runtime_dir: Path) -> None:
    async with attacked(runtime_dir) as (channel, end):
        end.greet()
        for _ in range(2):  # who finds room the second time knows of another head than 0
            fill_up(channel)
            for _ in end.reads.take():
                pass
        assert end.reads.word(HEAD) > CAPACITY
        punch(end.memory_fd, end.reads.offset, HEAD_BYTES)
        with pytest.raises(RingCorrupted, match="an impossible head position, 0x0"):
            fill_up(channel)


def fill_up(channel: Channel[bytes]) -> None:
    with contextlib.suppress(WouldBlock):
        while True:
            channel.send_nowait(bytes(1_000))


# During traffic

PUNCHER = """
import ctypes, random, sys
fd, *pages = map(int, sys.argv[1:])
fallocate = ctypes.CDLL(None).fallocate
places = [ctypes.c_long(4096 * page) for page in pages]
size = ctypes.c_long(4096)
print("punching", flush=True)
while True:
    fallocate(fd, 3, random.choice(places), size)
"""


@contextlib.asynccontextmanager
async def both_over(memory: int) -> AsyncIterator[tuple[Channel[bytes], Channel[bytes]]]:
    """Two channels over rings in the memory of a test."""
    left, right = socket.socketpair()
    bells = [bell(), bell()]
    socket.send_fds(left, [Offer(CAPACITY, 1).pack()], [memory, *bells])
    socket.send_fds(right, [Offer(CAPACITY, 0).pack()], [memory, *reversed(bells)])
    for fd in bells:
        os.close(fd)
    async with contextlib.AsyncExitStack() as stack:
        ends = []
        for sock in (left, right):
            ends.append(await aioipc.connect(f"shm:fd={sock.detach()}", **OPTIONS))
            stack.callback(ends[-1].abort)
        yield ends[0], ends[1]


async def test_holes_in_payloads(peers: Peers) -> None:
    """They are zeros in a message, and nobody notices."""
    pages = [page for page in DATA_PAGES if page % RING_PAGES % MESSAGE_PAGES != 1]
    for damaged, ending in await punched(pages, peers):
        assert damaged
        assert ending is None


async def test_holes_anywhere_in_the_data(peers: Peers) -> None:
    """A hole where a header was is no header, and ends the connection."""
    endings: set[type[BaseException] | None] = set()
    while RingCorrupted not in endings:
        endings |= {ending for _, ending in await punched(DATA_PAGES, peers)}
    assert endings <= {None, RingCorrupted, ProtocolError, PeerCrashed}


async def punched(pages: Iterable[int], peers: Peers) -> tuple[Journey, Journey]:
    """Let messages travel both ways while pages are taken away."""
    memory = memory_file()
    async with both_over(memory) as (left, right):
        puncher = peers.script(PUNCHER, memory, *pages, pass_fds=[memory])
        os.close(memory)
        assert await puncher.next_line() == "punching"
        try:
            return await asyncio.gather(travel(left, right), travel(right, left))
        finally:
            puncher.kill()


async def travel(sender: Channel[bytes], receiver: Channel[bytes]) -> Journey:
    """Send until enough arrived with holes; whatever arrives is what was sent, or zeros."""
    damaged = 0
    try:
        for letter in itertools.cycle(range(1, 256)):
            if damaged >= scaled(5, full=5_000):
                break
            sending = asyncio.create_task(sender.send_many([bytes([letter]) * MESSAGE_BYTES] * 3))
            try:
                for _ in range(3):
                    got = await receiver.receive()
                    assert len(got) == MESSAGE_BYTES
                    assert set(got) <= {letter, 0}
                    damaged += 0 in got
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except aioipc.IPCError as error:
        return damaged, type(error)
    return damaged, None
