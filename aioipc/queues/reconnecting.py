"""ReconnectingQueue: a served queue whose server may come and go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aioipc._renewal import Renewal
from aioipc.errors import EndOfStream, PeerCrashed
from aioipc.queues._job import Job, Taking
from aioipc.queues._queue import Item, Queue, QueueStatistics
from aioipc.queues.client import DeadJob, WorkQueue

__all__ = ["ReconnectingQueue"]

T = TypeVar("T")
R = TypeVar("R")


class ReconnectingQueue(Queue[T]):
    """A queue that a server keeps, and another server after it.

    Made by `aioipc.queues.open` with ``reconnect=True``. Whatever needs the server waits until
    there is one. What was asked of a server that ended before it answered is asked again where that
    does no harm; where it does, PeerCrashed says that it may have been accepted.

    Args:
        open_: Opens the queue.
        first: What it opened first.

    Raises:
        ImportError: stamina, which spreads the attempts, is not installed.
    """

    def __init__(self, open_: Callable[[], Awaitable[WorkQueue[T]]], first: WorkQueue[T]) -> None:
        self._renewal = Renewal(open_, first)

    @property
    def address(self) -> str:
        return self._renewal.current.address

    async def put(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        """Put a job in, as `WorkQueue.put`, once there is a server.

        Raises:
            PeerCrashed: The server ended before it answered: the job may have been accepted.
            Others: As `WorkQueue.put`.

        Cancellation:
            Withdraws the job unless it was accepted already.
        """
        await self._once(lambda queue: queue.put(obj, priority=priority, kind=kind, ttl_s=ttl_s))

    def take(self) -> Taking[T]:
        """Take a job, as `WorkQueue.take`, from whatever server has one.

        A job that was not settled when its server ended is given again, to this worker or another:
        `Job.ack` raises PeerCrashed, as the server may not have heard of it.

        Raises:
            DecodeError: The job does not fit the codec; it has failed.

        Cancellation:
            Safe while it waits: the job is given to somebody else. Inside the block, the job fails.
        """
        return Taking(self._take)

    async def _take(self) -> Job[T]:
        return await self._again(lambda queue: queue.take())

    async def get(self, *, kind: int | None = None) -> T:
        """Take a job and acknowledge it at once, as `WorkQueue.get`.

        Raises:
            DecodeError: The job does not fit the codec; it has failed.

        Cancellation:
            Safe: the job is given to somebody else.
        """
        return await self._again(lambda queue: queue.get(kind=kind))

    async def get_item(self, *, kind: int | None = None) -> Item[T]:
        return await self._again(lambda queue: queue.get_item(kind=kind))

    async def statistics(self) -> QueueStatistics:
        """How full the queue is, and what has happened since its present server was started."""
        return await self._again(lambda queue: queue.statistics())

    async def dead_jobs(self, most: int = 100) -> list[DeadJob[T]]:
        """As `WorkQueue.dead_jobs`."""
        return await self._again(lambda queue: queue.dead_jobs(most))

    async def revive(self, job_id: int) -> bool:
        """As `WorkQueue.revive`."""
        return await self._once(lambda queue: queue.revive(job_id))

    async def drop_dead(self, job_id: int) -> bool:
        """As `WorkQueue.drop_dead`."""
        return await self._once(lambda queue: queue.drop_dead(job_id))

    async def aclose(self) -> None:
        """Close this end; jobs that were not settled are given to others. Idempotent."""
        await self._renewal.aclose()

    async def _once(self, act: Callable[[WorkQueue[T]], Awaitable[R]]) -> R:
        """Act, and act again only if the server never heard of it."""
        while True:
            queue = await self._renewal.get()
            try:
                return await act(queue)
            except (EndOfStream, PeerCrashed) as error:
                if error is not queue.unusable:
                    raise

    async def _again(self, act: Callable[[WorkQueue[T]], Awaitable[R]]) -> R:
        """Act, and act again until there is an answer."""
        while True:
            queue = await self._renewal.get()
            try:
                return await act(queue)
            except (EndOfStream, PeerCrashed):
                if queue.unusable is None:
                    raise
