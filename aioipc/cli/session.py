"""One command as one coroutine: signals in, an exit status out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from aioipc.cli.problems import (
    OK,
    SIGNALLED,
    UsageProblem,
    explain,
    is_watched,
    root_of,
    status_of,
    tell,
)
from aioipc.errors import ConnectError, IPCError
from aioipc.kernel.descriptors import plug_holes
from aioipc.limits import Limits
from aioipc.loop.run import run

__all__ = ["first_of", "insist", "leaving_work", "run_session"]

T = TypeVar("T")
_RETRY_S = 0.05

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_session(main: Coroutine[Any, Any, int | None], address: str = "", remedy: str = "") -> int:
    """Run a command to its exit status.

    SIGINT, SIGTERM and SIGHUP cancel it, so that names are removed and peers are told; a
    second one closes abruptly. One that was ignored at the start stays so, as after nohup(1).

    Args:
        main: Returns an exit status; None is 0.
        address: For the hint behind an error, as for `explain`.
        remedy: As for `explain`.
    """
    plug_holes()
    _log_to_stderr()
    received: list[int] = []
    try:
        return run(_supervised(main, received)) or OK
    except asyncio.CancelledError:
        _end_line()
        main.close()  # it has not begun where the signal came before the handlers
        # That was Ctrl-C, of which asyncio.Runner may say no more than this.
        return SIGNALLED + (received[0] if received else signal.SIGINT)
    except BaseException as group:
        error = root_of(group)
        status = status_of(error)
        if status is None:
            raise
        if str(error):
            tell(explain(error, address, remedy))
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


async def insist(open_: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Open something, and try again while nobody is there and there is patience left.

    Args:
        open_: Opens it.
        patience_s: For how long to try, in seconds.

    Raises:
        ConnectError: Nobody came.
        UsageProblem: An option makes no sense: the pickle codec over tcp:, for example.

    Cancellation:
        Undoes.
    """
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + patience_s
    while True:
        try:
            return await open_()
        except ConnectError:
            if clock() >= deadline_s:
                raise
        except IPCError:
            raise
        except ValueError as error:
            raise UsageProblem(str(error)) from None
        await asyncio.sleep(_RETRY_S)


@contextlib.contextmanager
def leaving_work(what: str, count: Callable[[], int]) -> Iterator[None]:
    """Say what a service waits for that is interrupted here, for who waits for its end.

    Args:
        what: What is in work.
        count: How much of it is, then.
    """
    try:
        yield
    except asyncio.CancelledError:
        if rest := count():
            tell(
                f"waiting for the {what} ({rest:,}), at most {Limits().linger_s:g} s; "
                "Ctrl-C again does not"
            )
        raise


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
