"""``aioipc demo``: every transport, every message checked, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import tempfile
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc.cli.demo.book import Check, read_book
from aioipc.cli.demo.links import Link, transports
from aioipc.cli.demo.measure import round_trips, stream
from aioipc.cli.demo.peer import END, READY, serve
from aioipc.cli.demo.run import run_demo
from aioipc.cli.problems import PeerFailed
from aioipc.transports import FAMILIES
from tests.children import PATIENCE_S
from tests.cli.commands import Commands, Terminal

BOOK: list[list[object]] = [[0, "zero"], [1, "one"], [2, "two"]]
SHOWN = {*FAMILIES} - {"mq", "stdio", "sysv", "tls", "udp", "unix+dgram", "vsock"}
"""exec: and stdio: are the two sides of one link; tls: needs certificates; queues have no peers."""


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """See to it that no FIFO is left."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


class TestOutput:
    def test_a_table(self, commands: Commands) -> None:
        result = commands.run("demo", "--seconds", "0.02")
        assert (result.status, result.err) == (0, "")
        text = result.out.decode()
        assert "\x1b" not in text, "no terminal, no colour"
        assert max(map(len, text.splitlines())) <= 80 + len(" --wait-reply")
        assert {row.split()[0] for row in rows(text)} == SHOWN
        assert rows(text)[0].split()[:3] == ["shm", "shared", "memory"]
        found = re.search(r"Process (\d+) and process (\d+) have talked", text)
        assert found
        assert found[1] != found[2]
        assert re.search(r"All right: [\d,]+ messages", text)
        assert "aioipc listen unix:hello --echo" in text

    def test_json(self, commands: Commands) -> None:
        result = commands.run("demo", "--seconds", "0.02", "--json")
        assert (result.status, result.err) == (0, "")
        report = json.loads(result.out)
        assert {"processes", "python", "loop", "cpus", "checked"} < {*report}
        assert {row["scheme"] for row in report["transports"]} == SHOWN
        for row in report["transports"]:
            assert row["problem"] == ""
            assert row["rate"]["per_s"] > 100
            assert 0 < row["polling"]["p50_us"] <= row["polling"]["p99_us"]
            assert 0 < row["blocking"]["p50_us"] <= row["blocking"]["p99_us"]

    def test_at_a_terminal(self, commands: Commands) -> None:
        terminal = commands.terminal("demo", "--seconds", "0.02")
        terminal.wait_for(r"unix: one way")
        assert terminal.end() == 0
        assert "\x1b[32m" in terminal.shown
        assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h"), "the cursor"

    def test_without_colour(self, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        terminal = commands.terminal("demo", "--seconds", "0.02")
        assert terminal.end() == 0
        assert not re.search(r"\x1b\[[\d;]*3[0-7]m", terminal.shown)


def rows(text: str) -> list[str]:
    """The rows of the table below its head; where a number is wide, one may have two lines."""
    table = re.split("─+ *\n", text)[1].partition("messages/s  ")[0]
    return [line for line in table.splitlines() if line[:2].strip()]


class TestInterruption:
    @pytest.mark.parametrize(
        "moment", ["starting the other", "shm: one way", "pipe: one way", "exec: there", "memory:"]
    )
    def test_by_ctrl_c(
        self, moment: str, commands: Commands, tmp_path: Path, runtime_dir: Path
    ) -> None:
        terminal = commands.terminal("demo", "--seconds", "0.1")
        terminal.wait_for(moment)
        terminal.type("\x03")
        assert terminal.end() == 130
        assert_clean(terminal, tmp_path, runtime_dir)

    def test_by_many_of_them(self, commands: Commands, tmp_path: Path, runtime_dir: Path) -> None:
        """Children get every one of them as well, also in their first moments."""
        terminal = commands.terminal("demo", "--seconds", "0.1")
        terminal.wait_for("starting the other")
        while terminal.process.poll() is None:
            terminal.type("\x03")
        assert terminal.end() == 130
        assert_clean(terminal, tmp_path, runtime_dir)

    @pytest.mark.leaves_names
    def test_by_force(self, commands: Commands, runtime_dir: Path) -> None:
        """The other process sees that it is alone, and ends."""
        terminal = commands.terminal("demo", "--seconds", "1")
        terminal.wait_for("fifo: one way")
        terminal.process.kill()
        terminal.end()
        for pid in relatives(runtime_dir):
            wait_for_the_end(pid)


def assert_clean(terminal: Terminal, tmp_path: Path, runtime_dir: Path) -> None:
    """Nothing is left, and nothing was complained about."""
    assert "Traceback" not in terminal.shown
    assert "aioipc: " not in terminal.shown
    assert not relatives(runtime_dir)
    assert not [*tmp_path.iterdir()]


def relatives(runtime_dir: Path) -> list[int]:
    """All processes that this test has brought into the world, by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if f"AIOIPC_RUNTIME_DIR={runtime_dir}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def wait_for_the_end(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = poller.poll(PATIENCE_S * 1000)
    os.close(pidfd)
    assert ended, f"{pid} goes on"


def test_a_new_transport_shows_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one is in the table of one process only, so that the row is a failure as well."""
    monkeypatch.setitem(FAMILIES, "new", "aioipc.transports.unix")
    assert run_demo(0.01, as_json=False) == 1
    shown = capsys.readouterr().out
    row = next(row for row in rows(shown) if row.startswith(" new"))
    assert row.split() == ["new", "failed"]
    assert "Failed: new: address 'new:': no transport is called 'new'" in shown
    assert "All right" not in shown


def test_a_transport_that_may_lose_messages_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "new", "aioipc.transports.fifo")
    assert "new" not in [transport.scheme for transport in transports(BOOK)]


