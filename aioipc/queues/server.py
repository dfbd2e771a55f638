"""serve: a queue that a process of ours keeps, with acknowledgements and a journal."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import errno
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from anyio.abc import AsyncResource

from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.channel import Channel
from aioipc.errors import ProtocolError, ResourceExhausted
from aioipc.kernel.statistics import Kind, Tally
from aioipc.limits import Limits
from aioipc.listener import Listener, listen
from aioipc.queues import _protocol as protocol
from aioipc.queues._broker import PRIORITIES, Broker, Counters, Give, Job, Policy
from aioipc.queues._journal import Journal, journal_path
from aioipc.queues._outbox import Outbox
from aioipc.queues._refusing import refusing

__all__ = ["QueueServer", "serve"]

log = logging.getLogger("aioipc.queues")

_LONGEST_TTL_S: Final = 10 * 366 * 86_400.0
_DEAD_AT_ONCE: Final = 1_000
_RETRY_S: Final = 1.0
"""How soon to look again whether the journal has room."""
_AROUND_JOB: Final = 64
"""What a worker is told beside the job, in bytes."""
_MOST_OWED: Final = 4_096
_SLACK: Final = 2
"""A put may overtake the withdrawal of another."""


class _Client:
    """One connection: a producer, a worker, or both."""

    def __init__(self, channel: Channel[Any], too_long: Callable[[_Client, Any], object]) -> None:
        self.channel = channel
        self.outbox = Outbox(channel, functools.partial(too_long, self))
        self.sending = asyncio.get_running_loop().create_task(self.outbox.run())
        self.waiting: dict[int, protocol.Put] = {}
        """Jobs for which there is no room yet, in the order in which they came."""


_Answers = list[tuple[_Client, object]]
"""What to say, and to whom."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Accepted:
    """A job that was put in just now and is not written down yet."""

    client: _Client
    number: int
    job: Job


