"""aioipc lock: a command under a lock, as flock(1) runs it."""

from __future__ import annotations

import signal

import pytest

from aioipc import sync
from tests.cli.commands import Commands


def test_the_status_is_that_of_the_command(commands: Commands) -> None:
    assert commands.run("lock", "x", "echo", "hello") == (0, b"hello\n", "")
    assert commands.run("lock", "x", "--", "sh", "-c", "exit 7").status == 7
    assert commands.run("lock", "x", "--", "sh", "-c", "kill -9 $$").status == 137
    assert commands.run("lock", "x", "no-such-program") == (
        127,
        b"",
        "aioipc: no-such-program: no such program\n",
    )
    assert commands.run("lock", "a b", "true").status == 2


def test_a_lock_that_is_held(commands: Commands) -> None:
    lock = sync.Lock("x")
    guard = lock.acquire_nowait()
    for options in (["-n"], ["--timeout", "0.05"]):
        held = commands.run("lock", *options, "-E", "9", "x", "true")
        assert held.status == 9
        assert held.err.startswith("aioipc: lock x: held by process ")
    waiting = commands.start("lock", "x", "echo", "mine")
    guard.release()
    assert waiting.line() == "mine"
    assert waiting.end().status == 0
    lock.close()


def test_a_signal_ends_the_command_first(commands: Commands) -> None:
    running = commands.start("lock", "x", "--", "sh", "-c", "echo in; exec sleep 60")
    assert running.line() == "in"
    assert sync.Lock("x").locked()
    running.signal(signal.SIGTERM)
    assert running.end().status == 128 + signal.SIGTERM
    lock = sync.Lock("x")
    assert not lock.acquire_nowait().owner_died
    lock.release()
    lock.close()


@pytest.mark.leaves_names
def test_a_killed_owner_is_told_of(commands: Commands) -> None:
    running = commands.start("lock", "x", "--", "sh", "-c", "echo $$; exec sleep 60")
    child = int(running.line())
    running.signal(signal.SIGKILL)
    running.process.wait()
    done = commands.run("lock", "x", "true")
    assert done == (0, b"", "aioipc: lock x: the previous owner died holding it\n")
    import os

    os.kill(child, signal.SIGKILL)
