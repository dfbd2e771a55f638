"""How a round of a barrier ends: once, and in the same way for all who were there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from aioipc import BrokenBarrierError, BusyError, sync
from aioipc.kernel.lifeline import Hold, Lifeline
from aioipc.sync import barrier as barriers
from aioipc.sync._named import Place
from tests.children import Peers
from tests.links import steps
from tests.programs import program
from tests.sync.contest import in_time

pytestmark = [pytest.mark.leaves_names, pytest.mark.asyncio]

STOPS_WHILE_IT_DECIDES = """
from aioipc.sync import barrier as barriers

write = barriers._Word.write

def stopped(*arguments):
    say("deciding")
    os.kill(os.getpid(), signal.SIGSTOP)
    write(*arguments)

barriers._Word.write = stopped
barrier = aioipc.sync.Barrier("x", 3)
if sys.argv[1] == "comes":
    await barrier.wait()
else:
    barrier.reset()
say("done")
barrier.close()
"""


@pytest_asyncio.fixture
async def of_each() -> AsyncIterator[list[sync.Barrier]]:
    barriers = [sync.Barrier("x", 3) for _ in range(3)]
    yield barriers
    for each in barriers:
        each.close()


def before_it_is_written(monkeypatch: pytest.MonkeyPatch, step: Callable[[], object]) -> None:
    """Do something when somebody has decided, and not yet said so."""
    write = barriers._Word.write

    def late(word: barriers._Word, place: Place) -> None:
        monkeypatch.undo()
        step()
        write(word, place)

    monkeypatch.setattr(barriers._Word, "write", late)


def around_hold(
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    *,
    before: Callable[[], object] = tuple,
    after: Callable[[], object] = tuple,
) -> None:
    """Do something before and after somebody takes hold of a part of the barrier."""
    try_hold = Lifeline.try_hold

    def try_hold_amid(line: Lifeline, *, shared: bool = False) -> Hold | None:
        if not line.name.endswith(f"~{part}"):
            return try_hold(line, shared=shared)
        monkeypatch.undo()
        before()
        hold = try_hold(line, shared=shared)
        after()
        return hold

    monkeypatch.setattr(Lifeline, "try_hold", try_hold_amid)


async def test_who_gives_up_when_all_have_come_breaks_nothing(
    of_each: list[sync.Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    gives_up, waits, comes = of_each
    seat = gives_up._sit_down()
    assert seat is not None
    waiting = asyncio.create_task(waits.wait())
    await steps(10)
    before_it_is_written(monkeypatch, lambda: seat.__exit__(asyncio.CancelledError))
    async with in_time():
        assert {await comes.wait(), await waiting} == {1, 2}
        await asyncio.gather(*(each.wait() for each in of_each))  # what he noted is of before


async def test_nobody_passes_while_it_is_reset(
    of_each: list[sync.Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    seats = [of_each[0]._sit_down() for _ in range(2)]
    found: list[object] = []

    def come() -> None:
        seats.append(of_each[1]._sit_down())
        found.extend(seat.is_over() for seat in seats if seat is not None)

    before_it_is_written(monkeypatch, come)
    of_each[2].reset()
    assert found == [False] * 3
    for seat in seats:
        assert seat is not None
        with pytest.raises(BrokenBarrierError), seat:
            seat.is_over()
    async with in_time():
        await asyncio.gather(*(each.wait() for each in of_each))


async def test_who_looks_late_is_told_of_his_own_round(of_each: list[sync.Barrier]) -> None:
    broken = of_each[0]._sit_down()
    of_each[0].reset()
    passed = of_each[0]._sit_down()
    async with in_time():
        await asyncio.gather(*(each.wait() for each in of_each[1:]))
    for _ in range(3):
        of_each[2].reset()
    assert broken is not None
    assert passed is not None
    with pytest.raises(BrokenBarrierError), broken:
        broken.is_over()
    with passed:
        assert passed.is_over()
    async with in_time():
        await asyncio.gather(*(each.wait() for each in of_each))


async def test_two_decide_and_it_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = sync.Barrier("x", 2)
    first, second = barrier._sit_down(), barrier._sit_down()
    assert first is not None
    assert second is not None
    early: list[barriers._Seat | None] = []

    def decide() -> None:
        assert second.is_over()
        early.append(barrier._sit_down())

    around_hold(monkeypatch, "bell", before=decide)
    with first, second:
        assert first.is_over()
    assert early[0] is not None
    with early[0]:
        assert not early[0].is_over()
    barrier.close()


async def test_a_round_that_ends_before_somebody_sits_down(
    of_each: list[sync.Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_pass() -> None:
        seats = [each._sit_down() for each in of_each]
        for seat in seats:
            assert seat is not None
            with seat:
                assert seat.is_over()

    around_hold(monkeypatch, "0.0", before=all_pass)
    late = of_each[0]._sit_down()
    assert late is not None
    with late:
        assert not late.is_over()


async def test_who_looks_for_a_seat_does_not_stand_for_who_died_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    barrier = sync.Barrier("x", 2)

    def come_and_die() -> None:
        seat = barrier._sit_down()
        assert seat is not None
        seat._hold.close()  # as the kernel does; what he noted stays

    def come() -> None:
        seat = barrier._sit_down()
        assert seat is not None
        with pytest.raises(BrokenBarrierError), seat:
            seat.is_over()

    around_hold(monkeypatch, "0.0", before=come_and_die, after=come)
    with pytest.raises(BrokenBarrierError):
        barrier._sit_down()
    barrier.close()


async def test_who_finds_no_seat_does_not_wake_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A party of an older round still has the seat: its process is stopped."""
    barrier = sync.Barrier("x", 1)
    stopped = barrier._sit_down()
    assert stopped is not None
    for _ in range(2):
        barrier.reset()
    looks = []
    sit_down = barriers._Round.sit_down

    def count(round_: barriers._Round) -> barriers._Seat | None:
        looks.append(round_)
        return sit_down(round_)

    monkeypatch.setattr(barriers._Round, "sit_down", count)
    waiting = [asyncio.create_task(barrier.wait()) for _ in range(2)]
    await steps(100)
    assert len(looks) <= 2 * len(waiting)
    stopped.__exit__(None)
    async with in_time():
        await asyncio.gather(*waiting)
    barrier.close()


@pytest.mark.parametrize("how", ["comes", "resets"])
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
async def test_who_decides_is_stopped(
    then: signal.Signals,
    how: str,
    of_each: list[sync.Barrier],
    peers: Peers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gives_up, waits, resets = of_each
    parties = [asyncio.create_task(each.wait()) for each in (gives_up, waits)]
    await steps(10)
    with monkeypatch.context() as patch:
        patch.setattr(Lifeline, "try_hold", lambda *_: None)  # else one of these may be quicker
        decides = program(peers, STOPS_WHILE_IT_DECIDES, how)
        assert await decides.next_line() == "deciding"
    parties[0].cancel()
    await asyncio.wait([parties[0]])
    with pytest.raises(BusyError, match="does not go on"):
        resets.reset()
    assert not parties[1].done()
    decides.signal(then)
    async with in_time():
        if then == signal.SIGCONT:
            assert await decides.next_line() == "done"
        if then == signal.SIGCONT and how == "comes":
            assert await parties[1] == 1
        else:
            with pytest.raises(BrokenBarrierError):
                await parties[1]
        await decides.ended()
    resets.reset()
    assert not resets.broken()
