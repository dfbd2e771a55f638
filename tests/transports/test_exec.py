"""``exec:`` children of every manner: ours, foreign, failing, deaf, undying."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Channel,
    ClosedError,
    ConnectError,
    Limits,
    PeerCrashed,
    TruncatedFrame,
)
from tests.children import PATIENCE_S, is_gone
from tests.links import steps
from tests.programs import converse, ends, loop_name, source, stuck_send

pytestmark = pytest.mark.asyncio

HASTY = Limits(linger_s=0.1)
"""For children that are not going to end by themselves."""

ECHO = """
async with aioipc.connect("stdio:") as channel:
    await echo(channel)
"""
JSON_LINES = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "sum": sum(request["numbers"])}), flush=True)
"""
CONTENT_LENGTH = r"""
import json, sys
inp, out = sys.stdin.buffer, sys.stdout.buffer
while header := inp.readline():
    length = 0
    while header.strip():
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        header = inp.readline()
    request = json.loads(inp.read(length))
    body = json.dumps({"id": request["id"], "method": request["method"].upper()}).encode()
    out.write(b"Content-Type: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    out.flush()
"""


def python(code: str, *arguments: object) -> str:
    """The address of a plain Python program."""
    return "exec:" + shlex.join([sys.executable, "-c", code, *map(str, arguments)])


def ours(code: str, *arguments: object) -> str:
    """The address of a program that speaks aioipc, on the same loop as the test."""
    return python(source(code), loop_name(), *arguments)


def shell(script: str) -> str:
    return "exec:" + shlex.join(["sh", "-c", script])


def connect_lines(address: str, **options: Any) -> aioipc._opening.Opening[Channel[Any]]:
    return aioipc.connect(address, codec="text", framing="lines", **options)


class TestTalking:
    async def test_to_a_program_of_ours(self) -> None:
        address = ours(ECHO)
        async with aioipc.connect(address) as channel:
            assert channel.address == address
            assert channel.peer is None
            await converse(channel)

    async def test_in_lines_to_cat(self) -> None:
        async with connect_lines("exec:cat") as channel:
            for text in ("", "a line", "ü" * 40_000):
                await channel.send(text)
                assert await channel.receive() == text
            await channel.send_eof()
            await ends(channel)

    async def test_in_lines_to_sed(self) -> None:
        async with connect_lines("exec:sed -u 's/^/> /'") as channel:
            await channel.send_many(["first", "second"])
            assert await channel.receive_many(1) == ["> first"]
            assert await channel.receive() == "> second"
            await channel.send_eof()
            await ends(channel)

    async def test_in_lines_of_json(self) -> None:
        address = python(JSON_LINES)
        async with aioipc.connect(address, codec="json", framing="lines") as channel:
            for number in range(20):
                await channel.send({"id": number, "numbers": list(range(number))})
            for number in range(20):
                answer = {"id": number, "sum": sum(range(number))}
                assert await channel.receive() == answer

    async def test_with_headers(self) -> None:
        address = python(CONTENT_LENGTH)
        async with aioipc.connect(address, codec="json", framing="headers") as channel:
            for number in range(20):
                await channel.send({"id": number, "method": "initialize\nä" * number})
                answer = {"id": number, "method": "INITIALIZE\nÄ" * number}
                assert await channel.receive() == answer
            await channel.send_eof()
            await ends(channel)

    async def test_in_bytes(self) -> None:
        async with aioipc.connect("exec:cat", codec="raw", framing="none") as channel:
            data = os.urandom(1_000_000)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(channel.send(data))
                received = b""
                while len(received) < len(data):
                    received += await channel.receive()
            assert received == data
            await channel.send_eof()
            await ends(channel)

    async def test_arguments_are_quoted_as_in_a_shell(self) -> None:
        async with connect_lines(r"""exec:printf '%s\n' "a  b" '' c\ d '$HOME' """) as channel:
            assert [line async for line in channel] == ["a  b", "", "c d", "$HOME"]

    async def test_a_program_that_says_more_than_a_pipe_holds_before_it_listens(self) -> None:
        script = "head -c 1000000 /dev/zero | tr '\\0' x; echo; exec cat"
        async with connect_lines(shell(script)) as channel:
            await channel.send("echo")
            assert await channel.receive() == "x" * 1_000_000
            assert await channel.receive() == "echo"

    async def test_to_many_at_once(self) -> None:
        async def one(number: int) -> None:
            async with connect_lines("exec:cat") as channel:
                await channel.send(f"number {number}")
                assert await channel.receive() == f"number {number}"

        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(one(number))


