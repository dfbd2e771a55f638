"""A job in the hands of a worker, and how it gets there."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from aioipc.errors import IPCError, said

__all__ = ["Job", "Settle", "Taking", "encodable"]

T = TypeVar("T")

_MOST_REASON: Final = 1_000

Settle = Callable[[int, str | None], Awaitable[None]]
"""Tells the server of a job's number, at once: that it is done (None), or why it failed."""


def encodable(reason: str) -> str:
    """As much of it as is kept, in UTF-8: a name of a file may be none."""
    return reason[:_MOST_REASON].encode(errors="backslashreplace").decode()


class Job(Generic[T]):
    """A job that this worker has, until it says `ack` or `fail`, dies, or its lease runs out.

    Attributes:
        value: The object that was put.
        priority: The one that it was put with.
        attempt: 1 the first time that a worker has it, 2 the second time.
        id: Its number in the queue.
    """

    __slots__ = ("_is_settled", "_settle", "attempt", "id", "priority", "value")

    def __init__(
        self, number: int, value: T, *, priority: int, attempt: int, settle: Settle
    ) -> None:
        self._settle = settle
        self._is_settled = False
        self.id = number
        self.value = value
        self.priority = priority
        self.attempt = attempt

    async def ack(self) -> None:
        """Say that it is done. On return it is sure that nobody will be given it again. Idempotent.

        Raises:
            DeadlineExceeded: The lease ran out before, and the job is or was somebody else's.
            PeerCrashed: The server is gone; somebody may be given the job again.

        Cancellation:
            Abandons the wait; it has been said.
        """
        if not self._is_settled:
            self._is_settled = True
            await self._settle(self.id, None)

    async def fail(self, reason: str = "") -> None:
        """Say that it could not be done: it is given out again, or given up. Idempotent.

        Args:
            reason: For whoever looks at the dead jobs; at most 1,000 characters.

        Raises:
            DeadlineExceeded: The lease ran out before, and the job is or was somebody else's.
            PeerCrashed: The server is gone; somebody will be given the job again.
            TypeError: The reason is no str; nothing was said.

        Cancellation:
            Abandons the wait; it has been said.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason is a str, not {reason!r}")
        if not self._is_settled:
            self._is_settled = True
            await self._settle(self.id, encodable(reason))

    def disown(self) -> None:
        """Say nothing any more: what became of it was said elsewhere."""
        self._is_settled = True

    def __repr__(self) -> str:
        return f"<Job {self.id} attempt={self.attempt}>"


class Taking(Generic[T]):
    """A job about to be taken: ``await`` it, or enter it with ``async with``.

    Leaving the block acknowledges the job; an exception, a cancellation included, fails it.
    """

    __slots__ = ("_job", "_take")

    def __init__(self, take: Callable[[], Coroutine[Any, Any, Job[T]]]) -> None:
        self._take = take
        self._job: Job[T] | None = None

    def __await__(self) -> Generator[Any, Any, Job[T]]:
        return self._take().__await__()

    async def __aenter__(self) -> Job[T]:
        self._job = await self._take()
        return self._job

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._job is not None, "entered before it is left"
        if error is None:
            await self._job.ack()
        else:
            with contextlib.suppress(IPCError):  # the first exception says more
                await self._job.fail(f"{type(error).__name__}: {said(error)}")
