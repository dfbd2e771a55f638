"""How few system calls messages take, by the channel's own count and by the kernel's."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import aioipc
from aioipc import Channel
from aioipc.testing._turns import MOST_OPERATIONS, Turns
from tests.links import STREAMS, Link
from tests.scale import patience_s
from tests.traced import calls_by_phase

in_loop = pytest.mark.asyncio
duplex = pytest.mark.parametrize("link", STREAMS, indirect=True)
pairs = pytest.mark.parametrize("link", ["unix", "pipe", "memory"], indirect=True)

BLOCK = 65536
HEADER = 8


async def turns() -> None:
    """Let the loop turn, so that what was gathered leaves."""
    for _ in range(3):
        await asyncio.sleep(0)


async def settled(left: Channel[bytes], right: Channel[bytes]) -> None:
    """Have the HELLO out of the way."""
    await left.send(b"settled")
    assert await right.receive() == b"settled"
    await turns()


@dataclass
class Calls:
    """The calls that a channel made since this was made."""

    channel: Channel[bytes]

    def __post_init__(self) -> None:
        self._before = self.channel.statistics()

    @property
    def written(self) -> int:
        return self.channel.statistics().write_calls - self._before.write_calls

    @property
    def read(self) -> int:
        return self.channel.statistics().read_calls - self._before.read_calls


# Sending


@in_loop
@duplex
async def test_send_many_is_one_call(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        await left.send_many([b"x" * 100] * 100)
        assert calls.written == 1
        got: list[bytes] = []
        while len(got) < 100:  # where that takes long, the loop turns in between
            got += await right.receive_many()
        assert got == [b"x" * 100] * 100
        await turns()
        assert calls.written == 1


@in_loop
@pytest.mark.parametrize(
    "link",
    # Encrypting a hundred messages takes longer than one turn of the loop may.
    [kind for kind in STREAMS if kind != "tls"],
    indirect=True,
)
async def test_a_hundred_sends_in_one_turn_are_two_calls(link: Link) -> None:
    """Unless they take so long that the loop has to turn in between: the quickest of some."""
    written = []
    async with link(codec="raw") as (left, right):
        for _ in range(25):
            await settled(left, right)
            await asyncio.sleep(0.001)  # a long while ago is not this turn
            calls = Calls(left)
            for number in range(100):
                await left.send(b"%d" % number)
            at_once = calls.written
            await turns()
            written.append((at_once, calls.written))
            got: list[bytes] = []
            while len(got) < 100:
                got += await right.receive_many()
            assert got == [b"%d" % number for number in range(100)]
    assert min(written) == (1, 2), "what finds nothing gathered leaves at once, the rest together"


@in_loop
@pairs
async def test_who_had_to_yield_sends_on_with_one_call_per_turn(link: Link) -> None:
    """The first message of such a turn does not leave alone."""
    async with link(codec="raw") as (left, right), Turns() as turned:
        await settled(left, right)
        for _ in range(200):
            calls = Calls(left)
            before = turned.count
            for _ in range(4 * MOST_OPERATIONS):
                await left.send(b"x")
            assert turned.count - before >= 4
            if turned.count - before <= 5:  # else the time was over before the operations were
                break
            await turns()
            while left.statistics().messages_sent > right.statistics().messages_received:
                await right.receive_many()
        else:
            pytest.skip("so many operations take longer here than a turn may")
        await turns()
        assert calls.written <= 2 + 4 + 1


@in_loop
@duplex
async def test_whoever_sends_in_a_turn_shares_its_calls(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        await asyncio.gather(*(left.send(b"%d" % number) for number in range(30)))
        await turns()
        assert calls.written == 2
        assert len(await right.receive_many()) == 30


@in_loop
@pytest.mark.parametrize("framing", ["lines", "headers", "multiprocessing"])
async def test_foreign_framings_gather_as_well(framing: str) -> None:
    left, right = aioipc.pair("unix", codec="raw", framing=framing)
    messages = [b"%d" % number for number in range(100)]
    async with left, right:
        calls = Calls(left)
        await left.send_many(messages)
        assert calls.written == 1
        assert [await right.receive() for _ in messages] == messages
        await turns()
        calls = Calls(left)
        for message in messages:
            left.send_nowait(message)
        assert calls.written == 1
        await turns()
        assert calls.written == 2
        assert [await right.receive() for _ in messages] == messages
        sent, received = left.statistics(), right.statistics()
        assert received.read_calls <= 6
        assert sent.bytes_sent == received.bytes_received == 2 * sum(map(len, messages))


@in_loop
@pytest.mark.parametrize("framing", ["lines", "none"])
async def test_what_foreign_framings_gathered_stands_in_order_with_the_rest(framing: str) -> None:
    """Short and long, until there is no room, and to the end."""
    left, right = aioipc.pair("unix", codec="raw", framing=framing)
    async with right:
        messages = [
            bytes([97 + number % 26]) * (1 + number * 7_919 % 30_000) for number in range(500)
        ]

        async def send_all() -> None:
            for message in messages:
                await left.send(message)
            await left.aclose()

        sending = asyncio.create_task(send_all())
        got = [message async for message in right]
        await sending
        assert b"".join(got) == b"".join(messages)


@in_loop
@duplex
async def test_each_turn_begins_anew(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        for number in range(1, 11):
            await left.send(b"one per turn")
            assert calls.written == number
            assert right.receive_nowait() == b"one per turn"
            await turns()
        assert calls.written == 10


@in_loop
@pytest.mark.parametrize("link", ["unix", "tcp", "memory"], indirect=True)
async def test_what_is_gathered_leaves_at_64_kib(link: Link) -> None:
    message = b"x" * 1_000
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        left.send_nowait(message)
        for _ in range(BLOCK // (HEADER + len(message))):
            left.send_nowait(message)
        assert calls.written == 1
        left.send_nowait(message)
        assert calls.written == 2
        await turns()
        assert calls.written == 3
        got: list[bytes] = []
        while len(got) < 67:
            got += await right.receive_many()
        assert len(got) == 67


@in_loop
@pytest.mark.parametrize("link", ["pipe", "fd-pipes"], indirect=True)
@pytest.mark.parametrize(
    ("size", "together"),
    [(16, 341), (73, 101), (74, 199), (155, 100), (156, 199), (319, 100), (648, 12), (5_000, 1)],
)
async def test_writes_into_a_pipe_are_short(link: Link, size: int, together: int) -> None:
    """Two pages, of which the kernel has the memory at hand: pipe(7). More where a hundred fit."""
    message = b"x" * size
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        left.send_nowait(message)  # leaves at once
        for _ in range(together):
            left.send_nowait(message)
        assert calls.written == 1
        left.send_nowait(message)
        assert calls.written == 2
        await left.flush()
        assert calls.written == 3
        for _ in range(together + 2):
            assert await right.receive() == message


@in_loop
@pytest.mark.parametrize("link", ["pipe", "fd-pipes"], indirect=True)
async def test_a_hundred_that_fill_a_block_go_into_a_pipe_together(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        for _ in range(101):  # the first one leaves at once
            left.send_nowait(b"x" * 647)
        assert calls.written == 1
        for _ in range(101):
            assert await right.receive() == b"x" * 647


@in_loop
@pairs
async def test_flush_and_close_do_not_wait_for_the_end_of_the_turn(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        await left.send(b"1")
        await left.send(b"2")
        await left.flush()
        assert calls.written == 2
        assert [await right.receive() for _ in range(2)] == [b"1", b"2"]
        await left.send(b"3")
        await left.send(b"4")
        before_close = calls.written
        await left.aclose()
        assert calls.written == before_close + 1, "what was gathered and the GOODBYE"
        assert [await right.receive() for _ in range(2)] == [b"3", b"4"]


@in_loop
@pairs
async def test_a_large_message_is_written_from_where_it_lies(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(left)
        sending = asyncio.create_task(left.send(bytes(BLOCK)))
        assert len(await right.receive()) == BLOCK
        await sending
        assert calls.written <= 3, "one, but a pipe takes 64 KiB at a time"


# HELLO


@in_loop
@pairs
async def test_hello_travels_with_the_first_message(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"first")
        assert left.statistics().write_calls == 1
        assert await right.receive() == b"first"
        assert right.statistics().read_calls == 1
        await turns()
        assert left.statistics().write_calls == 1


@in_loop
@pytest.mark.parametrize("address", ["unix:", "tcp://127.0.0.1:0", "memory:hello"])
async def test_hello_travels_with_the_first_message_over_a_connection(address: str) -> None:
    async with (
        aioipc.listen(address, codec="raw") as listener,
        aioipc.connect(listener.address, codec="raw") as left,
    ):
        await left.send(b"first")
        await turns()
        assert left.statistics().write_calls == 1
        async with await listener.accept() as right:
            assert await right.receive() == b"first"
            assert right.statistics().read_calls == 1


@in_loop
@pytest.mark.parametrize("address", ["unix:", "tcp://127.0.0.1:0", "memory:hello"])
async def test_hello_travels_alone_when_nothing_is_sent(address: str) -> None:
    async with (
        aioipc.listen(address, codec="raw") as listener,
        aioipc.connect(listener.address, codec="raw") as left,
        await listener.accept() as right,
    ):
        assert left.statistics().write_calls == 1
        assert right.statistics().messages_received == 0


# Receiving


@in_loop
@duplex
async def test_receiving_what_is_buffered_reads_nothing(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        await left.send_many([b"x"] * 250)  # fewer than may be sent without a look at the clock
        await right.receive()
        calls = Calls(right)
        for _ in range(100):
            await right.receive()
        for _ in range(100):
            right.receive_nowait()
        for _ in range(48):
            await anext(right)
        assert len(await right.receive_many(1)) == 1
        assert calls.read == 0


@in_loop
@pairs
async def test_one_read_brings_what_fits_into_a_block(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await settled(left, right)
        calls = Calls(right)
        await left.send_many([b"x" * 92] * 600)  # 60,000 bytes with their headers
        for _ in range(600):
            await right.receive()
        assert calls.read == 1


# The same, as the kernel counts it

TRACED = """
async def ends(kind):
    if kind != "tcp":
        return aioipc.pair(kind, codec="raw", polling="block")
    options = {"codec": "raw", "polling": "block"}
    async with aioipc.listen("tcp://127.0.0.1:0", **options) as listener:
        left = await aioipc.connect(listener.address, **options)
        right = await listener.accept()
        await right.send(b"so that the HELLO is read before anything is counted")
        await left.receive()
        return left, right

