"""POSIX message queues, opened safely and never waited on: mq_overview(7).

The descriptor of a queue is one that epoll takes, so no thread and no mq_notify(3) is needed. A
queue lives in the kernel until it is unlinked; who has it open may go on using it after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import posix_ipc

from aioipc.errors import (
    AccessDenied,
    ClosedError,
    ConnectError,
    ForkError,
    ResourceExhausted,
)
from aioipc.kernel.directory import check_owner, denied
from aioipc.kernel.owned import Closing, abandon_in_child
from aioipc.limits import check_count
from aioipc.native._queues import MqCalls

__all__ = [
    "MAX_PRIORITY",
    "MessageQueue",
    "Sizes",
    "make_queue",
    "open_or_make_queue",
    "open_queue",
]

MAX_PRIORITY: int = posix_ipc.QUEUE_PRIORITY_MAX
"""The most urgent priority; 0 is the least."""

_SYSTEM = Path("/proc/sys/fs/mqueue")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a queue is made.

    Attributes:
        max_messages: How many messages it holds; None for what the system says.
        max_message_size: How long one may be, in bytes; None for what the system says.
        mode: Who may use it, less the umask.
    """

    max_messages: int | None = None
    max_message_size: int | None = None
    mode: int = 0o600

    def resolved(self) -> dict[str, int]:
        """All of them as numbers.

        Raises:
            ValueError: One is less than 1.
        """
        numbers = {
            "max_messages": self.max_messages,
            "max_message_size": self.max_message_size,
        }
        settings = {"max_messages": "msg_default", "max_message_size": "msgsize_default"}
        found = {"mode": self.mode}
        for name, number in numbers.items():
            found[name] = _setting(settings[name]) if number is None else number
            check_count(name, found[name], 1)
        return found


