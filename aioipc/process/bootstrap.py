"""The first moments of a worker: ``python -c 'from aioipc.process.bootstrap import main; ...'``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from aioipc._blocking import blocking
from aioipc._opening import Opening
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.kernel.descriptors import keep_from_children
from aioipc.kernel.leash import die_with_parent
from aioipc.kernel.memory import retrieve
from aioipc.loop.run import run
from aioipc.process.order import Order
from aioipc.process.target import loading

__all__ = ["main", "prepare_streams", "work"]

_Function = Callable[..., Any]
_Opening = Opening[Channel[Any]]


def main() -> None:
    """Do what the parent wants; ``sys.argv`` has three numbers and a name for people to read.

    The numbers: the descriptor of the leash, that of the `Order`, the pid of the parent.
    """
    leash, memory, parent = map(int, sys.argv[1:4])
    die_with_parent(parent)
    keep_from_children(leash)
    prepare_streams()
    work(Order.load(retrieve(memory)))


def prepare_streams() -> None:
    """Let each line be written at once: who reads it would else see it at the end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def work(order: Order) -> None:
    """Load the function, open the channel, and run the one with the other."""
    sys.path[:], sys.argv[:] = order.path, order.argv
    with loading():
        if order.main is not None:
            order.main.load()
        function = order.target.load()
        facts, args = order.unpack()
    opening = connect(
        order.address,
        codec=facts.codec,
        framing=facts.framing,
        limits=facts.limits,
        polling=facts.polling,
    )
    if inspect.iscoroutinefunction(function):
        _run_async(function, opening, args)
    else:
        _run_plain(function, opening, args)


def _run_async(function: _Function, opening: _Opening, args: tuple[Any, ...]) -> None:
    """Run a coroutine function; SIGTERM cancels it, and then ends the process."""
    terminated = False

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        async with opening as channel:
            with _failing(channel):
                await function(channel, *args)

    try:
        run(work())
    except asyncio.CancelledError:
        if not terminated:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _run_plain(function: _Function, opening: _Opening, args: tuple[Any, ...]) -> None:
    """Run a function that does not await. SIGTERM ends it as it ends any program."""
    with blocking(opening) as channel, _failing(channel.channel):
        function(channel, *args)


@contextlib.contextmanager
def _failing(channel: Channel[Any]) -> Iterator[None]:
    """Let the parent see a failure as one. The end of the channel itself is none."""
    try:
        yield
    except BaseException as error:
        if channel.is_ending(error):
            return
        if isinstance(error, Exception) or (isinstance(error, SystemExit) and error.code):
            channel.abort(Exception())  # what failed need not be about this channel
        raise
