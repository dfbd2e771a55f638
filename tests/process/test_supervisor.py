"""Supervision: restarts, giving up, reloads without a gap, and what a service manager hears."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aioipc import ClosedError, ConnectError, WorkerDied, codecs, signals
from aioipc.kernel.notify import watchdog_s
from aioipc.process import Child, Schedule, Setup, Supervisor, supervise
from tests.children import PATIENCE_S, is_gone
from tests.process import targets
from tests.process.ends import gone, until

QUIET = Setup(stdout="null", stderr="null", grace_s=1.0)
AT_ONCE = Schedule(first_s=0.01, longest_s=0.01)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def service(diary: Path, target: Any = targets.serve_until_told, **options: Any) -> Child:
    options.setdefault("schedule", AT_ONCE)
    return Child(target=target, args=(str(diary),), announces=True, setup=QUIET, **options)


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A program that does nothing."""
    path = tmp_path / "sleeper"
    path.write_text("#!/bin/sh\nexec sleep 1000\n")
    path.chmod(0o700)
    return path


def command(path: Path, *, most: int | None) -> Child:
    return Child(
        target=[str(path)],
        setup=Setup(grace_s=0.01),
        schedule=Schedule(most=most, first_s=0.01, longest_s=0.01),
    )


def running(supervisor: Supervisor, *but: int | None) -> Callable[[], bool]:
    return lambda: all(pid and pid not in but for pid in supervisor.pids)


