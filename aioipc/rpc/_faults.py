"""Exceptions on their way from the called side to the caller."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any, Final

import msgspec

from aioipc.errors import (
    BadArguments,
    DeadlineExceeded,
    FrameTooLarge,
    IPCError,
    MethodNotFound,
    QuotaExceeded,
    RemoteCancelled,
    RemoteError,
    said,
)
from aioipc.rpc._codec import decoder, encode
from aioipc.rpc._interface import Method
from aioipc.wire.rpc import Code, Raise

__all__ = ["fault_of", "raised", "refusal", "shortened", "unsendable"]

MOST_TEXT: Final = 1024
_OURS: Final = (__package__, "aioipc.native")
_MOST_TRACEBACK: Final = 16 * 1024
_CODES: Final = (
    (MethodNotFound, Code.NOT_FOUND),
    (BadArguments, Code.BAD_ARGUMENTS),
    (QuotaExceeded, Code.QUOTA),
    (DeadlineExceeded, Code.DEADLINE),
    (RemoteCancelled, Code.CANCELLED),
)
"""What is said about a call by this side itself, and not by the method."""

_PLAIN: Final[dict[str, type[Exception]]] = {
    Code.NOT_FOUND: MethodNotFound,
    Code.BAD_ARGUMENTS: BadArguments,
    Code.CANCELLED: RemoteCancelled,
    Code.DEADLINE: DeadlineExceeded,
}
_decode_args = decoder(list[Any])


def refusal(number: int, error: Exception) -> Raise:
    """What to send instead of running a method, or because it was cancelled."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Raise(number, code, message=_text_of(error))
    raise error


def fault_of(number: int, error: BaseException, method: Method, *, trusted: bool) -> Raise:
    """What to send for an exception of a method.

    Args:
        number: The number of the call.
        error: What was raised.
        method: The method that was called.
        trusted: Whether the caller may see the traceback.
    """
    name = type(error).__qualname__
    declared = method.raises.get(name) is type(error)
    fault = Raise(number, Code.DECLARED if declared else Code.RAISED, name, _text_of(error))
    if declared:
        try:
            fault.args = msgspec.Raw(encode(error.args))
        except Exception:  # noqa: BLE001 - whatever it is about them
            fault.code = Code.RAISED  # it cannot travel as itself
    if trusted and fault.code == Code.RAISED:
        fault.traceback = _traceback_of(error)
    return fault


def _traceback_of(error: BaseException) -> str:
    """From where the method begins; how it came to be called is our business."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_globals.get("__package__") in _OURS:
        step = step.tb_next
    try:
        lines = traceback.format_exception(type(error), error, step)
    except Exception:  # noqa: BLE001 - of an attribute that it looks for
        return "its traceback cannot be told"
    return _encodable("".join(lines)[-_MOST_TRACEBACK:])


def _text_of(error: BaseException) -> str:
    return _encodable(said(error)[:MOST_TEXT])


def _encodable(text: str) -> str:
    """As UTF-8: a name of a file may be none."""
    return text.encode(errors="backslashreplace").decode()


def unsendable(number: int, error: IPCError, method: Method) -> Raise:
    """What to send instead of a result that cannot be sent."""
    code = Code.TOO_LARGE if isinstance(error, FrameTooLarge) else Code.BAD_RESULT
    reason = _text_of(error.__cause__ or error)
    return Raise(
        number, code, type(error).__name__, f"the result of {method}: {reason}"[:MOST_TEXT]
    )


def shortened(fault: Raise) -> Raise | None:
    """What to send instead of what is over the limit of a message; None if nothing is shorter."""
    code = Code.RAISED if fault.code == Code.DECLARED else fault.code
    if code != fault.code or fault.traceback is not None:
        return Raise(fault.id, code, fault.kind, fault.message)
    if fault.kind or fault.message:
        return Raise(fault.id, code)
    return None


def raised(fault: Raise, method: Method) -> Exception:
    """The exception that the caller gets."""
    plain = _PLAIN.get(fault.code)
    if plain is not None:
        return plain(fault.message or f"{method} was {fault.code}")
    if fault.code == Code.QUOTA:
        return QuotaExceeded(fault.message)
    if fault.code == Code.DECLARED and (declared := method.raises.get(fault.kind)) is not None:
        # Its __init__ may not like foreign arguments.
        with contextlib.suppress(Exception):
            return declared(*_decode_args(fault.args))
    return _remote_error(fault, method)


def _remote_error(fault: Raise, method: Method) -> RemoteError:
    what = f"{fault.kind}: {fault.message}" if fault.kind else fault.message or fault.code
    error = RemoteError(f"{method} failed: {what}", type=fault.kind, text=fault.message)
    if fault.traceback:
        error.add_note(f"On the far side:\n{fault.traceback.rstrip()}")
    return error
