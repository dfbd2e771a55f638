"""process.pipeline: commands joined by real pipes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc.process import pipeline
from tests.children import Peers, is_gone
from tests.process.ends import gone
from tests.programs import program

pytestmark = pytest.mark.asyncio


async def test_the_ends_are_streams(tmp_path: Path) -> None:
    for name in ("a.txt", "b.py", "c.txt"):
        (tmp_path / name).touch()
    async with pipeline(["ls", str(tmp_path)], ["grep", "txt"]) as pipe:
        assert b"".join([chunk async for chunk in pipe.stdout]) == b"a.txt\nc.txt\n"
        assert await pipe.wait() == 0
        assert pipe.statuses == (0, 0)
    assert all(map(is_gone, pipe.pids))


async def test_much_goes_through() -> None:
    sent = os.urandom(5_000_000)

    async def feed(stream: aioipc.ByteStream) -> None:
        await stream.send(sent)
        await stream.send_eof()

    async with pipeline(["cat"], ["gzip", "-1"], ["gzip", "-d"]) as pipe, asyncio.TaskGroup() as t:
        t.create_task(feed(pipe.stdin))
        received = b"".join([chunk async for chunk in pipe.stdout])
    assert received == sent
    assert pipe.status == 0


@pytest.mark.parametrize(
    ("scripts", "statuses", "status"),
    [
        (["exit 0", "exit 0"], (0, 0), 0),
        (["exit 3", "exit 0"], (3, 0), 3),
        (["exit 3", "exit 4", "exit 0"], (3, 4, 0), 4),
        (["kill -9 $$", "exit 0"], (-9, 0), -9),
    ],
)
async def test_statuses_are_those_of_pipefail(
    scripts: list[str], statuses: Sequence[int], status: int
) -> None:
    async with pipeline(*(["sh", "-c", script] for script in scripts)) as pipe:
        assert await pipe.wait() == status
    assert pipe.statuses == statuses


async def test_leaving_ends_those_who_still_write() -> None:
    async with pipeline(["yes"], ["cat"]) as pipe:
        assert (await pipe.stdout.receive()).startswith(b"y\ny\n")
    assert pipe.status == -signal.SIGPIPE
    assert all(map(is_gone, pipe.pids))


async def test_cancelled() -> None:
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with pipeline(["sleep", "1000"], ["sleep", "1000"]) as pipe:
            found.set_result(pipe)
            await pipe.wait()

    task = asyncio.create_task(run())
    pipe = await found
    assert pipe.status is None
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(map(is_gone, pipe.pids))


async def test_closing_it_twice_at_once() -> None:
    pipe = await pipeline(["sleep", "1000"])
    first = asyncio.create_task(pipe.aclose())
    await asyncio.sleep(0)
    await pipe.aclose()
    assert pipe.status == -signal.SIGTERM
    await first


async def test_told_to_end() -> None:
    async with pipeline(["sleep", "1000"], ["cat"]) as pipe:
        pipe.terminate()
        assert await pipe.wait() == -signal.SIGTERM
    async with pipeline(["sleep", "1000"]) as pipe:
        pipe.kill()
        assert await pipe.wait() == -signal.SIGKILL


async def test_no_such_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(aioipc.ConnectError, match="start no-such-program: No such file"):
        await pipeline(["sleep", "1000"], ["no-such-program"])


@pytest.mark.parametrize("commands", [[], [[]], [["ls"], []], ["ls"]])
async def test_no_command(commands: Any) -> None:
    with pytest.raises(ValueError, match="takes commands, each a list"):
        await pipeline(*commands)


async def test_dropped_open() -> None:
    pipe = await pipeline(["sleep", "1000"])
    pids = pipe.pids
    with pytest.warns(ResourceWarning, match="unclosed"):
        del pipe
    await gone(*pids)


async def test_nobody_outlives_the_parent(peers: Peers) -> None:
    peer = program(
        peers,
        """
        async with aioipc.process.pipeline(["sleep", "1000"], ["sh", "-c", "sleep 1000"]) as pipe:
            say(*pipe.pids)
            await pipe.wait()
        """,
    )
    pids = [int(word) for word in (await peer.next_line()).split()]
    peer.kill()
    await gone(*pids)
