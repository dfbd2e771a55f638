"""Waiting for the end of a child."""

from __future__ import annotations

import asyncio

from aioipc.kernel.pidfd import Child
from aioipc.loop.waiting import wait_fd

__all__ = ["ends_within"]


async def ends_within(child: Child, limit_s: float | None) -> bool:
    """Wait until a child has ended, but not longer than so many seconds; it is not reaped.

    Cancellation:
        Safe.
    """
    if not child.has_ended():
        try:
            async with asyncio.timeout(limit_s):
                await wait_fd(child.pidfd)
        except TimeoutError:
            pass
    return child.has_ended()
