"""Several calls of one method in one message, and their outcomes one by one as they come."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from types import GeneratorType
from typing import Any, Final

import msgspec

from aioipc.channel import Channel
from aioipc.errors import BadArguments, EncodeError, FrameTooLarge, RemoteCancelled
from aioipc.rpc.parts import (
    Handlers,
    Method,
    encode,
    fault_of,
    raised,
    refusal,
    unsendable,
)
from aioipc.wire.rpc import Code, Raise, Return

__all__ = ["EACH", "Failed", "Pace", "Took", "outcome_of", "serve_each"]

log = logging.getLogger("aioipc.process")

_LASTING_S: Final = 0.002
_TOO_LONG_S: Final = 0.01
"""When a worker gives the calls back that it has not begun, for others to make them."""

_LONG_S: Final = 0.005
_WARY_CALLS: Final = 1_000
_KEPT_S: Final = 0.0002
"""How long outcomes are kept for company, unless one of the last `_WARY_CALLS` took `_LONG_S`."""

_ROOM_BYTES: Final = 256
"""What surrounds a result in its message, at most."""


class Failed:
    """What stands in place of a result.

    Attributes:
        error: How the call failed.
    """

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Pace:
    """How many calls go together: as many as take a moment, and one where one takes longer.

    Args:
        most: How many there may be, if less than `Pace.most`.

    Attributes:
        size: How many next time.
    """

    most: Final = 1024

    def __init__(self, most: int = most) -> None:
        self._most = max(1, min(most, self.most))
        self.size = 1

    def took(self, calls: int, seconds: float) -> None:
        """So many calls took so long together."""
        fitting = int(calls * _LASTING_S / max(seconds, 1e-6))
        self.size = max(1, min(fitting, 4 * self.size, self._most))


class Took(msgspec.Struct, array_like=True, tag=9, gc=False):
    """What comes last: how long the calls of one message took.

    Attributes:
        seconds: Without the time in which the message lay behind others.
    """

    seconds: float


Outcome = Return | Raise


def _each(
    self: object, method: str, arguments: list[msgspec.Raw]
) -> AsyncIterator[list[Return | Raise | Took]]:
    """Call a method for each of some arguments, and tell the outcomes in their order."""
    raise NotImplementedError  # only its signature counts


EACH: Final = Method("pool", "pool.each", _each)
"""What the workers of pools have beside the interface: a name that none can declare."""


def outcome_of(message: Outcome, method: Method) -> Any:
    """The result of one call, or `Failed`."""
    if type(message) is Return:
        try:
            return method.decode_result(message.value)
        except Exception as error:  # noqa: BLE001 - whoever wants the result raises it
            return Failed(error)
    assert type(message) is Raise, "there is nothing else"
    return Failed(raised(message, method))


def serve_each(channel: Channel[Any], handlers: Handlers) -> Any:
    """In a worker: the implementation of `EACH`.

    Args:
        channel: To the parent.
        handlers: What can be called.
    """
    most_bytes = channel.limits.max_message_bytes
    uneven: dict[str, int] = {}

    async def each(name: str, arguments: list[msgspec.Raw]) -> AsyncIterator[list[Outcome | Took]]:
        method, function = handlers[name]
        rhythm = _Rhythm(name, uneven)
        outcomes: list[Outcome | Took] = []
        room = most_bytes
        for number, packed in enumerate(arguments):
            try:
                outcome = await _make(number, method, function, packed, most_bytes)
            except (KeyboardInterrupt, SystemExit) as error:  # this process ends, once it is told
                yield outcomes
                yield [_failed(number, error, method)]
                await channel.flush()
                raise
            size = _size_of(outcome)
            if size > room and outcomes:
                yield outcomes
                outcomes, room = [], most_bytes
                rhythm.go_on()
            outcomes.append(outcome)
            room -= size
            if rhythm.is_due():
                yield outcomes
                outcomes, room = [], most_bytes
                await channel.flush()  # the next call may compute for long
                if rhythm.is_over:
                    break
                rhythm.go_on()
        yield [*outcomes, Took(rhythm.took_s)]

    return each


async def _make(
    number: int,
    method: Method,
    function: Callable[..., Any],
    packed: msgspec.Raw,
    most_bytes: int,
) -> Outcome:
    """Make one call.

    Raises:
        KeyboardInterrupt: The method raised it; and so `SystemExit`.
        CancelledError: The message was cancelled with all that is in it.
    """
    try:
        result = method.invoke(function, method.decode_args(packed))
        if _may_be_awaited(result) and inspect.isawaitable(result):
            result = await result
        return _returned(number, result, method, most_bytes)
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return _failed(number, error, method)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it goes to the caller
        return _failed(number, error, method)


class _Rhythm:
    """When the outcomes of one message go out, and when there have been enough calls.

    Args:
        name: The method.
        uneven: For how many further calls methods are expected to take long now and then.

    Attributes:
        is_over: Whether the calls that are left are for others to make.
        took_s: How many seconds the calls took so far, without what others did meanwhile.
    """

    def __init__(self, name: str, uneven: dict[str, int]) -> None:
        self.is_over = False
        self._name = name
        self._uneven = uneven
        self.took_s = 0.0
        self._flushed = self._now = time.monotonic()

    def is_due(self) -> bool:
        """Say after each call whether its outcome, and those before it, are to go out."""
        last, self._now = self._now, time.monotonic()
        self.took_s += self._now - last
        wary = _WARY_CALLS if self._now - last > _LONG_S else self._uneven.get(self._name, 0)
        if wary:
            self._uneven[self._name] = wary - 1
        self.is_over = self.took_s > _TOO_LONG_S
        return wary > 0 or self.is_over or self._now - self._flushed > _KEPT_S

    def go_on(self) -> None:
        """The next call begins, after outcomes went out."""
        self._flushed = self._now = time.monotonic()


def _size_of(outcome: Outcome) -> int:
    """How many bytes of a message it takes, with what surrounds it."""
    if type(outcome) is Return:
        return len(outcome.value) + _ROOM_BYTES
    return len(encode(outcome)) + _ROOM_BYTES


def _returned(number: int, result: Any, method: Method, most_bytes: int) -> Outcome:
    try:
        packed = encode(result)
    except (TypeError, ValueError, OverflowError) as error:
        return unsendable(number, _unencodable(error), method)
    if len(packed) + _ROOM_BYTES > most_bytes:
        return unsendable(number, FrameTooLarge(len(packed), most_bytes), method)
    return Return(number, msgspec.Raw(packed))


def _unencodable(cause: Exception) -> EncodeError:
    error = EncodeError(str(cause))
    error.__cause__ = cause
    return error


def _failed(number: int, error: BaseException, method: Method) -> Raise:
    if isinstance(error, BadArguments):
        return refusal(number, error)
    if isinstance(error, asyncio.CancelledError):
        return refusal(number, RemoteCancelled(f"{method} was cancelled"))
    fault = fault_of(number, error, method, trusted=True)
    if fault.code == Code.RAISED:
        log.error("%s failed", method, exc_info=error)
    return fault


def _may_be_awaited(result: object) -> bool:
    """Whether to look closer, which takes longer than a small call."""
    return hasattr(result, "__await__") or isinstance(result, GeneratorType)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