class TestStarting:
    async def test_an_unknown_program(self) -> None:
        with pytest.raises(ConnectError, match="connect to exec:no-such-program -x: No such file"):
            await aioipc.connect("exec:no-such-program -x")

    async def test_a_file_that_is_no_program(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text")
        with pytest.raises(AccessDenied, match=f"exec:{tmp_path}/file: Permission denied"):
            await aioipc.connect(f"exec:{tmp_path}/file")

    @pytest.mark.parametrize(
        ("address", "part"),
        [
            ("exec:", "wrong command ''"),
            ("exec:''", "wrong command"),
            ("exec:cat 'open", 'wrong command "cat \'open"'),
        ],
    )
    async def test_a_wrong_address(self, address: str, part: str) -> None:
        with pytest.raises(AddressError) as caught:
            await aioipc.connect(address)
        assert part in str(caught.value)

    async def test_it_only_connects(self) -> None:
        with pytest.raises(AddressError, match="exec: has no listen, only connect"):
            await aioipc.listen("exec:cat")
        with pytest.raises(AddressError, match="exec: has no pair, only connect"):
            aioipc.pair("exec:cat")

    async def test_allow_has_no_question(self) -> None:
        with pytest.raises(ValueError, match="allow= has no question"):
            await aioipc.connect("exec:cat", allow=aioipc.same_user)

    async def test_it_inherits_nothing_of_ours(self) -> None:
        list_fds = ["ls", "/proc/self/fd"]
        before = await asyncio.to_thread(subprocess.check_output, list_fds, close_fds=False)
        async with connect_lines("exec:cat") as other:
            async with connect_lines("exec:ls /proc/self/fd") as ls:
                assert [line async for line in ls] == before.decode().split()
            await other.send("x")
            assert await other.receive() == "x"


class TestEnding:
    async def test_it_ends_well(self) -> None:
        async with connect_lines(shell("echo last; exit 0")) as channel:
            assert await channel.receive() == "last"
            await ends(channel)

    @pytest.mark.parametrize("status", [1, 3, 255])
    async def test_it_fails(self, status: int) -> None:
        async with connect_lines(shell(f"echo last; exit {status}")) as channel:
            assert await channel.receive() == "last"
            for _ in range(2):
                with pytest.raises(PeerCrashed, match=f"exit status {status}") as caught:
                    await channel.receive()
                assert caught.value.status == status

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
    async def test_it_is_killed(self, number: signal.Signals) -> None:
        async with connect_lines(shell(f"echo last; kill -{int(number)} $$")) as channel:
            assert await channel.receive() == "last"
            with pytest.raises(PeerCrashed, match=f"killed by {number.name}") as caught:
                await channel.receive()
            assert caught.value.status == -number

    async def test_one_of_ours_fails(self) -> None:
        """A status says more than a missing goodbye."""
        code = """
        async with aioipc.connect("stdio:") as channel:
            await channel.send("last")
            await channel.flush()
            os._exit(7)
        """
        async with aioipc.connect(ours(code)) as channel:
            assert await channel.receive() == "last"
            with pytest.raises(PeerCrashed) as caught:
                await channel.receive()
            assert caught.value.status == 7

    async def test_one_of_ours_ends_without_goodbye(self) -> None:
        code = """
        async with aioipc.connect("stdio:") as channel:
            await channel.send("last")
            await channel.flush()
            os._exit(0)
        """
        async with aioipc.connect(ours(code)) as channel:
            assert await channel.receive() == "last"
            with pytest.raises(PeerCrashed, match="without a goodbye"):
                await channel.receive()

    async def test_it_dies_inside_a_message(self) -> None:
        script = r"printf 'Content-Length: 100\r\n\r\nnot all'; exit 5"
        async with aioipc.connect(shell(script), codec="raw", framing="headers") as channel:
            with pytest.raises(PeerCrashed) as caught:
                await channel.receive()
            assert isinstance(caught.value, TruncatedFrame) or caught.value.status == 5

    async def test_all_that_it_said_is_delivered_first(self) -> None:
        async with connect_lines(shell("seq 100000; exit 9")) as channel:
            for number in range(100_000):
                assert await channel.receive() == str(number + 1)
            with pytest.raises(PeerCrashed) as caught:
                await channel.receive()
            assert caught.value.status == 9

    async def test_it_does_not_listen(self) -> None:
        async with connect_lines(
            shell("exec 0<&-; echo closed; exec sleep 1000"), limits=HASTY
        ) as channel:
            assert await channel.receive() == "closed"
            with pytest.raises(PeerCrashed):
                await channel.send("to nobody")

    async def test_it_is_killed_while_we_send(self) -> None:
        async with connect_lines(shell("echo $$; exec sleep 1000"), limits=HASTY) as channel:
            pid = int(await channel.receive())
            sending = await stuck_send(channel)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(PeerCrashed):
                await sending
            with pytest.raises(PeerCrashed) as caught:
                await channel.receive()
            assert caught.value.status == -9

    async def test_it_closes_its_output_and_ends_later(self) -> None:
        """Only its status says how it ended, so a receive waits for that."""
        script = "echo last; exec 1>&-; read line; exit 4"
        async with connect_lines(shell(script)) as channel:
            assert await channel.receive() == "last"
            waiting = asyncio.create_task(channel.receive())
            await channel.send("go on")
            with pytest.raises(PeerCrashed) as caught:
                await waiting
            assert caught.value.status == 4

    async def test_it_closes_its_output_and_lives_on(self) -> None:
        """Its end is not waited for longer than a close would."""
        script = "echo last; exec 1>&-; exec sleep 1000"
        async with connect_lines(shell(script), limits=HASTY) as channel:
            assert await channel.receive() == "last"
            async with asyncio.timeout(10):
                await ends(channel)

    async def test_its_child_keeps_the_output_open(self) -> None:
        """Its death is seen by its pidfd, and not only when the last copy is closed."""
        script = "sleep 1000 & echo $!; exec 2>&-; read line; kill -9 $$"
        async with connect_lines(shell(script)) as channel:
            grandchild = int(await channel.receive())
            try:
                await channel.send("die")
                started = time.monotonic()
                async with asyncio.timeout(10):
                    with pytest.raises(PeerCrashed) as caught:
                        await channel.receive()
                assert caught.value.status == -9
                assert time.monotonic() - started < 1
            finally:
                os.kill(grandchild, signal.SIGKILL)

    async def test_its_child_takes_the_output_over(self) -> None:
        """A program that ends well may leave its streams to another, which then goes on."""
        script = '{ read line; echo "$line, later"; } <&0 & exit 0'
        async with connect_lines(shell(f"exec 3<&0; ({script.replace('<&0', '<&3')})")) as channel:
            waiting = asyncio.create_task(channel.receive())
            await channel.send("sooner")
            assert await waiting == "sooner, later"
            await ends(channel)


class TestClosing:
    async def test_its_input_ends_and_it_may_finish(self, tmp_path: Path) -> None:
        script = f"cat > {tmp_path}/received; echo done > {tmp_path}/status"
        async with connect_lines(shell(script)) as channel:
            await channel.send_many(["first", "second"])
        assert (tmp_path / "received").read_text() == "first\nsecond\n"
        assert (tmp_path / "status").read_text() == "done\n"

    async def test_it_is_reaped(self) -> None:
        async with connect_lines(shell("echo $$; cat")) as channel:
            pid = int(await channel.receive())
        assert is_gone(pid)

    async def test_it_ignores_the_end_of_its_input(self, tmp_path: Path) -> None:
        trap = f"trap 'echo terminated > {tmp_path}/status; exit' TERM"
        script = f"{trap}; echo $$; while :; do sleep 0.05; done"
        async with connect_lines(shell(script), limits=HASTY) as channel:
            pid = int(await channel.receive())
        assert is_gone(pid)
        assert (tmp_path / "status").read_text() == "terminated\n"

    async def test_it_ignores_sigterm_too(self) -> None:
        started = time.monotonic()
        script = "trap '' TERM; echo $$; exec sleep 1000"
        async with connect_lines(shell(script), limits=HASTY) as channel:
            pid = int(await channel.receive())
        assert is_gone(pid)
        assert 1 < time.monotonic() - started < 5

    async def test_it_does_not_read_what_was_sent(self) -> None:
        """What fits nowhere is given up after the linger deadline."""
        async with connect_lines(shell("echo $$; exec sleep 1000"), limits=HASTY) as channel:
            pid = int(await channel.receive())
            sending = await stuck_send(channel)
        assert is_gone(pid)
        with pytest.raises(ClosedError):
            await sending

    async def test_a_cancelled_close_kills_it(self) -> None:
        script = "trap '' TERM; echo $$; exec sleep 1000"
        channel = await connect_lines(shell(script))
        pid = int(await channel.receive())
        closing = asyncio.create_task(channel.aclose())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await _until_gone(pid)

    async def test_a_close_cancelled_while_it_flushes_kills_it(self) -> None:
        channel = await connect_lines(shell("trap '' TERM; echo $$; exec sleep 1000"))
        pid = int(await channel.receive())
        sending = await stuck_send(channel)
        closing = asyncio.create_task(channel.aclose())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(ClosedError):
            await sending
        await _until_gone(pid)

    async def test_leaving_in_a_cancelled_scope_kills_it(self) -> None:
        channel: Channel[Any] | None = None
        pid = 0
        with anyio.CancelScope() as scope:
            async with connect_lines(shell("trap '' TERM; echo $$; exec sleep 1000")) as channel:
                pid = int(await channel.receive())
                scope.cancel()
                await channel.receive()
        assert scope.cancelled_caught
        await _until_gone(pid)

    async def test_abort(self) -> None:
        channel = await connect_lines(shell("trap '' TERM; echo $$; exec sleep 1000"))
        pid = int(await channel.receive())
        channel.abort()
        with pytest.raises(ClosedError):
            await channel.receive()
        await channel.aclose()
        await _until_gone(pid)

    async def test_dropped_open(self) -> None:
        channel = await connect_lines(shell("echo $$; exec sleep 1000"))
        pid = int(await channel.receive())
        with pytest.warns(ResourceWarning, match="unclosed <Channel exec:sh -c"):
            del channel
        await _until_gone(pid)

    async def test_it_ended_long_ago(self) -> None:
        async with connect_lines(shell("echo $$; exit 3")) as channel:
            pid = int(await channel.receive())
            with pytest.raises(PeerCrashed):
                await channel.receive()
        assert is_gone(pid)


class TestClosingAStream:
    async def test_its_input_ends_and_it_may_finish(self, tmp_path: Path) -> None:
        async with aioipc.connect_stream(shell(f"echo $$; cat > {tmp_path}/received")) as stream:
            pid = int(await stream.receive())
            await stream.send(b"all of it")
        assert is_gone(pid)
        assert (tmp_path / "received").read_text() == "all of it"

    async def test_it_stays(self) -> None:
        stream = await aioipc.connect_stream(shell("echo $$; exec sleep 1000"), limits=HASTY)
        pid = int(await stream.receive())
        await stream.aclose()
        assert is_gone(pid)

    async def test_abort(self) -> None:
        stream = await aioipc.connect_stream(shell("trap '' TERM; echo $$; exec sleep 1000"))
        pid = int(await stream.receive())
        stream.abort()
        await _until_gone(pid)

    @pytest.mark.parametrize("how", ["cancelled", "aborted"])
    async def test_a_close_that_is_interrupted_kills_it(self, how: str) -> None:
        stream = await aioipc.connect_stream(
            shell("trap '' TERM; echo $$; exec sleep 1000"), limits=Limits(linger_s=1000)
        )
        pid = int(await stream.receive())
        closing = asyncio.create_task(stream.aclose())
        await steps(3)
        if how == "aborted":
            stream.abort()
        else:
            closing.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([closing])
        await _until_gone(pid)


async def _until_gone(pid: int) -> None:
    """Wait for a process that was told to end, and for whoever reaps it."""
    async with asyncio.timeout(30):
        while not is_gone(pid):
            async with connect_lines("exec:true"):  # reaps what was let go of
                pass


async def test_to_read_nothing_is_not_the_end() -> None:
    async with await aioipc.connect_stream("exec:cat") as stream:
        assert stream.transport.try_read_into(memoryview(bytearray())) == 0
        await stream.send(b"hello")
        async with asyncio.timeout(PATIENCE_S):
            assert await stream.receive() == b"hello"
