"""Processes that cross each other: what one does between two steps of another."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from aioipc import BrokenBarrierError, ClosedError, sync
from aioipc.kernel.ledger import Ledger, Note, State
from aioipc.sync import _pump as pumps
from aioipc.sync import barrier as barriers
from tests.children import PATIENCE_S, Peers
from tests.links import steps
from tests.programs import program
from tests.scale import scaled
from tests.sync.contest import in_time, until

pytestmark = [pytest.mark.leaves_names, pytest.mark.asyncio]

ROUNDS = """
barrier = aioipc.sync.Barrier("x", 4)
for _ in range(int(sys.argv[1])):
    await barrier.wait()
barrier.close()
say("all of them")
"""


async def test_nobody_breaks_a_barrier_by_coming(peers: Peers) -> None:
    parties = [program(peers, ROUNDS, scaled(500, full=20_000)) for _ in range(4)]
    for party in parties:
        assert await party.next_line() == "all of them"


async def test_who_comes_between_two_looks_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = sync.Barrier("x", 3), sync.Barrier("x", 3)
    seats: list[object] = []
    note_at = barriers._Round.note_at

    def note_at_late(round_: Any, number: int) -> Note | None:
        if number > 0:  # ours is the first
            monkeypatch.undo()
            seats.append(theirs._sit_down())
        return note_at(round_, number)

    monkeypatch.setattr(barriers._Round, "note_at", note_at_late)
    waiting = asyncio.create_task(ours.wait())
    await steps(10)
    assert seats
    assert not waiting.done()
    async with in_time():
        await asyncio.gather(waiting, sync.Barrier("x", 3).wait())


async def test_who_has_not_left_yet_is_no_party_of_a_later_round() -> None:
    """His process is slow: he still has his seat when its row is used again."""
    late, *others = (sync.Barrier("x", 2) for _ in range(5))
    seat = late._sit_down()
    assert seat is not None
    async with in_time():
        await others[0].wait()
        await asyncio.gather(others[1].wait(), others[2].wait())
    alone = asyncio.create_task(others[3].wait())
    await steps(10)
    assert not alone.done()
    alone.cancel()
    await asyncio.wait([alone])
    seat.__exit__(None)


async def test_who_gives_up_without_a_descriptor_breaks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_each = [sync.Barrier("x", 3) for _ in range(2)]
    parties = [asyncio.create_task(each.wait()) for each in of_each]
    await steps(10)

    def pull(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("aioipc.kernel.lifeline.Lifeline.pull", pull)
        parties[0].cancel()
        await asyncio.wait([parties[0]])
    async with in_time():
        with pytest.raises(BrokenBarrierError):
            await parties[1]
    for each in of_each:
        each.close()


HEIR = """
from aioipc.sync import condition as conditions

begun = []

def killed_before_the_second(step):
    def counted(*arguments):
        begun.append(step)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)
    return counted

c = aioipc.sync.Condition("x")
async with c:
    say("waiting")
    if sys.argv[1] != "waits":
        conditions._grant = killed_before_the_second(conditions._grant)
        conditions.Lifeline.remove = killed_before_the_second(conditions.Lifeline.remove)
    if sys.argv[1] == "is cancelled":
        take_back = conditions.Condition._take_back
        async def take_back_cancelled(condition):
            guard, _ = await take_back(condition)
            return guard, asyncio.CancelledError()
        conditions.Condition._take_back = take_back_cancelled
    await c.wait()
    say("woken")
