"""Polls before a sleep: what they look at, what they find, and that they are counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aioipc
from aioipc import Channel, Limits
from aioipc.loop.waiting import pacer_of
from aioipc.transports._framed import FramedTransport
from tests.children import PATIENCE_S, Peers
from tests.links import SMALL_RING, steps, until
from tests.programs import program

pytestmark = pytest.mark.asyncio

FULL_NS = 75_000
SHORT_NS = 1_000
LIMITS = Limits(ring_bytes=SMALL_RING)
KINDS = ["shm", "shm", "unix", "shm", "pipe"]
MOST_POLLED = 8
LONGER_THAN_A_TURN_NS = 150_000
MOST_TURNS = 100
CROWDED_NS = 20_000


def grant_a_budget() -> None:
    """Let the next wait poll: short sleeps, and no misses."""
    budget = pacer_of(asyncio.get_running_loop()).budget
    budget.hit()
    while budget.next_ns() < FULL_NS:
        budget.blocked(SHORT_NS)


# One poll for all who wait in a loop


class Sleeper:
    """A channel whose receiver is asleep, and the other end."""

    def __init__(self, kind: str) -> None:
        self.near, self.far = aioipc.pair(kind, codec="raw", limits=LIMITS)
        self.receiving = asyncio.create_task(self.near.receive())

    async def asleep(self) -> None:
        waits = self.near.statistics().receive_waits
        await until(lambda: self.near.statistics().receive_waits > waits)

    async def close(self) -> None:
        self.receiving.cancel()
        await asyncio.wait([self.receiving])
        self.near.abort()
        self.far.abort()


@contextlib.asynccontextmanager
async def sleepers(*kinds: str) -> AsyncIterator[list[Sleeper]]:
    """Several in one loop, of which the last was asleep and woke just now."""
    async with contextlib.AsyncExitStack() as stack:
        every = []
        for kind in kinds:
            every.append(Sleeper(kind))
            stack.push_async_callback(every[-1].close)
            await every[-1].asleep()
        # A loop that lately took long for others does not poll; a wake-up lets it forget that.
        every[-1].far.send_nowait(b"wake up")
        await every[-1].receiving
        yield every


def take_turns_until_it_sleeps(channel: Channel[Any]) -> None:
    """Step a receive as a loop does: None asks for another turn, a future is a sleep."""
    receiving = channel.receive()
    for _ in range(MOST_TURNS):
        if receiving.send(None) is not None:
            break
    else:
        raise AssertionError("it never sleeps")
    receiving.close()


def poll(channel: Channel[bytes]) -> tuple[int, bool]:
    """Receive up to the sleep, and give up: how often that looked, and whether the budget paid.

    Who finds nothing for anybody looks twice, lets the loop turn in between, and pays for a miss.
    """
    pacer = pacer_of(asyncio.get_running_loop())
    pacer.end_turn()  # so that this turn has only begun
    grant_a_budget()
    pacer.budget.miss()  # what is left of it fits into a turn
    before = channel.statistics().polls
    take_turns_until_it_sleeps(channel)
    return channel.statistics().polls - before, pacer.budget.next_ns() < FULL_NS // 2


@pytest.mark.parametrize("polling", ["shm", "unix", "pipe"])
@pytest.mark.parametrize("chosen", range(len(KINDS)))
async def test_a_poll_looks_at_everybody(polling: str, chosen: int) -> None:
    """Whoever has something goes on; the poll of another channel finds it at once."""
    async with sleepers(*KINDS, polling) as (*others, last):
        assert poll(last.near) == (2, True)
        others[chosen].far.send_nowait(b"for the chosen one")
        assert poll(last.near) == (1, False)
        assert await others[chosen].receiving == b"for the chosen one"
        assert not any(one.receiving.done() for one in others if one is not others[chosen])
        assert last.near.statistics().poll_hits == 0


@pytest.mark.parametrize("polling", ["shm", "unix"])
async def test_where_many_wait_the_loop_is_the_better_poller(polling: str) -> None:
    async with sleepers(*["unix"] * (MOST_POLLED + 1), polling) as (*_, last):
        assert poll(last.near) == (0, False)
    async with sleepers(*["unix"] * MOST_POLLED, polling) as (*_, last):
        assert poll(last.near) == (2, True)


@pytest.mark.parametrize("kind", ["shm", "unix", "pipe"])
async def test_a_poll_for_longer_than_a_turn_ends(kind: str) -> None:
    near, far = aioipc.pair(kind, codec="raw", limits=LIMITS)
    async with near, far:
        await far.send(b"first")
        assert await near.receive() == b"first"
        grant_a_budget()
        take_turns_until_it_sleeps(near)
        assert near.statistics().polls > 0


@pytest.mark.parametrize("polling", ["adaptive", "block"])
@pytest.mark.parametrize("budget", [True, False])
async def test_who_looks_for_longer_than_a_turn_sleeps(
    polling: Any, budget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under strace, or where a transport is written in Python and traced."""
    look = FramedTransport.try_receive

    def look_long(transport: FramedTransport) -> object:
        end_ns = time.monotonic_ns() + LONGER_THAN_A_TURN_NS
        while time.monotonic_ns() < end_ns:
            pass
        return look(transport)

    monkeypatch.setattr(FramedTransport, "try_receive", look_long)
    near, far = aioipc.pair("unix", codec="raw", framing="lines", polling=polling)
    async with near, far:
        if budget:
            grant_a_budget()
        take_turns_until_it_sleeps(near)


