"""How commands end before they are done: by a signal, by a closed pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.children import Peers
from tests.cli.commands import Command, Commands

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING)
def test_a_listener_ends_in_order(
    number: int, commands: Commands, address: str, runtime_dir: Path
) -> None:
    """Its name is removed, and its peers see a clean end."""
    listener = commands.listen("--echo", address=address)
    sender = commands.start("send", address, "--replies", "2", "x")
    assert sender.line() == "x"
    listener.signal(number)
    assert listener.end() == (128 + number, b"x\n", "")
    assert sender.end() == (1, b"", f"aioipc: {address}: the peer ended after 1 of 2 replies\n")
    assert not [path for path in runtime_dir.rglob("*") if not path.is_dir()]


def test_at_the_very_start(peers: Peers) -> None:
    """No traceback, and nothing that was never awaited."""
    peer = peers.script("""
        import gc, io, sys
        from aioipc.cli import main
        from tests.peers.signalled_early import raise_in_the_next_runner
        raise_in_the_next_runner()
        sys.argv = ["aioipc", "listen", "unix:test"]
        sys.stderr = io.StringIO()
        print(main())
        gc.collect()
        print(repr(sys.stderr.getvalue()), flush=True)
    """)
    assert peer.line() == "130"
    assert peer.line() == "''"
    assert peer.wait() == 0


def test_a_listener_that_is_not_read(commands: Commands, address: str) -> None:
    """It does not wait for a reader who may never come back."""
    listener = commands.listen(address=address)
    commands.run("send", address, stdin=b"x" * 1_000_000)
    listener.signal(signal.SIGTERM)
    assert listener.process.wait(3) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", ENDING)
def test_a_sender_ends_in_order(number: int, commands: Commands, address: str) -> None:
    listener = commands.listen(address=address)
    sender = commands.start("send", address)
    sender.tell("x")
    assert listener.line() == "x"
    sender.signal(number)
    assert sender.end() == (128 + number, b"", "")
    assert commands.run("send", address, "y").status == 0
    assert listener.line() == "y"
    listener.signal(signal.SIGTERM)
    assert listener.end().err == "", "the end of the first sender was clean"


def test_a_sender_that_waits_for_room(commands: Commands, address: str) -> None:
    """Its goodbye cannot leave; another signal ends it without."""
    listener = commands.listen(address=address)
    sender = commands.start("send", address)
    sender.tell("x")
    assert listener.line() == "x"
    listener.signal(signal.SIGSTOP)
    try:
        fill(sender)
        while sender.process.poll() is None:
            sender.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                sender.process.wait(0.1)
        ended = sender.end()
    finally:
        listener.signal(signal.SIGCONT)
    # The last signal may have come when it was over, and nobody looked any more.
    assert ended in {(128 + signal.SIGTERM, b"", ""), (-signal.SIGTERM, b"", "")}


def fill(command: Command) -> None:
    """Write lines to its standard input, until it takes in no more."""
    fd = command.stdin.fileno()
    os.set_blocking(fd, False)
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    while poller.poll(1000):
        os.write(fd, b"x" * 4095 + b"\n")


def test_what_was_ignored_stays_ignored(commands: Commands) -> None:
    """As for a command behind ``&`` in a script, whose Ctrl-C is not meant for it."""
    result = commands.shell("""
        aioipc listen unix:test --once & listener=$!
        aioipc send --wait-listener 20 unix:test
        kill -INT $listener
        aioipc send unix:test "still there"
        wait $listener
    """)
    assert (result.status, result.out) == (0, b"still there\n")


class TestClosedPipes:
    def test_of_a_listener(self, commands: Commands) -> None:
        """It ends when ``head`` does, and not only when the next message comes."""
        result = commands.shell("""
            aioipc send --wait-listener 20 unix:test 1 2 &
            aioipc listen unix:test | head -1
            echo ${PIPESTATUS[*]}
        """)
        assert result.out == b"1\n141 0\n"
        assert "Traceback" not in result.err

    def test_of_replies(self, commands: Commands) -> None:
        commands.listen("--echo")
        result = commands.shell("""
            yes | aioipc send --wait-reply unix:test | head -1
            echo ${PIPESTATUS[*]}
        """)
        assert (result.out, result.err) == (b"y\n141 141 0\n", "")

    @pytest.mark.parametrize(
        "command", ["--help", "--version", "send --help", "demo --seconds 0.01", "ls --json"]
    )
    def test_of_what_else_is_printed(self, command: str, commands: Commands) -> None:
        commands.listen()  # so that `ls` has something to say
        result = commands.shell(f"aioipc {command} | true; exit ${{PIPESTATUS[0]}}")
        assert (result.status, result.err) == (141, "")