class TestRestarts:
    async def test_of_one_leaves_the_others_alone(self, diary: Path) -> None:
        """Fault case 66."""
        async with supervise([service(diary), service(diary)]) as supervisor:
            one, other = supervisor.pids
            assert one
            assert other
            for _ in range(2):
                pid = supervisor.pids[0]
                assert pid
                os.kill(pid, signal.SIGKILL)
                await until(running(supervisor, pid))
                await until(lambda: f"began {supervisor.pids[0]}" in lines(diary))
                assert is_gone(pid)
                assert supervisor.pids[1] == other
            assert supervisor.restarts == 2
            pids = [pid for pid in supervisor.pids if pid]
        assert all(map(is_gone, pids))
        assert sorted(lines(diary)[4:]) == sorted(f"ended {pid}" for pid in pids)

    async def test_that_are_too_many(self) -> None:
        child = Child(
            target=targets.leave_with,
            args=(7,),
            setup=QUIET,
            schedule=Schedule(most=2, first_s=0.01, longest_s=0.01),
        )
        with pytest.raises(WorkerDied, match="exit status 7"):
            async with supervise([child]) as supervisor:
                await supervisor.wait()
        assert supervisor.restarts == 2

    async def test_before_it_was_ever_ready(self) -> None:
        child = Child(
            target=targets.leave_with,
            args=(0,),
            announces=True,
            setup=QUIET,
            schedule=Schedule(most=0),
        )
        with pytest.raises(WorkerDied, match="exit status 0"):
            async with supervise([child]):
                pytest.fail("it is ready")

    async def test_of_one_whose_channel_ends_before_it_is_ready(self, diary: Path) -> None:
        child = service(diary, targets.be_deaf, schedule=Schedule(most=1, first_s=0.01))
        with pytest.raises(WorkerDied, match="be_deaf"):
            async with asyncio.timeout(PATIENCE_S), supervise([child]):
                pytest.fail("it is ready")
        pids = [int(line.split()[1]) for line in lines(diary)]
        assert len(pids) == 2
        for pid in pids:
            await gone(pid)

    async def test_that_fail_for_a_moment(
        self, sleeper: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        away = sleeper.with_suffix(".away")
        async with supervise([command(sleeper, most=None)]) as supervisor:
            (pid,) = supervisor.pids
            assert pid
            sleeper.rename(away)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: "start sleeper: No such file" in caplog.text)
            away.rename(sleeper)
            await until(running(supervisor, pid))
            assert supervisor.restarts == 1

    async def test_that_fail_too_often(self, sleeper: Path) -> None:
        async with supervise([command(sleeper, most=2)]) as supervisor:
            (pid,) = supervisor.pids
            assert pid
            sleeper.unlink()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match="SIGKILL") as caught:
                await supervisor.wait()
        assert isinstance(caught.value.__cause__, ConnectError)
        assert supervisor.restarts == 0

    async def test_of_what_never_started(self, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match="No such file"):
            await supervise([command(tmp_path / "nothing", most=None)])

    @pytest.mark.parametrize("restart", ["on_failure", "never"])
    async def test_of_one_that_is_done(self, restart: Any) -> None:
        child = Child(target=targets.leave_with, args=(0,), restart=restart, setup=QUIET)
        async with supervise([child]) as supervisor:
            await supervisor.wait()
            assert supervisor.pids == (None,)
            assert supervisor.restarts == 0

    async def test_of_one_that_is_never_to_come_back(self) -> None:
        child = Child(target=targets.leave_with, args=(3,), restart="never", setup=QUIET)
        with pytest.raises(WorkerDied, match="exit status 3"):
            async with supervise([child]) as supervisor:
                await supervisor.wait()

    async def test_messages(self, diary: Path) -> None:
        heard: list[object] = []
        async with supervise([service(diary, on_message=heard.append)]):
            assert heard == ["ready"]

    async def test_messages_after_one_that_was_taken_badly(self) -> None:
        heard: list[object] = []
        complaints: list[dict[str, Any]] = []

        def hear(obj: object) -> None:
            heard.append(obj)
            if obj == "one":
                raise LookupError("no such luck")

        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        child = Child(target=targets.tell, args=("one", "two"), on_message=hear, setup=QUIET)
        async with supervise([child]):
            await until(lambda: heard == ["one", "two"])
        (told,) = complaints
        assert told["message"] == "on_message of tell failed"
        assert isinstance(told["exception"], LookupError)

    async def test_messages_that_cannot_be_decoded(self, caplog: pytest.LogCaptureFixture) -> None:
        """The first one announces nevertheless, and is in the log."""
        heard: list[object] = []
        child = Child(
            target=targets.tell,
            args=("ready", 1, "soon", 2),
            announces=True,
            on_message=heard.append,
            codec=codecs.typed(int),
            setup=QUIET,
        )
        async with supervise([child]):
            await until(lambda: heard == [1, 2])
        assert caplog.text.count("tell: the msgpack codec cannot decode this message") == 2

    async def test_announcement_that_cannot_be_decoded(self) -> None:
        child = Child(
            target=targets.tell,
            args=("ready",),
            announces=True,
            codec=codecs.typed(int),
            setup=QUIET,
        )
        async with asyncio.timeout(PATIENCE_S), supervise([child]) as supervisor:
            assert supervisor.restarts == 0

    async def test_misuse(self) -> None:
        with pytest.raises(ValueError, match="at least one child"):
            _ = supervise([])
        with pytest.raises(TypeError, match=r"takes process.Child\(...\), not <function"):
            _ = supervise([targets.leave_with])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="restart must be one of"):
            Child(target=targets.leave_with, restart="sometimes")  # type: ignore[arg-type]


