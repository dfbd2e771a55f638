"""Fork servers: that their workers are like others, and what it means when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioipc import ClosedError, PeerCrashed, ResourceExhausted, WorkerDied, process
from aioipc.process import ForkServer, Setup, fork_server, spawn
from tests.children import Peers, has_ended, is_gone
from tests.links import steps
from tests.process import models, targets
from tests.process.ends import gone, parent_of, until, until_death
from tests.process.models import Model

QUICK = Setup(stderr="null", grace_s=0.2)

pytestmark = pytest.mark.asyncio


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limits[1])
    )
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


def pid_of(server: ForkServer) -> int:
    assert server.pid is not None
    return server.pid


class TestWorkers:
    @pytest.mark.parametrize("transport", ["shm", "unix", "pipe"])
    @pytest.mark.parametrize("target", [targets.echo, targets.plain_echo])
    async def test_talk(self, transport: str, target: Any) -> None:
        async with fork_server() as server:
            for _ in range(2):
                async with spawn(target, transport=transport, start=server) as worker:
                    await worker.channel.send({"one": b"x" * 100_000})
                    assert await worker.channel.receive() == {"one": b"x" * 100_000}
                    assert parent_of(worker.pid) == server.pid
                assert worker.status == 0
                await until(lambda: is_gone(worker.pid))
            pid = pid_of(server)
        assert is_gone(pid)

    async def test_are_given_what_others_are(self, monkeypatch: Any, tmp_path: Path) -> None:
        async def report(start: Any) -> dict[str, Any]:
            async with spawn(targets.report, start=start) as worker:
                await worker.channel.send("report")
                found: dict[str, Any] = await worker.channel.receive()
            assert found.pop("group") == worker.pid
            del found["parent"]
            found["fds"] = sorted(re.sub(r"\d+", "N", fd) for fd in found["fds"])
            found["inheritable"] = len(found["inheritable"])
            return found

        async with fork_server() as server:
            await report(server)  # what comes next was not so when it was started
            monkeypatch.setenv("MARK", "set since")
            monkeypatch.chdir(tmp_path)
            former = os.umask(0o027)
            try:
                forked = await report(server)
                assert forked == await report("exec")
                assert forked["MARK"] == "set since"
                async with spawn(targets.where, start=server) as worker:
                    assert await worker.channel.receive() == [str(tmp_path), 0o027]
            finally:
                os.umask(former)

    async def test_die_as_others_do(self) -> None:
        async with fork_server() as server:
            for how, status in (("segfault", -11), ("abort", -6), ("kill", -9), ("exit", 7)):
                with pytest.raises(WorkerDied) as caught:
                    await until_death(spawn(targets.die, how, start=server))
                assert caught.value.status == status
            with pytest.raises(WorkerDied, match="LookupError: no such luck"):
                await until_death(spawn(targets.raise_an_error, start=server))
            await until(lambda: not children_of(pid_of(server)))

    async def test_are_killed_with_their_group(self) -> None:
        async with fork_server() as server:
            async with spawn(targets.ignore_everything, start=server, setup=QUICK) as worker:
                pids = await worker.channel.receive()
            assert worker.status == -signal.SIGKILL
            await gone(*pids)
            async with spawn(targets.have_a_grandchild, start=server) as worker:
                grandchild = await worker.channel.receive()
            await gone(grandchild)

    async def test_whose_module_cannot_be_imported(self) -> None:
        async with fork_server() as server:
            for _ in range(2):
                with pytest.raises(WorkerDied, match="No module named 'no_such_module'"):
                    async with spawn("no_such_module:main", start=server) as worker:
                        await worker.wait()
            async with spawn(targets.echo, start=server) as worker:
                await worker.channel.send(1)
                assert await worker.channel.receive() == 1

    async def test_many_at_once(self) -> None:
        async with fork_server() as server:

            async def ask(number: int) -> object:
                async with spawn(targets.echo, start=server) as worker:
                    await worker.channel.send(number)
                    return await worker.channel.receive()

            assert await asyncio.gather(*map(ask, range(20))) == [*range(20)]

    async def test_only_functions(self) -> None:
        async with fork_server() as server:
            with pytest.raises(ValueError, match="a command is started by exec"):
                await spawn(["true"], start=server)
            with pytest.raises(ValueError, match="an environment of its own is started by exec"):
                await spawn(targets.echo, start=server, setup=Setup(env={}))

    async def test_of_a_module_that_starts_threads(
        self, tmp_path: Path, monkeypatch: Any, caplog: Any
    ) -> None:
        """A fork would leave only the locks of its threads; so each worker imports it."""
        (tmp_path / "has_threads.py").write_text("""
