"""Queues that the kernel keeps: POSIX (mq_overview(7)) and System V (msgget(2))."""

from __future__ import annotations

import abc
import asyncio
import errno
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aioipc.errors import AccessDenied, ClosedError, WouldBlock
from aioipc.kernel.mqueue import MAX_PRIORITY
from aioipc.kernel.statistics import Kind, Tally
from aioipc.loop.line import Line
from aioipc.queues._coding import Coding, whole
from aioipc.queues._queue import Item, Queue, QueueStatistics

if TYPE_CHECKING:
    from aioipc.transports.mq import MqTransport
    from aioipc.transports.sysv import SysvTransport

__all__ = ["KernelQueue", "PosixQueue", "SystemVQueue"]

T = TypeVar("T")

_OPERATIONS_PER_TURN = 64
"""So many that need not wait, then the loop turns: about 100 µs."""


class _End(Protocol):
    """Both directions of one queue, as a transport gives them."""

    @property
    def address(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def try_put(self) -> Callable[[bytes, int], bool]: ...
    @property
    def try_take(self) -> Callable[[int], tuple[bytes, int] | None]: ...
    def on_readable(self, callback: Callable[[], object] | None, /) -> None: ...
    def on_writable(self, callback: Callable[[], object] | None, /) -> None: ...
    def bind(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def unlink(self) -> None: ...
    def close(self) -> None: ...


class KernelQueue(Queue[T]):
    """A queue that lives in the kernel, without a server, until it is unlinked.

    Programs in any language may take part: a message is what the codec writes, and nothing else.

    Args:
        end: The queue, which belongs to this object.
        coding: How objects become messages.
    """

    _plain_key = 0
    """What stands beside a message for which the caller wants nothing special."""

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
        self._try_put, self._try_take = end.try_put, end.try_take
        self._coding = coding
        self._encode_parts: Callable[[T], Any] = coding.encode_parts
        self._decode: Callable[[bytes], T] = coding.decoder
        self._is_closed = False
        self._operations = 0
        self._putters = Line(end.on_writable)
        self._anything = Line(self._ask)
        self._getters = {0: self._anything}
        self._tally = Tally(Kind.KERNEL_QUEUE, end.address)
        end.bind(asyncio.get_running_loop())

    @property
    def address(self) -> str:
        return self._end.address

    async def put(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        try:
            message = self._encode_parts(obj)
        except Exception as error:
            raise self._coding.not_encoded(error) from error
        if message.__class__ is not bytes:
            message = whole(message)
        key = self._plain_key
        if priority or kind is not None or ttl_s is not None:
            key = self._key_of(priority, kind, ttl_s)
        self._operations += 1
        if self._operations >= _OPERATIONS_PER_TURN:
            await self._give_turn()
        # Before it waits it is all done in this one frame: each call in between would cost a
        # tenth of what the system call costs.
        if self._putters.places or not self._try_put(message, key):
            with self._tally.waiting():
                await self._putters.until(lambda: self._try_put(message, key) or None)
        self._tally.add("put")

    def put_nowait(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        message = self._coding.encode(obj)
        key = self._key_of(priority, kind, ttl_s)
        if self._putters.places or not self._try_put(message, key):
            raise WouldBlock(f"{self.address} is full")
        self._tally.add("put")

    async def get(self, *, kind: int | None = None) -> T:
        found = None
        if kind is None and not self._anything.places and self._operations < _OPERATIONS_PER_TURN:
            self._operations += 1
            found = self._try_take(0)
        if found is None:
            found = await self._take(0 if kind is None else self._selector_of(kind))
        else:
            self._tally.add("got")
        return self._decode(found[0])

    def get_nowait(self, *, kind: int | None = None) -> T:
        selector = 0 if kind is None else self._selector_of(kind)
        found = None if self._line(selector).places else self._try_take(selector)
        if found is None:
            raise WouldBlock(f"{self.address} has nothing to get")
        self._tally.add("got")
        return self._decode(found[0])

    async def get_item(self, *, kind: int | None = None) -> Item[T]:
        message, key = await self._take(0 if kind is None else self._selector_of(kind))
        return self._item(self._decode(message), key)

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

    async def _take(self, selector: int) -> tuple[bytes, int]:
        self._operations += 1
        if self._operations >= _OPERATIONS_PER_TURN:
            await self._give_turn()
        line = self._line(selector)
        found = None if line.places else self._try_take(selector)
        if found is None:
            with self._tally.waiting():
                found = await line.until(lambda: self._try_take(selector))
        self._tally.add("got")
        return found

    def _line(self, selector: int) -> Line:
        if selector not in self._getters:
            self._getters[selector] = Line(self._ask)
        return self._getters[selector]

    async def _give_turn(self) -> None:
        self._operations = 0
        await asyncio.sleep(0)

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
        if not 0 <= priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be between 0 and {MAX_PRIORITY:,}, not {priority:,}")
        return priority

    def _selector_of(self, kind: int) -> int:
        raise ValueError(f"{self.address}: a POSIX queue has no message types to select")

    def _item(self, value: T, key: int) -> Item[T]:
        return Item(value, priority=key)


class SystemVQueue(KernelQueue[T]):
    """A System V message queue: messages have types, by which they can be taken."""

    _end: SysvTransport
    _plain_key = 1

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
        if not 1 <= kind < 2**63:
            raise ValueError(f"kind must be between 1 and 2**63 - 1, not {kind:,}")
        return kind

    def _selector_of(self, kind: int) -> int:
        if not -(2**63) < kind < 2**63:
            raise ValueError(f"kind must fit 64 bits, and {kind:,} does not")
        return kind

    def _item(self, value: T, key: int) -> Item[T]:
        return Item(value, kind=key)
