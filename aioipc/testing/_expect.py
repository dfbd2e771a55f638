"""What the rules have in common: waiting, and errors that ought to come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

__all__ = ["PATIENCE_S", "raises", "steps", "until"]

PATIENCE_S = 30.0
"""How long a rule waits for what has to happen before it fails."""


@contextlib.contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[None]:
    """Fail unless the block raises one of these."""
    try:
        yield
    except kinds:
        return
    names = " or ".join(kind.__name__ for kind in kinds)
    raise AssertionError(f"{names} was not raised")


async def steps(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds that nothing tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - that is what is looked for
            await asyncio.sleep(0)
