"""The ends and the doings of processes that are not the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from aioipc import process
from aioipc.process.worker import WorkerOpening
from tests.children import PATIENCE_S, has_ended

LIMIT_S = 2.0
"""What is promised: nobody outlives who started it by more."""


async def gone(*pids: int) -> None:
    """Wait for processes that are about to end."""
    async with asyncio.timeout(LIMIT_S):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                await process.wait(pid)
    assert all(map(has_ended, pids))


def parent_of(pid: int) -> int:
    """proc_pid_stat(5)"""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other processes do, and tell nobody about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.001)


async def until_death(opening: WorkerOpening) -> None:
    """Let it do what kills it, and wait for more from it."""
    async with opening as worker:
        assert await worker.channel.receive() == "soon"
        await worker.channel.send("now")
        await worker.channel.receive()
