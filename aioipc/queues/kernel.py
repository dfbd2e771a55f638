"""Queues that the kernel keeps: POSIX (mq_overview(7)) and System V (msgget(2))."""

from __future__ import annotations

import abc
import asyncio
import errno
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeVar

from aioipc.errors import AccessDenied, ClosedError, WouldBlock
from aioipc.kernel.mqueue import MAX_PRIORITY
from aioipc.kernel.statistics import Kind, Tally
from aioipc.limits import check_count
from aioipc.loop.line import Line
from aioipc.loop.waiting import pacer_of
from aioipc.native._operation import called_natively
from aioipc.native._queues import KernelCalls, QueueCore
from aioipc.queues._coding import Coding
from aioipc.queues._queue import Item, Queue, QueueStatistics

if TYPE_CHECKING:
    from aioipc.transports.mq import MqTransport
    from aioipc.transports.sysv import SysvTransport

__all__ = ["KernelQueue", "PosixQueue", "SystemVQueue"]

T = TypeVar("T")

_LAST_KIND: Final = 2**63 - 1


class _End(Protocol):
    """Both directions of one queue, as a transport gives them."""

    @property
    def address(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def calls(self) -> KernelCalls: ...
    def on_readable(self, callback: Callable[[], object] | None, /) -> None: ...
    def on_writable(self, callback: Callable[[], object] | None, /) -> None: ...
    def bind(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def unlink(self) -> None: ...
    def close(self) -> None: ...


@called_natively
class KernelQueue(QueueCore[T], Queue[T]):
    """A queue that lives in the kernel, without a server, until it is unlinked.

    Programs in any language may take part: a message is what the codec writes, and nothing else.

    Args:
        end: The queue, which belongs to this object.
        coding: How objects become messages.
    """

    _plain_key: ClassVar[int] = 0

    def __init__(self, end: _End, coding: Coding[T]) -> None:
        self._is_closed = True
        if coding.is_trusted_only and end.mode & 0o077:
            end.close()
            raise AccessDenied(
                errno.EACCES,
                f"{end.address} has mode {end.mode:04o}, so others may put messages in, "
                f"and the {coding.name} codec runs what they send",
            )
        self._end = end
        self._coding = coding
        self._is_closed = False
        self._putters = Line(end.on_writable)
        self._getters: dict[int, Line] = {}
        self._tally = Tally(Kind.KERNEL_QUEUE, end.address)
        if (row := self._tally.row()) is not None:
            end.calls.count(row)
        loop = asyncio.get_running_loop()
        end.bind(loop)
        super().__init__(
            end.calls,
            coding,
            pacer_of(loop),
            putters=self._putters,
            getters=self._getters,
            plain_key=self._plain_key,
        )

    @property
    def address(self) -> str:
        return self._end.address

    def put_nowait(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        message = self._coding.encode(obj)
        key = self._key_of(priority, kind, ttl_s)
        if self._putters.places or not self.calls.try_send(message, key):
            raise WouldBlock(f"{self.address} is full")

    def get_nowait(self, *, kind: int | None = None) -> T:
        selector = 0 if kind is None else self._selector_of(kind)
        line = self._getters.get(selector)
        found = None if line and line.places else self.calls.try_receive(selector)
        if found is None:
            raise WouldBlock(f"{self.address} has nothing to get")
        return self._coding.decode(found[0])

    def unlink(self) -> None:
        self._end.unlink()

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._tally.close()
        self._end.close()
        error = ClosedError(f"this side closed {self.address}")
        for line in (self._putters, *self._getters.values()):
            line.end(error)

    # What the two kinds do differently

    @abc.abstractmethod
    def _key_of(self, priority: int, kind: int | None, ttl_s: float | None) -> int:
        """What stands beside a message; ValueError for what this kind does not have."""

    @abc.abstractmethod
    def _selector_of(self, kind: int) -> int:
        """What a get selects; ValueError for what this kind does not have."""

    @abc.abstractmethod
    def _item(self, value: T, key: int) -> Item[T]: ...

    # Waiting

    async def _put_in_line(self, message: bytes, key: int) -> None:
        with self._tally.waiting():
            await self._putters.until(lambda: self.calls.try_send(message, key) or None)

    async def _get_in_line(self, selector: int, is_item: bool) -> T | Item[T]:
        line = self._getters.get(selector)
        if line is None:
            line = self._getters[selector] = Line(self._ask)
        try:
            with self._tally.waiting():
                message, key = await line.until(lambda: self.calls.try_receive(selector))
        finally:
            if not line.places and self._getters.get(selector) is line:
                del self._getters[selector]  # there are as many kinds as there are numbers
        value = self._coding.decode(message)
        return self._item(value, key) if is_item else value

    def _ask(self, callback: Callable[[], object] | None) -> None:
        """Hear of the next message, for the first of each line."""
        is_wanted = callback is not None or any(line.places for line in self._getters.values())
        self._end.on_readable(self._look if is_wanted else None)

    def _look(self) -> None:
        for line in self._getters.values():
            line.wake()

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True):
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._is_closed = True
            self._tally.close()
            self._end.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<{self.__class__.__name__} {self.address} {self._coding.name} {state}>"


class PosixQueue(KernelQueue[T]):
    """A POSIX message queue: the most urgent message is taken first, then the oldest."""

    _end: MqTransport

    async def statistics(self) -> QueueStatistics:
        queue = self._end.opened()
        return QueueStatistics(
            messages=queue.messages,
            max_messages=queue.max_messages,
            max_message_size=queue.max_message_size,
            is_unlinked=queue.is_unlinked,
        )

    def _key_of(self, priority: int, kind: int | None, ttl_s: float | None) -> int:
        if kind is not None or ttl_s is not None:
            raise ValueError(f"{self.address}: a POSIX queue has neither kind= nor ttl_s=")
        return check_count("priority", priority, 0, MAX_PRIORITY)

    def _selector_of(self, kind: int) -> int:
        raise ValueError(f"{self.address}: a POSIX queue has no message types to select")

    def _item(self, value: T, key: int) -> Item[T]:
        return Item(value, priority=key)


class SystemVQueue(KernelQueue[T]):
    """A System V message queue: messages have types, by which they can be taken."""

    _end: SysvTransport
    _plain_key: ClassVar[int] = 1

    async def statistics(self) -> QueueStatistics:
        queue = self._end.opened()
        return QueueStatistics(
            messages=queue.messages,
            max_messages=None,
            max_message_size=queue.max_message_size,
            max_bytes=queue.max_bytes,
        )

    def _key_of(self, priority: int, kind: int | None, ttl_s: float | None) -> int:
        if priority or ttl_s is not None:
            raise ValueError(f"{self.address}: a System V queue has neither priority= nor ttl_s=")
        if kind is None:
            return self._plain_key
        return check_count("kind", kind, 1, _LAST_KIND)

    def _selector_of(self, kind: int) -> int:
        return check_count("kind", kind, -_LAST_KIND, _LAST_KIND)

    def _item(self, value: T, key: int) -> Item[T]:
        return Item(value, kind=key)