import os, threading
PID = os.getpid()
threading.Thread(target=threading.Event().wait, daemon=True).start()
async def tell(channel):
    await channel.send([PID == os.getpid(), threading.active_count()])
""")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        caplog.set_level("INFO", "aioipc.process")
        async with fork_server() as server:
            async with spawn(targets.echo, start=server) as earlier:
                for _ in range(2):
                    async with spawn("has_threads:tell", start=server) as worker:
                        assert await worker.channel.receive() == [True, 2]
                await earlier.channel.send("still there")
                assert await earlier.channel.receive() == "still there"
            async with spawn(targets.echo, start=server) as worker:
                assert worker.status is None
        assert caplog.text.count("starts threads") == 1

    async def test_of_a_module_whose_threads_end_at_a_fork(
        self, tmp_path: Path, monkeypatch: Any, caplog: Any
    ) -> None:
        """As those of numpy's algebra do, which has them where there are several CPUs."""
        (tmp_path / "computes.py").write_text("""
import os
import numpy
PID = os.getpid()
ONES = numpy.ones((300, 300))
ONES @ ONES
async def tell(channel):
    await channel.send([PID == os.getpid(), float((ONES @ ONES).sum())])
""")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        caplog.set_level("INFO", "aioipc.process")
        async with fork_server() as server:
            for _ in range(2):
                async with spawn("computes:tell", start=server) as worker:
                    assert await worker.channel.receive() == [False, 300.0**3]
        assert "starts threads" not in caplog.text

    async def test_modules_are_imported_once(self, tmp_path: Path, monkeypatch: Any) -> None:
        (tmp_path / "imported_once.py").write_text("""
import os
PID = os.getpid()
async def tell(channel):
    await channel.send(PID)
""")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        async with fork_server() as server:
            for _ in range(2):
                async with spawn("imported_once:tell", start=server) as worker:
                    assert await worker.channel.receive() == server.pid


