"""One command as one coroutine: signals in, an exit status out."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from aioipc.cli.problems import OK, SIGNALLED, explain, is_watched, root_of, status_of, tell
from aioipc.kernel.descriptors import plug_holes
from aioipc.loop.run import run

__all__ = ["first_of", "run_session"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_session(
    main: Coroutine[Any, Any, int | None], address: str = "", options: str | None = None
) -> int:
    """Run a command to its exit status.

    SIGINT, SIGTERM and SIGHUP cancel it, so that names are removed and peers are told; a
    second one closes abruptly. One that was ignored at the start stays so, as after nohup(1).

    Args:
        main: Returns an exit status; None is 0.
        address: For the hint behind an error, as for `explain`.
        options: As for `explain`.
    """
    plug_holes()
    _log_to_stderr()
    received: list[int] = []
    try:
        return run(_supervised(main, received)) or OK
    except asyncio.CancelledError:
        if received:
            _end_line()
            return SIGNALLED + received[0]
        raise
    except BaseException as group:
        error = root_of(group)
        status = status_of(error)
        if status is None:
            raise
        if str(error):
            tell(explain(error, address, options))
        return status


async def _supervised(main: Coroutine[Any, Any, int | None], received: list[int]) -> int | None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop, number)
    return await main


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Run all of them until one has ended, end the others, and raise what the one raised.

    Cancellation:
        Cancels all of them.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _end_line() -> None:
    """Leave the line of the terminal on which ``^C`` stands."""
    if is_watched():
        sys.stderr.write("\n")


def _log_to_stderr() -> None:
    """Print what the library has to say, a refused peer for example, as lines of ours."""
    logger = logging.getLogger("aioipc")
    if not logger.handlers:
        logger.addHandler(_Lines())
        logger.propagate = False


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())
