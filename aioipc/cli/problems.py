"""What went wrong, as an exit status and as one line with a hint."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from typing import TextIO

from aioipc.errors import (
    AddressError,
    BadArguments,
    CodecMismatch,
    ConnectError,
    EncodeError,
    FrameTooLarge,
    IPCError,
    ProtocolError,
    VersionMismatch,
    WorkerDied,
)

__all__ = [
    "BROKEN_PIPE",
    "FAILED",
    "OK",
    "SIGNALLED",
    "USAGE",
    "MessageError",
    "OutputClosed",
    "OutputFailed",
    "PeerFailed",
    "UsageProblem",
    "explain",
    "is_watched",
    "print_out",
    "root_of",
    "status_of",
    "tell",
    "write_to",
]

OK = 0
FAILED = 1
"""The peer, the transport or the system: nobody listens, it died, it speaks otherwise."""
USAGE = 2
"""The command itself: an option, the address, a message that cannot be sent as asked."""
SIGNALLED = 128
"""Plus the number of the signal that ended the command: 130 for Ctrl-C."""
BROKEN_PIPE = SIGNALLED + 13
"""Whoever read the standard output is gone: the status of a program that SIGPIPE killed."""


class UsageProblem(ValueError):
    """The command makes no sense as it was given."""


class MessageError(ValueError):
    """A message is not in the notation that was asked for."""


class PeerFailed(Exception):
    """The peer ended before it gave what was asked for."""


class OutputFailed(Exception):
    """The standard output cannot be written."""


class OutputClosed(OutputFailed):
    """Nobody reads the standard output any more."""


def tell(text: str) -> None:
    """Write one line to the standard error, where there is one."""
    line = f"aioipc: {' '.join(text.split())}\n"
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(line)  # at once, so that lines of several commands stay apart
            sys.stderr.flush()


def print_out(text: str) -> None:
    """Write text to the standard output, at once.

    Raises:
        UsageProblem: It is closed.
        As `write_to`.
    """
    if sys.stdout is None:
        raise UsageProblem("the standard output is closed")
    write_to(sys.stdout, text)


def write_to(stream: TextIO, text: str) -> None:
    """Write text to the standard output or error, at once.

    Raises:
        OutputClosed: Nobody reads it.
        OutputFailed: It cannot be written: a full disk, for example.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        name = "standard error" if stream is sys.stderr else "standard output"
        raise OutputFailed(f"{name}: {error.strerror}") from None


def is_watched() -> bool:
    """Whether a person reads what we `tell`."""
    return sys.stderr is not None and sys.stderr.isatty()


def root_of(error: BaseException) -> BaseException:
    """The first real error in a group of tasks that failed together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def status_of(error: BaseException) -> int | None:
    """The exit status for an error; None for one that only a bug can explain."""
    match error:
        case KeyboardInterrupt():  # while the loop, which handles it, was not there
            return SIGNALLED + signal.SIGINT
        case OutputClosed() | BrokenPipeError():
            return BROKEN_PIPE
        case AddressError() | BadArguments() | EncodeError() | MessageError() | UsageProblem():
            return USAGE
        case IPCError() | PeerFailed() | OutputFailed() | OSError():
            return FAILED
    return None


def explain(error: BaseException, address: str = "", remedy: str = "") -> str:
    """Say in one line what happened, and what could be done about it.

    Args:
        error: What happened.
        address: Where, as the user gave it.
        remedy: The command that would listen there, if there is one.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, WorkerDied):  # the rest, what it wrote last, has been printed
        text = text.partition("\n")[0]
    hint = _hint(error, address, remedy)
    return f"{text}; {hint}" if hint else text


def _hint(error: BaseException, address: str, remedy: str) -> str:
    scheme = address.partition(":")[0]
    match error:
        case ConnectError() if scheme == "exec":
            return "is the program installed, and in PATH?"
        case ConnectError() if remedy:
            return f"start one with: {remedy}"
        case CodecMismatch():
            return "say --codec as the peer does"
        case VersionMismatch():
            return "one of the two needs a newer aioipc"
        case FrameTooLarge() if scheme == "fifo" and "?" not in address:
            return f"a single writer has no such limit: {shlex.quote(address + '?single')}"
        case ProtocolError() if scheme != "shm" and not isinstance(error, FrameTooLarge):
            return "with programs that do not speak aioipc, say --framing lines (or headers, none)"
    return ""
