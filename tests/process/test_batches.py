"""Short calls of map go together in one message, and nobody notices but by the time it takes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aioipc import BadArguments, PeerCrashed, RemoteError, process
from aioipc.process import Setup, imap, pool, pool_of
from aioipc.process.batch import Pace
from tests.process import models
from tests.process.ends import until
from tests.process.models import Model, Steps

QUIET = Setup(stdout="null", stderr="null", grace_s=0.5)
QUICK = range(500)
"""After so many short calls they go together."""


@pytest_asyncio.fixture
async def model(tmp_path: Path, monkeypatch: Any) -> AsyncIterator[Model]:
    monkeypatch.chdir(tmp_path)
    async with pool(models.Worker, Model, size=1, setup=QUIET, cancel_grace_s=0.1) as model:
        yield model


def after_many(*steps: int) -> list[int]:
    """Steps among others, so far behind the first ones that they share a message."""
    return [*QUICK, *steps, *range(20)]


class TestPace:
    def test_grows_while_calls_are_short(self) -> None:
        pace = Pace()
        sizes = []
        for _ in range(5):
            pace.took(pace.size, pace.size * 1e-5)
            sizes.append(pace.size)
        assert sizes == [4, 16, 64, 200, 200], "as many as take 2 ms"

    def test_is_one_where_they_are_long(self) -> None:
        pace = Pace()
        pace.took(1, 1e-5)
        assert pace.size == 4
        pace.took(4, 1.0)
        assert pace.size == 1

    def test_has_a_bound(self) -> None:
        pace = Pace(3)
        pace.took(1, 1e-9)
        assert pace.size == 3
        assert Pace(0).size == 1


@pytest.mark.asyncio
class TestOutcomes:
    @pytest.mark.parametrize("function", ["step", "step_later"])
    async def test_each_is_that_of_its_item(self, model: Model, function: str) -> None:
        done: list[int] = []
        found = await process.map(getattr(model, function), QUICK, progress=done.append)
        assert found == [*QUICK]
        assert done == [*range(1, len(QUICK) + 1)]
        assert pool_of(model).statistics().calls == len(QUICK)

    @pytest.mark.parametrize(
        ("step", "error", "words"),
        [
            (Steps.fails, RemoteError, "LookupError: no such number"),
            (Steps.aborts, RemoteError, "Model.step failed: BaseException: all of it"),
            (Steps.is_closed, RemoteError, "Model.step failed: GeneratorExit: too early"),
            (Steps.is_unsendable, RemoteError, "the result of Model.step: "),
            (Steps.is_of_another_type, RemoteError, "gave what it does not declare"),
            ("text", BadArguments, "argument 'number'"),
            (object(), BadArguments, "Model.step"),
        ],
    )
    async def test_one_that_fails(
        self, model: Model, step: Any, error: type[Exception], words: str
    ) -> None:
        async with imap(model.step, after_many(step)) as results:
            found = [await anext(results) for _ in QUICK]
            with pytest.raises(error, match=words):
                await anext(results)
        assert found == [*QUICK]
        assert await model.step(1) == 1

    @pytest.mark.parametrize("function", ["step", "step_later"])
    @pytest.mark.parametrize("step", [Steps.exits, Steps.interrupts])
    async def test_one_that_ends_its_process(self, model: Model, function: str, step: int) -> None:
        """It is told, behind those before it, and another worker takes the next call."""
        pid = await model.pid()
        async with imap(getattr(model, function), after_many(step)) as results:
            found = [await anext(results) for _ in QUICK]
            with pytest.raises(RemoteError, match=rf"Model\.{function} failed: \w+: enough"):
                await anext(results)
        assert found == [*QUICK]
        await until(lambda: pool_of(model).pids not in {(), (pid,)})
        assert await model.step(1) == 1

    async def test_come_though_the_next_call_computes(self, model: Model) -> None:
        """Where that is no surprise any more."""
        found: list[int] = []

        async def make(*steps: int) -> None:
            arguments = [(step,) for step in steps]
            workers = pool_of(model)
            await workers.call_each(workers.method("step"), arguments, found.append)

        await make(1, 2, 3, Steps.takes_long)
        making = asyncio.ensure_future(make(4, 5, 6, 7, Steps.waits, 8))
        await until(lambda: 7 in found)
        Path("gate").touch()
        await making
        assert found == [1, 2, 3, Steps.takes_long, 4, 5, 6, 7, Steps.waits, 8]

    async def test_what_is_behind_a_long_call_goes_to_others(self, model: Model) -> None:
        """Each call that takes too long ends its message, and what is left comes in another."""
        steps = after_many(*[Steps.takes_long] * 10)
        assert await process.map(model.step, steps) == steps
        assert pool_of(model).statistics().calls == len(steps)

    async def test_items_are_taken_in_bounds(self, model: Model) -> None:
        taken = 0

        def items() -> Any:
            nonlocal taken
            for number in range(1_000):
                taken += 1
                yield number

        async with imap(model.step, items(), lookahead=10) as results:
            for count in range(1, 200):
                assert await anext(results) == count - 1
                assert taken <= count + 10


@pytest.mark.asyncio
class TestEnds:
    async def test_a_death_is_that_of_those_who_were_there(self, model: Model) -> None:
        found: list[int] = []
        with pytest.raises(PeerCrashed, match=r"Model.step may have run: .*SIGKILL"):
            await process.map(model.step, after_many(Steps.dies), progress=found.append)
        assert found == [*range(1, len(found) + 1)]
        assert len(found) >= len(QUICK) - Pace.most
        assert await process.map(model.step, QUICK) == [*QUICK]

    async def test_a_death_is_overcome_where_calls_may_be_repeated(self, model: Model) -> None:
        steps = after_many(Steps.dies)
        assert await process.map(model.step_again, steps) == steps
        assert pool_of(model).statistics().deaths == 1

    async def test_one_that_always_dies_is_made_three_times(self, model: Model) -> None:
        with pytest.raises(PeerCrashed, match="die_at may have run"):
            await process.map(model.die_at, after_many(Steps.dies))
        assert await model.step(1) == 1, "by a new worker"
        assert pool_of(model).statistics().deaths == 3

    async def test_cancelling_ends_them(self, model: Model) -> None:
        mapping = asyncio.ensure_future(process.map(model.step, after_many(Steps.waits)))
        await until(Path("waits").exists)
        mapping.cancel()
        await asyncio.wait([mapping])
        assert mapping.cancelled()
        assert await model.step(1) == 1, "by a new worker"
        assert pool_of(model).statistics().killed == 1

    async def test_no_worker_does_more_than_it_may(self) -> None:
        async with pool(models.Worker, Model, size=1, max_tasks_per_worker=100) as model:
            assert await process.map(model.step, QUICK) == [*QUICK]
            statistics = pool_of(model).statistics()
            assert statistics.calls == 500
            assert statistics.recycled >= 4


@pytest.mark.asyncio
async def test_what_a_dead_worker_had_not_begun_is_done_by_another_one(model: Model) -> None:
    await process.map(model.step, QUICK)
    (pid,) = pool_of(model).pids
    os.kill(pid, signal.SIGSTOP)
    mapping = asyncio.create_task(process.map(model.step, range(300)))
    counting = asyncio.create_task(listed(model.count(3)))
    noting = asyncio.create_task(model.note("noted"))
    await until(lambda: pool_of(model).statistics().open > 0)
    os.kill(pid, signal.SIGKILL)
    assert await mapping == [*range(300)]
    assert await counting == [0, 1, 2]
    await noting
    await until(Path("noted").exists)
    assert pool_of(model).statistics().deaths == 1


async def listed(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]
