"""Whoever holds something and is killed gives it back, and the next one is told."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aioipc import BrokenBarrierError, sync
from aioipc.kernel.lifeline import Lifeline, Watch
from tests.children import PATIENCE_S, Peers
from tests.links import steps
from tests.programs import Nursery, program
from tests.scale import patience_s, scaled
from tests.sync.contest import KINDS, Room, in_time, is_running, until

KILLS = scaled(60, full=800)
EVERY_S = 0.01
NOTICED_S = 0.1

DOOMED = """
from pathlib import Path
from tests.sync.contest import KINDS, Room
subject = KINDS[sys.argv[1]](sys.argv[2])
room = Room(Path(sys.argv[3]), int(sys.argv[4]))
while True:
    async with subject:
        with room:
            await asyncio.sleep(0.002)
"""

HOLDS = """
from tests.sync.contest import KINDS
guard = await KINDS[sys.argv[1]](sys.argv[2]).acquire()
os.symlink("held", sys.argv[3])
await asyncio.sleep(3600)
"""


@pytest.mark.leaves_names
@pytest.mark.timeout(patience_s(30))
@pytest.mark.parametrize("kind", ["lock", "semaphore", "rwlock", "file"])
@pytest.mark.asyncio
async def test_never_two_owners(
    kind: str, runtime_dir: Path, tmp_path: Path, peers: Peers, chance: random.Random
) -> None:
    """One of four is killed every 10 ms; at the end all permits are there."""
    name, permits = f"{runtime_dir.name}-{kind}", 3 if kind == "semaphore" else 1
    nursery = Nursery(peers, DOOMED, kind, name, tmp_path, permits)
    running = [nursery.start() for _ in range(4)]
    for _ in range(KILLS):
        await asyncio.sleep(EVERY_S)
        victim = running.pop(chance.randrange(len(running)))
        assert is_running(victim), "a contender saw two owners"
        os.kill(victim, signal.SIGKILL)
        running.append(nursery.start())
    subject = KINDS[kind](name)
    async with in_time(5):
        async with subject:
            with Room(tmp_path, permits):
                pass
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        guards = [await subject.acquire() for _ in range(permits if kind == "semaphore" else 1)]
    for guard in guards:
        guard.mark_consistent()
        guard.release()
    subject.close()
    (runtime_dir.parent / f"{name}.locked").unlink(missing_ok=True)


@pytest.mark.leaves_names  # the killed may be here still when we leave
@pytest.mark.timeout(patience_s(30))
@pytest.mark.parametrize("kind", ["lock", "rwlock", "condition", "file", "semaphore"])
@pytest.mark.asyncio
async def test_a_death_is_noticed_in_time(
    kind: str, runtime_dir: Path, tmp_path: Path, peers: Peers
) -> None:
    name = f"{runtime_dir.name}-{kind}"
    nursery = Nursery(peers, HOLDS, kind, name)
    subject = KINDS[kind](name)
    took: list[float] = []
    for number in range(scaled(8, full=100)):
        others = [await subject.acquire() for _ in range(2 if kind == "semaphore" else 0)]
        flag = tmp_path / str(number)
        pid = nursery.start(flag)
        await exists(flag)
        if kind != "file":
            assert pid in [holder.pid for holder in subject.holders()]
            assert all(0 <= holder.held_s < 60 for holder in subject.holders())
        waiting = asyncio.create_task(acquired(subject))
        await steps(10)
        assert not waiting.done()
        start = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        async with in_time():
            owner_died, when = await waiting
        took.append(when - start)
        assert owner_died == (kind != "file")
        for guard in others:
            guard.release()
    # Of each the machine may take some for itself.
    assert statistics.median(took) < NOTICED_S
    subject.close()
    (runtime_dir.parent / f"{name}.locked").unlink(missing_ok=True)


async def exists(path: Path) -> None:
    await until(lambda: os.path.lexists(path))


async def acquired(subject: sync.Lock) -> tuple[bool, float]:
    guard = await subject.acquire()
    when = time.monotonic()
    owner_died = guard.owner_died
    guard.mark_consistent()
    guard.release()
    return owner_died, when


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_until_somebody_says_that_all_is_well(peers: Peers, tmp_path: Path) -> None:
    holder = program(peers, HOLDS, "lock", "x", tmp_path / "held")
    await exists(tmp_path / "held")
    holder.kill()
    for _ in range(2):
        async with sync.Lock("x") as guard:
            assert guard.owner_died
    async with sync.Lock("x") as guard:
        assert guard.owner_died
        guard.mark_consistent()
    async with sync.Lock("x") as guard:
        assert not guard.owner_died


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_readers_are_told_of_a_writer(peers: Peers, tmp_path: Path) -> None:
    holder = program(peers, HOLDS, "rwlock", "x", tmp_path / "held")
    await exists(tmp_path / "held")
    holder.kill()
    lock = sync.RWLock("x")
    async with lock.reading() as guard:
        assert guard.owner_died
    async with lock.writing() as guard:
        assert guard.owner_died
        guard.mark_consistent()
    async with lock.reading() as guard:
        assert not guard.owner_died
    lock.close()


@pytest.mark.asyncio
async def test_what_is_left_of_a_file_lock_goes_with_the_next(
    peers: Peers, runtime_dir: Path, tmp_path: Path
) -> None:
    """Nobody need ever lock the same file again."""
    holder = program(peers, HOLDS, "file", tmp_path.name, tmp_path / "held")
    await exists(tmp_path / "held")
    holder.kill()
    await holder.ended()
    (left,) = (runtime_dir / "sync" / "file").iterdir()
    kept = sync.FileLock(tmp_path / "kept")
    guard = await kept.acquire()  # by a process that may have been here before
    code = "async with aioipc.sync.FileLock(sys.argv[1]): say(*os.listdir(sys.argv[2]))"
    other = program(peers, code, tmp_path / "other", left.parent)
    assert len((await other.next_line()).split()) == 2
    assert await other.ended() == 0
    assert not left.exists()
    assert len(os.listdir(left.parent)) == 1  # it is held
    guard.release()
    kept.close()
    (runtime_dir.parent / f"{tmp_path.name}.locked").unlink()


WAITS = """
condition = aioipc.sync.Condition("x")
async with condition:
    say("waiting")
    await condition.wait()
    say("woken")