# Who has to send first


@pytest.mark.parametrize("kind", ["shm", "unix", "pipe"])
@pytest.mark.parametrize("work_ns", [0, 2 * CROWDED_NS])
async def test_a_poll_learns_to_let_others_send_first(kind: str, work_ns: int) -> None:
    """A task that is ready when another one polls for the answer to its question."""
    near, far = aioipc.pair(kind, codec="raw", limits=LIMITS)
    polls_before_it_was_sent = []

    async def ask() -> None:
        polls_before_it_was_sent.append(near.statistics().polls - before)
        end_ns = time.monotonic_ns() + work_ns
        while time.monotonic_ns() < end_ns:
            pass
        await near.send(b"question")

    async def answer() -> None:
        async for message in far:
            await steps(20)  # so that there is something to poll for
            await far.send(message)

    async def is_answered() -> None:
        asking = asyncio.create_task(ask())
        assert await near.receive() == b"question"
        await asking

    async with near, far, asyncio.timeout(PATIENCE_S):
        answering = asyncio.create_task(answer())
        while 1 not in polls_before_it_was_sent:
            grant_a_budget()
            before = near.statistics().polls
            await is_answered()
        polls_before_it_was_sent.clear()
        polled = 0
        for _ in range(100):
            grant_a_budget()
            before = near.statistics().polls
            await is_answered()
            polled += near.statistics().polls > before
        assert polls_before_it_was_sent == [0] * 100
        assert polled > 10, "that the task took long is no reason not to poll"
        answering.cancel()


# Between two processes

ECHO = """
async with await aioipc.connect(sys.argv[1], polling=sys.argv[2]) as channel:
    await echo(channel)
"""


@pytest.mark.parametrize("kind", ["shm", "unix", "pipe"])
@pytest.mark.parametrize("polling", ["adaptive", "busy"])
async def test_polls_find_answers(kind: str, polling: Any, peers: Peers) -> None:
    """Who is found awake needs no bell."""
    ours, theirs = aioipc.pair(kind, polling=polling)
    address, fds = theirs.detach()
    program(peers, ECHO, address, polling, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with ours, asyncio.timeout(PATIENCE_S):
        counts = ours.statistics()
        while not counts.poll_hits or (kind == "shm" and not counts.bells_saved):
            grant_a_budget()
            await ours.send("ping")
            assert await ours.receive() == "ping"
            counts = ours.statistics()
        assert counts.poll_hits <= counts.polls
        if polling == "busy":
            assert (counts.send_waits, counts.receive_waits) == (0, 0)


RELAY = """
async with await aioipc.connect(sys.argv[1]) as channel:
    queue = asyncio.Queue()

    async def answer():
        while True:
            await channel.send(await queue.get())

    answering = asyncio.create_task(answer())
    async for obj in channel:
        queue.put_nowait(obj)
"""


@pytest.mark.parametrize("kind", ["shm", "unix", "pipe"])
async def test_polls_find_answers_to_what_other_tasks_ask(kind: str, peers: Peers) -> None:
    """One task receives for all, and over there one answers what another one received."""
    ours, theirs = aioipc.pair(kind)
    address, fds = theirs.detach()
    program(peers, RELAY, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    answered: asyncio.Queue[object] = asyncio.Queue()

    async def read() -> None:
        async for obj in ours:
            answered.put_nowait(obj)

    async with ours, asyncio.timeout(PATIENCE_S):
        reading = asyncio.create_task(read())
        while ours.statistics().poll_hits < 10:
            grant_a_budget()
            await ours.send("ping")
            assert await answered.get() == "ping"
        reading.cancel()
