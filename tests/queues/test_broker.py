"""The pure state machine of a work queue, against a model that is too simple to be wrong."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioipc.queues._broker import Broker, Death, Job, Policy, State
from tests.scale import scaled

WORKERS = ["a", "b", "c"]
LEASE_S = 10.0


def gives(broker: Broker, now_s: float = 0.0) -> list[tuple[object, int, int]]:
    return [(give.worker, give.job.id, give.attempt) for give in broker.give(now_s)]


def test_priorities_and_then_age() -> None:
    broker = Broker(Policy())
    for priority in (0, 5, -3, 5, 0):
        broker.put(b"", priority=priority)
    broker.ask("a", 9)
    assert [job for _, job, _ in gives(broker)] == [2, 4, 1, 5, 3]


@pytest.mark.parametrize("fate", ["ready", "leased", "returned", "dead"])
def test_a_job_that_is_retracted_never_was(fate: str) -> None:
    broker = Broker(Policy(max_attempts=1 if fate == "dead" else 5))
    kept, retracted = broker.put(b"", priority=1), broker.put(b"")
    if fate != "ready":
        broker.ask("b", 2)
        gives(broker)
        assert broker.done("b", kept.id)
    if fate in ("returned", "dead"):
        broker.lose("b")
    broker.retract(retracted)
    assert (broker.leased, len(broker.dead)) == (0, 0)
    assert broker.ready == (fate == "ready")
    assert broker.counters.accepted == 1
    assert [job.state for job in broker.take_written() if job is retracted] == [State.GONE]
    broker.ask("c", 1)
    other = broker.put(b"")
    expected = {"ready": ("c", kept.id, 1), "leased": ("b", other.id, 1)}
    broker.advance(1e9)
    assert gives(broker)[0] == expected.get(fate, ("c", other.id, 1))


def test_a_job_that_was_done_meanwhile_is_not_retracted() -> None:
    broker = Broker(Policy())
    job = broker.put(b"")
    broker.ask("a", 1)
    gives(broker)
    assert broker.done("a", job.id)
    broker.retract(job)
    assert (broker.counters.accepted, broker.counters.done, broker.ready) == (1, 1, 0)


@pytest.mark.parametrize("policy", [Policy(max_jobs=1, lease_s=LEASE_S), Policy(max_jobs=1)])
def test_what_is_over_is_not_kept(policy: Policy) -> None:
    broker = Broker(policy)
    broker.ask("a", 10_000)
    for _ in range(10_000):
        job = broker.put(b"", expires_s=1e9)
        gives(broker)
        assert broker.done("a", job.id)
    assert max(len(broker._leases), len(broker._expiring), len(broker._ready)) < 2_000


def test_no_more_dead_jobs_come_back_than_are_kept() -> None:
    broker = Broker(Policy(max_attempts=1, max_dead=1))
    broker.restore(Job(1, b"", attempts=1, state=State.LEASED))
    broker.restore(Job(2, b"", attempts=1, state=State.DEAD, death=Death.FAILED))
    assert list(broker.dead) == [2]
    assert [(job.id, job.state) for job in broker.take_written()] == [(1, State.GONE)]


def test_a_job_that_was_revived_does_not_expire() -> None:
    broker = Broker(Policy(max_attempts=1))
    job = broker.put(b"", expires_s=5.0)
    broker.ask("a", 1)
    gives(broker)
    broker.lose("a")
    assert broker.revive(job.id)
    broker.advance(6.0)
    assert broker.ready == 1


def test_what_could_not_be_written_is_still_to_be() -> None:
    broker = Broker(Policy())
    first = broker.put(b"")
    written = broker.take_written()
    second = broker.put(b"")
    broker.write_again(written)
    assert broker.take_written() == [first, second]


def test_each_worker_in_its_turn() -> None:
    broker = Broker(Policy())
    for worker in WORKERS:
        broker.ask(worker, 2)
    for _ in range(6):
        broker.put(b"")
    assert [worker for worker, _, _ in gives(broker)] == ["a", "b", "c", "a", "b", "c"]


def test_a_failed_job_keeps_its_place_and_counts() -> None:
    broker = Broker(Policy(max_attempts=2))
    first, second = broker.put(b"1"), broker.put(b"2")
    broker.ask("a", 1)
    assert gives(broker) == [("a", first.id, 1)]
    assert broker.fail("a", first.id, "no")
    broker.ask("b", 2)
    assert gives(broker) == [("b", first.id, 2), ("b", second.id, 1)]
    broker.lose("b")
    assert first.state is State.DEAD
    assert first.death is Death.LOST
    assert second.state is State.READY
    assert (broker.counters.redelivered, broker.counters.failed, broker.counters.lost) == (1, 1, 2)
    assert broker.revive(first.id)
    assert not broker.revive(first.id)
    broker.ask("c", 2)
    assert gives(broker) == [("c", first.id, 1), ("c", second.id, 2)]


def test_a_lease_runs_out() -> None:
    broker = Broker(Policy(lease_s=LEASE_S))
    job = broker.put(b"")
    broker.ask("a", 1)
    broker.ask("b", 1)
    assert gives(broker) == [("a", job.id, 1)]
    assert broker.next_s() == LEASE_S
    assert gives(broker, LEASE_S) == [("b", job.id, 2)]
    assert not broker.done("a", job.id)
    assert broker.done("b", job.id)
    assert broker.jobs == {}


def test_a_job_that_nobody_took_in_time() -> None:
    broker = Broker(Policy(max_dead=1))
    late, later = broker.put(b"", expires_s=1), broker.put(b"", expires_s=2)
    broker.ask("a", 1)
    assert gives(broker, 3) == []
    assert (late.state, later.state, later.death) == (State.GONE, State.DEAD, Death.EXPIRED)
    assert (broker.counters.expired, broker.counters.dead_dropped) == (2, 1)


def test_a_job_that_was_begun_does_not_expire() -> None:
    broker = Broker(Policy())
    job = broker.put(b"", expires_s=1)
    broker.ask("a", 1)
    assert gives(broker) == [("a", job.id, 1)]
    broker.lose("a")
    broker.ask("b", 1)
    assert gives(broker, 5) == [("b", job.id, 2)]


@pytest.mark.parametrize(
    "wrong", [{"max_jobs": 0}, {"max_attempts": 0}, {"max_dead": -1}, {"lease_s": 0}]
)
def test_policies_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be"):
        Policy(**wrong)


class Model(RuleBasedStateMachine):
    """Every job is in one place, and what a journal would say is enough to begin again."""

    policy = Policy(max_jobs=6, max_attempts=3, max_dead=3, lease_s=LEASE_S)

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.broker = Broker(self.policy)
        self.held: dict[int, str] = {}
        self.lease_ends_s: dict[int, float] = {}
        """Of those that were begun."""
        self.at_a_time = dict.fromkeys(WORKERS, math.inf)
        self.overdue: dict[str, set[int]] = {worker: set() for worker in WORKERS}
        self.attempts: dict[int, int] = {}
        self.spared: dict[int, int] = {}
        self.settled: set[int] = set()
        self.accepted: set[int] = set()
        self.journal: dict[int, tuple[object, ...]] = {}

    @precondition(lambda self: self.broker.has_room)
    @rule(priority=st.integers(-2, 2), ttl_s=st.none() | st.floats(0.5, 20))
    def put(self, priority: int, ttl_s: float | None) -> None:
        expires_s = None if ttl_s is None else self.now_s + ttl_s
        job = self.broker.put(b"x", priority=priority, expires_s=expires_s)
        assert job.id not in self.accepted, "each number once"
        self.accepted.add(job.id)
        self.attempts[job.id] = self.spared[job.id] = 0

    @rule(
        worker=st.sampled_from(WORKERS),
        jobs=st.integers(1, 4),
        at_a_time=st.none() | st.integers(1, 3),
    )
    def ask(self, worker: str, jobs: int, at_a_time: int | None) -> None:
        if at_a_time is not None:
            self.broker.work_on(worker, at_a_time)
            before = self.at_a_time[worker]
            self.at_a_time[worker] = at_a_time if before == math.inf else max(at_a_time, before)
        self.broker.ask(worker, jobs)

    @rule(worker=st.sampled_from(WORKERS), jobs=st.integers(1, 3))
    def unask(self, worker: str, jobs: int) -> None:
        self.broker.unask(worker, jobs)

    @invariant()
    def give(self) -> None:
        """As the server does after each batch."""
        self._lapse()
        for number in self.held:
            self._begin(number)
        for give in self.broker.give(self.now_s):
            job, worker = give.job, str(give.worker)
            assert job.id not in self.settled, "a job that was done is never given again"
            assert job.id not in self.held, "a job is given to one worker"
            assert not self._is_stuck(worker)
            assert give.attempt == self.attempts[job.id] + 1
            assert give.attempt - self.spared[job.id] <= self.policy.max_attempts
            self.held[job.id] = worker
            self._begin(job.id)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        worker, number = self._settled(data)
        held = self.broker.done(worker, number)
        assert held == (self.held.get(number) == worker)
        self.overdue[worker].discard(number)
        if held:
            self._drop(number)
            self.settled.add(number)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), begun=st.booleans())
    def not_done(self, data: st.DataObject, begun: bool) -> None:
        worker, number = self._settled(data)
        act = self.broker.fail if begun else self.broker.give_back
        held = act(worker, number)
        assert held == (self.held.get(number) == worker)
        self.overdue[worker].discard(number)
        if held:
            self.attempts[number] += begun - self._drop(number)

    @rule(worker=st.sampled_from(WORKERS))
    def lose(self, worker: str) -> None:
        self.broker.lose(worker)
        for number, who in list(self.held.items()):
            if who == worker:
                self._drop(number)
        self._forget(worker)

    @rule(seconds=st.floats(0.1, 15))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self._lapse()

    @precondition(lambda self: self.broker.dead)
    @rule(data=st.data(), forget=st.booleans())
    def look_at_the_dead(self, data: st.DataObject, forget: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.broker.dead)))
        if forget:
            assert self.broker.drop_dead(number)
            self.settled.add(number)
        elif self.broker.revive(number):
            self.attempts[number] = self.spared[number] = 0

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        """Killed or closed, and started again, with what the journal knows."""
        if not killed:
            self.broker.spare()
            for number in self.held:
                self.spared[number] += number in self.lease_ends_s
        self._write()
        self.broker = Broker(self.policy)
        self.broker.start_after(max(self.accepted, default=0))
        for row in self.journal.values():
            self.broker.restore(Job(*row))  # type: ignore[arg-type]
        for number in list(self.held):
            self._drop(number)
        for worker in WORKERS:
            self._forget(worker)

    def _settled(self, data: st.DataObject) -> tuple[str, int]:
        """What a worker says a word about: a job that it has, had or never had."""
        if data.draw(st.booleans()) and self.held:
            number = data.draw(st.sampled_from(sorted(self.held)))
            return self.held[number], number
        known = st.sampled_from(sorted(self.accepted))
        return data.draw(st.sampled_from(WORKERS)), data.draw(known)

    def _begin(self, number: int) -> None:
        """Begin with a job that was given, if its worker works on few enough."""
        worker = self.held[number]
        begun = sum(self.held[other] == worker for other in self.lease_ends_s)
        can_begin = begun + len(self.overdue[worker]) < self.at_a_time[worker]
        if number not in self.lease_ends_s and can_begin:
            self.attempts[number] += 1
            self.lease_ends_s[number] = self.now_s + LEASE_S

    def _is_stuck(self, worker: str) -> bool:
        return len(self.overdue[worker]) >= self.at_a_time[worker]

    def _drop(self, number: int) -> bool:
        """A worker has a job no more; whether it had begun with it."""
        del self.held[number]
        return self.lease_ends_s.pop(number, None) is not None

    def _forget(self, worker: str) -> None:
        self.at_a_time[worker] = math.inf
        self.overdue[worker].clear()

    def _lapse(self) -> None:
        over = [number for number, at_s in self.lease_ends_s.items() if at_s <= self.now_s]
        revoked = []
        for number in over:
            worker = self.held[number]
            self._drop(number)
            if self.at_a_time[worker] < math.inf:
                self.overdue[worker].add(number)
        for number, worker in list(self.held.items()):
            if number not in self.lease_ends_s and self._is_stuck(worker):
                revoked.append((worker, number))
                self._drop(number)
        self.broker.advance(self.now_s)
        assert sorted(self.broker.take_revoked()) == sorted(revoked)

    def _write(self) -> None:
        for job in self.broker.take_written():
            if job.state is State.GONE:
                self.journal.pop(job.id, None)
                self.settled.add(job.id)
            else:
                row = (job.id, job.body, job.priority, job.expires_s, job.attempts, job.state)
                rest = (None, None, job.death, job.reason, job.spared)
                self.journal[job.id] = (*row, *rest)

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        self._write()
        alive, dead = set(self.broker.jobs), set(self.broker.dead)
        assert not alive & dead
        assert alive | dead == self.accepted - self.settled, "none is lost, none comes back"
        assert set(self.journal) == alive | dead
        assert len(dead) <= self.policy.max_dead
        assert len(alive) <= self.policy.max_jobs + len(WORKERS)
        assert self.broker.ready + self.broker.leased == len(alive)
        assert self.broker.leased == sum(
            self.broker.holds(worker, number) for worker in WORKERS for number in alive
        )


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=scaled(200, full=3_000), stateful_step_count=60)
