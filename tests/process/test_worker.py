"""Workers: what they are given, how they end, and that they do end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import PeerCrashed, WorkerDied, signals
from aioipc.kernel.statistics import LINK
from aioipc.process import Setup, Worker, spawn
from tests.children import PATIENCE_S, Peers, has_ended, is_gone
from tests.process import targets
from tests.process.ends import gone, until_death
from tests.programs import loop_name
from tests.scale import scaled

TRANSPORTS = ["shm", "unix", "pipe"]
QUICK = Setup(grace_s=0.2)

pytestmark = pytest.mark.asyncio


class TestTalking:
    @pytest.mark.parametrize("transport", TRANSPORTS)
    @pytest.mark.parametrize("target", [targets.echo, targets.plain_echo])
    async def test_over_every_transport(self, transport: str, target: Any) -> None:
        async with spawn(target, transport=transport) as worker:
            for obj in (1, "two", {"three": [b"x" * 100_000]}):
                await worker.channel.send(obj)
                assert await worker.channel.receive() == obj
            assert worker.status is None
        assert worker.status == 0
        assert is_gone(worker.pid)

    async def test_in_batches_from_a_plain_function(self) -> None:
        async with spawn(targets.plain_batches) as worker:
            await worker.channel.send_many(range(1_000))
            doubled: list[int] = []
            while len(doubled) < 1_000:
                doubled += await worker.channel.receive_many()
            assert doubled == list(range(0, 2_000, 2))

    async def test_by_name(self) -> None:
        async with spawn("tests.process.targets:echo") as worker:
            assert worker.name == "echo"
            await worker.channel.send(1)
            assert await worker.channel.receive() == 1

    async def test_arguments_are_pickled(self) -> None:
        async with spawn(targets.Adder.add, targets.Point(3, 4)) as worker:
            assert await worker.channel.receive() == 7

    async def test_a_typed_channel(self) -> None:
        codec = aioipc.codecs.typed(targets.Event)
        async with spawn(targets.tell_events, ["a", "b"], codec=codec) as worker:
            assert [event async for event in worker.channel] == [
                *(targets.Event("a"), targets.Event("b")),
            ]

    async def test_a_command(self) -> None:
        code = """
import os, sys
import aioipc
async def main():
    assert sys.argv[1] == os.environ["AIOIPC_ADDRESS"]
    async with aioipc.connect(sys.argv[1]) as channel:
        await channel.send([1, await channel.receive()])
