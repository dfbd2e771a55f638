"""Waiting for what another task or process does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.children import PATIENCE_S


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it says itself when nothing else does
            await asyncio.sleep(0.0005)
