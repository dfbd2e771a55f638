"""aioipc top: what programs do, as tables and as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
from typing import Any

import pytest
from rich.console import Console

from aioipc.cli.rates import Pacing, total
from aioipc.cli.screen import screen, screen_as_text
from aioipc.kernel.pages import Counted, Reading
from aioipc.kernel.statistics import WORDS, Kind
from tests.children import Peer, Peers
from tests.cli.commands import Commands
from tests.programs import program

BUSY = """
left, right = aioipc.pair("shm")
async with left, right:
    say("ready")
    asyncio.get_running_loop().add_reader(0, asyncio.current_task().cancel)
    while True:
        await left.send(b"x" * 100)
        await right.receive()
        await asyncio.sleep(0.001)
"""

QUIET = """
left, right = aioipc.pair("memory")
async with left, right:
    say("ready")
    await hear()
"""


async def started(peers: Peers, code: str) -> Peer:
    peer = program(peers, code)
    assert await peer.next_line() == "ready"
    return peer


def as_json(commands: Commands, *pids: int) -> list[dict[str, Any]]:
    done = commands.run("top", "--json", *map(str, pids))
    assert (done.status, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.asyncio
async def test_one_reading_as_json(commands: Commands, peers: Peers) -> None:
    quiet, other = await started(peers, QUIET), await started(peers, QUIET)
    (facts,) = as_json(commands, quiet.pid, 1)
    assert facts["pid"] == quiet.pid
    assert "memory" in facts["command"]
    assert facts["refused"] == 0
    assert 0 <= facts["age_s"] < 60
    total, left, _ = facts["rows"]
    assert (total["kind"], total["closed"]) == ("channel", 0)
    assert (left["kind"], left["name"], left["peer"]) == ("channel", "memory:pair", None)
    assert left["messages_sent"] == left["senders_waiting"] == 0
    assert {each["pid"] for each in as_json(commands)} >= {quiet.pid, other.pid}


STREAMS = """
from aioipc import queues

name = f"/aioipc-top-{os.getpid()}"
listener = await aioipc.listen_stream("unix:top")
stream = await aioipc.connect_stream(listener.address)
other = await listener.accept()
reader, writer = await aioipc.open_connection(listener.address)
third = await listener.accept()
async with listener, stream, other, third, queues.open(f"mq:{name}", create=True) as queue:
    queue.unlink()
    await stream.send(b"x" * 100)
    await other.receive()
    writer.write(b"y" * 50)
    await third.send(b"z" * 20)
    await reader.readexactly(20)
    await queue.put("job")
    await queue.put("job")
    await queue.get()
    await third.receive(40)
    say("ready")
    await hear()
    writer.close()
    await writer.wait_closed()