aioipc.run(main())
"""
        async with spawn([sys.executable, "-c", code, "{address}"]) as worker:
            await worker.channel.send(2)
            assert await worker.channel.receive() == [1, 2]
            assert await worker.wait() == 0
        assert worker.name.startswith("python")

    async def test_a_command_that_knows_nothing_of_us(self) -> None:
        script = "fd=${AIOIPC_ADDRESS#fd:}; exec sort <&$fd >&$fd"
        async with spawn(
            ["bash", "-c", script], transport="unix", framing="lines", codec="text"
        ) as worker:
            await worker.channel.send_many(["b", "c", "a"])
            await worker.channel.send_eof()
            assert [line async for line in worker.channel] == ["a", "b", "c"]

    async def test_many_at_once(self) -> None:
        async def ask(number: int) -> object:
            async with spawn(targets.echo) as worker:
                await worker.channel.send(number)
                return await worker.channel.receive()

        assert await asyncio.gather(*map(ask, range(4))) == [0, 1, 2, 3]

    async def test_a_worker_of_a_worker(self) -> None:
        async with spawn(targets.parent_of) as worker:
            pid = await worker.channel.receive()
            assert await worker.channel.receive() == "from the grandchild"
        assert is_gone(pid)

    async def test_awaited_and_closed(self) -> None:
        worker = await spawn(targets.echo)
        await worker.channel.send(1)
        assert await worker.channel.receive() == 1
        await worker.aclose()
        await worker.aclose()
        assert worker.death() is None
        assert repr(worker) == f"<Worker echo pid={worker.pid} ended with exit status 0>"


class TestWhatItIsGiven:
    """Fault case 80."""

    @pytest.mark.parametrize(("transport", "pipes"), [("unix", 0), ("pipe", 2)])
    async def test_its_channel_and_nothing_else(self, transport: str, pipes: int) -> None:
        secret = os.memfd_create("secret")
        secret_name = os.readlink(f"/proc/self/fd/{secret}")
        async with (
            signals.receiver(signal.SIGHUP, signal.SIGUSR1),
            aioipc.listen("unix:") as listener,
            aioipc.connect(listener.address),
            spawn(targets.report, transport=transport, setup=Setup(env=env(MARK="5"))) as worker,
        ):
            await worker.channel.send("report")
            report = await worker.channel.receive()
            own = closed_in_children()
            shared = set(report["fds"]) & own
        os.close(secret)
        assert secret_name not in report["fds"]
        assert len(shared) == pipes + 1, "the pipes of the channel, and the leash"
        assert not set(report["inheritable"]) & own, "and it hands down nothing of that"
        assert report["mask"] == []
        assert report["group"] == worker.pid
        assert report["parent"] == os.getpid()
        assert report["argv"] == sys.argv
        assert report["MARK"] == "5"
        assert report["stdin"] == ""
        assert "uvloop" in report["loop"], "it is installed here"

    async def test_a_command_gets_its_channel_and_the_lifeline(self) -> None:
        """A descriptor that it cannot know of, and that ends it when this process ends."""
        script = "ls -l /proc/$$/fd | sed -n 's/.*-> //p' >&2; read line"
        lines: list[str] = []
        setup = Setup(stdin="pipe", stdout="null", stderr=lines.append)
        async with (
            aioipc.listen("unix:") as listener,
            aioipc.connect(listener.address),
            spawn(["sh", "-c", script], transport="unix", setup=setup) as worker,
        ):
            own = closed_in_children()
            assert worker.stdin is not None
            await worker.stdin.send(b"\n")
            assert await worker.wait() == 0
        assert len(set(lines) & own) == 3, "standard input and error, and the leash"


def closed_in_children() -> set[str]:
    """What this process has open and hands down to nobody; an inode has a name of its own."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            if not os.get_inheritable(int(name)):
                found.add(os.readlink(f"/proc/self/fd/{name}"))
    # Each process has a page of statistics of its own, under one name; libffi opens itself.
    own = ("anon_inode", "/dev/", "/usr/lib/")
    return {name for name in found - {LINK} if not name.startswith(own)}


