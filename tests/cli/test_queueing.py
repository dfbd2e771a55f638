"""``aioipc queue``: put, get, serve and stat, on queues of the kernel and served ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from tests.cli.commands import Command, Commands


@pytest.fixture
def address() -> str:
    """The commands are the same on every transport, and each start takes its time."""
    return "unix:jobs"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def server(commands: Commands, address: str, journal: Path) -> Command:
    return serve(commands, address, "--journal", str(journal))


@pytest.fixture
def mq() -> Iterator[str]:
    name = f"/aioipc-cli-{os.getpid()}"
    yield f"mq:{name}"
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)


def serve(commands: Commands, address: str, *options: str) -> Command:
    server = commands.start("queue", "serve", address, *options)
    assert server.complaint() == f"aioipc: serving a queue on {address}"
    return server


def test_a_served_queue(commands: Commands, server: Command, address: str) -> None:
    assert commands.run("queue", "put", address, "a", "b") == (0, b"", "")
    assert (
        commands.run("queue", "put", address, "--json", '{"n": 1}', "--priority", "5").status == 0
    )
    assert commands.run("queue", "get", address).out == b'{"n":1}\n'
    assert commands.run("queue", "get", address, "--count", "2").out == b"a\nb\n"
    counters = json.loads(commands.run("queue", "stat", address).out)["counters"]
    assert (counters["accepted"], counters["done"], counters["ready"]) == (3, 3, 0)
    server.signal(signal.SIGINT)
    assert server.end().status == 130


@pytest.mark.leaves_names
def test_jobs_survive_the_death_of_the_server(
    commands: Commands, server: Command, address: str, journal: Path
) -> None:
    assert commands.run("queue", "put", address, "precious").status == 0
    server.signal(signal.SIGKILL)
    assert server.end().status == -signal.SIGKILL
    serve(commands, address, "--journal", str(journal))
    assert commands.run("queue", "get", address).out == b"precious\n"


def test_lines_in_and_out_until_the_queue_ends(commands: Commands, address: str) -> None:
    server = commands.start("queue", "serve", address)
    server.complaint()
    assert server.complaint().startswith("aioipc: without --journal the jobs are lost")
    getting = commands.start("queue", "get", address, "--all")
    putting = commands.start("queue", "put", address)
    putting.tell("one", "two")
    assert putting.end().status == 0
    assert [getting.line(), getting.line()] == ["one", "two"]
    # A line is printed before its job is done: a server that ends in between leaves that open.
    while json.loads(commands.run("queue", "stat", address).out)["counters"]["done"] < 2:
        pass
    server.signal(signal.SIGTERM)
    assert server.end().status == 128 + signal.SIGTERM
    assert getting.end().status == 0


def test_a_queue_of_the_kernel(commands: Commands, mq: str) -> None:
    status, _, err = commands.run("queue", "get", mq)
    assert (status, "there is no such queue" in err) == (1, True)
    assert commands.run("queue", "put", mq, "--create", "--codec", "text", "low") == (0, b"", "")
    assert (
        commands.run("queue", "put", mq, "--codec", "text", "high", "--priority", "9").status == 0
    )
    assert json.loads(commands.run("queue", "stat", mq).out)["messages"] == 2
    assert commands.run("queue", "get", mq, "--codec", "text", "--count", "2").out == b"high\nlow\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["put", "mq:/x", "--create", "--ttl", "3", "a"], "neither kind= nor ttl_s="),
        (["put", "mq:/a/b", "a"], "wrong queue name '/a/b'"),
        (["put", "unix:x", "--create", "a"], "a served queue is there when its server is"),
        (["get", "unix:x", "--count", "3", "--all"], "--count and --all exclude each other"),
        (["get", "fifo:/x"], "fifo:"),
        (["serve", "unix:x", "--fsync"], "fsync=True needs journal="),
        (["serve", "nonsense"], "the scheme is missing"),
        (["put", "unix:x", "--json", "{"], "is not JSON"),
    ],
)
def test_what_makes_no_sense(
    commands: Commands, mq: str, arguments: list[str], complaint: str
) -> None:
    arguments = [argument.replace("mq:/x", mq) for argument in arguments]
    status, out, err = commands.run("queue", *arguments)
    assert (status, out) == (2, b"")
    assert complaint in err
    assert len(err.splitlines()) == 1


def test_nobody_serves(commands: Commands) -> None:
    status, _, err = commands.run("queue", "put", "unix:nobody", "x")
    assert status == 1
    assert "nobody listens there" in err
