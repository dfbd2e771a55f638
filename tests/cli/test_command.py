"""The command itself: help, version, completion, what it needs, how it shows messages."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from aioipc.cli.notation import Notation
from aioipc.cli.problems import MessageError, UsageProblem
from tests.children import Peers
from tests.cli.commands import Commands


class TestHelp:
    def test_no_command(self, commands: Commands) -> None:
        result = commands.run()
        assert (result.status, result.err) == (0, "")
        for command in ("demo", "listen", "run", "send"):
            assert re.search(rf"^  {command} +[A-Z]", result.out.decode(), re.MULTILINE)

    @pytest.mark.parametrize("command", ["", "demo", "listen", "run", "send"])
    def test_each_one(self, command: str, commands: Commands) -> None:
        result = commands.run(*command.split(), "-h")
        assert (result.status, result.err) == (0, "")
        text = result.out.decode()
        assert f"Usage: aioipc {command}".strip() in text
        if command != "demo":
            assert "130  ended by Ctrl-C" in text
            assert "aioipc send" not in text or command == "send"

    def test_version(self, commands: Commands) -> None:
        assert commands.run("--version") == (0, f"aioipc {version('aioipc')}\n".encode(), "")

    def test_as_a_module(self, peers: Peers) -> None:
        peer = peers.module("aioipc", "--version")
        assert peer.rest() == f"aioipc {version('aioipc')}\n"
        assert peer.wait() == 0

    @pytest.mark.parametrize("shell", ["bash", "zsh"])
    def test_completion(self, shell: str, commands: Commands) -> None:
        script = commands.start(env={"_AIOIPC_COMPLETE": f"{shell}_source"}).end()
        assert script.status == 0
        assert b"_aioipc_completion" in script.out
        words = {"COMP_WORDS": "aioipc send --codec m", "COMP_CWORD": "3"}
        completed = commands.start(env={"_AIOIPC_COMPLETE": f"{shell}_complete", **words}).end()
        assert b"msgpack" in completed.out
        assert b"json" not in completed.out


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_what_it_needs_is_not_installed(missing: str, peers: Peers) -> None:
    peer = peers.script(
        """
        import sys
        sys.modules[sys.argv[1]] = None
        sys.stderr = sys.stdout
        sys.argv[1:] = ["demo"]
        from aioipc.cli import main
        sys.exit(main())
        """,
        missing,
    )
    assert peer.rest() == (
        f"aioipc: the command line needs {missing}; install it with: pip install 'aioipc[cli]'\n"
    )
    assert peer.wait() == 1


class TestTerminal:
    def test_a_conversation(self, commands: Commands) -> None:
        listener = commands.terminal("listen", "unix:test", "--echo")
        listener.wait_for("listening on unix:test")
        listener.wait_for("send something from another terminal: aioipc send unix:test hello")
        sender = commands.terminal("send", "unix:test", "--wait-reply")
        sender.wait_for("connected to unix:test; one message per line, Ctrl-D to end\r\n")
        sender.type("grüße\r")
        sender.wait_for("grüße\r\ngrüße\r\n")
        listener.wait_for("grüße\r\n")
        sender.type("\x04")
        assert sender.end() == 0
        listener.type("\x03")
        assert listener.end() == 130
        assert "Traceback" not in listener.shown
        assert listener.shown.endswith("^C\r\n")

    def test_nothing_controls_it(self, commands: Commands) -> None:
        listener = commands.terminal("listen", "unix:test", "--codec", "raw", "--count", "2")
        listener.wait_for("listening on")
        evil = b"\x1b]0;title\x07 \xff \xc2\x9b \xe2\x80\xae \ttab\r\n"
        assert commands.run("send", "unix:test", "--codec", "raw", stdin=evil + b"two").status == 0
        assert listener.end() == 0
        assert r"\x1b]0;title\x07 \xff \x9b \u202e" in listener.shown
        assert "\x1b" not in listener.shown


class TestNotation:
    @pytest.mark.parametrize(
        ("framing", "codec"),
        [(None, "msgpack"), ("length", "msgpack"), ("lines", "text"), ("none", "raw")],
    )
    def test_what_goes_without_saying(self, framing: str | None, codec: str) -> None:
        assert Notation.of(None, framing, as_json=False).codec == codec

    def test_what_the_other_side_has_to_be_told(self) -> None:
        for codec, framing, options in (
            (None, None, ""),
            ("msgpack", "length", ""),
            ("json", None, " --codec json"),
            (None, "lines", " --framing lines"),
            ("json", "lines", " --framing lines --codec json"),
        ):
            assert Notation.of(codec, framing, as_json=False).options == options

    @pytest.mark.parametrize(("codec", "framing"), [("nope", None), (None, "nope")])
    def test_unknown_names(self, codec: str | None, framing: str | None) -> None:
        with pytest.raises(UsageProblem, match="'nope'"):
            Notation.of(codec, framing, as_json=False)

    def test_a_long_message_is_not_shown_whole(self) -> None:
        with pytest.raises(MessageError) as caught:
            Notation.of("json", None, as_json=False).parse(b"x" * 10_000)
        assert len(str(caught.value)) < 200

    def test_text_that_is_no_utf8(self) -> None:
        assert Notation.of("pickle", None, as_json=False).show("a\ud800") == b"a\\ud800\n"
