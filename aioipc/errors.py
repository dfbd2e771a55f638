"""Every exception that aioipc raises.

Each one also derives from the built-in and from the anyio exception that a caller would
catch, so ``except ConnectionError``, ``except anyio.EndOfStream`` and
``except aioipc.IPCError`` all do what they say. A message states what happened, the value
and the limit; a docstring states what is still usable afterwards.
"""

from __future__ import annotations

import errno as _errno
import os
import threading

import anyio

__all__ = [
    "AccessDenied",
    "AddressError",
    "BadArguments",
    "BrokenBarrierError",
    "BusyError",
    "ClosedError",
    "CodecError",
    "CodecMismatch",
    "ConnectError",
    "DeadlineExceeded",
    "DecodeError",
    "EncodeError",
    "EndOfStream",
    "ForkError",
    "FrameTooLarge",
    "HandshakeError",
    "IPCError",
    "MethodNotFound",
    "OwnerDied",
    "PeerCrashed",
    "ProtocolError",
    "QuotaExceeded",
    "RPCError",
    "RemoteCancelled",
    "RemoteError",
    "ResourceExhausted",
    "RingCorrupted",
    "TruncatedFrame",
    "VersionMismatch",
    "WorkerDied",
    "WouldBlock",
    "from_os_error",
    "name_address",
    "said",
    "told_of",
]


def _as_it_is(error: Exception) -> tuple[object, ...]:
    """How to pickle what was not made of its ``args`` alone: it is not made once more."""
    return Exception.__new__, (type(error), *error.args), vars(error)


class IPCError(Exception):
    """Base of everything that aioipc raises on purpose."""


class ClosedError(IPCError, anyio.ClosedResourceError):
    """This side closed the object. Nothing on it is usable any more."""


class EndOfStream(IPCError, anyio.EndOfStream, EOFError):
    """The peer finished cleanly. Nothing more will arrive; sending may still work."""