class QueueServer(AsyncResource):
    """Keeps the jobs of one queue and gives them to workers.

    Made by `serve`. It works from the time it is opened until it is closed.
    """

    def __init__(
        self, listener: Listener[Any], broker: Broker, journal: Journal | None, limits: Limits
    ) -> None:
        self._listener = listener
        self._broker = broker
        self._journal = journal
        self._limits = limits
        self._clients: set[_Client] = set()
        self._outside: collections.deque[tuple[_Client, int]] = collections.deque()
        self._answers: _Answers = []
        self._accepted: list[_Accepted] = []
        self._lacks_room = False
        self._changed = asyncio.Event()
        self._is_closing = False
        self._is_over = False
        self._tally = Tally(Kind.QUEUE, listener.address)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Their owner is this object: `aclose` ends them and waits for them.
        self._listening = self._loop.create_task(listener.serve(self._serve_one))
        self._working = self._loop.create_task(self._work())
        self._changed.set()

    @property
    def address(self) -> str:
        """Where it is served: the port that was chosen, the name that was made up."""
        return self._listener.address

    @property
    def numbers(self) -> dict[str, int]:
        """How many jobs there are, and what has happened to others since it was opened."""
        broker = self._broker
        return {
            "ready": broker.ready,
            "leased": broker.leased,
            "dead": len(broker.dead),
            "waiting": len(self._outside),
            "max_jobs": broker.policy.max_jobs,
            **dataclasses.asdict(broker.counters),
        }

    async def wait(self) -> None:
        """Wait until it serves no more: for ever, unless serving failed.

        Raises:
            ResourceExhausted: The journal cannot be written, and not for want of room: then jobs
                are refused until there is some. What was accepted is in it.

        Cancellation:
            Abandons the wait; the server goes on until it is closed.
        """
        done, _ = await asyncio.wait(
            [self._listening, self._working], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            if not task.cancelled():
                task.result()

    async def aclose(self) -> None:
        """Close the queue. Idempotent.

        It accepts no other job and gives none out, and waits for those that workers have begun,
        for at most ``limits.linger_s`` seconds. What was accepted stays in the journal; without
        one it is gone. Producers and workers see the end of the stream.

        Cancellation:
            Closes at once, abruptly; what was accepted stays in the journal.
        """
        self._is_closing = True
        self._changed.set()
        try:
            await self._listener.aclose()
            await asyncio.wait([self._working])
            if not self._working.cancelled():
                self._working.exception()  # `wait` raises it
            if self._clients:
                sending = [client.sending for client in self._clients]
                await asyncio.wait(sending, timeout=self._limits.linger_s)
            self._listening.cancel()
            await asyncio.wait([self._listening])
        finally:
            self._listening.cancel()
            self._working.cancel()
            await asyncio.wait([self._working])
            if self._timer is not None:
                self._timer.cancel()
            self._tally.close()
            if self._journal is not None:
                await self._journal.aclose()

    # Requests

    async def _serve_one(self, channel: Channel[Any]) -> None:
        client = _Client(channel, self._too_long)
        self._clients.add(client)
        if self._is_closing:
            client.outbox.post(protocol.Closing())
        try:
            with refusing(channel, "a client"):
                while True:
                    for message in await channel.receive_many():
                        self._take_in(client, message)
                    self._changed.set()
                    await client.outbox.room()
                    while self._owes_much(client):  # noqa: ASYNC110 - it is a matter of time
                        await asyncio.sleep(_RETRY_S)
        finally:
            self._clients.discard(client)
            client.sending.cancel()
            await asyncio.wait([client.sending])
            if client.waiting:
                self._outside = collections.deque(
                    each for each in self._outside if each[0] is not client
                )
            if not self._is_over:  # else it is the server that goes
                self._broker.lose(client)
            self._changed.set()

    def _owes_much(self, client: _Client) -> bool:
        """Whether so much waits for room in the journal that its client has to wait, too."""
        if not self._lacks_room or len(self._answers) < _MOST_OWED:
            return False
        return sum(each[0] is client for each in self._answers) >= _MOST_OWED

    def _too_long(self, client: _Client, message: Any) -> None:
        """It takes no message of that length: a job is for others, and a question is refused."""
        if isinstance(message, protocol.Given):
            self._broker.too_long(client, message.job)
        else:
            client.outbox.post(protocol.Refused(message.id, "the answer is longer than it may be"))
        self._changed.set()

    def _take_in(self, client: _Client, message: Any) -> None:
        rule = _RULES.get(type(message))
        if rule is None:
            raise ProtocolError(f"a client does not say {type(message).__name__}")
        rule(self, client, message)

    def _on_put(self, client: _Client, message: protocol.Put) -> None:
        if message.priority not in PRIORITIES:
            self._refuse(client, message.id, f"priority {message.priority:,} does not fit 32 bits")
        elif message.ttl_s is not None and not 0 < message.ttl_s <= _LONGEST_TTL_S:
            self._refuse(client, message.id, f"ttl_s is {message.ttl_s}, not some time to come")
        elif len(message.body) > self._limits.max_message_bytes - _AROUND_JOB:
            self._refuse(client, message.id, "with what goes along it would be over the limit")
        elif message.id in client.waiting:
            raise ProtocolError(f"job {message.id} was put twice")
        elif len(client.waiting) >= _SLACK * self._limits.max_calls:
            self._refuse(client, message.id, "too many jobs of this client wait", is_full=True)
        else:
            client.waiting[message.id] = message
            self._outside.append((client, message.id))

    def _on_withdraw(self, client: _Client, message: protocol.Withdraw) -> None:
        if client.waiting.pop(message.id, None) is not None:
            self._outside.remove((client, message.id))

    def _on_ask(self, client: _Client, message: protocol.Ask) -> None:
        if not 1 <= message.jobs <= 2**31:
            raise ProtocolError(f"a worker cannot ask for {message.jobs:,} jobs")
        self._broker.ask(client, message.jobs)

    def _on_unask(self, client: _Client, message: protocol.Unask) -> None:
        if message.jobs < 1:
            raise ProtocolError(f"a worker cannot ask for {-message.jobs:,} jobs")
        self._broker.unask(client, message.jobs)

    def _on_work_on(self, client: _Client, message: protocol.WorkOn) -> None:
        if message.jobs < 1:
            raise ProtocolError(f"a worker cannot work on {message.jobs:,} jobs")
        self._broker.work_on(client, message.jobs)

    def _on_done(self, client: _Client, message: protocol.Done) -> None:
        self._settle(client, message.id, held=self._broker.done(client, message.job))

    def _on_fail(self, client: _Client, message: protocol.Fail) -> None:
        held = self._broker.fail(client, message.job, message.reason[:1_000])
        self._settle(client, message.id, held=held)

    def _on_give_back(self, client: _Client, message: protocol.GiveBack) -> None:
        self._broker.give_back(client, message.job)

    def _on_look(self, client: _Client, message: protocol.Look) -> None:
        self._answer(client, protocol.Report(message.id, self.numbers))

    def _on_dead(self, client: _Client, message: protocol.Dead) -> None:
        most = min(max(message.jobs, 0), _DEAD_AT_ONCE)
        jobs: list[protocol.DeadJob] = []
        size = 0
        for job in self._broker.dead.values():
            size += len(job.body) + 2_000
            if len(jobs) >= most or (jobs and size > self._limits.max_foreign_message_bytes):
                break
            jobs.append(_dead(job))
        self._answer(client, protocol.Deads(message.id, jobs))

    def _on_revive(self, client: _Client, message: protocol.Revive) -> None:
        act = self._broker.drop_dead if message.forget else self._broker.revive
        self._settle(client, message.id, held=act(message.job))

    def _settle(self, client: _Client, number: int, *, held: bool) -> None:
        if number:
            self._answer(client, protocol.Settled(number, held))

    def _refuse(self, client: _Client, number: int, reason: str, *, is_full: bool = False) -> None:
        self._answer(client, protocol.Refused(number, reason, is_full=is_full))

    def _answer(self, client: _Client, message: object) -> None:
        self._answers.append((client, message))

    # Work: one batch after the other, written down before anybody hears of it

    async def _work(self) -> None:
        try:
            await self._work_on()
        except BaseException as error:
            if isinstance(error, Exception):
                log.error("%s is not served any more: %s", self.address, error)  # noqa: TRY400
            self._listening.cancel()  # nobody is to wait for answers that do not come
            await self._listener.aclose()  # nor to come
            raise

    async def _work_on(self) -> None:
        while not await self._is_to_close():
            now_s = time.monotonic()
            self._broker.advance(now_s)
            self._let_in()
            for give in self._broker.give(now_s):
                self._answers.append((give.worker, _given(give)))  # type: ignore[arg-type]
            for worker, job in self._broker.take_revoked():
                self._answers.append((worker, protocol.Revoked(job)))  # type: ignore[arg-type]
            await self._say()
            self._count()
            self._wake_later()
        try:
            await self._wind_up()
        finally:
            self._is_over = True
            self._broker.spare()
            await self._say()
            for client in self._clients:
                client.outbox.finish()

    async def _wind_up(self) -> None:
        """Have workers give back what they have not begun, and wait for what they have."""
        for client in self._clients:
            client.outbox.post(protocol.Closing())
        is_late = False

        def be_late() -> None:
            nonlocal is_late
            is_late = True
            self._changed.set()

        timer = self._loop.call_later(self._limits.linger_s, be_late)
        try:
            while self._broker.leased and not is_late:
                await self._is_to_close()
                self._broker.advance(time.monotonic())
                await self._say()
                self._wake_later()
        finally:
            timer.cancel()

    async def _is_to_close(self) -> bool:
        """Wait for something to do, and say whether that is to end."""
        await self._changed.wait()
        self._changed.clear()
        return self._is_closing

    async def _say(self) -> None:
        for client, answer in await self._write_down():
            client.outbox.post(answer)

    def _count(self) -> None:
        broker = self._broker
        for name in _COUNTED:
            self._tally.put(name, getattr(broker.counters, name))
        self._tally.put("ready", broker.ready)
        self._tally.put("leased", broker.leased)
        self._tally.put("dead", len(broker.dead))
        self._tally.put("waiting", len(self._outside))

    def _let_in(self) -> None:
        """Accept as many of those that wait outside as there is room for."""
        while self._outside and self._broker.has_room:
            client, number = self._outside.popleft()
            put = client.waiting.pop(number)
            expires_s = None if put.ttl_s is None else time.monotonic() + put.ttl_s
            job = self._broker.put(put.body, priority=put.priority, expires_s=expires_s)
            self._accepted.append(_Accepted(client, number, job))
            self._answer(client, protocol.Accepted(number))

    async def _write_down(self) -> _Answers:
        """Write down what has happened, and return what may be said then.

        Where the journal has no room, new jobs are refused. All else is tried again later, and
        until then nobody hears of it.
        """
        answers, self._answers = self._answers, []
        accepted, self._accepted = self._accepted, []
        written = self._broker.take_written()
        while self._journal is not None and written:
            try:
                await self._journal.write(written)
            except ResourceExhausted as error:
                if error.errno != errno.ENOSPC:
                    raise
                self._note_room(error)
                if not accepted:
                    self._broker.write_again(written)
                    return self._keep_back(answers)
                written, answers = self._refuse_all(accepted, written, answers, str(error))
                accepted = []
            else:
                self._note_room(None)
                break
        return answers

    def _refuse_all(
        self, accepted: list[_Accepted], written: list[Job], answers: _Answers, reason: str
    ) -> tuple[list[Job], _Answers]:
        """Take new jobs back, and say so; what is left to write, and to say."""
        fresh = {each.job.id for each in accepted}
        promised = {(id(each.client), each.number) for each in accepted}
        for each in accepted:
            self._broker.retract(each.job)
        rest: _Answers = [
            (each.client, protocol.Refused(each.number, reason, is_full=True)) for each in accepted
        ]
        for client, answer in answers:
            match answer:
                case protocol.Accepted() if (id(client), answer.id) in promised:
                    pass
                case protocol.Given() if answer.job in fresh:
                    pass
                case _:
                    rest.append((client, answer))
        return [job for job in written if job.id not in fresh], rest

    def _keep_back(self, answers: _Answers) -> _Answers:
        """Keep what depends on the journal for later, and return the rest."""
        kept = [each for each in answers if not isinstance(each[1], _NEEDS_NO_JOURNAL)]
        self._answers[:0] = kept
        return [each for each in answers if isinstance(each[1], _NEEDS_NO_JOURNAL)]

    def _note_room(self, error: ResourceExhausted | None) -> None:
        """Say once when there is no room any more, and once when there is again."""
        if self._lacks_room != (error is not None):
            self._lacks_room = error is not None
            log.warning("%s: %s", self.address, error or "the journal has room again")

    def _wake_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self._broker.next_s()
        if self._lacks_room:
            retry_s = time.monotonic() + _RETRY_S
            next_s = retry_s if next_s is None else min(next_s, retry_s)
        if next_s is not None:
            delay_s = max(0.0, next_s - time.monotonic())
            self._timer = self._loop.call_later(min(delay_s, 3_600), self._changed.set)


_COUNTED: Final = tuple(field.name for field in dataclasses.fields(Counters))

_RULES: Final[dict[type, Callable[[QueueServer, _Client, Any], None]]] = {
    protocol.Put: QueueServer._on_put,
    protocol.Withdraw: QueueServer._on_withdraw,
    protocol.Ask: QueueServer._on_ask,
    protocol.Unask: QueueServer._on_unask,
    protocol.WorkOn: QueueServer._on_work_on,
    protocol.Done: QueueServer._on_done,
    protocol.Fail: QueueServer._on_fail,
    protocol.GiveBack: QueueServer._on_give_back,
    protocol.Look: QueueServer._on_look,
    protocol.Dead: QueueServer._on_dead,
    protocol.Revive: QueueServer._on_revive,
}


_NEEDS_NO_JOURNAL: Final = (protocol.Refused, protocol.Report, protocol.Deads)


def _given(give: Give) -> protocol.Given:
    job = give.job
    return protocol.Given(job.id, job.body, job.priority, give.attempt)


def _dead(job: Job) -> protocol.DeadJob:
    return protocol.DeadJob(
        job.id, job.body, job.priority, job.attempts, str(job.death), job.reason
    )


def serve(
    address: str | Address,
    *,
    journal: str | os.PathLike[str] | None = None,
    fsync: bool = False,
    policy: Policy | None = None,
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[QueueServer]:
    """Serve a work queue: ``async with queues.serve("unix:jobs", journal="jobs.db") as server``.

    Args:
        address: Where: ``unix:``, ``shm:`` or ``tcp:``.
        journal: A file that remembers accepted jobs, for when this process is killed.
        fsync: Whether a job is accepted only when it is on the disk, so that it survives a power
            failure as well.
        policy: How many jobs it holds, how often each is tried, and how long a worker may take.
        limits: Sizes, deadlines and how many may connect.
        allow: As for `aioipc.listen`.

    Raises:
        ResourceExhausted: The address is in use, or the journal, or the journal cannot be written.
        ValueError: The journal's name is empty.
        Others: As `aioipc.listen`.

    Cancellation:
        Undoes: nothing stays open.
    """
    known = check_limits(limits)
    check_allow(allow)
    if policy is not None and not isinstance(policy, Policy):
        raise TypeError(f"policy= is a Policy, not {type(policy).__name__}")
    if fsync and journal is None:
        raise ValueError("fsync=True needs journal=")
    path = None if journal is None else journal_path(journal)

    async def open_() -> QueueServer:
        broker = Broker(policy or Policy())
        file = None
        try:
            if path is not None:
                file = Journal(path, fsync=fsync)
                jobs, last_id = await file.open()
                broker.start_after(last_id)
                for job in jobs:
                    broker.restore(job)
            # Last, for who has connected is not to be sent away again.
            listener = await listen(address, codec=protocol, limits=known, allow=allow)
        except BaseException:
            if file is not None:
                await file.aclose()
            raise
        return QueueServer(listener, broker, file, known)

    return Opening(open_)