def env(**more: str) -> dict[str, str]:
    return {**os.environ, **more}


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "why"),
        [
            (lambda channel: None, "cannot be imported by a worker: define it at the top"),
            (functools.partial(targets.leave, status=1), "has no name by which a worker could"),
            (Setup(stdin="null").__eq__, "has no name|would import another"),
            ("no colon", "a target is written 'module:function', not 'no colon'"),
            ([], r"a command is one or more words, not \[\]"),
            ([sys.executable, 5], "a command is one or more words"),
        ],
    )
    async def test_that_no_worker_could_find(self, target: Any, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            await spawn(target)

    @pytest.mark.parametrize("target", [5, None])
    async def test_that_is_none(self, target: Any) -> None:
        with pytest.raises(TypeError, match=f"a function or 'module:function', not {target}"):
            await spawn(target)

    async def test_a_local_function(self) -> None:
        async def local(channel: object) -> None: ...

        with pytest.raises(ValueError, match="define it at the top of a module"):
            await spawn(local)

    async def test_arguments_that_cannot_travel(self) -> None:
        with pytest.raises(ValueError, match=r"arguments of tests\.process.targets:echo cannot be"):
            await spawn(targets.echo, lambda: None)

    async def test_arguments_of_a_command(self) -> None:
        with pytest.raises(ValueError, match="belong into its list"):
            await spawn(["true"], 1)

    async def test_no_such_transport(self) -> None:
        with pytest.raises(aioipc.AddressError, match="goes over shm, unix, pipe, not 'tcp'"):
            await spawn(targets.echo, transport="tcp")

    @pytest.mark.parametrize("wanted", ["file", None, b"log"])
    async def test_no_such_stream(self, wanted: Any) -> None:
        choices = "one of log, pipe, null, inherit, a descriptor or a function"
        with pytest.raises(ValueError, match=f"stdout must be {choices}, not {wanted!r}"):
            Setup(stdout=wanted)
        with pytest.raises(ValueError, match="stdin must be one of null, pipe, inherit, or a desc"):
            Setup(stdin=wanted)

    @pytest.mark.parametrize("grace_s", [-1, float("nan")])
    async def test_no_such_grace(self, grace_s: float) -> None:
        with pytest.raises(ValueError, match=f"grace_s must be 0 or more, not {grace_s}"):
            Setup(grace_s=grace_s)

    async def test_no_such_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", os.defpath)
        with pytest.raises(aioipc.ConnectError, match="start no-such-program: No such file"):
            await spawn(["no-such-program"])

    async def test_no_such_module(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(WorkerDied, match="ModuleNotFoundError: No module named 'nowhere'"):
            async with spawn("nowhere:work") as worker:
                await worker.channel.receive()

    async def test_no_such_function(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(WorkerDied, match="there is no function nothing in module tests"):
            async with spawn("tests.process.targets:nothing"):
                pass


class TestMainModules:
    async def test_a_function_of_the_program_itself(self, peers: Peers, tmp_path: Path) -> None:
        script = tmp_path / "program.py"
        script.write_text("""
from dataclasses import dataclass
import sys
import aioipc

@dataclass
class Job:
    number: int

async def work(channel, job):
    await channel.send([__name__, job.number])

async def main():
    async with aioipc.process.spawn(work, Job(5)) as worker:
        print(*await worker.channel.receive(), flush=True)

if __name__ == "__main__":
    aioipc.run(main())
""")
        peer = peers.file(script)
        assert peer.line() == "__aioipc_main__ 5"
        assert peer.wait() == 0

    async def test_of_a_module_that_is_run(self, peers: Peers, tmp_path: Path) -> None:
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "name.py").write_text("NAME = 'relative'\n")
        (package / "program.py").write_text("""
import aioipc
from .name import NAME

async def work(channel):
    await channel.send(NAME)

async def main():
    async with aioipc.process.spawn(work) as worker:
        print(await worker.channel.receive(), flush=True)

if __name__ == "__main__":
    aioipc.run(main())
""")
        peer = peers.module("package.program", cwd=tmp_path)
        assert peer.line() == "relative"
        assert peer.wait() == 0

    @pytest.mark.parametrize("how", ["file", "module"])
    async def test_classes_of_the_program_come_back(
        self, how: str, peers: Peers, tmp_path: Path
    ) -> None:
        script = tmp_path / "program.py"
        script.write_text("""
from dataclasses import dataclass
import aioipc

@dataclass
class Answer:
    number: int

class Wrong(Exception): ...

def answer(number):
    if number < 0:
        raise Wrong(number)
    return Answer(number)

async def send(channel):
    await channel.send(Answer(6))

async def main():
    print(await aioipc.process.run(answer, 5) == Answer(5), flush=True)
    try:
        await aioipc.process.run(answer, -5)
    except Wrong as wrong:
        print(wrong.args, flush=True)
    for start in ("exec", "forkserver"):
        async with aioipc.process.fork_server() as server:
            start = server if start == "forkserver" else start
            async with aioipc.process.spawn(send, codec="pickle", start=start) as worker:
                print(await worker.channel.receive() == Answer(6), flush=True)

if __name__ == "__main__":
    aioipc.run(main())
""")
        peer = peers.file(script) if how == "file" else peers.module("program", cwd=tmp_path)
        assert peer.rest().splitlines() == ["True", "(-5,)", "True", "True"]
        assert peer.wait() == 0

    async def test_without_a_guard(self, peers: Peers, tmp_path: Path) -> None:
        """It would start workers without end."""
        script = tmp_path / "program.py"
        script.write_text("""
import aioipc

async def work(channel): ...

async def main():
    try:
        async with aioipc.process.spawn(work):
            pass
    except aioipc.WorkerDied as death:
        print(death.last_lines[-1], flush=True)

aioipc.run(main())
""")
        peer = peers.file(script, stderr=-3)
        assert "put that under: if __name__ == '__main__':" in peer.line()
        assert peer.wait() == 0

    async def test_that_was_typed_in(self, peers: Peers) -> None:
        peer = peers.script("""
            import aioipc
            async def work(channel): ...
            try:
                aioipc.process.spawn(work)
            except ValueError as error:
                print(error, flush=True)
        """)
        assert peer.line() == (
            "a worker cannot import what was typed in or given with python -c: "
            "put its function into a file"
        )


def complaints() -> list[dict[str, Any]]:
    """What the loop's handler is told from now on."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


class TestOutput:
    async def test_is_logged_with_name_and_pid(self, capsys: pytest.CaptureFixture[str]) -> None:
        async with spawn(targets.write_out, setup=Setup(name="writer")) as worker:
            await worker.channel.send(1)
        err = capsys.readouterr().err
        assert sorted(err.splitlines()) == [
            f"[writer {worker.pid}] to stderr",
            f"[writer {worker.pid}] to stdout",
        ]

    async def test_as_lines_for_a_function(self) -> None:
        out: list[str] = []
        err: list[str] = []
        setup = Setup(stdout=out.append, stderr=err.append)
        async with spawn(targets.write_out, setup=setup) as worker:
            await worker.channel.send(1)
        assert (out, err) == (["to stdout"], ["to stderr"])

    async def test_as_streams(self) -> None:
        setup = Setup(stdin="pipe", stdout="pipe", stderr="pipe")
        async with spawn(["sh", "-c", "cat; echo done >&2"], setup=setup) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stderr is not None
            await worker.stdin.send(b"through")
            await worker.stdin.send_eof()
            assert b"".join([chunk async for chunk in worker.stdout]) == b"through"
            assert b"".join([chunk async for chunk in worker.stderr]) == b"done\n"

    async def test_nowhere(self, capfd: pytest.CaptureFixture[str]) -> None:
        setup = Setup(stdout="null", stderr="null")
        async with spawn(targets.write_out, setup=setup) as worker:
            await worker.channel.send(1)
        assert capfd.readouterr() == ("", "")

    async def test_inherited_or_to_a_descriptor(self, capfd: pytest.CaptureFixture[str]) -> None:
        setup = Setup(stdout="inherit", stderr=1)
        async with spawn(targets.write_out, setup=setup) as worker:
            await worker.channel.send(1)
        out, err = capfd.readouterr()
        assert sorted(out.splitlines()) == ["to stderr", "to stdout"]
        assert err == ""

    async def test_garbage(self) -> None:
        lines: list[str] = []
        async with spawn(targets.write_garbage, setup=Setup(stdout=lines.append)) as worker:
            assert await worker.channel.receive() == "written"
        assert lines[0].endswith("\t")
        assert lines[1].endswith(r"\xfe\xff")
        assert "".join(lines[2:-1]) == "x" * 20_000
        assert max(map(len, lines[2:])) <= 8192
        assert lines[-1] == "no end"

    async def test_a_flood_does_not_hold_it_up(self) -> None:
        lines: list[str] = []
        async with spawn(targets.write_much, setup=Setup(stdout=lines.append)) as worker:
            assert await worker.channel.receive() == "written"
        assert len(lines) == 20_000

    async def test_a_function_that_raises_gets_the_next_line(self) -> None:
        told = complaints()
        lines: list[str] = []

        def take(line: str) -> None:
            lines.append(line)
            if len(lines) == 1:
                raise LookupError("no such luck")

        async with spawn(targets.write_much, setup=Setup(stdout=take)) as worker:
            assert await worker.channel.receive() == "written"
        assert len(lines) == 20_000
        (complaint,) = told
        assert complaint["message"].startswith("Exception in callback <function TestOutput")
        assert str(complaint["exception"]) == "no such luck"

    async def test_who_left_the_group_and_writes_on_does_not_hold_up_its_end(self) -> None:
        floods = asyncio.Event()
        setup = Setup(stdin="pipe", stdout="null", stderr=lambda _: floods.set())
        async with spawn(["sh", "-c", "setsid yes >&2 & read line"], setup=setup) as worker:
            await floods.wait()
            assert worker.stdin is not None
            await worker.stdin.send(b"\n")
            assert await worker.wait() == 0


class TestDeath:
    """Fault case 66."""

    async def test_who_asks_afterwards_is_told_too(self) -> None:
        async with spawn(["true"]) as worker:
            assert await worker.wait() == 0
            told = asyncio.Event()
            worker.when_ended(told.set)
            async with asyncio.timeout(PATIENCE_S):
                await told.wait()

    async def test_who_asks_is_told_whatever_others_raise(self) -> None:
        def fail(*_: object) -> None:
            raise LookupError("no such luck")

        complained = complaints()
        setup = Setup(stdin="pipe", stdout="null", stderr=fail)
        async with spawn(["sh", "-c", "read line; printf 'no end' >&2"], setup=setup) as worker:
            told = asyncio.Event()
            worker.when_ended(fail)
            worker.when_ended(told.set)
            assert worker.stdin is not None
            await worker.stdin.aclose()
            async with asyncio.timeout(PATIENCE_S):
                await told.wait()
        assert len(complained) == 2, "that of the line, and the other one"

    @pytest.mark.parametrize(
        ("how", "status", "words"),
        [
            ("segfault", -signal.SIGSEGV, "was killed by SIGSEGV"),
            ("abort", -signal.SIGABRT, "was killed by SIGABRT"),
            ("kill", -signal.SIGKILL, "was killed by SIGKILL"),
            ("exit", 7, "ended with exit status 7"),
        ],
    )
    @pytest.mark.parametrize("transport", ["shm", "unix"])
    async def test_is_an_exception(self, how: str, status: int, words: str, transport: str) -> None:
        with pytest.raises(WorkerDied, match=words) as caught:
            await until_death(spawn(targets.die, how, transport=transport))
        death = caught.value
        assert isinstance(death.__cause__, PeerCrashed)
        assert death.status == status
        assert death.signal == (-status if status < 0 else None)
        assert death.exit_code == (status if status >= 0 else None)
        assert not death.out_of_memory
        pid = int(re.match(r"die \(pid (\d+)\)", str(death))[1])  # type: ignore[index]
        assert is_gone(pid)

    @pytest.mark.parametrize("target", [targets.raise_an_error, targets.plainly_raise_an_error])
    async def test_by_an_exception(self, target: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(WorkerDied) as caught:
            await until_death(spawn(target))
        assert caught.value.status == 1
        assert any("tests/process/targets.py" in line for line in caught.value.last_lines)
        assert caught.value.last_lines[-1] == "LookupError: no such luck"
        assert str(caught.value).endswith("\n  LookupError: no such luck")

    @pytest.mark.parametrize("status", [0, 3])
    async def test_by_sys_exit(self, status: int) -> None:
        with contextlib.ExitStack() as stack:
            if status:
                stack.enter_context(pytest.raises(WorkerDied, match="exit status 3"))
            async with spawn(targets.leave, status) as worker:
                assert await worker.wait() == status

    async def test_before_the_handshake(self) -> None:
        with pytest.raises(WorkerDied, match="exit status 4\nIts last words:\n  so long"):
            async with spawn(["sh", "-c", "echo so long >&2; exit 4"]) as worker:
                await worker.channel.receive()

    async def test_unnoticed_until_the_end(self) -> None:
        async def kill_it() -> None:
            async with spawn(targets.echo) as worker:
                signals.send(worker, signal.SIGKILL)
                await worker.wait()

        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await kill_it()

    async def test_beside_another_exception(self) -> None:
        async def fail() -> None:
            async with spawn(["sh", "-c", "exit 4"]) as worker:
                await worker.wait()
                raise KeyError("mine")

        with pytest.raises(KeyError) as caught:
            await fail()
        (note,) = caught.value.__notes__
        assert re.fullmatch(r"sh \(pid \d+\) ended with exit status 4", note)

    async def test_when_it_was_told_to_is_no_surprise(self) -> None:
        async with spawn(targets.echo) as worker:
            worker.kill()
            assert await worker.wait() == -signal.SIGKILL
            worker.kill()
            worker.terminate()
            with pytest.raises(ProcessLookupError):
                worker.send_signal(signal.SIGTERM)
            assert worker.fileno() == -1

    async def test_for_want_of_memory(self, small_group: Path | None) -> None:
        """By the kernel where a cgroup can be made, else by a SIGKILL that looks like it."""

        async def eat() -> None:
            async with spawn(targets.die, "memory" if small_group else "kill") as worker:
                assert await worker.channel.receive() == "soon"
                if small_group is not None:
                    (small_group / "cgroup.procs").write_text(str(worker.pid))
                await worker.channel.send("now")
                await worker.channel.receive()

        with pytest.raises(WorkerDied) as caught:
            await eat()
        assert caught.value.signal == signal.SIGKILL
        if small_group is not None:
            assert caught.value.out_of_memory
            assert "SIGKILL, probably for want of memory" in str(caught.value)


@pytest.fixture
def small_group() -> Iterator[Path | None]:
    """A cgroup with 50 MB of memory, where the tests may make one."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"aioipc-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text("50000000")
            yield group
        except OSError:
            continue
        else:
            return
        finally:
            group.rmdir()
    yield None


class TestTheEnd:
    async def test_a_coroutine_is_cancelled_by_sigterm(self) -> None:
        lines: list[str] = []
        async with spawn(targets.until_cancelled, setup=Setup(stdout=lines.append)) as worker:
            assert await worker.channel.receive() == "ready"
            worker.terminate()
            assert await worker.wait() == -signal.SIGTERM
        assert lines == ["cancelled, cleaning up"]

    async def test_is_not_waited_for_in_another_loop(self) -> None:
        async with spawn(targets.echo) as worker:
            with pytest.raises(RuntimeError, match="event loop of another thread"):
                await asyncio.to_thread(asyncio.run, worker.wait())

    async def test_it_is_asked_to_end_after_a_grace(self) -> None:
        setup = Setup(grace_s=0.05, stdout="null")
        async with spawn(targets.until_cancelled, setup=setup) as worker:
            assert await worker.channel.receive() == "ready"
        assert worker.status == -signal.SIGTERM
        assert worker.death() is None

    async def test_who_ignores_it_is_killed_with_all_its_group(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "aioipc.process"):
            async with spawn(targets.ignore_everything, setup=QUICK) as worker:
                pids = await worker.channel.receive()
                assert pids[0] == worker.pid
        assert worker.status == -signal.SIGKILL
        assert caplog.messages == [f"ignore_everything {worker.pid} ignored SIGTERM and was killed"]
        await gone(*pids)

    @pytest.mark.parametrize(
        ("end", "status"),
        [(Worker.terminate, -signal.SIGTERM), (Worker.kill, -signal.SIGKILL)],
    )
    async def test_of_one_that_has_joined_another_group(
        self, end: Callable[[Worker], None], status: int
    ) -> None:
        async with spawn(targets.leave_its_group) as worker:
            assert await worker.channel.receive() == "left"
            end(worker)
            assert await worker.wait() == status

    async def test_leaving_one_that_has_joined_another_group(self) -> None:
        async with spawn(targets.leave_its_group, setup=QUICK) as worker:
            assert await worker.channel.receive() == "left"
        assert worker.status == -signal.SIGTERM

    async def test_a_grandchild_does_not_outlive_it(self) -> None:
        async with spawn(targets.have_a_grandchild) as worker:
            pid = await worker.channel.receive()
            assert await worker.wait() == 0
            await gone(pid)

    async def test_leaving_by_an_exception(self) -> None:
        with pytest.raises(KeyError):
            async with spawn(targets.echo) as worker:
                raise KeyError
        assert worker.status == 0

    async def test_cancelled_while_it_waits(self) -> None:
        async def wait() -> None:
            async with spawn(targets.ignore_everything) as worker:
                found.set_result([*await worker.channel.receive(), worker])
                await worker.wait()

        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait())
        *pids, worker = await found
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.status == -signal.SIGKILL
        await gone(*pids)

    async def test_in_a_cancelled_scope(self) -> None:
        worker: Worker | None = None
        with anyio.CancelScope() as scope:
            async with spawn(targets.ignore_everything) as worker:
                pids = await worker.channel.receive()
                scope.cancel()
                await worker.wait()
        assert worker is not None
        assert worker.status == -signal.SIGKILL
        await gone(*pids)

    async def test_closing_it_twice_at_once(self) -> None:
        worker = await spawn(targets.ignore_everything, setup=QUICK)
        await worker.channel.receive()
        first = asyncio.create_task(worker.aclose())
        await asyncio.sleep(0)
        await worker.aclose()
        assert worker.status == -signal.SIGKILL
        await first

    async def test_cancelling_who_waits_while_another_one_closes_it(self) -> None:
        worker = await spawn(targets.ignore_everything, setup=Setup(grace_s=1000))
        await worker.channel.receive()
        first, second = (asyncio.create_task(worker.aclose()) for _ in range(2))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert worker.status == -signal.SIGKILL
        await first

    async def test_dropped_open(self) -> None:
        worker: Worker | None = await spawn(targets.ignore_everything)
        assert worker is not None
        pids = await worker.channel.receive()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del worker
        await gone(*pids)

    async def test_in_a_forked_child(self) -> None:
        async with spawn(targets.echo) as worker:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    with pytest.raises(aioipc.ForkError):
                        worker.kill()
                    with pytest.raises(aioipc.ForkError):
                        worker.terminate()
                    del worker
                    status = 0
                finally:
                    os._exit(status)
            assert await aioipc.process.wait(pid) == 0
            await worker.channel.send("still")
            assert await worker.channel.receive() == "still"


PARENT = """
    import asyncio, os, sys
    sys.path.insert(0, sys.argv[2])
    import aioipc
    from tests.process import targets
    from aioipc.process import spawn

    async def main():
        pids = []
        async with (
            spawn(targets.echo) as plain,
            spawn(targets.plain_echo, transport="unix") as blocked,
            spawn(targets.ignore_everything) as deaf,
            spawn(["sh", "-c", "trap '' TERM HUP; sleep 1000 & echo $! >&2; wait"],
                  setup=aioipc.process.Setup(stderr="pipe")) as foreign,
        ):
            pids = [plain.pid, blocked.pid, foreign.pid, *await deaf.channel.receive()]
            pids.append(int(await foreign.stderr.receive()))
            print(*pids, flush=True)
            await asyncio.Event().wait()

    def run():
        aioipc.run(main()) if sys.argv[1] == "uvloop" else asyncio.run(main())

    run()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_worker_outlives_its_parent(number: int, peers: Peers) -> None:
    """Fault case 67: also those who ignore signals, their children, and foreign programs."""
    peer = peers.script(PARENT, loop_name(), Path(__file__).parent.parent.parent)
    pids = [int(word) for word in (await peer.next_line()).split()]
    assert not any(map(has_ended, pids))
    peer.signal(number)
    await peer.ended()
    await gone(*pids)


async def test_a_parent_that_is_killed_while_it_starts_workers(peers: Peers) -> None:
    for _ in range(scaled(2, full=100)):
        peer = peers.script(
            """
            import sys
            sys.path.insert(0, sys.argv[1])
            import aioipc
            from tests.process import targets

            async def main():
                workers = []
                while True:
                    workers.append(await aioipc.process.spawn(targets.ignore_everything))
                    print(workers[-1].pid, flush=True)

            aioipc.run(main())
            """,
            Path(__file__).parent.parent.parent,
        )
        pids = [int(peer.line()) for _ in range(2)]
        peer.kill()
        pids += [int(line) for line in peer.rest().split()]
        await gone(*pids)
