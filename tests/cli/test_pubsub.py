"""``aioipc pub`` publishes, ``aioipc sub`` prints what it subscribes to."""

from __future__ import annotations

import signal

import pytest

from tests.cli.commands import Commands


def test_values_from_arguments(commands: Commands, address: str) -> None:
    sub = commands.start("sub", "--wait-publisher", "20", address, "eur.*", "log.>")
    pub = commands.start("pub", address, "eur.usd", "1.5", "two words", "")
    assert pub.complaint() == f"aioipc: publishing on {address}"
    assert pub.end().status == 0
    assert sub.end() == (0, b"eur.usd 1.5\neur.usd two words\neur.usd \n", "")


def test_lines_as_they_come(commands: Commands, address: str) -> None:
    sub = commands.start("sub", "--wait-publisher", "20", "--json", address, ">")
    pub = commands.start("pub", "--json", address, "a.b")
    pub.tell('{"n": 1}')
    assert sub.line() == '{"topic":"a.b","value":{"n":1}}'
    pub.tell("[2]", "3")
    assert sub.line() == '{"topic":"a.b","value":[2]}'
    assert sub.line() == '{"topic":"a.b","value":3}'
    pub.tell("no json")
    result = pub.end()
    assert result.status == 2
    assert "'no json' is not JSON" in result.err
    assert sub.end() == (0, b"", "")


def test_no_more_than_asked_for(commands: Commands, address: str) -> None:
    sub = commands.start("sub", "--count", "2", "--wait-publisher", "20", address, "t")
    pub = commands.start("pub", address, "t")
    pub.tell("1", "2", "3")
    assert sub.end() == (0, b"t 1\nt 2\n", "")
    assert pub.end().status == 0


def test_what_is_retained(commands: Commands, address: str) -> None:
    pub = commands.start("pub", "--subscribers", "0", "--retain", "2", address, "t")
    pub.tell("1", "2", "3")
    assert pub.complaint() == f"aioipc: publishing on {address}"
    early = commands.start("sub", "--count", "1", address, ">")
    while early.line() != "t 2":  # it may have come before the lines
        early = commands.start("sub", "--count", "1", address, ">")
    late = commands.start("sub", "--count", "2", address, ">")
    assert late.end() == (0, b"t 2\nt 3\n", "")
    assert pub.end().status == 0


def test_lost_messages_are_told(commands: Commands, address: str) -> None:
    options = ("--queue", "1", "--when-full", "drop_newest", "--wait-publisher", "20")
    sub = commands.start("sub", *options, address, ">")
    pub = commands.start("pub", address, "t")
    pub.tell("first")
    assert sub.line() == "t first"
    sub.signal(signal.SIGSTOP)
    pub.tell(*(f"{number}" for number in range(10)))
    pub.stdin.close()
    sub.signal(signal.SIGCONT)
    result = sub.end()
    assert result.status == 0
    lost = sum(int(line.split()[1]) for line in result.err.splitlines())
    assert len(result.out.splitlines()) + lost == 10


def test_one_publisher_after_the_other(commands: Commands, address: str) -> None:
    options = ("--reconnect", "--wait-publisher", "20", "--count", "2")
    sub = commands.start("sub", *options, address, ">")
    assert commands.run("pub", address, "t", "1").status == 0
    assert sub.line() == "t 1"
    assert commands.run("pub", address, "t", "2").status == 0
    ended = sub.end()
    assert (ended.status, ended.out) == (0, b"t 2\n")
    assert ended.err.count("\n") == 1
    assert "here is the next publisher, and what was between is missing" in ended.err


def test_a_publisher_that_dies(commands: Commands) -> None:
    pub = commands.start("pub", "tcp://127.0.0.1:0", "t")
    where = pub.complaint().split()[-1]
    sub = commands.start("sub", where, ">")
    pub.tell("1")
    assert sub.line() == "t 1"
    pub.signal(signal.SIGKILL)
    result = sub.end()
    assert result.status == 1
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pub", "unix:no", "a.*", "x"), "topic 'a.*'"),
        (("pub", "unix:no", "x" * 2000, "x"), "2,000 bytes is over the limit"),
        (("pub", "fifo:/tmp/no", "a", "x"), "one way"),
        (("pub", "fd:0", "a"), "takes the standard input"),
        (("pub", "tcp://127.0.0.1:0", "a", "x", "--codec", "pickle"), "pickle"),
        (("sub", "unix:no", "a..b"), "pattern 'a..b'"),
        (("sub", "unix:no", "a*"), "pattern 'a*'"),
        (("sub", "unix:no", "x" * 2000), "2,000 bytes is over the limit"),
        (("sub", "unix:no"), "missing argument"),
        (("sub", "--queue", "100000", "unix:no", "a"), "queue must be between 1 and 65,536"),
        (("sub", "--when-full", "never", "unix:no", "a"), "'never' is not one of"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense(commands: Commands, arguments: tuple[str, ...], words: str) -> None:
    result = commands.run(*arguments)
    assert (result.status, result.out) == (2, b"")
    assert words in result.err
    assert len(result.err.splitlines()) == 1


def test_nobody_publishes(commands: Commands) -> None:
    result = commands.run("sub", "unix:no", "a")
    assert result.status == 1
    assert "nobody listens there" in result.err


@pytest.mark.parametrize("command", [("sub", ">"), ("pub", "t")])
def test_ctrl_c(commands: Commands, command: tuple[str, str]) -> None:
    name, what = command
    pub = commands.start("pub", "--subscribers", "2", "unix:c", "other")
    pub.complaint()
    ended = (
        commands.start("sub", "unix:c", what)
        if name == "sub"
        else commands.start("pub", "unix:d", what)
    )
    if name == "pub":
        ended.complaint()
    else:
        watcher = commands.start("sub", "--count", "1", "unix:c", ">")
        pub.tell("both are there")
        assert watcher.line() == ended.line() == "other both are there"
    ended.signal(signal.SIGINT)
    assert ended.end().status == 130
    pub.signal(signal.SIGTERM)
    assert pub.end().status == 143
