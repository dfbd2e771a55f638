"""What goes in at ``aioipc send`` comes out at ``aioipc listen``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest

import aioipc
from tests.cli.commands import Commands

MIB = 1024 * 1024


class TestLines:
    def test_arguments(self, commands: Commands, address: str) -> None:
        listener = commands.listen(address=address)
        sent = commands.run("send", address, "hello", "two words", "", "grüße", "--", "-5")
        assert sent == (0, b"", "")
        assert [listener.line() for _ in range(5)] == ["hello", "two words", "", "grüße", "-5"]

    def test_lines_of_the_standard_input(self, commands: Commands, address: str) -> None:
        listener = commands.listen(address=address)
        assert commands.run("send", address, stdin=b"one\n\n three \nno end") == (0, b"", "")
        assert [listener.line() for _ in range(4)] == ["one", "", " three ", "no end"]

    def test_lines_go_as_they_come(self, commands: Commands, address: str) -> None:
        listener = commands.listen(address=address)
        sender = commands.start("send", address)
        for line in ("first", "second"):
            sender.tell(line)
            assert listener.line() == line
        assert sender.end() == (0, b"", "")

    def test_no_lines_at_all(self, commands: Commands, address: str) -> None:
        listener = commands.listen(address=address)
        assert commands.run("send", address) == (0, b"", "")
        listener.signal(signal.SIGTERM)
        assert listener.end().out == b""

    def test_from_a_file_into_a_file(
        self, commands: Commands, address: str, tmp_path: Path
    ) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_text("".join(f"{number}\n" for number in range(50_000)))
        result = commands.shell(f"""
            aioipc listen {address} --count 50000 > {target} &
            aioipc send --wait-listener 20 {address} < {source}
            wait $!
        """)
        assert result.status == 0, result.err
        assert target.read_bytes() == source.read_bytes()

    def test_who_is_not_read_makes_the_others_wait(self, commands: Commands, address: str) -> None:
        line = b"x" * 999 + b"\n"
        listener = commands.listen(address=address)
        sender = commands.start("send", address)
        os.set_blocking(sender.stdin.fileno(), False)
        poller = select.poll()
        poller.register(sender.stdin.fileno(), select.POLLOUT)
        written = 0
        while poller.poll(1000):
            with contextlib.suppress(BlockingIOError):
                written += os.write(sender.stdin.fileno(), (line * 16)[written % len(line) :])
            assert written < 32 * MIB, "there is no end to what they take in"
        sender.stdin.close()
        for _ in range(written // len(line)):
            assert listener.line() == "x" * 999
        assert sender.end() == (0, b"", "")


class TestReplies:
    def test_one_for_each(self, commands: Commands, address: str) -> None:
        listener = commands.listen("--echo", address=address)
        answered = commands.run("send", address, "--wait-reply", "a", "b")
        assert answered == (0, b"a\nb\n", "")
        assert [listener.line(), listener.line()] == ["a", "b"]

    def test_they_come_while_lines_are_still_to_come(
        self, commands: Commands, address: str
    ) -> None:
        commands.listen("--echo", address=address)
        sender = commands.start("send", address, "--wait-reply")
        for line in ("first", "second"):
            sender.tell(line)
            assert sender.line() == line
        assert sender.end() == (0, b"", "")

    @pytest.mark.parametrize("options", ["--wait-reply", "--replies 50000", ""])
    def test_more_than_all_buffers_hold(
        self, commands: Commands, address: str, options: str
    ) -> None:
        """Both directions have to move at the same time, also if nobody wants the replies."""
        wanted = "seq 50000" if options else "true"
        result = commands.shell(f"""
            aioipc listen --echo {address} >/dev/null &
            seq 50000 | aioipc send --wait-listener 20 {options} {address} | cmp - <({wanted})
            echo ${{PIPESTATUS[*]}}
            kill $!
        """)
        assert result.out == b"0 0 0\n", result.err

    def test_a_number_of_them(self, commands: Commands, address: str) -> None:
        commands.listen("--echo", address=address)
        assert commands.run("send", address, "--replies", "1", "a", "b") == (0, b"a\n", "")
        assert commands.run("send", address, "--replies", "0", "a", "b") == (0, b"", "")

    def test_all_that_a_program_says(self, commands: Commands) -> None:
        sorted_ = commands.run("send", "exec:sort -r", "--framing", "lines", "a", "c", "b")
        assert sorted_ == (0, b"c\nb\na\n", "")

    def test_a_program_that_does_not_want_everything(self, commands: Commands) -> None:
        lines = b"".join(b"%d\n" % number for number in range(100_000))
        first = commands.run("send", "exec:head -1", "--framing", "lines", stdin=lines)
        assert first == (0, b"0\n", "")


class TestNotations:
    def test_json(self, commands: Commands) -> None:
        listener = commands.listen("--echo")
        messages = ['{"a":[1,2.5,null,true]}', "42", '"text"', '"two\\nlines"']
        sent = commands.run("send", "unix:test", "--json", "--wait-reply", *messages)
        assert sent == (0, "".join(f"{message}\n" for message in messages).encode(), "")
        assert [listener.line() for _ in range(5)] == [messages[0], "42", "text", "two", "lines"]

    def test_json_of_a_listener(self, commands: Commands) -> None:
        listener = commands.listen("--json")
        commands.run("send", "unix:test", "plain")
        commands.run("send", "unix:test", "--json", '{"a": 1}')
        assert [listener.line(), listener.line()] == ['"plain"', '{"a":1}']

    def test_the_json_codec_speaks_json(self, commands: Commands) -> None:
        listener = commands.listen("--codec", "json")
        assert commands.run("send", "unix:test", "--codec", "json", "[1, 2]").status == 0
        assert listener.line() == "[1,2]"

    def test_bytes_are_left_alone(self, commands: Commands) -> None:
        listener = commands.listen("--codec", "raw", "--once")
        assert commands.run("send", "unix:test", "--codec", "raw", stdin=b"\xff\0\x1b").status == 0
        assert listener.end().out == b"\xff\0\x1b\n"

    def test_bytes_in_json(self, commands: Commands) -> None:
        commands.listen("--codec", "raw", "--echo")
        echoed = commands.run(
            "send", "unix:test", "--codec", "raw", "--json", '"/wA="', "--wait-reply"
        )
        assert echoed == (0, b'"/wA="\n', "")

    def test_any_object_of_python(self, commands: Commands) -> None:
        listener = commands.listen("--codec", "pickle", "--once")
        assert commands.run("send", "unix:test", "--codec", "pickle", "text").status == 0
        assert listener.end().out == b"text\n"

    def test_no_framing_is_every_byte_as_it_is(self, commands: Commands) -> None:
        data = os.urandom(300_000)
        listener = commands.listen("--framing", "none", address="tcp://127.0.0.1:0")
        sender = commands.start("send", "--framing", "none", listener.address)
        for start in range(0, len(data), 50_000):
            sender.stdin.write(data[start : start + 50_000])
            assert listener.take(50_000) == data[start : start + 50_000]
        assert sender.end() == (0, b"", "")

    def test_lines_of_foreign_programs(self, commands: Commands, runtime_dir: Path) -> None:
        listener = commands.listen("--framing", "lines", "--echo")
        answered = commands.run("send", "unix:test", "--framing", "lines", "--wait-reply", "a b")
        assert answered == (0, b"a b\n", "")
        assert listener.line() == "a b"


@pytest.mark.asyncio
class TestPython:
    """The defaults are those of the library, so that a shell and a program meet without options."""

    async def test_a_program_sends(self, commands: Commands) -> None:
        listener = commands.listen()
        messages: list[Any] = ["text", {"a": [1, None]}, b"bytes", 2.5, None, float("nan")]
        async with aioipc.connect("unix:test") as channel:
            await channel.send_many(messages)
        shown = [listener.line() for _ in messages]
        assert shown == ["text", '{"a":[1,null]}', "bytes", "2.5", "null", "null"]

    async def test_a_program_receives(self, commands: Commands) -> None:
        async with aioipc.listen("unix:test") as listener:
            sender = commands.start("send", "unix:test", "--json", '"text"', '{"a": 1}')
            async with await listener.accept() as channel:
                assert [message async for message in channel] == ["text", {"a": 1}]
            assert sender.end().status == 0

    async def test_a_program_that_keeps_the_channel_open(self, commands: Commands) -> None:
        """It has said HELLO and could be silent for ever: then it is left alone."""
        async with aioipc.listen("unix:test") as listener:
            sender = commands.start("send", "unix:test", "hello")
            async with await listener.accept() as channel:
                assert await channel.receive() == "hello"
                ended = await sender.ended()
            assert ended == (0, b"", "")

    async def test_what_a_program_cannot_show_otherwise(self, commands: Commands) -> None:
        listener = commands.listen("--codec", "pickle")
        async with aioipc.connect("unix:test", codec="pickle") as channel:
            await channel.send(1j)
        assert listener.line() == '"1j"'


class TestAddresses:
    def test_the_system_completes_them(self, commands: Commands) -> None:
        for address in ("unix:", "tcp://127.0.0.1:0"):
            listener = commands.listen("--once", address=address)
            assert listener.address.startswith(address.removesuffix("0"))
            assert listener.address != address
            assert commands.run("send", listener.address, "found").status == 0
            assert listener.end() == (0, b"found\n", "")

    def test_abstract(self, commands: Commands) -> None:
        listener = commands.listen("--once", address=f"unix:@aioipc-test-{os.getpid()}")
        assert commands.run("send", listener.address, "found").status == 0
        assert listener.end().out == b"found\n"

    def test_fifo(self, commands: Commands, tmp_path: Path) -> None:
        listener = commands.listen("--count", "3", address=f"fifo:{tmp_path}/fifo")
        for messages in (["a", "b"], ["c"]):
            assert commands.run("send", listener.address, *messages) == (0, b"", "")
        assert listener.end() == (0, b"a\nb\nc\n", "")

    def test_descriptors_of_a_pipeline(self, commands: Commands) -> None:
        result = commands.shell(
            "seq 3 | aioipc send fd:1 | aioipc listen fd:0; echo ${PIPESTATUS[*]}"
        )
        assert result.out == b"1\n2\n3\n0 0 0\n", result.err

    def test_standard_streams(self, commands: Commands) -> None:
        """The channel has the standard output, so messages are printed to standard error."""
        result = commands.run("send", "exec:aioipc listen stdio: --echo", "hello", "--wait-reply")
        assert result.status == 0
        assert result.out == b"hello\n"
        assert result.err == "aioipc: listening on stdio:\nhello\n"


class TestWaiting:
    def test_for_a_listener(self, commands: Commands) -> None:
        sender = commands.start("send", "unix:test", "--wait-listener", "30", "patient")
        assert commands.start("listen", "unix:test", "--once").end().out == b"patient\n"
        assert sender.end() == (0, b"", "")

    def test_in_vain(self, commands: Commands) -> None:
        result = commands.run("send", "unix:test", "--wait-listener", "0.1", "patient")
        assert result.status == 1
        assert "nobody listens" in result.err

    @pytest.mark.parametrize(("options", "count"), [(["--once"], 1), (["--count", "2"], 2)])
    def test_until_there_are_enough(
        self, commands: Commands, options: list[str], count: int
    ) -> None:
        listener = commands.listen(*options)
        commands.run("send", "unix:test", "1", "2", "3")
        assert listener.end() == (0, b"1\n2\n3\n"[: 2 * count], "")
