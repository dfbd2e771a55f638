"""Pools: who is called, what a death costs, and that nothing is left of a pool."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    BadArguments,
    ClosedError,
    PeerCrashed,
    RemoteError,
    WorkerDied,
    rpc,
)
from aioipc.process import Pool, Setup, pool, pool_of
from tests.children import PATIENCE_S, is_gone
from tests.links import steps
from tests.process import models
from tests.process.ends import gone, parent_of, until
from tests.process.models import Model

QUIET = Setup(stdout="null", stderr="null", grace_s=0.5)

pytestmark = pytest.mark.asyncio


async def full(workers: Pool, size: int) -> None:
    """Wait until all workers are there, as after a restart."""
    await until(lambda: workers.statistics().workers >= size)


class TestCalls:
    async def test_of_every_shape(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=2, args=(10,)) as model:
            assert await model.add(5) == 15
            assert await asyncio.gather(*map(model.add, range(50))) == [*range(10, 60)]
            assert [number async for number in model.count(100)] == [*range(100)]
            assert await model.total(aiter(model.count(5))) == 10
            await model.note(str(tmp_path / "note"))
            await until((tmp_path / "note").exists)
            with pytest.raises(RemoteError, match="LookupError: lost"):
                await model.fail("lost")
            with pytest.raises(RemoteError, match="gave what it does not declare"):
                await model.step(models.Steps.is_of_another_type)
            with pytest.raises(BadArguments):
                await model.add("five")  # type: ignore[arg-type]
            workers = pool_of(model)
            assert len(workers.pids) == 2
            assert repr(workers) == "<Pool of 2 x tests.process.models:Worker>"
            found = workers.statistics()
            assert (found.workers, found.open, found.waiting, found.deaths) == (2, 0, 0, 0)
            assert found.calls == 57
            with pytest.raises(TypeError, match=r"process\.pool_of"):
                rpc.connection_of(model)
        assert all(map(is_gone, workers.pids))
        with pytest.raises(ClosedError):
            await model.add(1)

    async def test_they_run_side_by_side_and_wait_in_line(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=2) as model:
            pids = await asyncio.gather(*(model.meet(str(tmp_path), 2) for _ in range(2)))
            assert sorted(pids) == sorted(pool_of(model).pids), "one each"
            began = [tmp_path / "0", tmp_path / "1"]
            holders = [
                asyncio.create_task(model.wait_for_ever(str(path), str(tmp_path / "end")))
                for path in began
            ]
            await until(lambda: all(path.exists() for path in began))
            waiting = [asyncio.create_task(model.add(number)) for number in range(3)]
            await asyncio.sleep(0)
            assert pool_of(model).statistics().waiting == 3
            waiting[0].cancel()
            holders[0].cancel()
            assert await asyncio.gather(*waiting[1:]) == [1, 2]
            assert pool_of(model).statistics().waiting == 0
            holders[1].cancel()
            await asyncio.wait([*holders, waiting[0]])

    async def test_several_at_once_in_one_worker(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=1, calls_per_worker=3) as model:
            pids = await asyncio.gather(*(model.meet(str(tmp_path), 3) for _ in range(3)))
            assert {*pids} == {*pool_of(model).pids}

    async def test_from_the_loop_of_another_thread(self, tmp_path: Path) -> None:
        async def call() -> int:
            return await model.add(1)

        async def call_there() -> None:
            with pytest.raises(RuntimeError, match="event loop of another thread"):
                await asyncio.to_thread(asyncio.run, call())

        began = tmp_path / "began"
        async with pool(models.Worker, Model, size=1) as model:
            await call_there()
            busy = asyncio.create_task(model.wait_for_ever(str(began), str(tmp_path / "ended")))
            await until(began.exists)
            await call_there()
            busy.cancel()
            assert await model.add(1) == 1

    async def test_an_object_that_is_made_by_a_coroutine(self) -> None:
        name = "tests.process.models:made_slowly"
        async with pool(name, Model, size=1, args=(1,)) as model:
            assert await model.add(1) == 2

    async def test_awaited_and_closed(self) -> None:
        model = await pool(models.Worker, Model, size=1)
        assert await model.add(1) == 1
        await rpc.aclose(model)
        await rpc.aclose(model)


class TestOpening:
    @pytest.mark.parametrize("start", ["exec", "forkserver"])
    async def test_with_arguments_that_cannot_be_sent(self, start: Any) -> None:
        opening = pool(models.Worker, Model, size=2, args=(lambda: 0,), start=start)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ValueError, match=r"models:\w+ cannot be pickled"):
                await opening.__aenter__()

    @pytest.mark.parametrize(
        ("implementation", "words"),
        [
            (models.Broken, "LookupError: there is no model"),
            (models.Incomplete, "Incomplete has no method 'pid', as Model.pid says"),
            (models.Leaves, r"Leaves-. \(pid \d+\) ended with exit status 0"),
        ],
    )
    async def test_an_object_that_cannot_be_made(self, implementation: Any, words: str) -> None:
        with pytest.raises(WorkerDied, match=words):
            async with pool(implementation, Model, size=2):
                pytest.fail("it is open")

    async def test_cancelled(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pool(models.Worker, Model, size=2):
                pytest.fail("it is open")

    @pytest.mark.parametrize(
        "options",
        [
            {"size": 0},
            {"calls_per_worker": 129},
            {"max_tasks_per_worker": 0},
            {"max_memory_bytes": 0},
            {"cancel_grace_s": -1},
            {"cancel_grace_s": float("nan")},
        ],
    )
    async def test_impossible_numbers(self, options: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            _ = pool(models.Worker, Model, **options)  # type: ignore[arg-type]

    async def test_what_cannot_be_a_pool(self) -> None:
        with pytest.raises(ValueError, match="define it at the top of a module"):
            _ = pool(lambda: None, Model)
        with pytest.raises(TypeError, match="a target is a function"):
            _ = pool(5, Model)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="declares no public method"):
            _ = pool(models.Worker, object)
        with pytest.raises(TypeError, match="is none"):
            pool_of(models.Worker())


class TestCancelling:
    async def test_ends_what_awaits(self, tmp_path: Path) -> None:
        began, ended = tmp_path / "began", tmp_path / "ended"
        async with pool(models.Worker, Model, size=1) as model:
            pids = pool_of(model).pids
            task = asyncio.create_task(model.wait_for_ever(str(began), str(ended)))
            await until(began.exists)
            task.cancel()
            await until(ended.exists)
            assert await model.add(1) == 1
            assert pool_of(model).pids == pids
            await asyncio.wait([task])
            assert pool_of(model).statistics().killed == 0

    async def test_kills_the_worker_that_computes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        began = tmp_path / "began"
        async with pool(models.Worker, Model, size=1, cancel_grace_s=0.05) as model:
            (pid,) = pool_of(model).pids
            with caplog.at_level(logging.WARNING, "aioipc.process"):
                task = asyncio.create_task(model.compute_for_ever(str(began)))
                await until(began.exists)
                task.cancel()
                assert await model.add(1) == 1, "in another worker"
            assert "compute_for_ever went on for 0.05 s after it was cancelled" in caplog.text
            assert pool_of(model).pids != (pid,)
            assert pool_of(model).statistics().killed == 1
            assert is_gone(pid)
            await asyncio.wait([task])

    async def test_while_it_waits_in_line_costs_nothing(self, tmp_path: Path) -> None:
        began = tmp_path / "began"
        async with pool(models.Worker, Model, size=1) as model:
            holder = asyncio.create_task(model.wait_for_ever(str(began), str(tmp_path / "ended")))
            await until(began.exists)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await model.add(1)
            assert pool_of(model).statistics().calls == 1
            holder.cancel()
            assert await model.add(1) == 1
            await asyncio.wait([holder])


class TestDeath:
    """Fault case 66."""

    async def test_fails_the_call_that_ran_and_no_other(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=2, setup=QUIET) as model:
            workers = pool_of(model)
            pids = workers.pids
            other = asyncio.create_task(model.meet(str(tmp_path), 1_000))
            await until(lambda: os.listdir(tmp_path))
            with pytest.raises(PeerCrashed, match=r"Model.die may have run: .*SIGKILL") as caught:
                await model.die("kill")
            assert isinstance(caught.value.__cause__, WorkerDied)
            assert caught.value.status == -signal.SIGKILL
            await full(workers, 2)
            assert len({*pids} & {*workers.pids}) == 1
            assert workers.statistics().deaths == 1
            assert not other.done()
            other.cancel()
            await asyncio.wait([other])

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("segfault", "SIGSEGV"),
            ("exit", "status 3"),
            ("leave", "may have run"),
            ("close", "may have run"),
        ],
    )
    async def test_of_every_kind(self, how: str, words: str) -> None:
        async with pool(models.Worker, Model, size=1, setup=QUIET) as model:
            with pytest.raises(PeerCrashed, match=words):
                await model.die(how)
            assert await model.add(1) == 1

    async def test_though_a_grandchild_holds_the_channel(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        async with pool(models.Worker, Model, size=1, setup=QUIET) as model:
            with pytest.raises(PeerCrashed, match="exit status 4"):
                await model.die_after_a_fork(str(fifo))
            assert await model.add(1) == 1
        fifo.write_text("that is all")

    async def test_repeats_what_may_be_repeated(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=2, setup=QUIET) as model:
            assert await model.die_unless(str(tmp_path / "once")) in pool_of(model).pids
            with pytest.raises(PeerCrashed, match="always_die may have run"):
                await model.always_die()
            await full(pool_of(model), 2)
            assert pool_of(model).statistics().deaths == 4, "one, and three attempts"

    async def test_ends_a_stream(self) -> None:
        async with pool(models.Worker, Model, size=1, setup=QUIET) as model:
            seen = []
            with pytest.raises(PeerCrashed):  # noqa: PT012 - it is the loop that raises
                async for number in model.count_and_die(3):
                    seen.append(number)  # noqa: PERF401 - and it is to be left by an exception
            assert seen == [0, 1, 2]
            assert [number async for number in model.count(3)] == [0, 1, 2]

    async def test_while_nobody_calls(self) -> None:
        async with pool(models.Worker, Model, size=2, setup=QUIET) as model:
            workers = pool_of(model)
            pids = workers.pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await gone(*pids)
            assert await model.add(1) == 1
            await full(workers, 2)
            assert not {*pids} & {*workers.pids}
            assert workers.statistics().deaths == 2

    async def test_when_no_other_one_can_be_started(self, tmp_path: Path) -> None:
        flag = tmp_path / "up"
        args = (str(flag),)
        async with pool(models.BrokenOnceUp, Model, size=1, args=args, setup=QUIET) as model:
            flag.touch()
            with pytest.raises(PeerCrashed):
                await model.die("kill")
            calls = [asyncio.create_task(model.add(1)) for _ in range(2)]
            for call in calls:
                with pytest.raises(WorkerDied, match="ended with exit status 1"):
                    await call

    async def test_storm(self, chance: Any) -> None:
        """Whoever calls gets an answer or a PeerCrashed, whatever dies in the meantime."""
        outcomes: list[int | None] = []

        async def call(number: int) -> None:
            try:
                outcomes.append(await model.add(number))
            except PeerCrashed:
                outcomes.append(None)

        async with pool(models.Worker, Model, size=2, calls_per_worker=4, setup=QUIET) as model:
            workers = pool_of(model)
            async with asyncio.TaskGroup() as tasks:
                for number in range(300):
                    tasks.create_task(call(number))
                    if number % 60 == 30:
                        await full(workers, 1)
                        os.kill(chance.choice(workers.pids), signal.SIGKILL)
                    if number % 10 == 0:
                        await asyncio.sleep(0)
            assert len(outcomes) == 300
            assert sum(outcome is None for outcome in outcomes) <= 5 * 4
            statistics = workers.statistics()
            assert (statistics.open, statistics.waiting) == (0, 0)


class TestRecycling:
    async def test_after_so_many_tasks(self) -> None:
        async with pool(models.Worker, Model, size=1, max_tasks_per_worker=3) as model:
            pids = [await model.pid() for _ in range(7)]
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
            assert pool_of(model).statistics().recycled == 2
            assert pool_of(model).statistics().deaths == 0

    async def test_after_a_last_one_that_was_too_late_to_be_made(self) -> None:
        async with pool(models.Worker, Model, size=1, max_tasks_per_worker=2) as model:
            pid = await model.pid()
            with pytest.raises(TimeoutError):
                async with aioipc.timeout(0):
                    await model.pid()
            async with asyncio.timeout(PATIENCE_S):
                assert await model.pid() != pid
            assert pool_of(model).statistics().recycled == 1

    async def test_after_so_many_notifications(self, tmp_path: Path) -> None:
        async with pool(models.Worker, Model, size=1, max_tasks_per_worker=2) as model:
            pid = await model.pid()
            await model.note(str(tmp_path / "note"))
            assert await model.pid() != pid
            assert pool_of(model).statistics().recycled == 1

    async def test_by_memory(self) -> None:
        async with pool(models.Worker, Model, size=1, max_memory_bytes=150_000_000) as model:
            assert await model.add(1) == 1
            (pid,) = pool_of(model).pids
            await asyncio.sleep(0.11)  # it is looked at ten times a second
            assert await model.grow(200_000_000) == pid
            assert await model.pid() != pid
            assert pool_of(model).statistics().recycled == 1


class TestClosing:
    async def test_fails_what_is_open_and_what_waits(self, tmp_path: Path) -> None:
        began = tmp_path / "began"
        async with pool(models.Worker, Model, size=1) as model:
            calls = [
                asyncio.create_task(model.wait_for_ever(str(began), str(tmp_path / "ended"))),
                asyncio.create_task(model.add(1)),
            ]
            await until(began.exists)
        for call in calls:
            with pytest.raises(ClosedError):
                await call
        assert (tmp_path / "ended").exists(), "the worker had time to cancel it"

    async def test_does_not_wait_for_ever(self, tmp_path: Path) -> None:
        setup = Setup(grace_s=0.05)
        async with pool(models.Worker, Model, size=1, setup=setup) as model:
            pids = pool_of(model).pids
            call = asyncio.create_task(model.compute_for_ever(str(tmp_path / "began")))
            await until((tmp_path / "began").exists)
        with pytest.raises(ClosedError):
            await call
        assert all(map(is_gone, pids))

    async def test_cancelled(self, tmp_path: Path) -> None:
        async def hold() -> None:
            async with pool(models.Worker, Model, size=1, setup=Setup(grace_s=30)) as model:
                pids.extend(pool_of(model).pids)
                calls.append(asyncio.create_task(model.compute_for_ever(str(tmp_path / "began"))))
                await until((tmp_path / "began").exists)
                leaving.set()  # and wait, without a pause, for the call

        pids: list[int] = []
        calls: list[asyncio.Task[None]] = []
        leaving = asyncio.Event()
        task = asyncio.create_task(hold())
        await leaving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait(calls)
        assert isinstance(calls[0].exception(), ClosedError | PeerCrashed)
        assert all(map(is_gone, pids))

    async def test_cancelled_twice(self, tmp_path: Path) -> None:
        """Nobody waits for the fork server then, but it ends."""

        async def hold() -> None:
            async with pool(models.Worker, Model, size=1, setup=Setup(grace_s=30)) as model:
                (worker,) = pool_of(model).pids
                pids.extend([worker, parent_of(worker)])
                calls.append(asyncio.create_task(model.compute_for_ever(str(tmp_path / "began"))))
                await until((tmp_path / "began").exists)
                leaving.set()

        pids: list[int] = []
        calls: list[asyncio.Task[None]] = []
        leaving = asyncio.Event()
        task = asyncio.create_task(hold())
        await leaving.wait()
        for _ in range(2):
            task.cancel()
            await steps(3)
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait(calls)
        await gone(*pids)


PARENT = """
    import asyncio, sys
    sys.path.insert(0, sys.argv[2])
    import aioipc
    from aioipc.process import pool, pool_of
    from tests.process.models import Model

    async def main():
        async with pool("tests.process.models:Worker", Model, size=2) as model:
            busy = asyncio.create_task(model.compute_for_ever(sys.argv[1]))
            while not __import__("os").path.exists(sys.argv[1]):
                await asyncio.sleep(0.001)
            print(*pool_of(model).pids, flush=True)
            await asyncio.get_running_loop().create_future()

    aioipc.run(main())
"""


async def test_no_worker_outlives_its_parent(peers: Any, tmp_path: Path) -> None:
    """Fault case 67."""
    root = Path(__file__).parents[2]
    peer = peers.script(PARENT, tmp_path / "began", root)
    pids = [int(word) for word in (await peer.next_line()).split()]
    assert len(pids) == 2
    peer.kill()
    await gone(*pids)


async def test_names_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    async with pool(models.Worker, Model, size=1, setup=Setup(name="adder")) as model:
        with pytest.raises(PeerCrashed) as caught:
            await model.die("exit")
    assert re.search(r"adder-1 \(pid \d+\) ended with exit status 3", str(caught.value))