class TestCheck:
    def test_all_of_it(self) -> None:
        check = Check(BOOK)
        assert not check.wrong(BOOK[:2])
        assert not check.wrong([])
        assert not check.wrong(BOOK[2:] + BOOK + BOOK[:1])
        assert check.count == 7

    @pytest.mark.parametrize(
        "came",
        [BOOK[:1] + BOOK[2:], BOOK[:1] + BOOK[:1], [[0, "zero"], [1, "0ne"]], [None]],
        ids=["lost", "doubled", "changed", "foreign"],
    )
    def test_not_all_of_it(self, came: list[Any]) -> None:
        problem = Check(BOOK).wrong(came)
        assert problem.startswith("message")
        assert "instead of" in problem

    def test_the_book_fits_into_a_fifo(self) -> None:
        book = read_book()
        assert len(book) > 1000
        assert max(len(aioipc.codecs.get("msgpack").encode(message)) for message in book) <= 4088


@pytest.mark.asyncio
class TestMeasuring:
    async def test_the_report_is_wrong(self) -> None:
        near, far = aioipc.pair("memory")
        async with near, far, asyncio.TaskGroup() as tasks:
            tasks.create_task(far.send(1))
            with pytest.raises(PeerFailed, match="0 messages were sent: 1 came"):
                await stream(Link(near, near), BOOK, 0, int)

    async def test_another_message_comes_back(self) -> None:
        near, far = aioipc.pair("memory")
        async with near, far, asyncio.TaskGroup() as tasks:
            tasks.create_task(far.send([0, "zer0"]))
            with pytest.raises(PeerFailed, match=r"'zero'. was sent, and .*'zer0'. came back"):
                await round_trips(Link(near, near), BOOK, 0, int)

    async def test_the_other_side_reports_the_first_wrong_message(self) -> None:
        near, far = aioipc.pair("memory")
        async with near, far, asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(far, far, BOOK))
            assert await near.receive() == READY
            await near.send_many([*BOOK[:2], "wrong", "and more", END])
            assert await near.receive() == "message 2 is 'wrong' instead of [2, 'two']"
            await near.send(END)