"""


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_killed_between_notify_and_wake(peers: Peers) -> None:
    """The first waiter is stopped, notified and killed: the second one gets it."""
    first = program(peers, WAITS)
    assert await first.next_line() == "waiting"
    condition = sync.Condition("x")
    async with condition:  # so it waits
        pass
    second = program(peers, WAITS)
    assert await second.next_line() == "waiting"
    async with condition:
        first.signal(signal.SIGSTOP)
        condition.notify()
    first.kill()
    async with in_time():
        assert await second.next_line() == "woken"
        assert await second.ended() == 0
    condition.close()


def before_listening(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen at the last moment before somebody here listens to a bell."""
    listen = Lifeline.listen

    def listen_late(lifeline: Lifeline) -> Watch:
        monkeypatch.undo()
        act()
        return listen(lifeline)

    monkeypatch.setattr(Lifeline, "listen", listen_late)


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_killed_after_a_notification_that_nobody_heard(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waiter is notified before the second one listens, and killed afterwards."""
    first = program(peers, WAITS)
    assert await first.next_line() == "waiting"
    notifying, condition = sync.Condition("x"), sync.Condition("x")
    async with notifying:  # so it waits
        first.signal(signal.SIGSTOP)

    def notify() -> None:
        guard = notifying.acquire_nowait()
        notifying.notify()
        guard.release()

    async def second() -> None:
        async with condition:
            await condition.wait()

    before_listening(monkeypatch, notify)
    waiting = asyncio.create_task(second())
    await steps(10)
    assert not waiting.done()
    first.kill()
    async with in_time():
        await waiting
    condition.close()
    notifying.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_the_dead_are_not_notified(peers: Peers) -> None:
    first, second = program(peers, WAITS), None
    assert await first.next_line() == "waiting"
    condition = sync.Condition("x")
    async with condition:
        pass
    second = program(peers, WAITS)
    assert await second.next_line() == "waiting"
    first.kill()
    async with condition:
        condition.notify()
    async with in_time():
        assert await second.next_line() == "woken"
        assert await second.ended() == 0
    condition.close()


AT_BARRIER = """
barrier = aioipc.sync.Barrier("x", 3)
say("coming")
try:
    await barrier.wait()
    say("passed")
except aioipc.BrokenBarrierError:
    say("broken")
barrier.close()
"""


@pytest.mark.parametrize("party", ["first", "second"])
@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_killed_at_the_barrier(party: str, peers: Peers) -> None:
    barrier = sync.Barrier("x", 3)
    parties = []
    for count in (1, 2):
        parties.append(program(peers, AT_BARRIER))
        assert await parties[-1].next_line() == "coming"
        await until(lambda: barrier.n_waiting() == count)  # noqa: B023 - called here
    victim, other = parties if party == "first" else reversed(parties)
    victim.kill()
    start = time.monotonic()
    assert await other.next_line() == "broken"
    assert time.monotonic() - start < 1
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()
    await other.ended()
    barrier.reset()
    parties = [program(peers, AT_BARRIER) for _ in range(2)]
    async with in_time():
        await barrier.wait()
    for each in parties:
        assert each.rest() == "coming\npassed\n"
    barrier.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_killed_at_the_barrier_to_which_nobody_heard_him_come(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes before the other one listens, and is killed afterwards."""
    barrier = sync.Barrier("x", 3)
    other = program(peers, "await hear()" + AT_BARRIER)

    def come() -> None:
        other.tell()
        assert other.line() == "coming"
        deadline = time.monotonic() + PATIENCE_S
        while barrier.n_waiting() < 2:
            assert time.monotonic() < deadline

    before_listening(monkeypatch, come)
    waiting = asyncio.create_task(barrier.wait())
    await steps(10)
    assert not waiting.done()
    other.kill()
    with pytest.raises(BrokenBarrierError):
        async with in_time():
            await waiting
    barrier.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_who_comes_after_the_only_one_died(peers: Peers) -> None:
    barrier = sync.Barrier("x", 3)
    lonely = program(peers, AT_BARRIER)
    await until(lambda: barrier.n_waiting() == 1)
    lonely.kill()
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()
    barrier.close()


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_a_set_event_outlives_who_set_it(peers: Peers) -> None:
    event = sync.Event("x")
    waiting = asyncio.create_task(event.wait())
    setter = program(peers, "aioipc.sync.Event('x').set(); os.kill(os.getpid(), 9)")
    async with in_time():
        await waiting
    await setter.ended()
    event.close()
    event = sync.Event("x")
    assert event.is_set()
    event.clear()
    event.close()


@pytest.mark.asyncio
async def test_writers_do_not_starve(runtime_dir: Path) -> None:
    """Readers come without a gap; a writer gets his turn, and so do readers after him."""
    locks = [sync.RWLock("x") for _ in range(4)]
    stop = False

    async def read(lock: sync.RWLock, others: list[int]) -> None:
        while not stop:
            async with lock.reading():
                others.append(1)
                await asyncio.sleep(0.002)

    reads: list[int] = []
    readers = [asyncio.create_task(read(lock, reads)) for lock in locks[1:]]
    async with in_time():
        for _ in range(20):
            async with locks[0].writing():
                before = len(reads)
                await asyncio.sleep(0)
                assert len(reads) == before
            await until(lambda: len(reads) > before)  # noqa: B023 - called here
        stop = True
        await asyncio.gather(*readers)
    for lock in locks:
        lock.close()
