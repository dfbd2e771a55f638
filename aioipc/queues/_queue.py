"""What every queue can do, whatever carries it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

from anyio.abc import AsyncResource

from aioipc.errors import EndOfStream
from aioipc.queues._job import Taking

__all__ = ["Item", "Queue", "QueueStatistics"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """What was taken from a queue, and what stood beside it.

    Attributes:
        value: The object.
        priority: The one that it was put with.
        kind: The System V message type; 0 elsewhere.
    """

    value: T
    priority: int = 0
    kind: int = 0


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """How full a queue is.

    Attributes:
        messages: How many messages are in it now.
        max_messages: How many it holds; None where bytes are counted instead.
        max_message_size: How long one may be, in bytes.
        max_bytes: How many bytes it holds; None where messages are counted instead.
        is_unlinked: Whether it was removed, and lives on only for those who have it open.
        counters: Of a served queue, how many jobs are "ready", "leased", "dead" or "waiting" for
            room, and how many have been "accepted", "given", "redelivered", "done", "failed",
            "lost" and "expired" since its server was started; "dead_dropped" were too many to keep.
    """

    messages: int
    max_messages: int | None
    max_message_size: int
    max_bytes: int | None = None
    is_unlinked: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)


class Queue(AsyncResource, Generic[T]):
    """Objects that any process puts in and any process takes out, each of them once.

    Made by `aioipc.queues.open`. It is an async context manager, and an async iterator that gets.
    Any number of tasks may put and get; they are served in the order in which they came.
    """

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """The address that it was opened with."""

    @abc.abstractmethod
    async def put(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        """Put an object in, waiting for room.

        Args:
            obj: Whatever the codec can carry.
            priority: More urgent objects are taken first. ``mq:`` and served queues have it.
            kind: A message type of 1 or more, which a get can select. Only ``sysv:`` has it.
            ttl_s: How many seconds the object may wait to be taken. Only served queues have it.

        Raises:
            FrameTooLarge: It is longer than the queue's messages may be; nothing was sent.
            EncodeError: The codec cannot carry it.
            ClosedError: The queue was closed, or removed from the system.
            ValueError: The queue has no such option.

        Cancellation:
            Safe while it waits for room: nothing was put.
        """

    @abc.abstractmethod
    async def get(self, *, kind: int | None = None) -> T:
        """Take the next object, waiting for one.

        Args:
            kind: Which message type to take, as msgrcv(2) has it: one, the lowest up to ``-kind``
                if it is negative, or any if it is 0. Only ``sysv:`` has it.

        Raises:
            DecodeError: It does not fit the codec. It is consumed, and the queue goes on.
            ClosedError: The queue was closed, or removed from the system.

        Cancellation:
            Safe: whatever there is stays for the next.
        """

    def put_nowait(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        """Put an object in, or raise WouldBlock if the queue is full.

        ``mq:`` and ``sysv:`` have it. The arguments and the other errors are those of `put`.
        """
        raise self._lacking("put_nowait: a server has to answer first")

    def get_nowait(self, *, kind: int | None = None) -> T:
        """Take the next object, or raise WouldBlock if there is none.

        ``mq:`` and ``sysv:`` have it. The arguments and the other errors are those of `get`.
        """
        raise self._lacking("get_nowait: a server has to answer first")

    async def get_item(self, *, kind: int | None = None) -> Item[T]:
        """As `get`, with the priority or the message type that the object was put with.

        Cancellation:
            Safe: whatever there is stays for the next.
        """
        raise self._lacking("get_item")

    def take(self) -> Taking[T]:
        """Take a job and tell what became of it: ``async with queue.take() as job``.

        Served queues have it: see `WorkQueue.take`.
        """
        raise self._lacking("take: nobody keeps what was taken until it is done; say get")

    def unlink(self) -> None:
        """Remove the queue from the system, where the kernel keeps it. Idempotent.

        A POSIX queue goes on for those who have it open; a System V queue is gone at once, and
        whoever waits for it gets ClosedError.

        Raises:
            AccessDenied: It belongs to another user.
        """
        raise self._lacking("unlink: its server decides")

    @abc.abstractmethod
    async def statistics(self) -> QueueStatistics:
        """How full the queue is now, by whomever it was filled."""

    def _lacking(self, what: str) -> ValueError:
        return ValueError(f"{self.address} has no {what}")

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close this end; what is in the queue stays there. Idempotent."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except EndOfStream:
            raise StopAsyncIteration from None