class TestReload:
    async def test_by_sighup_without_a_gap(self, diary: Path) -> None:
        async with supervise([service(diary), service(diary)]) as supervisor:
            old = supervisor.pids
            signals.send(os.getpid(), signal.SIGHUP)
            await until(lambda: supervisor.reloads == 2)
            new = supervisor.pids
            assert not {*old} & {*new}
            await gone(*(pid for pid in old if pid))
            assert supervisor.restarts == 0
        told = lines(diary)
        for before, after in zip(old, new, strict=True):
            assert told.index(f"began {after}") < told.index(f"ended {before}")

    async def test_a_storm_of_them(self, diary: Path) -> None:
        """Those that come during a reload are one more, and somebody serves all the time."""
        async with supervise([service(diary)]) as supervisor:
            for _ in range(200):
                signals.send(os.getpid(), signal.SIGHUP)
                await asyncio.sleep(0)
            await until(lambda: supervisor.reloads >= 2)
            assert supervisor.reloads < 20
            assert supervisor.restarts == 0
        serving = [0]
        for line in lines(diary):
            serving.append(serving[-1] + (1 if line.startswith("began") else -1))
        assert min(serving[1:-1]) == 1
        assert serving[-1] == 0

    @pytest.mark.parametrize(
        "target", [targets.refuse_after_the_first, targets.be_deaf_after_the_first]
    )
    async def test_whose_new_one_fails(
        self, target: Any, diary: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        child = service(diary, target)
        async with supervise([child], reload_on=None) as supervisor:
            pids = supervisor.pids
            with caplog.at_level(logging.ERROR, "aioipc.process"):
                async with asyncio.timeout(PATIENCE_S):
                    await supervisor.reload()
            assert f"{target.__name__} is not replaced" in caplog.text
            assert supervisor.pids == pids
            assert supervisor.reloads == 0

    async def test_and_a_death_afterwards(self, diary: Path) -> None:
        async with supervise([service(diary)], reload_on=None) as supervisor:
            await supervisor.reload()
            (pid,) = supervisor.pids
            assert pid
            os.kill(pid, signal.SIGKILL)
            await until(running(supervisor, pid))
            assert (supervisor.restarts, supervisor.reloads) == (1, 1)

    async def test_and_a_close_meanwhile(self, diary: Path) -> None:
        child = service(diary, targets.hesitate_after_the_first)
        async with supervise([child], reload_on=None) as supervisor:
            reloading = asyncio.create_task(supervisor.reload())
            await until(lambda: len(lines(diary)) == 2)
        old, new = (line.removeprefix("began ") for line in lines(diary)[:2])
        assert sorted(lines(diary)[2:]) == sorted([f"ended {old}", f"ended {new}"])
        assert is_gone(int(new))
        for reload in (reloading, supervisor.reload()):
            with pytest.raises(ClosedError, match="the supervisor is closed"):
                await reload
        assert supervisor.reloads == 0


class TestEnd:
    async def test_in_a_cancelled_task(self, diary: Path) -> None:
        async def hold() -> None:
            async with supervise([service(diary)]) as supervisor:
                found.extend(pid for pid in supervisor.pids if pid)
                await supervisor.wait()

        found: list[int] = []
        task = asyncio.create_task(hold())
        await until(lambda: found)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lines(diary) == [f"began {found[0]}", f"ended {found[0]}"]
        assert all(map(is_gone, found))

    async def test_while_it_opens(self, diary: Path) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), supervise([service(diary)]):
                pytest.fail("it is ready")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket as a service manager has it."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield sock


def heard(manager: socket.socket) -> list[str]:
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(4096).decode().split("\n")[0])
    return told


async def test_what_the_service_manager_hears(manager: socket.socket, diary: Path) -> None:
    async with supervise([service(diary)], reload_on=None) as supervisor:
        assert heard(manager) == ["READY=1"]
        await supervisor.reload()
        assert heard(manager) == ["RELOADING=1", "READY=1"]
    assert heard(manager) == ["STOPPING=1"]


async def test_the_watchdog_is_fed(
    manager: socket.socket, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    told: list[str] = []

    def enough() -> bool:
        told.extend(heard(manager))
        return told.count("WATCHDOG=1") >= 3

    async with supervise([service(diary)]):
        await until(enough)


@pytest.mark.parametrize(
    ("environ", "limit_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
async def test_whether_there_is_a_watchdog(environ: dict[str, str], limit_s: float | None) -> None:
    assert watchdog_s(environ) == limit_s
