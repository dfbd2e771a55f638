"""Calls that are taken back: each of them runs, or is refused, and both sides know which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest

from aioipc import QuotaExceeded, pair, rpc
from aioipc.rpc.parts import NotBegun, handlers_of

pytestmark = pytest.mark.asyncio


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
async def in_order(adder: Adder, *, at_once: int = 1) -> AsyncIterator[rpc.Connection]:
    """The calling side of a connection to an adder that begins calls in their order."""
    ours, theirs = pair("shm", codec=rpc.CODEC)
    handlers = handlers_of(adder, Adding)
    async with (
        rpc.Connection(ours, connected=True) as calling,
        rpc.Connection(theirs, connected=False, handlers=handlers) as called,
    ):
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
