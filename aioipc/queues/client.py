"""WorkQueue and Job: the client of a served queue."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import itertools
import numbers
import operator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aioipc._renewal import REFUSALS, was_met
from aioipc.channel import Channel
from aioipc.errors import (
    ClosedError,
    DeadlineExceeded,
    DecodeError,
    EndOfStream,
    IPCError,
    PeerCrashed,
    ProtocolError,
    ResourceExhausted,
)
from aioipc.loop.line import Line
from aioipc.queues import _protocol as protocol
from aioipc.queues._coding import Coding
from aioipc.queues._job import Job, Taking, encodable
from aioipc.queues._outbox import Outbox
from aioipc.queues._queue import Item, Queue, QueueStatistics

__all__ = ["DeadJob", "WorkQueue"]

T = TypeVar("T")

_SILENT = 0
"""The number of a request that needs no answer."""


@dataclass(frozen=True, slots=True)
class DeadJob(Generic[T]):
    """A job that was given up.

    Attributes:
        id: Its number, for `WorkQueue.revive`.
        value: The object; None if it does not decode.
        priority: The one that it was put with.
        attempts: How often a worker had it.
        death: "failed", "lost" (the worker died or took too long) or "expired".
        reason: What the last worker said.
    """

    id: int
    value: T | None
    priority: int
    attempts: int
    death: str
    reason: str


def _whole(name: str, value: object) -> int:
    """An argument, which is to be a whole number."""
    try:
        number = int(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is a whole number, not {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} does not fit 64 bits")
    return number


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is longer than a float can say") from None


class _Request:
    """What was asked of the server, and its answer once it is there."""

    __slots__ = ("answer", "outlasts", "ready")

    def __init__(self, *, outlasts: bool) -> None:
        self.outlasts = outlasts
        """Whether a server that closes answers it nevertheless."""
        self.answer: Any = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)


class WorkQueue(Queue[T]):
    """A queue that a server keeps: `aioipc.queues.serve`.

    Args:
        channel: To the server; it belongs to this object.
        coding: How objects become jobs.
        prefetch: How many jobs this worker holds that no task has taken yet.
        max_puts: How many puts wait for an answer at once; more of them wait here.
    """

    def __init__(
        self, channel: Channel[Any], coding: Coding[T], *, prefetch: int, max_puts: int
    ) -> None:
        self._channel = channel
        self._coding = coding
        self._prefetch = prefetch
        self.ending: BaseException | None = None
        """Why it is of no more use; None while it is."""
        self.peer_is_closing = False
        """Whether the server takes no other request, but hears of jobs that were begun."""
        self.unusable: BaseException | None = None
        """Why nothing can be begun here any more."""
        self._numbers = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._puts = 0
        self._max_puts = max_puts
        self._putters = Line()
        self._given: collections.deque[protocol.Given] = collections.deque()
        self._takers = Line()
        self._idle = Line()
        self._taking = 0
        self._asked = 0
        self._has_taken = False
        self._working = 0
        self._most_working = 0
        """At a time, as far as the server knows."""
        self._outbox = Outbox(channel, self._too_long)
        # Their owner is this object: `aclose` ends them and waits for them.
        loop = asyncio.get_running_loop()
        self._reading = loop.create_task(self._read())
        self._sending = loop.create_task(self._outbox.run())

    @property
    def address(self) -> str:
        return self._channel.address

    @property
    def was_answered(self) -> bool:
        """Whether the server ever said anything."""
        return self._channel.statistics().messages_received > 0

    async def put(
        self, obj: T, *, priority: int = 0, kind: int | None = None, ttl_s: float | None = None
    ) -> None:
        """Put a job in; on return it is accepted, and in the journal if there is one.

        Args:
            obj: Whatever the codec can carry.
            priority: More urgent jobs are given out first; any number of 32 bits.
            kind: Served queues have no message types.
            ttl_s: How many seconds the job may wait to be taken for the first time.

        Raises:
            EndOfStream: The server was closed; the job was not accepted.
            FrameTooLarge: It is over the limit; nothing was sent.
            PeerCrashed: The server is gone; the job may have been accepted.
            ResourceExhausted: The server's journal has no room for it; it was not accepted.
            TypeError: An option is of another type.
            ValueError: The queue has no such option or value.

        Cancellation:
            Withdraws the job unless it was accepted already.
        """
        if kind is not None:
            raise ValueError(f"{self.address}: a served queue has no message types")
        priority = _whole("priority", priority)
        ttl_s = None if ttl_s is None else _seconds("ttl_s", ttl_s)
        put = protocol.Put(next(self._numbers), self._coding.encode(obj), priority, ttl_s)
        await self._putters.until(self._try_begin_put)
        try:
            await self._request(put, "the job may have been accepted")
        except asyncio.CancelledError:
            self._outbox.post(protocol.Withdraw(put.id))
            raise
        finally:
            self._puts -= 1
            self._putters.wake()

    def _try_begin_put(self) -> bool | None:
        if self._puts >= self._max_puts:
            return None
        self._puts += 1
        return True

    def take(self) -> Taking[T]:
        """Take a job and tell what became of it: ``async with queue.take() as job``.

        Leaving the block acknowledges the job; an exception makes it fail. ``await queue.take()``
        instead leaves `Job.ack` and `Job.fail` to you.

        Raises:
            EndOfStream: The server was closed.
            PeerCrashed: It is gone.
            DecodeError: The job does not fit the codec; it has failed.

        Cancellation:
            Safe while it waits: the job is given to somebody else. Inside the block, the job fails.
        """
        return Taking(self._take)

    async def get(self, *, kind: int | None = None) -> T:
        """Take a job and acknowledge it at once: what becomes of it is nobody's business any more.

        Raises:
            EndOfStream: The server was closed.
            PeerCrashed: It is gone.
            DecodeError: The job does not fit the codec; it has failed.

        Cancellation:
            Safe: the job is given to somebody else.
        """
        return (await self._get(kind)).value

    async def get_item(self, *, kind: int | None = None) -> Item[T]:
        job = await self._get(kind)
        return Item(job.value, priority=job.priority)

    async def statistics(self) -> QueueStatistics:
        """How full the queue is, and what has happened since its server was started."""
        report = await self._request(protocol.Look(next(self._numbers)))
        numbers = dict(report.numbers)
        return QueueStatistics(
            messages=numbers["ready"] + numbers["leased"],
            max_messages=numbers["max_jobs"],
            max_message_size=self._channel.limits.max_message_bytes,
            counters=numbers,
        )

    async def dead_jobs(self, most: int = 100) -> list[DeadJob[T]]:
        """The oldest of the jobs that were given up: at most so many, and about a megabyte."""
        most = _whole("most", most)
        deads = await self._request(protocol.Dead(next(self._numbers), most))
        return [self._dead(job) for job in deads.jobs]

    async def revive(self, job_id: int) -> bool:
        """Give a dead job all its attempts again; False if there is none, or no room for it."""
        revive = protocol.Revive(next(self._numbers), _whole("job_id", job_id))
        settled = await self._request(revive, f"dead job {job_id} may have been revived")
        return bool(settled.held)

    async def drop_dead(self, job_id: int) -> bool:
        """Forget a dead job; False if there is none."""
        drop = protocol.Revive(next(self._numbers), _whole("job_id", job_id), forget=True)
        settled = await self._request(drop, f"dead job {job_id} may have been dropped")
        return bool(settled.held)

    async def aclose(self) -> None:
        """Close this end; jobs that were not settled are given to others. Idempotent.

        What was said of jobs gets at most ``limits.linger_s`` seconds to reach the server.

        Cancellation:
            Closes at once; what was said and has not left may be lost.
        """
        if self.ending is None:
            if self._asked:
                self._outbox.post(protocol.Unask(self._asked))
            self._give_back(0)
        self._end(ClosedError(f"this side closed {self.address}"))
        self._outbox.finish()
        tasks = (self._reading, self._sending)
        try:
            await asyncio.wait([self._sending], timeout=self._channel.limits.linger_s)
            if not self._sending.done():
                self._channel.abort()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._channel.aclose()
        except BaseException:
            for task in tasks:
                task.cancel()
            self._channel.abort()
            raise

    # Taking

    async def _get(self, kind: int | None) -> Job[T]:
        if kind is not None:
            raise ValueError(f"{self.address}: a served queue has no message types")
        job = await self._take()
        job.disown()
        self._stop_working()
        self._outbox.post(protocol.Done(_SILENT, job.id))
        return job

    async def _take(self) -> Job[T]:
        self._has_taken = True
        self._taking += 1
        try:
            await self._announce()
            self._balance()
            given = await self._takers.until(self._try_take)
        finally:
            self._taking -= 1
            self._balance()
        try:
            value = self._coding.decode(given.body)
        except DecodeError as error:
            self._outbox.post(protocol.Fail(_SILENT, given.job, encodable(str(error))))
            raise
        self._working += 1
        return Job(
            given.job,
            value,
            priority=given.priority,
            attempt=given.attempt,
            settle=self._settle,
        )

    async def _announce(self) -> None:
        """Have the server know what is begun, of all that is here, before it is.

        It may be the end of this process, and is to cost no other job an attempt.
        """
        most = self._taking + self._working
        if self.unusable is not None or not self._prefetch or most <= self._most_working:
            return
        with contextlib.suppress(IPCError):  # the reader sees it, too
            await self._channel.send(protocol.WorkOn(most))
            await self._channel.flush()
            self._most_working = max(most, self._most_working)

    def _try_take(self) -> protocol.Given | None:
        return self._given.popleft() if self._given else None

    def _balance(self) -> None:
        """Have as many jobs here or on their way as tasks wait for, and the prefetch."""
        if self.unusable is not None:
            return
        wanted = self._taking + (self._prefetch if self._has_taken else 0)
        self._give_back(wanted)  # what was for somebody who was cancelled
        coming = len(self._given) + self._asked
        missing = wanted - coming
        if missing < 0:
            self._outbox.post(protocol.Unask(-missing))
        elif coming < self._taking or missing > self._prefetch // 2:
            self._outbox.post(protocol.Ask(missing))
        else:
            return  # several are asked for together
        self._asked += missing

    def _give_back(self, most: int) -> None:
        """Have no more jobs here that no task has taken than so many."""
        while len(self._given) > most:
            self._outbox.post(protocol.GiveBack(self._given.pop().job))

    def _stop_working(self) -> None:
        self._working -= 1
        self._idle.wake()

    async def wait_idle(self) -> None:
        """Wait until every job that was taken here is settled, or the server is gone."""
        await self._idle.until(lambda: self._is_idle or None)

    @property
    def _is_idle(self) -> bool:
        return not self._working or self.ending is not None

    async def _settle(self, job: int, reason: str | None) -> None:
        number = next(self._numbers)
        said = protocol.Done(number, job) if reason is None else protocol.Fail(number, job, reason)
        try:
            settled = await self._request(
                said, f"it may know what became of job {job}", is_settling=True
            )
        except EndOfStream as error:
            raise PeerCrashed(
                f"{self.address}: the server was closed before it heard what became of job {job}"
            ) from error
        finally:
            self._stop_working()
        if not settled.held:
            raise DeadlineExceeded(
                f"{self.address}: job {job} is not this worker's any more: its lease ran out"
            )

    # The server

    async def _request(
        self,
        message: Any,
        perhaps: str = "",
        *,
        is_settling: bool = False,
    ) -> Any:
        """Ask the server, and wait for its answer.

        Args:
            message: The question.
            perhaps: What may have come of it should no answer come.
            is_settling: Whether it says what became of a job. It is said whatever becomes of who
                says it, and to a server that closes, too.

        Raises:
            ResourceExhausted: The server has no room for it.
            ValueError: The server refuses it.
        """
        unusable = self.ending if is_settling else self.unusable
        if unusable is not None:
            raise unusable.with_traceback(None)
        request = self._requests[message.id] = _Request(outlasts=is_settling)
        try:
            if is_settling:
                self._outbox.post(message)
            else:
                await self._send(message)
            await request.ready
        finally:
            self._requests.pop(message.id, None)
        if request.answer is None:
            raise self._unanswered(perhaps, is_settling=is_settling)
        if isinstance(request.answer, protocol.Refused):
            raise self._refused(request.answer)
        return request.answer

    def _refused(self, answer: protocol.Refused) -> Exception:
        if answer.is_full:
            return ResourceExhausted(errno.ENOSPC, f"{self.address}: {answer.reason}")
        return ValueError(f"{self.address}: {answer.reason}")

    def _unanswered(self, perhaps: str, *, is_settling: bool) -> BaseException:
        assert self.unusable is not None, "woken for a reason"
        if self.peer_is_closing and not is_settling:
            return self.unusable.with_traceback(None)
        assert self.ending is not None, "what is settled outlasts the rest"
        if isinstance(self.ending, (ClosedError, *REFUSALS)) or not was_met(self._channel):
            return self.ending.with_traceback(None)
        what = f"{self.address}: the server ended before it answered"
        lost = PeerCrashed(f"{what}; {perhaps}" if perhaps else what)
        lost.__cause__ = self.ending
        return lost

    async def _send(self, message: Any) -> None:
        with contextlib.suppress(PeerCrashed):  # the reader sees it, after all that came before
            await self._channel.send(message)

    def _too_long(self, message: Any) -> None:
        self._channel.abort()  # so that what it is about is given to others

    async def _read(self) -> None:
        try:
            while True:
                for message in await self._channel.receive_many():
                    self._take_in(message)  # without a pause: one of the two has to read always
        except IPCError as error:
            self._end(error)

    def _take_in(self, message: Any) -> None:
        if isinstance(message, protocol.Given):
            self._asked = max(0, self._asked - 1)
            self._given.append(message)
            self._takers.wake()
            self._balance()
            return
        if isinstance(message, protocol.Revoked):
            self._given = collections.deque(each for each in self._given if each.job != message.job)
            self._balance()
            return
        if isinstance(message, protocol.Closing):
            self.peer_is_closing = True
            self._give_back(0)
            self._begin_nothing(EndOfStream(f"{self.address}: the server was closed"))
            return
        if not isinstance(message, protocol.Answer):
            raise ProtocolError(
                f"{self._channel.address}: a server does not say {type(message).__name__}"
            )
        request = self._requests.get(message.id)
        if request is not None:  # else nobody waits any more
            request.answer = message
            request.wake()

    def _end(self, error: BaseException) -> None:
        if self.ending is None:
            self.ending = error
            self._begin_nothing(error)
            self._idle.wake()

    def _begin_nothing(self, error: BaseException) -> None:
        """Neither jobs nor requests; those that a server that closes answers are still waited for.

        Args:
            error: Why.
        """
        if self.unusable is None:
            self.unusable = error
            self._takers.end(error)
            self._putters.end(error)
        for request in self._requests.values():
            if self.ending is not None or not request.outlasts:
                request.wake()

    def _dead(self, job: protocol.DeadJob) -> DeadJob[T]:
        try:
            value = self._coding.decode(job.body)
        except DecodeError:
            value = None
        return DeadJob(job.job, value, job.priority, job.attempts, job.death, job.reason)