class TestTheServer:
    async def test_killed_between_two_workers(self) -> None:
        async with fork_server() as server:
            async with spawn(targets.echo, start=server, setup=QUICK) as orphan:
                first = pid_of(server)
                os.kill(first, signal.SIGKILL)
                await until(lambda: server.pid is None)
                await orphan.channel.send("it lives on")
                assert await orphan.channel.receive() == "it lives on"
                async with spawn(targets.echo, start=server) as worker:
                    assert server.pid not in (None, first)
                    await worker.channel.send(1)
                    assert await worker.channel.receive() == 1
            assert is_gone(first)

    async def test_killed_in_the_middle_of_a_request(
        self, tmp_path: Path, monkeypatch: Any
    ) -> None:
        """It is busy with an import when it dies; only the second time that ends by itself."""
        (tmp_path / "slow_import.py").write_text(f"""
import pathlib, signal
path = pathlib.Path({str(tmp_path / "began")!r})
if not path.exists():
    path.touch()
    signal.pause()
async def tell(channel):
    await channel.send("here")
""")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        async with fork_server() as server:
            opening = asyncio.ensure_future(_opened(spawn("slow_import:tell", start=server)))
            await until((tmp_path / "began").exists)
            first = pid_of(server)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(WorkerDied, match=r"tell was not started: the fork .*SIGKILL"):
                await opening
            assert is_gone(first)
            async with spawn("slow_import:tell", start=server) as worker:
                assert await worker.channel.receive() == "here"

    async def test_a_cancelled_start_leaves_no_process(self) -> None:
        async with fork_server() as server, spawn(targets.echo, start=server):
            for turns in range(12):
                opening = asyncio.ensure_future(_opened(spawn(targets.echo, start=server)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if opening.done():
                    await opening.result().aclose()
                opening.cancel()
                await asyncio.wait([opening])
            await until(lambda: len(children_of(pid_of(server))) == 1)

    async def test_with_no_descriptor_left_for_its_answer(self) -> None:
        async with fork_server() as server:
            async with spawn(targets.echo, start=server):
                os.kill(pid_of(server), signal.SIGSTOP)
                opening = asyncio.ensure_future(_opened(spawn(targets.echo, start=server)))
                await steps(20)
                with no_descriptors_left():
                    os.kill(pid_of(server), signal.SIGCONT)
                    with pytest.raises(ResourceExhausted, match="start echo"):
                        await opening
            async with spawn(targets.echo, start=server):
                await until(lambda: len(children_of(pid_of(server))) == 1)

    async def test_closed_before_its_workers(self) -> None:
        async with fork_server() as server:
            worker = await spawn(targets.echo, start=server, setup=QUICK)
            pid = pid_of(server)
        assert is_gone(pid)
        await worker.channel.send("it lives on")
        assert await worker.channel.receive() == "it lives on"
        with pytest.raises(ClosedError):
            await spawn(targets.echo, start=server)
        await worker.aclose()
        assert has_ended(worker.pid)

    async def test_a_second_close_waits_for_the_first(self) -> None:
        async with fork_server() as server, spawn(targets.echo, start=server):
            pid = pid_of(server)
            first = asyncio.ensure_future(server.aclose())
            await steps(1)
            await server.aclose()
            assert is_gone(pid)
            await first

    async def test_nobody_outlives_the_parent(self, peers: Peers) -> None:
        peer = peers.script("""
            import asyncio
            import aioipc
            from aioipc import process
            from tests.process import targets

            async def main():
                async with process.fork_server() as server:
                    async with process.spawn(targets.ignore_everything, start=server) as worker:
                        pids = await worker.channel.receive()
                        print(server.pid, *pids, flush=True)
                        await asyncio.Event().wait()

            aioipc.run(main())
        """)
        pids = [int(pid) for pid in peer.line().split()]
        peer.kill()
        await gone(*pids)


async def _opened(opening: Any) -> Any:
    return await opening


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class TestOfAPool:
    @pytest.mark.parametrize("start", ["exec", "forkserver"])
    async def test_how_its_workers_are_started(self, start: Any) -> None:
        async with process.pool(models.Worker, Model, size=2, args=(1,), start=start) as model:
            assert await model.add(1) == 2
            parents = {parent_of(pid) for pid in process.pool_of(model).pids}
        assert len(parents) == 1
        assert (parents == {os.getpid()}) == (start == "exec")

    async def test_shared_with_others(self) -> None:
        async with fork_server() as server:
            for _ in range(2):
                async with process.pool(models.Worker, Model, size=1, start=server) as model:
                    assert await model.add(1) == 1
                    (pid,) = process.pool_of(model).pids
                    assert parent_of(pid) == server.pid
            assert server.pid is not None

    async def test_replaces_workers_though_the_server_dies(self) -> None:
        async with process.pool(models.Worker, Model, size=1, setup=QUICK) as model:
            (pid,) = process.pool_of(model).pids
            os.kill(parent_of(pid), signal.SIGKILL)
            assert await model.add(1) == 1
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
            with contextlib.suppress(PeerCrashed):  # it may not have been heard of yet
                await model.add(1)
            assert await model.add(1) == 1
            # The start of the next one may have met the server before its death was heard of.
            assert process.pool_of(model).statistics().deaths in (1, 2)
