"""Whatever goes wrong is one line with a hint, and the exit status that the help promises."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aioipc
from aioipc.wire.framing import Kind, pack_header
from tests.cli.commands import Commands, Result

DIED = ": (the peer ended without a goodbye|Connection reset by peer)$"
"""The kernel resets a connection whose dead end had something left to read."""


def line_of(result: Result, status: int) -> str:
    """The one line that a command wrote to standard error, without its start."""
    assert (result.status, result.out) == (status, b""), result.err
    found = re.fullmatch(r"aioipc: (.+)\n", result.err)
    assert found, result.err
    return found[1]


USAGE = {
    "send": "missing argument 'ADDRESS'; see: aioipc send --help",
    "sned unix:x": "no such command 'sned'",
    "send --ehco unix:x": "no such option '--ehco'",
    "send hello": "address 'hello': the scheme is missing: write scheme:rest, such as unix:name",
    "send tcp://localhost x": "the port is missing",
    "listen unix:a/b": "wrong name 'a/b'",
    "send mqx:y z": "no transport is called 'mqx'; known are exec, fd,",
    "listen memory:x": "it joins the tasks of one process; between processes take unix:name",
    "send pipe: x": "pipe:: it has no name; in a shell take fifo:/path, or fd:0 and fd:1",
    "listen exec:cat": "exec: has no listen",
    "send unix:x --codec nope y": "no codec is called 'nope'; known are arrays, json, msgpack,",
    "listen shm:x --framing lines": "shm: carries whole messages, so framing='lines' has nothing",
    "send shm:x --framing lines y": "shm: carries whole messages, so framing='lines' has nothing",
    "listen unix:x --framing nope": "no framing is called 'nope'; known are length, lines,",
    "send unix:x --json {": "message '{' is not JSON: ",
    "send unix:x --codec json hello": "message 'hello' is not JSON: ",
    "send unix:x --wait-reply --replies 1 y": "--wait-reply and --replies exclude each other",
    "send unix:x --replies some y": "--replies takes a number or 'all', not 'some'",
    "run m:f --workers 99999999999999999999": "invalid value for '--workers'",
    "listen unix:x --count 0": "invalid value for '--count'",
    "listen --echo fifo:/tmp/x": "fifo:/tmp/x is one way, so --echo has no way back",
    "send --wait-reply fifo:/tmp/x y": "fifo:/tmp/x is one way, so there can be no replies",
    "send stdio:": "stdio: takes the standard input for the channel; give messages as arguments",
    "listen --codec pickle tcp://127.0.0.1:0": "tcp: does not say who the peer is",
    "send --codec pickle tcp://127.0.0.1:1 x": "tcp: does not say who the peer is",
    "listen fd:77": "descriptor 77: Bad file descriptor",
}


@pytest.mark.parametrize("command", USAGE)
def test_the_command_is_wrong(command: str, commands: Commands) -> None:
    assert USAGE[command] in line_of(commands.run(*command.split()), 2)


def test_a_message_that_is_not_text(commands: Commands) -> None:
    """Those before it were sent."""
    listener = commands.listen()
    line = line_of(commands.run("send", "unix:test", stdin=b"good\nb\xe4d\ngood\n"), 2)
    assert line == r"message 'b\xe4d' is not UTF-8; to send bytes as they are, say --codec raw"
    assert listener.line() == "good"


class TestNobodyListens:
    def test_unix(self, commands: Commands) -> None:
        assert line_of(commands.run("send", "unix:foo", "x"), 1) == (
            "connect to unix:foo: nobody listens there (no such socket); "
            "start one with: aioipc listen unix:foo"
        )

    def test_the_hint_can_be_copied(self, commands: Commands, tmp_path: Path) -> None:
        address = f"unix:{tmp_path}/with space"
        options = ("--framing", "lines", "--codec", "json")
        line = line_of(commands.run("send", address, *options, "1"), 1)
        assert line.endswith(f"aioipc listen '{address}' --framing lines --codec json")

    def test_tcp(self, commands: Commands) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        line = line_of(commands.run("send", address, "x"), 1)
        assert (
            line
            == f"connect to {address}: Connection refused; start one with: aioipc listen {address}"
        )

    def test_exec(self, commands: Commands) -> None:
        line = line_of(commands.run("send", "exec:aioipc-no-such-program", "x"), 1)
        assert line.endswith("No such file or directory; is the program installed, and in PATH?")


class TestPeers:
    def test_another_codec(self, commands: Commands, address: str) -> None:
        listener = commands.listen(address=address)
        line = line_of(commands.run("send", address, "--codec", "json", "1"), 1)
        assert "'json'" in line
        assert "'msgpack'" in line
        assert line.endswith("; say --codec as the peer does")
        assert listener.complaint() == (
            f"aioipc: {address}: a handshake failed: "
            "the peer uses codec 'json', this side 'msgpack'"
        )
        assert commands.run("send", address, "the others go on").status == 0
        assert listener.line() == "the others go on"

    def test_a_program_that_does_not_speak_aioipc(self, commands: Commands) -> None:
        line = line_of(commands.run("send", "exec:echo what is that", "x"), 1)
        assert "--framing lines" in line

    def test_a_program_that_fails(self, commands: Commands) -> None:
        result = commands.run("send", "exec:sh -c 'echo no; exit 3'", "--framing", "lines", "x")
        assert (result.status, result.out) == (1, b"no\n")
        assert result.err.endswith("the program ended with exit status 3\n")

    def test_too_few_replies(self, commands: Commands, address: str) -> None:
        commands.listen("--echo", "--once", address=address)
        result = commands.run("send", address, "--replies", "3", "x")
        assert (result.status, result.out) == (1, b"x\n")
        assert result.err == f"aioipc: {address}: the peer ended after 1 of 3 replies\n"

    @pytest.mark.leaves_names
    def test_a_listener_is_killed(self, commands: Commands, address: str) -> None:
        listener = commands.listen("--echo", address=address)
        sender = commands.start("send", address, "--wait-reply")
        sender.tell("x")
        assert sender.line() == "x"
        listener.signal(signal.SIGKILL)
        assert re.search(DIED, sender.complaint())
        assert sender.end().status == 1

    def test_a_sender_is_killed(self, commands: Commands, address: str) -> None:
        """The listener says so and goes on."""
        listener = commands.listen(address=address)
        sender = commands.start("send", address)
        sender.tell("x")
        assert listener.line() == "x"
        sender.signal(signal.SIGKILL)
        assert re.search(DIED, listener.complaint())
        assert commands.run("send", address, "y").status == 0
        assert listener.line() == "y"

    def test_a_sender_is_killed_on_the_only_connection(self, commands: Commands) -> None:
        spoken = commands.run("send", "fd:1", "x").out
        goodbye = pack_header(0, Kind.GOODBYE)
        assert spoken.endswith(goodbye)
        result = commands.run("listen", "fd:0", stdin=spoken.removesuffix(goodbye))
        assert (result.status, result.out) == (1, b"x\n")
        assert result.err.endswith("aioipc: fd:0: the peer ended without a goodbye\n")

    @pytest.mark.slow
    def test_a_listener_that_says_nothing(self, commands: Commands, runtime_dir: Path) -> None:
        path = runtime_dir / "deaf"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            path.chmod(0o600)
            server.listen()
            line = line_of(commands.run("send", f"unix:{path}", "x"), 1)
        path.unlink()
        assert line == f"unix:{path}: connected, but the peer did not answer within 5 s"


class TestSystem:
    def test_the_address_is_taken(self, commands: Commands) -> None:
        commands.listen()
        assert line_of(commands.run("listen", "unix:test"), 1).endswith("test: address in use")

    def test_a_directory_that_is_not_safe(self, commands: Commands, runtime_dir: Path) -> None:
        runtime_dir.chmod(0o755)
        line = line_of(commands.run("listen", "unix:test"), 1)
        runtime_dir.chmod(0o700)
        assert line == f"{runtime_dir} has mode 0755, which lets others in; it must be 0700"

    def test_a_message_that_no_fifo_can_carry(self, commands: Commands, tmp_path: Path) -> None:
        listener = commands.listen(address=f"fifo:{tmp_path}/fifo")
        line = line_of(commands.run("send", listener.address, "x" * 5000), 1)
        assert line.endswith(f"a single writer has no such limit: '{listener.address}?single'")
        assert commands.run("send", f"{listener.address}?single", "x" * 5000).status == 0
        assert listener.line() == "x" * 5000

    def test_a_full_disk(self, commands: Commands) -> None:
        result = commands.shell("""
            aioipc listen unix:test > /dev/full & listener=$!
            aioipc send --wait-listener 20 unix:test x
            wait $listener
        """)
        assert result.status == 1
        assert "aioipc: standard output: write to fd:1: No space left on device\n" in result.err

    @pytest.mark.parametrize("command", ["--help", "ls", "demo --seconds 0.01", "run work:chatter"])
    def test_a_full_disk_for_what_else_is_printed(
        self, command: str, commands: Commands, tmp_path: Path
    ) -> None:
        commands.listen()
        (tmp_path / "work.py").write_text("async def chatter(channel):\n    print('x')\n")
        result = commands.shell(f"cd {tmp_path}; aioipc {command} > /dev/full")
        assert result.status == 1
        assert result.err.splitlines()[-1].endswith("No space left on device")
        assert len(result.err.splitlines()) == 1

    def test_no_standard_output(self, commands: Commands) -> None:
        result = commands.shell("aioipc listen unix:test >&-")
        assert result == (2, b"", "aioipc: the standard output is closed\n")

    def test_no_standard_input(self, commands: Commands) -> None:
        listener = commands.listen()
        assert commands.shell("aioipc send unix:test hello <&-").status == 0
        assert listener.line() == "hello"
        result = commands.shell("aioipc send unix:test <&-")
        assert result == (2, b"", "aioipc: the standard input is closed\n")


@pytest.mark.asyncio
async def test_a_message_that_does_not_fit_the_codec(commands: Commands) -> None:
    """It is told, and the next one is received."""
    listener = commands.listen("--codec", "json")
    raw = aioipc.codecs.get("raw")

    pretender: Any = SimpleNamespace(**{**vars(raw), "name": "json"})
    async with aioipc.connect("unix:test", codec=pretender) as channel:
        await channel.send_many([b"{", b"[1]"])
    assert "cannot decode this message of 1 bytes" in listener.complaint()
    assert listener.line() == "[1]"