class PeerCrashed(IPCError, anyio.BrokenResourceError, ConnectionResetError):
    """The peer is gone and did not say goodbye, or said that it failed.

    What arrived before was received. Only ``aclose`` is left to do.

    Attributes:
        status: How the peer's process ended, where a pidfd told: an exit code of 0 or
            more, or minus the number of the signal that killed it. Else None.
        unconsumed: How many of the messages that were sent the peer did not take, where that
            is known: over shared memory, when sending fails. Else None.
    """

    status: int | None
    unconsumed: int | None

    def __init__(
        self,
        message: str = "the peer is gone",
        *,
        status: int | None = None,
        unconsumed: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.unconsumed = unconsumed


class TruncatedFrame(PeerCrashed):
    """The stream ended inside a frame. Only ``aclose`` is left to do."""


class BusyError(IPCError, anyio.BusyResourceError):
    """Somebody else is in the same exclusive operation already. Nothing changed."""

    def __init__(self, message: str) -> None:
        # anyio's own __init__ takes an action and writes a sentence around it.
        Exception.__init__(self, message)


class WouldBlock(IPCError, anyio.WouldBlock):
    """A ``*_nowait`` operation found nothing to receive or no room to send. Nothing changed."""


class AddressError(IPCError, ValueError):
    """An address could not be understood, or its transport cannot do what was asked for.

    Nothing was opened or changed.
    """


class ConnectError(IPCError, anyio.ConnectionFailed, ConnectionError):
    """No connection could be made. The same address may be tried again."""


class AccessDenied(IPCError, PermissionError):
    """Somebody who is not trusted owns the peer, the path or the directory.

    Nothing was opened. Raised by a receive or a send, it is the peer that does not trust this
    process, and the channel is closed. Raised by what signals a process, that runs as another
    user, and goes on.
    """


class ResourceExhausted(IPCError, OSError):
    """The system has no more of something (descriptors, memory), or a name is in use.

    Nothing was opened; what was open before is still usable.
    """


class QuotaExceeded(ResourceExhausted):
    """A limit of this side or of the peer was reached.

    Whatever was held before is still usable; a channel that raises it is closed.
    """


class ProtocolError(IPCError):
    """The peer broke the protocol. The connection is closed, others are not affected."""


class HandshakeError(ProtocolError):
    """The first exchange failed. The connection is closed."""


class VersionMismatch(HandshakeError):
    """The peer speaks another major version of the protocol. The connection is closed."""


class CodecMismatch(HandshakeError):
    """The peer encodes its messages differently. The connection is closed."""


class FrameTooLarge(ProtocolError):
    """A message is over the limit.

    Raised by a send, it means that no byte was written and the channel is as it was.
    Raised by a receive, the peer announced too much and the connection is closed.

    Attributes:
        size: Bytes that the message has, or that its header announced.
        limit: Bytes allowed.
    """

    size: int
    limit: int

    def __init__(self, size: int, limit: int, hint: str = "") -> None:
        message = f"a message of {size:,} bytes is over the limit of {limit:,} bytes"
        super().__init__(f"{message}: {hint}" if hint else message)
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        return _as_it_is(self)


class RingCorrupted(ProtocolError):
    """The peer wrote nonsense into the shared ring. The connection is closed."""


class CodecError(IPCError, ValueError):
    """An object could not be turned into bytes, or bytes into an object."""


class EncodeError(CodecError):
    """The object does not fit the codec. Nothing was sent; the channel is as it was."""


class DecodeError(CodecError):
    """The message does not fit the codec or its limits.

    The message is consumed; the channel goes on with the next one.
    """


class RPCError(IPCError):
    """A call failed. The connection goes on."""


class MethodNotFound(RPCError):
    """The interface declares no such method. Nothing ran."""


class BadArguments(RPCError):
    """The arguments do not fit the method's signature. Nothing ran."""


class RemoteError(RPCError):
    """The method raised on the far side. The connection goes on.

    To a caller of the same user a note tells the traceback of the far side.

    Attributes:
        type: The name of the exception's type there.
        text: Its message there.
    """

    type: str
    text: str

    def __init__(self, message: str = "", *, type: str = "", text: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.type = type
        self.text = text


class RemoteCancelled(RPCError):
    """The method was cancelled on the far side. The connection goes on."""


class DeadlineExceeded(IPCError, TimeoutError):
    """The caller's deadline passed. What was asked for may or may not have happened."""


class OwnerDied(IPCError):
    """The previous owner of a lock died while holding it; what it guards may be torn."""


class WorkerDied(IPCError):
    """A worker process ended by itself, and not well. Nothing of it is left.

    Attributes:
        status: Its exit code, or minus the number of the signal that killed it.
        out_of_memory: Whether the kernel ended processes for want of memory while it ran, and
            this one ended in the same way.
        last_lines: What it last wrote to its standard error, where that was logged.
    """

    status: int
    out_of_memory: bool
    last_lines: tuple[str, ...]

    def __init__(
        self,
        message: str,
        *,
        status: int,
        out_of_memory: bool = False,
        last_lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.out_of_memory = out_of_memory
        self.last_lines = last_lines

    def __reduce__(self) -> tuple[object, ...]:
        return _as_it_is(self)

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None where a signal killed it."""
        return self.status if self.status >= 0 else None

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed it; None where it exited."""
        return -self.status if self.status < 0 else None


class BrokenBarrierError(IPCError, threading.BrokenBarrierError):
    """A party of the barrier died or gave up."""


class ForkError(IPCError, RuntimeError):
    """The object belongs to the parent of this forked process. Nothing was touched."""


_GONE = frozenset(
    {
        _errno.EPIPE,
        _errno.ECONNRESET,
        _errno.ECONNABORTED,
        _errno.ESHUTDOWN,
        _errno.ENOTCONN,
        _errno.ETIMEDOUT,
        _errno.EHOSTUNREACH,
        _errno.EHOSTDOWN,
        _errno.ENETUNREACH,
        _errno.ENETDOWN,
        _errno.ENETRESET,
        _errno.EIO,  # what one end of a terminal writes to once the other one is closed
    }
)
_EXHAUSTED = frozenset(
    {
        _errno.EMFILE,
        _errno.ENFILE,
        _errno.ENOMEM,
        _errno.ENOSPC,
        _errno.ENOBUFS,
        _errno.EDQUOT,
        _errno.EADDRINUSE,
        _errno.ETOOMANYREFS,
    }
)
_DENIED = frozenset({_errno.EACCES, _errno.EPERM, _errno.EROFS})


def from_os_error(error: OSError, doing: str, *, connecting: bool = False) -> IPCError:
    """Turn an ``OSError`` into the exception of this module that says the same.

    This is the one place where system errors are translated; transports call it at their
    seam to the kernel.

    Args:
        error: What the system call raised.
        doing: What was being done, to start the message with: ``"connect to unix:/x"``.
        connecting: Whether a connection was being made, so that anything that is neither
            a denial nor an exhaustion is a `ConnectError`.
    """
    number = error.errno
    reason = os.strerror(number) if number is not None else str(error)
    message = f"{doing}: {reason}"
    if number in _EXHAUSTED:
        return ResourceExhausted(number, message)
    if number in _DENIED:
        return AccessDenied(number, message)
    if connecting:
        return ConnectError(message)
    if number in _GONE:
        return PeerCrashed(message)
    return ResourceExhausted(number, message)


def told_of(address: str, error: BaseException) -> str:
    """What ``error`` says, behind the address that it is about; once if it names that itself."""
    text = str(error)
    return text if text.startswith(f"{address}: ") else f"{address}: {text}"


def name_address(error: BaseException, address: str) -> None:
    """Let a breach of the protocol, found where no address is known, say whose it is."""
    if isinstance(error, ProtocolError):
        error.args = (told_of(address, error),)


def said(error: BaseException) -> str:
    """What an exception says, as far as its own methods let it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is about the first one
        return "its text cannot be told"
