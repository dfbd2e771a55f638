"""Leaving a call: cancelled, past its deadline, at every instant."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import rpc
from aioipc.rpc._caller import OwnCall
from tests.children import PATIENCE_S
from tests.links import Link, steps
from tests.rpc.store import MemoryStore, connected

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("link", ["memory", "shm"], indirect=True),
]


async def is_settled(store: Any) -> None:
    """No call is left on either side, and the connection works."""
    assert await store.get("a") == 1
    assert not rpc.connection_of(store).session.calls


async def within(scope: Any, call: Any) -> None:
    """Await a call inside a scope of either kind."""
    if hasattr(scope, "__aenter__"):
        async with scope:
            await call
    else:
        with scope:
            await call


async def test_cancelling_the_caller_cancels_the_method(link: Link) -> None:
    async with connected(link) as (store, service):
        task = asyncio.ensure_future(store.forever())
        assert await service.events.get() == "began"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await service.events.get() == "cancelled"
        await is_settled(store)


@pytest.mark.parametrize(
    "scope",
    [lambda: aioipc.timeout(0.05), lambda: anyio.fail_after(0.05), lambda: asyncio.timeout(0.05)],
    ids=["aioipc.timeout", "anyio.fail_after", "asyncio.timeout"],
)
async def test_every_kind_of_timeout_cancels_the_method(link: Link, scope: Any) -> None:
    async with connected(link) as (store, service):
        with pytest.raises(TimeoutError):
            await within(scope(), store.forever())
        assert await service.events.get() == "began"
        assert await service.events.get() == "cancelled"
        await is_settled(store)


@pytest.mark.parametrize("scope", [aioipc.timeout, anyio.fail_after, anyio.move_on_after])
async def test_the_deadline_travels(link: Link, scope: Any) -> None:
    async with connected(link) as (store, service):
        async with aioipc.timeout(99):
            await within(scope(50), store.get("a"))
        await store.get("a")
        timed, untimed = service.calls
        assert 40 < timed.remaining_s < 51
        assert untimed.remaining_s == float("inf")


async def test_moving_on_is_silent(link: Link) -> None:
    async with connected(link) as (store, service):
        for _ in range(5):
            with anyio.move_on_after(0.01) as scope:
                await store.forever()
            assert scope.cancelled_caught
            assert await service.events.get() == "began"
            assert await service.events.get() == "cancelled"
        await is_settled(store)


async def test_a_deadline_in_the_past_calls_nothing(link: Link) -> None:
    async with connected(link) as (store, service):
        with pytest.raises(TimeoutError):
            async with aioipc.timeout(-1):
                await store.get("a")
        with anyio.move_on_after(-1) as scope:
            await store.get("a")
        assert scope.cancelled_caught
        assert not service.calls


async def test_the_method_is_cancelled_even_if_the_caller_does_not_ask(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(link) as (store, service):
        monkeypatch.setattr(OwnCall, "cancel", lambda call: None)
        with anyio.move_on_after(0.05):
            await store.forever()
        assert await service.events.get() == "began"
        assert await service.events.get() == "cancelled"


async def test_a_method_may_refuse_to_be_cancelled(link: Link) -> None:
    class Stubborn(MemoryStore):
        async def forever(self) -> None:
            try:
                await super().forever()
            except asyncio.CancelledError:
                self.tell("and goes on")

    async with connected(link, Stubborn()) as (store, service):
        with anyio.move_on_after(0.01):
            await store.forever()
        for event in ("began", "cancelled", "and goes on"):
            assert await service.events.get() == event
        await is_settled(store)


async def test_a_method_that_cancels_itself(link: Link) -> None:
    class Moody(MemoryStore):
        async def echo(self, value: Any) -> Any:
            if value:
                await asyncio.sleep(0)
            raise asyncio.CancelledError

    async with connected(link, Moody()) as (store, _):
        for value in (0, 1):
            with pytest.raises(aioipc.RemoteCancelled):
                await store.echo(value)
        await is_settled(store)


async def test_cancelled_at_every_step(link: Link) -> None:
    async with connected(link) as (store, _):
        for count in range(12):
            for call in (store.get("a"), store.echo(b"x" * 100_000), store.middle([])):
                task = asyncio.ensure_future(call)
                await steps(count)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, aioipc.RemoteError):
                    await task
        await is_settled(store)


async def test_a_cancelled_leader_hands_over(link: Link) -> None:
    """Who reads for the others is cancelled; they get their answers all the same."""
    async with connected(link) as (store, service):
        leader = asyncio.ensure_future(store.forever())
        assert await service.events.get() == "began"
        others = [asyncio.ensure_future(store.middle([])) for _ in range(3)]
        last = asyncio.ensure_future(store.get("bb"))
        leader.cancel()
        assert await last == 2
        for other in others:
            with pytest.raises(aioipc.RemoteError, match="ZeroDivisionError"):
                await other
        await is_settled(store)


async def test_more_calls_than_may_be_open_wait_their_turn(link: Link) -> None:
    limits = aioipc.Limits(max_calls=4)
    async with connected(link, limits=limits) as (store, service):
        blockers = [asyncio.ensure_future(store.forever()) for _ in range(4)]
        for _ in blockers:
            assert await service.events.get() == "began"
        waiting = [asyncio.ensure_future(store.get("a")) for _ in range(10)]
        await steps(5)
        assert not service.calls
        waiting[0].cancel()
        blockers[0].cancel()
        assert await asyncio.gather(*waiting[1:]) == [1] * 9
        for blocker in blockers[1:]:
            blocker.cancel()
        await asyncio.wait(blockers)
        await is_settled(store)


async def test_who_gets_his_turn_too_late_passes_it_on(link: Link) -> None:
    """He is woken after his deadline, and before the loop has looked at its timers."""
    async with connected(link, limits=aioipc.Limits(max_calls=1)) as (store, _):

        async def computes() -> None:
            await store.get("a")
            time.sleep(0.1)  # noqa: ASYNC251 - the next one's turn comes meanwhile

        async def hurries() -> None:
            async with aioipc.timeout(0.05):
                await store.get("a")

        calls = [asyncio.ensure_future(each()) for each in (computes, hurries)]
        last = asyncio.ensure_future(store.get("a"))
        async with asyncio.timeout(PATIENCE_S):
            assert await last == 1
        with pytest.raises(TimeoutError):
            await asyncio.gather(*calls)
        await is_settled(store)


async def test_all_open_calls_cancelled_and_their_answers_still_to_come(link: Link) -> None:
    limits = aioipc.Limits(max_calls=2)
    async with connected(link, limits=limits) as (store, _):
        for _ in range(20):
            calls = [asyncio.ensure_future(store.forever()) for _ in range(3)]
            await steps(2)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert await store.get("a") == 1