left, right = await ends(sys.argv[1])
phase("first")
await left.send(b"first")
phase("receive first")
await right.receive()
phase("send_many")
await left.send_many([b"x" * 100] * 100)
phase("receive one")
await right.receive()
phase("receive buffered")
for _ in range(49):
    await right.receive()
await right.receive_many(50)
# Not `send`: strace makes the first write so slow that the loop would have to turn.
phase("hundred sends")
for _ in range(100):
    left.send_nowait(b"x")
await asyncio.sleep(0)
await asyncio.sleep(0)
phase("receive hundred")
for _ in range(100):
    await right.receive()
phase("end")
left.abort()
right.abort()
"""
WRITES = ("write", "writev", "sendto", "sendmsg")
READS = ("read", "readv", "recvfrom", "recvmsg")


def on_lines(calls: Counter[str], names: tuple[str, ...]) -> int:
    """How many of these were made on a socket or a pipe."""
    return sum(calls[f"{name} of a line"] for name in names)


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("kind", ["unix", "pipe", "tcp"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_kernel_counts_the_same(loop: str, kind: str, tmp_path: Path) -> None:
    counted = calls_by_phase(TRACED, loop, kind, tmp_path=tmp_path)
    sending = {
        phase: on_lines(counted[phase], WRITES) for phase in ("first", "send_many", "hundred sends")
    }
    assert sending == {"first": 1, "send_many": 1, "hundred sends": 2}
    quiet = ("receive first", "receive one", "receive buffered", "receive hundred")
    receiving = {phase: on_lines(counted[phase], READS) for phase in quiet}
    assert receiving == {
        "receive first": 1,
        "receive one": 1,
        "receive buffered": 0,
        "receive hundred": 1,
    }
    for phase in quiet:
        assert not on_lines(counted[phase], WRITES), phase
