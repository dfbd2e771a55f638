"""``aioipc run``: workers from a shell."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.children import has_ended
from tests.cli.commands import Commands

MODULE = """
import asyncio, os, signal, sys

async def serve(channel):
    print("ready", os.getpid())
    await asyncio.Event().wait()

async def tell(channel):
    await channel.send({"a": [1, "ü"]})
    print("on stderr", file=sys.stderr)

def plain(channel):
    channel.send("plain")

async def fail_first(channel):
    print("ready", os.getpid())
    if sys.argv:
        try:
            os.mkdir("taken")
        except FileExistsError:
            await asyncio.Event().wait()
        raise LookupError("no luck")

def hopeless(channel):
    os._exit(3)

async def deaf(channel):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", os.getpid())
    while True:
        signal.pause()

async def chatter(channel):
    while True:
        print("chatter")
        await asyncio.sleep(0)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def ready(lines: list[str]) -> dict[str, int]:
    found = [re.fullmatch(r"\[(\S+)\] ready (\d+)", line) for line in lines]
    return {match[1]: int(match[2]) for match in found if match}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_until_it_is_told_to_end(number: int, commands: Commands) -> None:
    command = commands.start("run", "work:serve", "--workers", "3")
    pids = ready([command.line() for _ in range(3)])
    assert sorted(pids) == ["serve-1", "serve-2", "serve-3"]
    command.signal(number)
    assert command.end() == (128 + number, b"", "")
    assert all(map(has_ended, pids.values()))


def test_what_is_sent_and_written(commands: Commands) -> None:
    done = commands.run("run", "work:tell")
    assert done == (0, '[tell-1] {"a":[1,"ü"]}\n'.encode(), "[tell-1] on stderr\n")
    assert commands.run("run", "work:plain") == (0, b'[plain-1] "plain"\n', "")


def test_one_that_dies_ends_the_others(commands: Commands) -> None:
    done = commands.run("run", "work:fail_first", "--workers", "2")
    assert done.status == 1
    *traceback, last = done.err.splitlines()
    assert re.fullmatch(r"aioipc: fail_first-\d \(pid \d+\) ended with exit status 1", last)
    assert re.fullmatch(r"\[fail_first-\d\] LookupError: no luck", traceback[-1])


def test_one_that_dies_is_started_again(commands: Commands) -> None:
    command = commands.start("run", "work:fail_first", "--workers", "2", "--restart")
    lines = [command.line() for _ in range(3)]
    assert len(ready(lines)) == 2
    pids = [int(line.rpartition(" ")[2]) for line in lines]
    assert len({*pids}) == 3
    command.signal(signal.SIGHUP)
    pids += [int(command.line().rpartition(" ")[2]) for _ in range(2)]
    command.signal(signal.SIGTERM)
    ended = command.end()
    assert ended.status == 128 + signal.SIGTERM
    assert "it is started again in 0.00 s" in ended.err
    assert len({*pids}) == 5
    assert all(map(has_ended, pids))


def test_one_that_dies_too_often(commands: Commands) -> None:
    done = commands.run("run", "work:hopeless", "--restart")
    assert done.status == 1
    assert done.err.count("it is started again in") == 5
    assert re.fullmatch(
        r"aioipc: hopeless-1 \(pid \d+\) ended with exit status 3", done.err.splitlines()[-1]
    )


def test_one_that_ignores_sigterm(commands: Commands) -> None:
    command = commands.start("run", "work:deaf", "--grace", "0.1")
    pids = ready([command.line()])
    command.signal(signal.SIGTERM)
    ended = command.end()
    assert ended.status == 128 + signal.SIGTERM
    assert "ignored SIGTERM and was killed" in ended.err
    assert all(map(has_ended, pids.values()))


def test_a_second_signal_does_not_wait(commands: Commands) -> None:
    command = commands.start("run", "work:deaf", "--grace", "1000")
    pids = ready([command.line()])
    while command.process.poll() is None:
        command.signal(signal.SIGTERM)
        try:
            command.process.wait(0.1)
        except Exception:  # not yet
            continue
    assert all(map(has_ended, pids.values()))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["work"], "a target is written 'module:function', not 'work'"),
        (["nowhere:work"], "there is no module 'nowhere'"),
        (["work.deep:work"], "there is no module 'work.deep'"),
        (["work:serve", "--grace", "nan"], "'nan' is no time"),
        (["work:serve", "--grace", "-1"], "-1.0 is not in the range"),
    ],
)
def test_what_makes_no_sense(arguments: list[str], why: str, commands: Commands) -> None:
    done = commands.run("run", *arguments)
    assert (done.status, done.out) == (2, b"")
    assert why in done.err
    assert done.err.count("\n") == 1


def test_a_function_that_is_not_there(commands: Commands) -> None:
    done = commands.run("run", "work:nothing")
    assert done.status == 1
    assert "there is no function nothing in module work" in done.err
    assert "ended with exit status 1" in done.err.splitlines()[-1]


def test_nobody_reads_its_output(commands: Commands) -> None:
    done = commands.shell("aioipc run work:chatter | head -1; echo ${PIPESTATUS[*]}")
    assert done.out == b"[chatter-1] chatter\n141 0\n"
