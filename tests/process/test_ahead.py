"""Calls that go ahead to a busy worker: they are there at once, and nobody is bound by it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aioipc import PeerCrashed, process
from aioipc.process import Setup, pool, pool_of
from aioipc.process.member import Member
from tests.children import PATIENCE_S
from tests.links import steps
from tests.process import models
from tests.process.ends import until
from tests.process.models import Model, Steps

QUIET = Setup(stdout="null", stderr="null", grace_s=0.5)
MANY = 300
LARGE = 100_000

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def model(tmp_path: Path, monkeypatch: Any) -> AsyncIterator[Model]:
    monkeypatch.chdir(tmp_path)
    async with pool(models.Worker, Model, size=1, setup=QUIET, cancel_grace_s=0.05) as model:
        await warm_up(model)
        yield model


def members(model: Model) -> list[Member]:
    return pool_of(model)._crew._members


async def warm_up(model: Model) -> None:
    """Let each worker be one that gets calls ahead."""
    while not all(member.ahead for member in members(model)):
        assert await asyncio.gather(*map(model.add, range(MANY))) == [*range(MANY)]


async def begin(model: Model, step: int, *, behind: int) -> list[asyncio.Task[int]]:
    """A call that runs, once it does, and others that were sent behind it."""
    Path("waits").unlink(missing_ok=True)
    tasks = [asyncio.create_task(model.step(step))]
    tasks += [asyncio.create_task(model.step(number)) for number in range(behind)]
    await until(Path("waits").exists)
    return tasks


async def test_many_calls_go_ahead(model: Model) -> None:
    calls = await begin(model, Steps.waits, behind=3)
    assert pool_of(model).statistics().open > 1
    Path("gate").touch()
    assert await asyncio.gather(*calls) == [Steps.waits, *range(3)]


async def test_they_come_back_from_one_that_computes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    async with pool(models.Worker, Model, size=2, setup=QUIET) as model:
        await warm_up(model)
        slow, *others = await begin(model, Steps.waits, behind=20)
        assert await asyncio.gather(*others) == [*range(20)]
        assert not slow.done()
        Path("gate").touch()
        assert await slow == Steps.waits
        assert await asyncio.gather(*map(model.step, range(MANY))) == [*range(MANY)]


async def test_they_come_back_from_one_that_dies(model: Model) -> None:
    """Without a doubt whether they ran: none of them had begun."""
    for _ in range(3):
        death = asyncio.create_task(model.step(Steps.dies))
        others = [asyncio.create_task(model.step(number)) for number in range(20)]
        with pytest.raises(PeerCrashed, match="may have run"):
            await death
        assert await asyncio.gather(*others) == [*range(20)]
        await warm_up(model)
    assert pool_of(model).statistics().deaths == 3


async def test_answers_do_not_die_with_a_later_call(model: Model) -> None:
    calls = [*range(10), Steps.dies, *range(10)]
    results = await asyncio.gather(*map(model.step, calls), return_exceptions=True)
    assert isinstance(results[10], PeerCrashed)
    assert [*results[:10], *results[11:]] == [*range(10), *range(10)]


async def test_answers_do_not_die_with_their_worker() -> None:
    """They take longer to read than the news of its death."""
    async with pool(models.Worker, Model, size=1, calls_per_worker=64, setup=QUIET) as model:
        (pid,) = pool_of(model).pids
        death = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        calls: list[asyncio.Task[Any]] = []
        calls += [asyncio.create_task(model.fill(LARGE)) for _ in range(8)]
        calls += [asyncio.create_task(model.step(Steps.dies))]
        await steps(10)  # they leave
        os.kill(pid, signal.SIGCONT)
        assert select.select([death], [], [], PATIENCE_S)[0]  # and nothing is read meanwhile
        os.close(death)
        for number in range(10):  # in each turn of the loop one that finds out, or does not
            calls.append(asyncio.create_task(model.step(number)))
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results.pop(8), PeerCrashed)
        assert results == [bytes(LARGE)] * 8 + [*range(10)]
        assert pool_of(model).statistics().deaths == 1


async def test_answers_do_not_wait_for_a_later_call(model: Model) -> None:
    early = [asyncio.create_task(model.step(number)) for number in range(10)]
    slow = asyncio.create_task(model.step(Steps.waits))
    assert await asyncio.gather(*early) == [*range(10)]
    await until(Path("waits").exists)
    assert not slow.done()
    Path("gate").touch()
    assert await slow == Steps.waits


async def test_cancelling_one_harms_no_other(model: Model) -> None:
    pids = pool_of(model).pids
    slow, given_up, *others = await begin(model, Steps.waits, behind=10)
    given_up.cancel()
    await asyncio.wait([given_up])
    with pytest.raises(TimeoutError):  # the grace of those that run passes
        await asyncio.wait_for(process.wait(pids[0]), 0.1)
    Path("gate").touch()
    assert await asyncio.gather(slow, *others) == [Steps.waits, *range(1, 10)]
    assert (pool_of(model).pids, pool_of(model).statistics().killed) == (pids, 0)


async def test_cancelling_the_one_that_runs_moves_the_others(model: Model) -> None:
    slow, *others = await begin(model, Steps.waits, behind=10)
    slow.cancel()
    assert await asyncio.gather(*others) == [*range(10)]
    assert pool_of(model).statistics().killed == 1


async def test_methods_that_await_still_run_one_at_a_time(model: Model) -> None:
    """The worker refuses the others, which then wait here."""
    found = await asyncio.gather(*map(model.step_later, range(MANY)))
    assert found == [*range(MANY)]
    await until(lambda: not members(model)[0].ahead)
    assert await asyncio.gather(*map(model.step_later, range(MANY))) == [*range(MANY)]


async def test_no_stream_is_bound_by_them(model: Model) -> None:
    numbers = aiter(model.count(200))
    assert await anext(numbers) == 0
    call = asyncio.create_task(model.step(1))
    assert [number async for number in numbers] == [*range(1, 200)]
    assert await call == 1
