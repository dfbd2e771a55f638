"""The ends of processes that are not the test's own to reap."""

from __future__ import annotations

import asyncio
import contextlib

from aioipc import process
from tests.children import has_ended

LIMIT_S = 2.0
"""What is promised: nobody outlives who started it by more."""


async def gone(*pids: int) -> None:
    """Wait for processes that are about to end."""
    async with asyncio.timeout(LIMIT_S):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                await process.wait(pid)
    assert all(map(has_ended, pids))
