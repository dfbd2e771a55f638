"""run: one function, once, in a process of its own."""

from __future__ import annotations

import inspect
import pickle
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

from aioipc._blocking import BlockingChannel
from aioipc.channel import Channel
from aioipc.errors import (
    DecodeError,
    EncodeError,
    EndOfStream,
    FrameTooLarge,
    PeerCrashed,
    RemoteError,
)
from aioipc.process import bundle
from aioipc.process.setup import Setup
from aioipc.process.target import Target
from aioipc.process.worker import Worker, ended, spawn

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of it, as the worker sends it.

    Attributes:
        result: What the function returned.
        error: What it raised instead.
        trace: Where that was.
    """

    result: Any = None
    error: Exception | None = None
    trace: str = ""

    def get(self) -> Any:
        if self.error is None:
            return self.result
        if self.trace:
            self.error.add_note(f"In the worker:\n{self.trace.rstrip()}")
        try:
            raise self.error
        finally:
            del self  # which keeps the error, which keeps this frame


@overload
async def run(
    function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R: ...


@overload
async def run(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


async def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a function in a process of its own, as ``asyncio.to_thread`` does it in a thread.

    The process is a fresh one, and ends with the call. A pool saves the start of further ones.

    Args:
        function: A function that can be imported, ``async`` or not.
        args: For it, pickled. So is what it returns or raises. Large buffers, such as those of
            arrays, travel as memory and not through the pickle.
        kwargs: The same.

    Returns:
        What it returned.

    Raises:
        Exception: What it raised, with a note that has the traceback.
        RemoteError: What it returned or raised cannot be pickled, or not be unpickled.
        WorkerDied: The process ended before, be it with status 0.
        TypeError: It is no function.
        ValueError: The worker could not import the function, or the arguments cannot be pickled.
        ResourceExhausted: There is no memory for large arguments, or another process.

    Cancellation:
        Ends the process: SIGTERM, which cancels an ``async`` function, and SIGKILL two seconds
        later.
    """
    if not callable(function):
        raise TypeError(f"process.run() takes a function, not {function!r}")
    serve = _run_async if inspect.iscoroutinefunction(function) else _run_plain
    target = Target.of(function)
    try:
        arguments, buffers = bundle.leave_out((args, kwargs))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(f"the arguments of {target} cannot be pickled: {error}") from error
    setup = Setup(name=target.function, grace_s=_GRACE_S)
    opening = spawn(serve, function, arguments, len(buffers), codec=bundle, setup=setup)
    # An error keeps this frame, and may be kept itself: by the channel, or by what came of it all.
    del args, kwargs, arguments
    async with opening as worker:
        if buffers:
            async with bundle.kept(buffers) as copies:
                del buffers
                await worker.channel.send(copies)
        outcome = await _outcome(worker)
    try:
        return outcome.get()
    finally:
        del outcome


async def _outcome(worker: Worker) -> _Outcome:
    try:
        outcome = await worker.channel.receive()
    except (EndOfStream, PeerCrashed) as error:
        await worker.aclose()
        if worker.death() is None:
            raise ended(worker) from error
        raise
    except DecodeError as error:
        what = f"the result of {worker.name}: {error}"
        raise RemoteError(what, type=type(error).__qualname__, text=str(error)) from error
    except BaseException:
        worker.terminate()
        raise
    assert isinstance(outcome, _Outcome), "the worker sends nothing else"
    return outcome


# In the worker


async def _run_async(
    channel: Channel[Any], function: Callable[..., Any], arguments: bytes, buffers: int
) -> None:
    args, kwargs = _loaded(arguments, await channel.receive() if buffers else ())
    try:
        outcome = _Outcome(await function(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - it goes to the parent
        outcome = _failed(error)
    try:
        await channel.send(outcome)
    except (EncodeError, FrameTooLarge) as error:
        await channel.send(_unsendable(outcome, error))


def _run_plain(
    channel: BlockingChannel[Any], function: Callable[..., Any], arguments: bytes, buffers: int
) -> None:
    args, kwargs = _loaded(arguments, channel.receive() if buffers else ())
    try:
        outcome = _Outcome(function(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - it goes to the parent
        outcome = _failed(error)
    try:
        channel.send(outcome)
    except (EncodeError, FrameTooLarge) as error:
        channel.send(_unsendable(outcome, error))


def _loaded(arguments: bytes, buffers: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = pickle.loads(arguments, buffers=buffers)  # noqa: S301 - from the parent alone
    return args, kwargs


def _failed(error: Exception) -> _Outcome:
    trace = error.__traceback__
    lines = traceback.format_exception(type(error), error, trace and trace.tb_next)
    outcome = _Outcome(error=error, trace="".join(lines))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - it is our own
    except Exception as problem:  # noqa: BLE001 - its own methods are called
        return _unsendable(outcome, problem)
    return outcome


def _unsendable(outcome: _Outcome, error: Exception) -> _Outcome:
    """What to send where the outcome cannot be."""
    raised = outcome.error
    what = "the result" if raised is None else f"{type(raised).__qualname__}: {raised}"
    message = f"{what} cannot be sent: {error.__cause__ or error}"
    kind = type(raised or error).__qualname__
    sent = RemoteError(message, type=kind, text=str(raised or error))
    return _Outcome(error=sent, trace=outcome.trace)
