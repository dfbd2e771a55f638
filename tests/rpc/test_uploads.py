"""The stream among the arguments of a call, where it ends at another time than its method."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
import pytest

import aioipc
from aioipc import BusyError, ClosedError, IPCError, RemoteCancelled, rpc
from aioipc.wire.rpc import WINDOW, Call, Credit, Item, Raise, Return
from tests.children import PATIENCE_S
from tests.links import Link, steps, until
from tests.rpc.store import Mill, packed

pytestmark = pytest.mark.asyncio
linked = pytest.mark.parametrize("link", ["memory", "shm"], indirect=True)


class Press(Protocol):
    async def take(self, items: AsyncIterator[int]) -> int: ...
    async def leave(self, items: AsyncIterator[int]) -> int: ...
    async def hold(self, items: AsyncIterator[int]) -> int: ...
    def mix(self, items: AsyncIterator[int]) -> AsyncIterator[int]: ...
    def first(self, items: AsyncIterator[int]) -> AsyncIterator[int]: ...
    async def make(self, size: int) -> bytes: ...


class Hand(Mill):
    """Keeps what it is given, or reads it in a task that its method does not wait for."""

    def __init__(self) -> None:
        self.upload: AsyncIterator[int] | None = None
        self.reading: asyncio.Task[list[int]] | None = None
        self.may_read = asyncio.Event()
        self.has_begun = asyncio.Event()
        self.has_read = asyncio.Event()

    async def take(self, items: AsyncIterator[int]) -> int:
        self.upload = items
        await self.may_read.wait()
        return len([await anext(items) for _ in range(WINDOW // 2)])

    async def leave(self, items: AsyncIterator[int]) -> int:
        self.reading = asyncio.create_task(self._read(items))
        await self.has_begun.wait()
        return 0

    async def hold(self, items: AsyncIterator[int]) -> int:
        self.reading = asyncio.create_task(self._read(items))
        return int(await asyncio.Event().wait())

    async def mix(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(items)
        async for _ in items:
            pass
        self.has_read.set()
        yield -1

    async def first(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(items)

    async def _read(self, items: AsyncIterator[int]) -> list[int]:
        read = [await anext(items)]
        self.has_begun.set()
        await self.may_read.wait()
        return read + [item async for item in items]


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def one_and_no_more(closed: asyncio.Event) -> AsyncIterator[int]:
    try:
        yield 1
        await asyncio.Event().wait()
    finally:
        closed.set()


@contextlib.asynccontextmanager
async def pressed(link: Link, hand: Hand) -> AsyncIterator[Press]:
    async with (
        link(codec=rpc.CODEC) as (left, right),
        rpc.serve(right, hand, interface=Press),
        rpc.connect(left, Press) as press,
    ):
        yield press


async def up_to_outcome(channel: aioipc.Channel[Any], number: int) -> list[Any]:
    said: list[Any] = []
    while not said or type(said[-1]) is not Return or said[-1].id != number:
        said.append(await channel.receive())
    return said


async def test_credit_does_not_leave_behind_the_outcome() -> None:
    """There is room for neither when the method takes its last item and returns."""
    hand = Hand()
    async with (
        rpc.serve("unix:", hand, interface=Press) as server,
        aioipc.connect(server.address, codec=rpc.CODEC) as channel,
    ):
        await channel.send(Call(1, "take", packed(None)))
        await channel.send_many([Item(1, msgspec.Raw(b"\x01"))] * (WINDOW // 2))
        await until(lambda: hand.upload is not None)
        made = [3 + 2 * number for number in range(20)]
        await channel.send_many([Call(number, "make", packed(100_000)) for number in made])
        await channel.flush()
        await until(lambda: any(connection.late for connection in server.connections))
        hand.may_read.set()
        said = await up_to_outcome(channel, 1)
        await channel.send(Call(101, "make", packed(1)))
        behind = await up_to_outcome(channel, 101)
        assert not [each for each in said + behind if isinstance(each, Raise)]
        assert not [each for each in behind if isinstance(each, Credit)]


@linked
async def test_it_goes_on_while_nobody_asks_for_results(link: Link) -> None:
    hand = Hand()
    async with pressed(link, hand) as press, asyncio.timeout(PATIENCE_S):
        results = press.mix(numbers(3 * WINDOW))
        assert await anext(results) == 0
        await hand.has_read.wait()
        assert [result async for result in results] == [-1]


@linked
async def test_it_is_closed_when_the_results_end_before(link: Link) -> None:
    closed = asyncio.Event()
    async with pressed(link, Hand()) as press, asyncio.timeout(PATIENCE_S):
        assert [result async for result in press.first(one_and_no_more(closed))] == [1]
        await closed.wait()


@linked
async def test_it_is_closed_when_the_results_are_given_up(link: Link) -> None:
    closed = asyncio.Event()
    async with pressed(link, Hand()) as press, asyncio.timeout(PATIENCE_S):
        async with rpc.closing(press.mix(one_and_no_more(closed))) as results:
            assert await anext(results) == 1
        await closed.wait()


@linked
async def test_results_are_not_closed_under_who_waits_for_one(link: Link) -> None:
    closed = asyncio.Event()
    async with pressed(link, Hand()) as press:
        results = press.mix(one_and_no_more(closed))
        assert await anext(results) == 1
        waiting = asyncio.ensure_future(anext(results))
        await steps(10)
        with pytest.raises(BusyError):
            await results.aclose()  # type: ignore[attr-defined]
        waiting.cancel()
        await asyncio.wait([waiting])
        await results.aclose()  # type: ignore[attr-defined]
        await closed.wait()


@linked
async def test_who_reads_it_longer_than_its_method_runs(link: Link) -> None:
    """Gets what has come, and no complete stream; the connection goes on."""
    hand = Hand()
    async with pressed(link, hand) as press, asyncio.timeout(PATIENCE_S):
        assert await press.leave(numbers(10 * WINDOW)) == 0
        assert hand.reading is not None
        hand.may_read.set()
        with pytest.raises(ClosedError, match="leave has ended"):
            await hand.reading
        assert await press.make(1) == b"\0"


@linked
@pytest.mark.parametrize("how", ["method ends", "call is given up", "caller goes"])
async def test_who_waits_for_an_item_is_told_that_none_comes(how: str, link: Link) -> None:
    hand, closed = Hand(), asyncio.Event()
    hand.may_read.set()
    async with pressed(link, hand) as press, asyncio.timeout(PATIENCE_S):
        method = press.leave if how == "method ends" else press.hold
        call = asyncio.ensure_future(method(one_and_no_more(closed)))
        await hand.has_begun.wait()
        assert hand.reading is not None
        if how == "call is given up":
            call.cancel()
        elif how == "caller goes":
            await rpc.connection_of(press).aclose()
        expected = {"method ends": ClosedError, "call is given up": RemoteCancelled}
        with pytest.raises(expected.get(how, IPCError)):
            await hand.reading
        await asyncio.gather(call, return_exceptions=True)
        await closed.wait()
