"""The work queue as a state machine: requests and the time in, what to say and to write down out.

There is no await and no clock in here, and nothing that is lost by an exception: each method checks
before it changes anything. Times are seconds of any clock that only goes forward.

A job is *ready* until a worker that asked is given it. There it is *fetched* while the worker is
busy with others that it was given before, and *leased* from then on, until the worker says that it
is done, says that it failed, dies, or lets the lease run out. Only that counts as an attempt. A job
that was tried too often, or that nobody took in time, is *dead*: kept aside, for somebody to look
at.
"""

from __future__ import annotations

import collections
import enum
import heapq
import math
import numbers
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aioipc.limits import check_count

__all__ = ["PRIORITIES", "Broker", "Counters", "Death", "Give", "Job", "Policy", "State"]

Worker = Hashable
"""Who takes jobs: one connection."""


K = TypeVar("K", float, tuple[int, int])

_LEAST_STALE: Final = 1_000
"""How much of a heap may be over before that is looked for."""

PRIORITIES: Final = range(-(2**31), 2**31)
"""Which priorities a job may have."""


class State(enum.Enum):
    """Where a job is."""

    READY = "ready"
    FETCHED = "fetched"
    LEASED = "leased"
    DEAD = "dead"
    GONE = "gone"


class Death(enum.StrEnum):
    """Why a job is dead."""

    FAILED = "failed"
    """The worker said so, the last time that was allowed."""
    LOST = "lost"
    """The worker died or took too long, the last time that was allowed."""
    EXPIRED = "expired"
    """Nobody took it in time."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a queue treats its jobs.

    Attributes:
        max_jobs: How many jobs it holds, ready and leased; more of them wait outside.
        max_attempts: How often a job may be begun; not counted is what an orderly end of the server
            cut short.
        max_dead: How many dead jobs are kept; the oldest go.
        lease_s: How long a worker may have a job; None for as long as it lives.
    """

    max_jobs: int = 10_000
    max_attempts: int = 5
    max_dead: int = 1_000
    lease_s: float | None = None

    def __post_init__(self) -> None:
        check_count("max_jobs", self.max_jobs, 1)
        check_count("max_attempts", self.max_attempts, 1)
        check_count("max_dead", self.max_dead, 0)
        if self.lease_s is not None:
            _check_lease(self.lease_s)


def _check_lease(lease_s: object) -> None:
    """Refuse what cannot be added to a time.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.
    """
    if isinstance(lease_s, bool) or not isinstance(lease_s, numbers.Real):
        raise TypeError(
            f"lease_s must be an int or a float, not {lease_s!r} of type {type(lease_s).__name__}"
        )
    try:
        duration_s = float(lease_s)
    except OverflowError:
        raise ValueError("lease_s is longer than a float can say") from None
    if not duration_s > 0:  # nor NaN
        raise ValueError(f"lease_s must be more than 0, not {duration_s:g}")