"""


@pytest.mark.asyncio
async def test_byte_streams_and_queues_of_the_kernel(commands: Commands, peers: Peers) -> None:
    peer = await started(peers, STREAMS)
    (facts,) = as_json(commands, peer.pid)
    rows = [row for row in facts["rows"] if "name" in row]
    streams = [row for row in rows if row["kind"] == "stream"]
    moved = sorted((row["bytes_sent"], row["bytes_received"]) for row in streams)
    assert moved == [(0, 100), (20, 40), (50, 20), (100, 0)]
    assert {row["peer"] for row in streams} == {peer.pid}
    (queue,) = (row for row in rows if row["kind"] == "kernel_queue")
    assert queue["name"].startswith("mq:/aioipc-top-")
    assert (queue["put"], queue["got"], queue["waiting"]) == (2, 1, 0)
    text = commands.run("top", "--count", "1", str(peer.pid)).out.decode()
    assert text.count("QUEUE OF THE KERNEL") == text.count("STREAM") == 1
    peer.tell()
    assert await asyncio.to_thread(peer.wait) == 0


@pytest.mark.asyncio
async def test_tables_in_a_pipe(commands: Commands, peers: Peers) -> None:
    busy, quiet = await started(peers, BUSY), await started(peers, QUIET)
    arguments = ("--count", "2", "--interval", "0.2", str(quiet.pid), str(busy.pid))
    done = commands.run("top", *arguments)
    assert (done.status, done.err) == (0, "")
    text = done.out.decode()
    assert text.count("COMMAND") == text.count("CHANNEL ") == 2
    pids = [line.split()[0] for line in text.splitlines() if line.split()[-1:] and "py" in line]
    assert pids[:2] == [str(busy.pid), str(quiet.pid)], "the busiest first"
    assert "\x1b" not in text


def test_processes_that_are_not_there(commands: Commands) -> None:
    done = commands.run("top", "1")
    assert (done.status, done.out) == (1, b"")
    assert "no statistics of 1" in done.err


@pytest.mark.parametrize("arguments", [["0"], ["x"], ["--interval", "0"], ["--count", "0"]])
def test_what_makes_no_sense(commands: Commands, arguments: list[str]) -> None:
    done = commands.run("top", *arguments)
    assert (done.status, done.out) == (2, b"")
    assert done.err.startswith("aioipc: ")


@pytest.mark.asyncio
async def test_nobody_reads_the_tables(commands: Commands, peers: Peers) -> None:
    await started(peers, QUIET)
    done = commands.shell("aioipc top --interval 60 | head -1; echo ${PIPESTATUS[0]}")
    assert done.out.split()[0] == b"PID"
    assert done.out.splitlines()[-1] == b"141"
    assert done.err == ""


@pytest.mark.asyncio
async def test_at_a_terminal(commands: Commands, peers: Peers) -> None:
    busy = await started(peers, BUSY)
    terminal = commands.terminal("top", "--interval", "0.1")
    terminal.wait_for(rf"{busy.pid}.*python.* 2 +[\d,]+ ")
    terminal.wait_for(r"(?s)CHANNEL.*shm:pair")
    terminal.type("\x03")
    assert terminal.end() == 128 + signal.SIGINT
    assert "\x1b[?1049l" in terminal.shown, "the screen is given back"


@pytest.mark.asyncio
async def test_it_ends_with_the_last_process(commands: Commands, peers: Peers) -> None:
    quiet = await started(peers, QUIET)
    terminal = commands.terminal("top", str(quiet.pid), "--interval", "0.1")
    terminal.wait_for(str(quiet.pid))
    quiet.kill()
    assert terminal.end() == 0


def row(serial: int, name: str = "unix:a", **counts: int) -> Counted:
    known = {"messages_sent": 0, "bytes_sent": 0, "bytes_received": 0, "senders_waiting": 0}
    is_sum = not name
    return Counted(serial, Kind.CHANNEL, name, 0, 0, 0, is_sum, {**known, **counts})


def reading(*rows: Counted, pid: int = 7, command: str = "program") -> Reading:
    return Reading(pid, command, 1, 0, rows)


def test_rates_are_those_between_two_readings() -> None:
    pacing = Pacing()
    first = pacing.pace([reading(row(1, ""), row(2, messages_sent=100))], 2_000_000_000)
    assert [each.rates["messages_sent"] for each in first] == [0, 50]
    closed = [row(1, "", messages_sent=150), row(3, messages_sent=5)]
    second = pacing.pace([reading(*closed)], 4_000_000_000)
    assert total(second, Kind.CHANNEL)["messages_sent"] == 75 + 5 / 4
    backwards = pacing.pace([reading(row(1, "", messages_sent=1))], 4_000_000_000)
    assert backwards[0].rates["messages_sent"] == 0


@pytest.mark.parametrize("height", [1, 5, 12, 24, 100])
def test_every_kind_has_its_share_of_the_screen(height: int) -> None:
    rows = [row(number) for number in range(1, 51)]
    rows += [
        Counted(100, Kind.LOCK, "lock 'a'", 0, 0, 0, False, dict.fromkeys(WORDS[Kind.LOCK], 0)),
        Counted(101, Kind.QUEUE, "unix:q", 0, 0, 0, False, dict.fromkeys(WORDS[Kind.QUEUE], 0)),
    ]
    readings = [reading(*rows)]
    out = io.StringIO()
    shown = screen(readings, Pacing().pace(readings, 1), height)
    Console(file=out, width=80).print(shown)
    text = out.getvalue()
    assert text.startswith("PID")
    assert len(text.splitlines()) <= max(height + 1, 4)  # the last one is empty
    if height >= 24:
        assert "lock 'a'" in text
        assert "unix:q" in text
        assert text.count("unix:a") == min(50, height - 3 - 2 * 3 - 2)


def test_names_that_would_control_the_terminal() -> None:
    bad = reading(row(1, "unix:\x1b[2J\r[red]\u202e"), command="evil\x1b]0;title\x07")
    text = screen_as_text([bad], Pacing().pace([bad], 1))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "[red]" in text