class MessageQueue(Closing):
    """An open queue. It belongs to this process and is closed in forked children.

    Attributes:
        name: With its slash.
        max_messages: How many messages it holds.
        max_message_size: How long one may be, in bytes.
        mode: Who may use it: inode(7).
        made: Whether it was made by the call that opened it.
        calls: What sends and receives.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_queue",
        "calls",
        "made",
        "max_message_size",
        "max_messages",
        "mode",
        "name",
    )

    def __init__(self, queue: posix_ipc.MessageQueue, name: str, *, made: bool) -> None:
        self._queue = queue
        self._abandoned = False
        self.name = name
        self.made = made
        self.max_messages: int = queue.max_messages
        self.max_message_size: int = queue.max_message_size
        self.mode = os.fstat(queue.mqd).st_mode & 0o777
        self.calls = MqCalls(queue.mqd, self.max_message_size, f"mq:{name}", self)
        abandon_in_child(self)

    def fileno(self) -> int:
        """The number of its descriptor, -1 once it is closed."""
        return -1 if self._queue is None else int(self._queue.mqd)

    @property
    def messages(self) -> int:
        """How many messages are in the queue: mq_getattr(3)."""
        return int(self._queue.current_messages)

    @property
    def is_unlinked(self) -> bool:
        """Whether its name is gone, so that nobody else can open it any more."""
        return os.fstat(self.fileno()).st_nlink == 0

    @property
    def is_abandoned(self) -> bool:
        """Whether this is the copy in a forked child."""
        return self._abandoned

    def unlink(self) -> None:
        """Remove the name, if it still is that of this queue: mq_unlink(3). Idempotent."""
        if not self.is_unlinked:
            try:
                self._queue.unlink()
            except posix_ipc.ExistentialError:  # somebody else did, just now
                pass
            except posix_ipc.PermissionsError:
                raise denied(f"unlink mq:{self.name}: it belongs to another user") from None

    def close(self) -> None:
        """Close the descriptor; the queue stays. Idempotent."""
        queue, self._queue = self._queue, None
        if queue is not None:
            self.calls.forget()
            queue.close()

    def abandon(self) -> None:
        """Close the copy in a forked child."""
        self._abandoned = True
        self.close()

    def check_open(self) -> None:
        """Raise unless the queue is open.

        Raises:
            ForkError: It was opened by the parent process.
            ClosedError: This side closed it.
        """
        if self._abandoned:
            raise ForkError(f"mq:{self.name} belongs to the parent process; open it in the child")
        if self._queue is None:
            raise ClosedError(f"this side closed mq:{self.name}")

    def __del__(self) -> None:
        if getattr(self, "_queue", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<MessageQueue {self.name!r} fd={self.fileno()}>"


def open_queue(name: str, *, read: bool = True, write: bool = True) -> MessageQueue:
    """Open a queue that is there.

    Args:
        name: With its slash.
        read: Whether to receive.
        write: Whether to send.

    Raises:
        ConnectError: There is none of that name.
        AccessDenied: Another user owns it, or it may not be opened so.
        ResourceExhausted: There are no descriptors left.
    """
    try:
        queue = _open(name, 0, read=read, write=write)
    except posix_ipc.ExistentialError:
        raise ConnectError(f"mq:{name}: there is no such queue") from None
    return _trusted(queue, name)


def make_queue(
    name: str, sizes: Sizes | None = None, *, read: bool = True, write: bool = True
) -> MessageQueue:
    """Make a queue that is not there yet.

    Args:
        name: With its slash.
        sizes: How large, and for whom.
        read: Whether to receive.
        write: Whether to send.

    Raises:
        ResourceExhausted: There is one of that name (EEXIST), or no room for another.
        ValueError: A size is over what the system allows.
    """
    numbers = (sizes or Sizes()).resolved()
    try:
        queue = _open(name, posix_ipc.O_CREX, read=read, write=write, **numbers)
    except posix_ipc.ExistentialError:
        raise ResourceExhausted(errno.EEXIST, f"mq:{name}: there is such a queue") from None
    except (ValueError, OverflowError):  # EINVAL
        raise ValueError(
            f"mq:{name}: {numbers['max_messages']:,} messages of "
            f"{numbers['max_message_size']:,} bytes are over what {_SYSTEM} allows: "
            f"{_setting('msg_max'):,} of {_setting('msgsize_max'):,} bytes"
        ) from None
    return MessageQueue(queue, name, made=True)


def open_or_make_queue(
    name: str, sizes: Sizes | None = None, *, read: bool = True, write: bool = True
) -> MessageQueue:
    """Open a queue, or make it as `make_queue` does if it is not there."""
    while True:
        with contextlib.suppress(ConnectError):
            return open_queue(name, read=read, write=write)
        try:
            return make_queue(name, sizes, read=read, write=write)
        except ResourceExhausted as error:
            if error.errno != errno.EEXIST:
                raise


def _open(name: str, flags: int, **options: int) -> posix_ipc.MessageQueue:
    try:
        return posix_ipc.MessageQueue(name, flags | os.O_NONBLOCK, **options)
    except posix_ipc.PermissionsError:
        raise AccessDenied(
            errno.EACCES, f"mq:{name}: {os.strerror(errno.EACCES)} for uid {os.geteuid()}"
        ) from None
    except OSError as error:  # posix_ipc tells the reason in words, mostly without the number
        raise ResourceExhausted(
            error.errno or errno.EMFILE,
            f"mq:{name}: no descriptor, queue or memory is left for it: {error}; "
            "see RLIMIT_MSGQUEUE in getrlimit(2)",
        ) from None


def _trusted(queue: posix_ipc.MessageQueue, name: str) -> MessageQueue:
    try:
        check_owner(os.fstat(queue.mqd), f"mq:{name}")
    except BaseException:
        queue.close()
        raise
    return MessageQueue(queue, name, made=False)


def _setting(name: str) -> int:
    return int((_SYSTEM / name).read_text())