@dataclass(slots=True, eq=False)
class Job:
    """One job.

    Attributes:
        id: Its number; later jobs have higher ones.
        body: What the producer's codec wrote.
        priority: More urgent jobs are given out first.
        expires_s: When it is too late to give it out for the first time; None for never.
        attempts: How often a worker began with it, or may have.
        state: Where it is.
        worker: Who has it, while it is fetched or leased.
        death: Why it is dead.
        reason: What the worker said.
        spared: How many of the attempts the server itself cut short.
    """

    id: int
    body: bytes
    priority: int = 0
    expires_s: float | None = None
    attempts: int = 0
    state: State = State.READY
    worker: Worker | None = None
    lease_ends_s: float | None = None
    death: Death | None = None
    reason: str = ""
    spared: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among those that are ready."""
        return -self.priority, self.id


@dataclass(frozen=True, slots=True)
class Give:
    """Hand this job to this worker."""

    worker: Worker
    job: Job
    attempt: int


@dataclass(slots=True)
class Counters:
    """What has happened since the queue was opened."""

    accepted: int = 0
    given: int = 0
    redelivered: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    expired: int = 0
    dead_dropped: int = 0


@dataclass(slots=True)
class _Asking:
    jobs: int = 0
    too_long: float = math.inf
    """How many bytes are too many for it, as far as is known."""
    most_begun: float = math.inf
    """How many jobs it works on at a time, at most: those that it was given first."""
    begun: dict[int, Job] = field(default_factory=dict)
    fetched: collections.OrderedDict[int, Job] = field(default_factory=collections.OrderedDict)
    overdue: set[int] = field(default_factory=set)
    """What it still works on, though the lease has run out."""

    @property
    def can_begin(self) -> bool:
        return len(self.begun) + len(self.overdue) < self.most_begun

    @property
    def is_stuck(self) -> bool:
        """Whether all that it works on is overdue: what it has beside may never be begun."""
        return len(self.overdue) >= self.most_begun

    def take_back(self, job_id: int) -> Job | None:
        self.overdue.discard(job_id)
        return self.begun.pop(job_id, None) or self.fetched.pop(job_id, None)


class Broker:
    """All jobs of one queue, and who works on them.

    Args:
        policy: How it treats them.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.counters = Counters()
        self.jobs: dict[int, Job] = {}
        """Ready and leased ones."""
        self.dead: collections.OrderedDict[int, Job] = collections.OrderedDict()
        self._last_id = 0
        # Heaps of numbers of jobs. They keep what is over until it comes to the top, or is most.
        self._ready: list[tuple[tuple[int, int], int]] = []
        self._n_ready = 0
        self._expiring: list[tuple[float, int]] = []
        self._leases: list[tuple[float, int]] = []
        self._workers: dict[Worker, _Asking] = {}
        self._turns: collections.deque[Worker] = collections.deque()
        """Who asked for jobs, each once, in the order of their turns."""
        self._beginning: dict[Worker, None] = {}
        """Who may go on with what it has fetched."""
        self._revoked: list[tuple[Worker, int]] = []
        self._written: dict[int, Job] = {}

    # Producers

    @property
    def has_room(self) -> bool:
        """Whether another job can be put in."""
        return len(self.jobs) < self.policy.max_jobs

    def put(self, body: bytes, *, priority: int = 0, expires_s: float | None = None) -> Job:
        """Take a job in. The caller has asked `has_room`."""
        assert self.has_room, "asked before"
        self._last_id += 1
        job = Job(self._last_id, body, priority, expires_s)
        self.counters.accepted += 1
        self._admit(job)
        self._write(job)
        return job

    def retract(self, job: Job) -> None:
        """Forget a job that was put in just now, though it may have been given out: it never was.

        The worker that was to have it is still waiting for one.
        """
        worker, state = job.worker, job.state
        if state is State.GONE:  # it was given out, and its worker is done with it
            return
        self.counters.accepted -= 1
        job.state = State.GONE
        if state is State.DEAD:
            del self.dead[job.id]
            return
        del self.jobs[job.id]
        if state is State.READY:
            self._n_ready -= 1
        elif worker is not None:
            self._take_back(worker, job.id)
            self.counters.given -= state is State.LEASED
            self.ask(worker, 1)

    def write_again(self, jobs: Iterable[Job]) -> None:
        """What `take_written` gave could not be written: it is still to be."""
        self._written = {**{job.id: job for job in jobs}, **self._written}

    def start_after(self, last_id: int) -> None:
        """Give only numbers above this one: lower ones were given already."""
        self._last_id = max(self._last_id, last_id)

    def restore(self, job: Job) -> None:
        """Take back a job from the journal, before anything else. One that was leased is ready."""
        self._last_id = max(self._last_id, job.id)
        if job.state is State.DEAD:
            self._keep_dead(job)
            return
        if job.state is State.LEASED:
            self.counters.lost += 1
            if self._is_last_attempt(job):
                job.reason = "the server ended while a worker had it"
                self._bury(job, Death.LOST)
                return
        self._admit(job)

    # Workers

    def ask(self, worker: Worker, jobs: int) -> None:
        """A worker wants so many more jobs."""
        asking = self._workers.setdefault(worker, _Asking())
        if not asking.jobs:
            self._turns.append(worker)
        asking.jobs += jobs

    def unask(self, worker: Worker, jobs: int) -> None:
        """A worker wants so many fewer: as many as were not given to it yet."""
        if worker in self._workers:
            asking = self._workers[worker]
            was_asking, asking.jobs = asking.jobs, max(0, asking.jobs - jobs)
            if was_asking and not asking.jobs:
                self._turns.remove(worker)

    def work_on(self, worker: Worker, jobs: int) -> None:
        """A worker works on so many jobs at a time at most, in the order in which it gets them.

        Of one that does not say so, nobody knows what it has begun: all that it has. Fewer than it
        said before make no difference.
        """
        asking = self._workers.setdefault(worker, _Asking())
        known = 0 if asking.most_begun == math.inf else asking.most_begun
        asking.most_begun = max(jobs, known)
        self._beginning[worker] = None

    def holds(self, worker: Worker, job_id: int) -> bool:
        """Whether a worker has this job now."""
        asking = self._workers.get(worker)
        return asking is not None and (job_id in asking.begun or job_id in asking.fetched)

    def done(self, worker: Worker, job_id: int) -> bool:
        """A worker has done a job; False if it does not have it any more."""
        job = self._take_back(worker, job_id)
        if job is None:
            return False
        self.counters.done += 1
        self._forget(job)
        return True

    def fail(self, worker: Worker, job_id: int, reason: str = "") -> bool:
        """A worker could not do a job; False if it does not have it any more."""
        job = self._take_back(worker, job_id)
        if job is None:
            return False
        self.counters.failed += 1
        if job.state is State.FETCHED:  # it was begun all the same
            self._begin(job)
        self._again(job, Death.FAILED, reason)
        return True

    def give_back(self, worker: Worker, job_id: int) -> bool:
        """A worker did not begin with a job; False if it does not have it any more."""
        job = self._take_back(worker, job_id)
        if job is None:
            return False
        if job.state is State.LEASED:
            self._unbegin(job)
        self._return(job)
        return True

    def too_long(self, worker: Worker, job_id: int) -> None:
        """A job is longer than its worker takes: it is for others, and so are longer ones."""
        job = self.jobs.get(job_id)
        if job is not None and self.give_back(worker, job_id):
            asking = self._workers[worker]
            asking.too_long = min(asking.too_long, len(job.body))
            self.ask(worker, 1)

    def lose(self, worker: Worker) -> None:
        """A worker is gone, with all that it had."""
        asking = self._workers.pop(worker, None)
        if asking is None:
            return
        if asking.jobs:
            self._turns.remove(worker)
        self._beginning.pop(worker, None)
        for job in asking.begun.values():
            self.counters.lost += 1
            self._again(job, Death.LOST, "the worker is gone")
        self._return_fetched(asking)

    def spare(self) -> None:
        """The server is about to close: what workers have is for others, and costs no attempt."""
        for asking in self._workers.values():
            for job in (*asking.begun.values(), *asking.fetched.values()):
                job.spared += job.state is State.LEASED
                self._return(job)
        self._workers.clear()
        self._turns.clear()
        self._beginning.clear()

    # Time

    def advance(self, now_s: float) -> None:
        """Let expire what is over at this time."""
        while self._expiring and self._expiring[0][0] <= now_s:
            expires_s, number = heapq.heappop(self._expiring)
            job = self.jobs.get(number)
            if job is None or job.expires_s != expires_s:
                continue
            if job.state is State.READY and job.attempts == 0:
                self.counters.expired += 1
                self._bury(job, Death.EXPIRED)
        while self._leases and self._leases[0][0] <= now_s:
            ends_s, number = heapq.heappop(self._leases)
            job = self.jobs.get(number)
            if job is None or job.lease_ends_s != ends_s:
                continue
            if job.state is State.LEASED:
                self._lapse(job)

    def next_s(self) -> float | None:
        """When `advance` may have something to do; None if never."""
        times = [heap[0][0] for heap in (self._expiring, self._leases) if heap]
        return min(times, default=None)

    def give(self, now_s: float) -> Iterator[Give]:
        """Give ready jobs to those who asked: one after the other, each in turn."""
        self.advance(now_s)
        self._begin_with_fetched(now_s)
        waiting: list[Worker] = []
        while self._n_ready and self._turns:
            worker = self._turns.popleft()
            job = self._next_for(self._workers[worker])
            if job is None:
                waiting.append(worker)
            else:
                yield self._give_one(worker, job, now_s)
        self._turns.extendleft(reversed(waiting))

    # Dead jobs

    def revive(self, job_id: int) -> bool:
        """Give a dead job all its attempts again; False if it is not there, or there is no room."""
        if job_id not in self.dead or not self.has_room:
            return False
        job = self.dead.pop(job_id)
        job.attempts, job.spared, job.death, job.reason, job.expires_s = 0, 0, None, "", None
        self._return(job, is_new=True)
        return True

    def drop_dead(self, job_id: int) -> bool:
        """Forget a dead job; False if it is not there."""
        job = self.dead.pop(job_id, None)
        if job is None:
            return False
        job.state = State.GONE
        self._write(job)
        return True

    # Facts

    @property
    def ready(self) -> int:
        """How many jobs wait for a worker."""
        return self._n_ready

    @property
    def leased(self) -> int:
        """How many jobs a worker has, those that it has fetched included."""
        return len(self.jobs) - self._n_ready

    def take_written(self) -> list[Job]:
        """What has changed since the last time: jobs to keep as they are, or to forget (GONE)."""
        written, self._written = self._written, {}
        return list(written.values())

    def take_revoked(self) -> list[tuple[Worker, int]]:
        """Which workers are not to begin with what they have fetched, since the last time."""
        revoked, self._revoked = self._revoked, []
        return revoked

    # Below

    def _admit(self, job: Job) -> None:
        self.jobs[job.id] = job
        job.state, job.worker, job.lease_ends_s = State.READY, None, None
        self._n_ready += 1
        self._push(self._ready, (job.rank, job.id))
        if job.expires_s is not None and job.attempts == 0:
            self._push(self._expiring, (job.expires_s, job.id))

    def _push(self, heap: list[tuple[K, int]], place: tuple[K, int]) -> None:
        heapq.heappush(heap, place)
        if len(heap) > 2 * len(self.jobs) + _LEAST_STALE:
            heap[:] = [each for each in heap if each[-1] in self.jobs]
            heapq.heapify(heap)

    def _return(self, job: Job, *, is_new: bool = False) -> None:
        if not is_new:
            del self.jobs[job.id]
        self._admit(job)
        self._write(job)

    def _next_for(self, asking: _Asking) -> Job | None:
        """The first job that is ready and not too long, out of the line."""
        passed = []
        found = None
        while self._ready and found is None and not asking.is_stuck:
            place = heapq.heappop(self._ready)
            job = self.jobs.get(place[-1])
            if job is None or job.state is not State.READY:
                continue
            if len(job.body) < asking.too_long:
                found = job
            else:
                passed.append(place)
        for place in passed:
            heapq.heappush(self._ready, place)
        return found

    def _give_one(self, worker: Worker, job: Job, now_s: float) -> Give:
        asking = self._workers[worker]
        asking.jobs -= 1
        if asking.jobs:
            self._turns.append(worker)
        job.worker = worker
        self._n_ready -= 1
        if asking.can_begin:
            self._lease(asking, job, now_s)
            return Give(worker, job, job.attempts)
        asking.fetched[job.id] = job
        job.state = State.FETCHED
        return Give(worker, job, job.attempts + 1)

    def _begin_with_fetched(self, now_s: float) -> None:
        """Workers that are done with a job go on with the next that they have."""
        beginning, self._beginning = self._beginning, {}
        for worker in beginning:
            asking = self._workers[worker]
            while asking.fetched and asking.can_begin:
                _, job = asking.fetched.popitem(last=False)
                self._lease(asking, job, now_s)

    def _lease(self, asking: _Asking, job: Job, now_s: float) -> None:
        asking.begun[job.id] = job
        self._begin(job)
        if self.policy.lease_s is not None:
            job.lease_ends_s = now_s + self.policy.lease_s
            self._push(self._leases, (job.lease_ends_s, job.id))
        self._write(job)

    def _begin(self, job: Job) -> None:
        job.state = State.LEASED
        job.attempts += 1
        self.counters.given += 1
        if job.attempts > 1:
            self.counters.redelivered += 1

    def _unbegin(self, job: Job) -> None:
        job.attempts -= 1
        self.counters.given -= 1
        if job.attempts:
            self.counters.redelivered -= 1

    def _lapse(self, job: Job) -> None:
        worker = job.worker
        asking = self._workers[worker]
        self._take_back(worker, job.id)
        self.counters.lost += 1
        self._again(job, Death.LOST, "the lease ran out")
        if asking.most_begun < math.inf:
            asking.overdue.add(job.id)
        if asking.is_stuck:
            self._revoked += [(worker, number) for number in asking.fetched]
            self._return_fetched(asking)

    def _return_fetched(self, asking: _Asking) -> None:
        while asking.fetched:
            _, job = asking.fetched.popitem(last=False)
            self._return(job)

    def _take_back(self, worker: Worker, job_id: int) -> Job | None:
        asking = self._workers.get(worker)
        if asking is None:
            return None
        job = asking.take_back(job_id)
        if asking.fetched:
            self._beginning[worker] = None
        if job is not None:
            job.worker = job.lease_ends_s = None
        return job

    def _is_last_attempt(self, job: Job) -> bool:
        return job.attempts - job.spared >= self.policy.max_attempts

    def _again(self, job: Job, death: Death, reason: str) -> None:
        job.worker, job.lease_ends_s, job.reason = None, None, reason
        if self._is_last_attempt(job):
            self._bury(job, death)
        else:
            self._return(job)

    def _bury(self, job: Job, death: Death) -> None:
        if job.state is State.READY and job.id in self.jobs:
            self._n_ready -= 1
        self.jobs.pop(job.id, None)
        job.state, job.death = State.DEAD, death
        self._write(job)
        self._keep_dead(job)

    def _keep_dead(self, job: Job) -> None:
        self.dead[job.id] = job
        while len(self.dead) > self.policy.max_dead:
            _, oldest = self.dead.popitem(last=False)
            oldest.state = State.GONE
            self.counters.dead_dropped += 1
            self._write(oldest)

    def _forget(self, job: Job) -> None:
        del self.jobs[job.id]
        job.state = State.GONE
        self._write(job)

    def _write(self, job: Job) -> None:
        self._written[job.id] = job
