"""System V message queues: msgget(2), msgop(2).

They have no descriptor, so nothing can wait for them and stay cancellable. Everything here returns
at once. A queue outlives all its users, and is gone at once when somebody removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

from aioipc.errors import (
    AccessDenied,
    AddressError,
    ClosedError,
    ConnectError,
    ForkError,
    IPCError,
    ResourceExhausted,
)
from aioipc.kernel.directory import denied
from aioipc.kernel.owned import abandon_in_child
from aioipc.native._queues import SysvCalls

__all__ = ["SysvQueue", "make_sysv_queue", "open_or_make_sysv_queue", "open_sysv_queue"]

_MAX_MESSAGE = Path("/proc/sys/kernel/msgmax")
_REMOVED = frozenset({errno.EIDRM, errno.EINVAL})


class SysvQueue:
    """A queue by its key, unusable in forked children. The kernel knows of no open ones.

    Attributes:
        key: As ftok(3) would make one.
        made: Whether it was made by the call that opened it.
        max_bytes: How many bytes it holds.
        max_message_size: How long one message may be, in bytes.
        mode: Who may use it.
        calls: What sends and receives.
    """

    __slots__ = (
        "__weakref__",
        "_is_closed",
        "_library",
        "_queue",
        "calls",
        "is_abandoned",
        "key",
        "made",
        "max_bytes",
        "max_message_size",
        "mode",
    )

    def __init__(self, library: Any, queue: Any, *, made: bool) -> None:
        self._library = library
        self._queue = queue
        self._is_closed = False
        self.is_abandoned = False
        self.made = made
        self.key: int = queue.key
        self.max_bytes: int = queue.max_size
        self.max_message_size = min(self.max_bytes, _max_message())
        self.mode: int = queue.mode & 0o777
        self.calls = SysvCalls(queue.id, self.max_message_size, str(self), self)
        abandon_in_child(self)

    @property
    def messages(self) -> int:
        """How many messages are in the queue: msgctl(2).

        Raises:
            ClosedError: The queue was removed.
        """
        try:
            return int(self._queue.current_messages)
        except (self._library.Error, OSError) as error:
            raise self._translated(error) from None

    def remove(self) -> None:
        """Remove the queue and all that is in it. Idempotent.

        Raises:
            AccessDenied: It belongs to another user.
        """
        try:
            self._queue.remove()
        except self._library.PermissionsError:
            raise denied(f"remove {self}: it belongs to another user") from None
        except (self._library.Error, OSError):  # somebody else did
            return

    def close(self) -> None:
        """Send and receive nothing more. Idempotent."""
        self._is_closed = True
        self.calls.forget()

    def abandon(self) -> None:
        """Close the copy in a forked child."""
        self.is_abandoned = True
        self.close()

    def check_open(self) -> None:
        """Raise unless the queue is open.

        Raises:
            ForkError: It was opened by the parent process.
            ClosedError: This side closed it.
        """
        if self.is_abandoned:
            raise ForkError(f"{self} belongs to the parent process; open it in the child")
        if self._is_closed:
            raise ClosedError(f"this side closed {self}")

    def _translated(self, error: Exception) -> IPCError:
        if isinstance(error, self._library.PermissionsError):
            return denied(f"{self}: {error}")
        if isinstance(error, self._library.ExistentialError) or (
            isinstance(error, OSError) and error.errno in _REMOVED
        ):
            return ClosedError(f"{self} was removed from the system")
        return ResourceExhausted(getattr(error, "errno", None) or errno.ENOMEM, f"{self}: {error}")

    def __str__(self) -> str:
        return f"sysv:{self.key & 0xFFFFFFFF:#x}"


def open_sysv_queue(key: int) -> SysvQueue:
    """Open a queue that is there.

    Raises:
        ConnectError: There is none of that key.
        AccessDenied: Another user owns it.
        AddressError: sysv_ipc, an extra, is not installed.
    """
    return _open(key, 0)


def make_sysv_queue(key: int, *, mode: int = 0o600) -> SysvQueue:
    """Make a queue that is not there yet.

    Args:
        key: As ftok(3) would make one.
        mode: Who may use it.

    Raises:
        ResourceExhausted: There is one of that key (EEXIST), or the system allows no other.
        AddressError: sysv_ipc, an extra, is not installed.
    """
    return _open(key, _library().IPC_CREX, mode=mode)


def open_or_make_sysv_queue(key: int, *, mode: int = 0o600) -> SysvQueue:
    """Open a queue, or make it if it is not there."""
    while True:
        with contextlib.suppress(ConnectError):
            return open_sysv_queue(key)
        try:
            return make_sysv_queue(key, mode=mode)
        except ResourceExhausted as error:
            if error.errno != errno.EEXIST:
                raise


def _open(key: int, flags: int, **options: int) -> SysvQueue:
    library = _library()
    name = f"sysv:{key & 0xFFFFFFFF:#x}"
    try:
        queue = library.MessageQueue(key, flags, max_message_size=_max_message(), **options)
        owners = {queue.uid, queue.cuid}
    except library.ExistentialError:
        if flags:
            raise ResourceExhausted(errno.EEXIST, f"{name}: there is such a queue") from None
        raise ConnectError(f"{name}: there is no such queue") from None
    except library.PermissionsError:
        raise AccessDenied(errno.EACCES, f"{name}: uid {os.geteuid()} may not use it") from None
    except (OSError, MemoryError) as error:
        number = getattr(error, "errno", None) or errno.ENOSPC
        raise ResourceExhausted(number, f"{name}: the system has no room: {error}") from None
    if not owners <= {os.geteuid(), 0}:
        raise denied(f"{name} belongs to uid {owners}, not to {os.geteuid()} or root")
    return SysvQueue(library, queue, made=bool(flags))


def _max_message() -> int:
    return int(_MAX_MESSAGE.read_text())


def _library() -> Any:
    try:
        import sysv_ipc  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise AddressError(
            "System V queues need sysv_ipc; install it with: pip install 'aioipc[sysv]'"
        ) from None
    return sysv_ipc
