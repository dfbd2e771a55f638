"""Running a program on the fastest loop that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aioipc.kernel.descriptors import plug_holes

__all__ = ["new_event_loop", "run"]

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed, else of asyncio."""
    try:
        import uvloop  # noqa: PLC0415 - an optional extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """`asyncio.run` on uvloop where that is installed.

    Where standard input, output or error is closed, /dev/null takes its place.

    Args:
        main: The coroutine to run.
        debug: As for `asyncio.run`.

    Returns:
        What ``main`` returned.

    Raises:
        RuntimeError: A loop is running in this thread already.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("aioipc.run() is for programs: await in a loop that is running")
    plug_holes()
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)