"""


@pytest.mark.parametrize("how", ["passes on", "is cancelled"])
async def test_killed_while_a_notification_is_passed_on(how: str, peers: Peers) -> None:
    condition = sync.Condition("x")
    waiters = []
    for manner in ("waits", how, "waits") if how == "passes on" else (how, "waits"):
        waiters.append(program(peers, HEIR, manner))
        assert await waiters[-1].next_line() == "waiting"
        async with condition:  # so it waits
            pass
    first, *_, last = waiters
    async with condition:
        if how == "passes on":
            first.signal(signal.SIGSTOP)
            last.signal(signal.SIGSTOP)  # else it may pass it on
            condition.notify()
            first.kill()
        else:
            condition.notify()
    async with in_time():
        assert await waiters[-2].ended() == -signal.SIGKILL
        last.signal(signal.SIGCONT)
        assert await last.next_line() == "woken"
    condition.close()


async def test_a_set_that_comes_late_does_not_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick, other = (sync.Event("x") for _ in range(3))
    note = Ledger.note

    def late(ledger: Ledger, place: int, state: State, *, number: int = 0) -> None:
        monkeypatch.undo()
        quick.set()
        other.clear()
        quick.set()
        note(ledger, place, state, number=number)

    monkeypatch.setattr(Ledger, "note", late)
    slow.set()
    assert other.is_set()
    other.clear()
    for event in (slow, quick, other):
        assert not event.is_set()
        event.close()


async def test_nothing_is_asked_about_keeping_it_while_others_are_here(
    monkeypatch: pytest.MonkeyPatch, runtime_dir: Path
) -> None:
    """Else they could note something between the answer and the removal."""
    asked = []

    def ask(event: sync.Event, _: object) -> bool:
        asked.append(event)
        return False

    monkeypatch.setattr(sync.Event, "_is_to_be_kept", ask)
    first, last = sync.Event("x"), sync.Event("x")
    last.set()
    assert first.is_set()
    first.close()
    assert not asked
    last.close()
    assert asked == [last]


async def test_a_thread_that_does_not_start_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    semaphore = sync.SysVSemaphore(None, 0)

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            await semaphore.acquire()
    waiting = asyncio.create_task(semaphore.acquire())
    await steps(10)
    semaphore._put()  # as another program does
    async with in_time():
        guard = await waiting
    guard.release()
    semaphore.remove()


async def test_a_permit_on_its_way_to_who_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """His loop ends right after that, so nobody may leave him something to do there."""
    semaphore = sync.SysVSemaphore(None, 0)
    call = pumps._call
    has_given_up = threading.Event()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(semaphore.acquire())

    def call_late(waiter: Any, *what: Any) -> bool:
        loop.call_soon_threadsafe(waiting.cancel)
        has_given_up.wait(0.2)  # which he can do only when this has returned
        return call(waiter, *what)

    async def give_up() -> None:
        await steps(10)
        monkeypatch.setattr(pumps, "_call", call_late)
        semaphore._put()  # as another program does
        await asyncio.wait([waiting])

    def run() -> None:
        loop.run_until_complete(give_up())
        has_given_up.set()
        loop.close()

    await asyncio.to_thread(run)
    assert waiting.cancelled()
    async with in_time():
        await until(lambda: semaphore.value == 1)
    semaphore.remove()


async def test_a_permit_for_a_loop_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    semaphore = sync.SysVSemaphore(None, 0)
    call = pumps._call
    was_handed_over = threading.Event()

    def call_and_tell(*what: Any) -> bool:
        was_called = call(*what)
        was_handed_over.set()
        return was_called

    async def begin() -> asyncio.Task[sync.Guard]:
        waiting = asyncio.create_task(semaphore.acquire())
        await steps(10)
        monkeypatch.setattr(pumps, "_call", call_and_tell)
        return waiting

    def run() -> None:
        loop = asyncio.new_event_loop()
        waiting = loop.run_until_complete(begin())
        semaphore._put()  # as another program does
        assert was_handed_over.wait(PATIENCE_S)
        loop.close()
        del waiting
        gc.collect()

    await asyncio.to_thread(run)
    assert semaphore.value == 1
    semaphore.remove()


async def test_a_permit_that_comes_as_it_is_closed_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"/aioipc-crossing-{os.getpid()}"
    semaphore, other = (sync.PosixSemaphore(name, 0) for _ in range(2))
    other.unlink()
    grant = pumps._grant

    def grant_and_close(future: asyncio.Future[None]) -> None:
        grant(future)
        semaphore.close()

    waiting = asyncio.create_task(semaphore.acquire())
    await steps(10)
    monkeypatch.setattr(pumps, "_grant", grant_and_close)
    other._give()  # as another program does
    async with in_time():
        with pytest.raises(ClosedError):
            await waiting
    assert other.value == 1
    other.close()


async def test_a_permit_that_cannot_be_put_back_ends_the_waits_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that hands permits over is there for whoever waits next."""
    semaphore = sync.SysVSemaphore(None, 0)

    def fail(*_: object) -> bool:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(pumps, "_call", lambda *_: False)  # as for a loop that was closed
        patch.setattr(semaphore._pump, "_give_back", fail)
        given_up = asyncio.create_task(semaphore.acquire())
        await steps(10)
        semaphore._put()  # as another program does
        async with in_time():
            await until(lambda: semaphore._pump._thread is None)
    given_up.cancel()
    await asyncio.wait([given_up])
    waiting = asyncio.create_task(semaphore.acquire())
    await steps(10)
    semaphore._put()
    async with in_time():
        guard = await waiting
    guard.release()
    semaphore.remove()
