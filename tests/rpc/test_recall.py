"""Calls that are taken back: each of them runs, or is refused, and both sides know which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest

from aioipc import PeerCrashed, QuotaExceeded, RemoteCancelled, pair, rpc
from aioipc.rpc.parts import NotBegun, describe, handlers_of
from aioipc.wire.rpc import GoAway
from tests.links import until

pytestmark = pytest.mark.asyncio


MIB = 1024 * 1024


class Keeping(Protocol):
    async def keep(self, data: bytes) -> int: ...


class Adding(Protocol):
    async def add(self, number: int) -> int: ...


class Adder:
    def __init__(self) -> None:
        self.ran: list[int] = []

    def add(self, number: int) -> int:
        self.ran.append(number)
        return number


class WaitingAdder(Adder):
    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def add(self, number: int) -> int:  # type: ignore[override]
        await self.gate.wait()
        return super().add(number)


@asynccontextmanager
async def connected(adder: Adder, transport: str) -> AsyncIterator[tuple[rpc.Connection, ...]]:
    """The calling and the called side of a connection to an adder."""
    ours, theirs = pair(transport, codec=rpc.CODEC)
    async with (
        rpc.Connection(ours, connected=True) as calling,
        rpc.Connection(theirs, connected=False, handlers=handlers_of(adder, Adding)) as called,
    ):
        yield calling, called


@asynccontextmanager
async def in_order(adder: Adder, *, at_once: int = 1) -> AsyncIterator[rpc.Connection]:
    """The calling side of a connection to an adder that begins calls in their order."""
    async with connected(adder, "shm") as (calling, called):
        called.serve_in_order(at_once)
        yield calling


async def sent(calling: rpc.Connection, count: int) -> list[asyncio.Task[int]]:
    """Calls that were sent, and that nobody has looked at yet."""
    await calling.proxy(Adding).add(-1)
    adding = calling.proxy(Adding)
    tasks = [asyncio.create_task(adding.add(number)) for number in range(count)]
    while len(calling.session.calls) < count:  # noqa: ASYNC110 - each sends in its first step
        await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("kept", range(5))
async def test_those_from_a_number_on_do_not_run(kept: int) -> None:
    adder = Adder()
    async with in_order(adder) as calling:
        tasks = await sent(calling, 5)
        already = adder.ran[1:]
        first = calling.session.last_id - 2 * (4 - kept)
        begun = calling.recall(first)
        assert begun == calling.session.last_id - 2 * (5 - len(already))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        ran = max(kept, len(already))
        assert adder.ran == [-1, *range(ran)]
        assert found[:ran] == [*range(ran)]
        assert all(isinstance(error, QuotaExceeded) for error in found[ran:])
        assert await calling.proxy(Adding).add(7) == 7, "the next one is another matter"


async def test_who_waits_is_told_at_once() -> None:
    adder = Adder()
    async with in_order(adder) as calling:
        _, *tasks = await sent(calling, 3)
        begun = calling.recall(calling.session.last_id - 2)
        for call in [*calling.session.calls.values()][1:]:
            assert call.id > begun
            call.take_back()
        for task in tasks:
            with pytest.raises(NotBegun):
                await task
        assert await calling.proxy(Adding).add(7) == 7
        assert adder.ran == [-1, 0, 7]
        assert not calling.session.calls


async def test_more_than_run_at_once_are_refused() -> None:
    adder = WaitingAdder()
    async with in_order(adder, at_once=2) as calling:
        first, second, *others = map(asyncio.create_task, map(calling.proxy(Adding).add, range(4)))
        for refused in others:
            with pytest.raises(QuotaExceeded):
                await refused
        adder.gate.set()
        assert (await first, await second) == (0, 1)


@pytest.mark.parametrize(
    ("transport", "what"), [("shm", "was not called"), ("unix", "may have run")]
)
async def test_what_a_peer_that_is_gone_had_not_begun(transport: str, what: str) -> None:
    adder = Adder()
    async with connected(adder, transport) as (calling, called):
        tasks = await sent(calling, 3)
        called.channel.abort()
        for task in tasks:
            with pytest.raises(PeerCrashed, match=what):
                await task
        assert adder.ran == [-1]


async def test_what_a_peer_that_is_gone_had_begun() -> None:
    adder = WaitingAdder()
    adder.gate.set()
    async with connected(adder, "shm") as (calling, called):
        adding = calling.proxy(Adding)
        assert await adding.add(0) == 0
        adder.gate.clear()
        task = asyncio.create_task(adding.add(1))
        await until(lambda: bool(called.session.served))
        late = asyncio.create_task(adding.add(2))
        while len(calling.session.calls) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        called.channel.abort()
        with pytest.raises(PeerCrashed, match="may have run"):
            await task
        with pytest.raises(PeerCrashed, match="was not called"):
            await late


async def test_who_does_not_say_what_began() -> None:
    """The numbers of calls begin with 1, so 0 is what memory holds that nobody wrote to."""
    ours, theirs = pair("shm", codec=rpc.CODEC)
    async with rpc.Connection(ours, connected=True) as calling, theirs:
        task = asyncio.create_task(calling.proxy(Adding).add(1))
        await theirs.receive()
        theirs.abort()
        with pytest.raises(PeerCrashed, match="may have run"):
            await task


async def test_what_a_peer_has_refused_is_known_when_it_is_gone() -> None:
    """All that it said is read in one turn, with its end."""
    adder = Adder()
    async with connected(adder, "unix") as (calling, called):
        tasks = await sent(calling, 3)
        calls = [*calling.session.calls.values()]
        called.tell(GoAway(1))
        called.channel.abort()
        for task in tasks:
            with pytest.raises(RemoteCancelled, match="was not called"):
                await task
        assert all(call.never_ran for call in calls)


@pytest.mark.parametrize("transport", ["shm", "unix"])
async def test_calls_that_wait_for_room_when_the_peer_goes(transport: str) -> None:
    ours, theirs = pair(transport, codec=rpc.CODEC)
    async with rpc.Connection(ours, connected=True) as calling, theirs:
        caller = calling.caller
        method = describe(Keeping).methods["keep"]
        tasks = [asyncio.ensure_future(caller.call(method, (bytes(MIB),))) for _ in range(4)]
        await until(lambda: ours.statistics().messages_sent > 0)
        theirs.abort()
        for task in tasks:
            with pytest.raises(PeerCrashed):
                await task
        assert not calling.session.calls
