"""``aioipc mailbox``: listen at a mailbox, send to one, ask and reply."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.cli.commands import Command, Commands, Result


def own(commands: Commands, *options: str, name: str = "owner") -> Command:
    """Start the owner of a mailbox, and wait until it listens."""
    owner = commands.start("mailbox", "listen", name, *options)
    assert owner.complaint() == f"aioipc: listening at mailbox {name}"
    return owner


def send(commands: Commands, *arguments: str, stdin: bytes = b"") -> Result:
    return commands.run("mailbox", "send", "owner", *arguments, stdin=stdin)


def test_messages_from_arguments_and_lines(commands: Commands) -> None:
    owner = own(commands, "--count", "4")
    assert send(commands, "--from", "me", "hello", "two words") == (0, b"", "")
    assert send(commands, "--from", "me", stdin=b"three\nfour\n") == (0, b"", "")
    assert owner.end() == (0, b"me hello\nme two words\nme three\nme four\n", "")


def test_the_sender_is_told_with_its_credentials(commands: Commands) -> None:
    owner = own(commands, "--once", "--json")
    sender = commands.start("mailbox", "send", "owner", "--json", '{"n": 1}')
    assert json.loads(owner.line()) == {
        "sender": f"shell-{sender.process.pid}",
        "pid": sender.process.pid,
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "wants_reply": False,
        "value": {"n": 1},
    }
    assert sender.end().status == 0
    assert owner.end().status == 0


def test_questions_that_are_echoed(commands: Commands) -> None:
    owner = own(commands, "--echo", "--json")
    assert send(commands, "--ask", "--json", "[1]", "2") == (0, b"[1]\n2\n", "")
    assert json.loads(owner.line())["wants_reply"] is True
    assert send(commands, "no question") == (0, b"", "")
    owner.signal(signal.SIGINT)
    assert owner.end().status == 130


def test_questions_that_lines_answer(commands: Commands) -> None:
    owner = own(commands, "--reply")
    asker = commands.start("mailbox", "send", "owner", "--from", "me", "--ask")
    asker.tell("how many?")
    assert owner.line() == "me how many?"
    owner.tell("three")
    assert asker.line() == "three"
    asker.tell("which?")
    assert owner.line() == "me which?"
    assert owner.end() == (1, b"", "aioipc: the input has no line to answer me with\n")
    result = asker.end()
    assert (result.status, result.out) == (1, b"")
    assert "the mailbox was closed" in result.err


def test_the_last_reply_arrives_before_the_owner_ends(commands: Commands) -> None:
    owner = own(commands, "--reply", "--once")
    owner.tell("42")
    assert send(commands, "--ask", "what?") == (0, b"42\n", "")
    assert owner.end().status == 0


def test_who_asked_and_left_hurts_nobody(commands: Commands) -> None:
    owner = own(commands, "--reply")
    asker = commands.start("mailbox", "send", "owner", "--from", "me", "--ask", "slow?")
    assert owner.line() == "me slow?"
    asker.signal(signal.SIGTERM)
    assert asker.end().status == 128 + signal.SIGTERM
    owner.tell("too late")
    assert owner.complaint().startswith("aioipc: the reply to me: ")
    assert send(commands, "--from", "me", "again") == (0, b"", "")
    assert owner.line() == "me again"


@pytest.mark.leaves_names
def test_an_owner_that_dies(commands: Commands) -> None:
    owner = own(commands, "--echo")
    asker = commands.start("mailbox", "send", "owner", "--ask")
    asker.tell("one")
    assert asker.line() == "one"
    owner.signal(signal.SIGSTOP)
    asker.tell("two")
    owner.signal(signal.SIGKILL)
    result = asker.end()
    assert (result.status, result.out, len(result.err.splitlines())) == (1, b"", 1)


def test_a_full_mailbox_makes_the_sender_wait(commands: Commands) -> None:
    owner = own(commands, "--size", "1", "--reply", "--count", "5")
    asker = commands.start("mailbox", "send", "owner", "--from", "a", "--ask", "?")
    assert owner.line() == "a ?"
    sender = commands.start("mailbox", "send", "owner", "--from", "b", "1", "2", "3", "4")
    owner.tell("go on")
    assert asker.end() == (0, b"go on\n", "")
    assert [owner.line() for _ in range(4)] == ["b 1", "b 2", "b 3", "b 4"]
    assert sender.end() == (0, b"", "")
    assert owner.end().status == 0


def test_nobody_reads_the_output(commands: Commands) -> None:
    owner = own(commands)
    assert owner.process.stdout
    owner.process.stdout.close()
    result = owner.process.wait(20)
    assert result == 141


def test_nobody_has_that_name(commands: Commands) -> None:
    status, out, err = send(commands, "hello")
    assert (status, out) == (1, b"")
    hint = "start one with: aioipc mailbox listen owner"
    assert err == f"aioipc: there is no mailbox 'owner'; {hint}\n"


def test_a_name_that_is_taken(commands: Commands) -> None:
    own(commands)
    assert commands.run("mailbox", "listen", "owner").status == 1
    result = send(commands, "--from", "owner", "hello")
    assert (result.status, "address in use" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["send", "../x", "a"], "wrong mailbox name '../x'"),
        (["send", "x", "--from", "a/b", "a"], "wrong mailbox name 'a/b'"),
        (["listen", "no/where"], "wrong mailbox name 'no/where'"),
        (["listen", "x", "--echo", "--reply"], "--echo and --reply exclude each other"),
        (["listen", "x", "--size", "0"], "0 is not in the range"),
        (["send", "x", "--json", "{"], "is not JSON"),
        (["send", "x", "--codec", "morse", "a"], "morse"),
    ],
)
def test_what_makes_no_sense(commands: Commands, arguments: list[str], complaint: str) -> None:
    status, out, err = commands.run("mailbox", *arguments)
    assert (status, out, len(err.splitlines())) == (2, b"", 1)
    assert complaint in err
