"""The protocol of broadcast.h in every interleaving, and every known way to get it wrong."""

from __future__ import annotations

import dataclasses

import pytest

from tests.broadcast.protocol import Design, Load, scene
from tests.scale import SCALE, patience_s
from tests.verify.explorer import Memory, Order, explore
from tests.verify.waiting import assert_all_are_looked_for

HELD = Load(sizes=(1, 1, 1), masks=(1, 1, 1), capacity=2)
NARROW = Load(sizes=(1, 1, 1), masks=(1, 1, 1), capacity=1)
OVERRUN = Load(sizes=(1, 1, 1, 1), masks=(1, 1, 1, 1), capacity=2, holds=(False,))
TORN = Load(sizes=(2, 2, 2), masks=(1, 1, 1), capacity=2, holds=(False,))
OTHERS = Load(sizes=(1, 1, 1, 1), masks=(1, 0, 0, 1), capacity=2, holds=(False,))
HELD_BY_ONE = Load(sizes=(1, 1, 1), masks=(1, 0, 1), capacity=1)
BATCHES = Load(sizes=(1, 1, 1, 1), masks=(1, 1, 0, 1), capacity=3, batch=2)
LONG_BATCH = Load(sizes=(1, 1, 1, 1), masks=(1, 1, 1, 1), capacity=2, batch=4)
GENEROUS = Load(
    sizes=(1, 1, 1, 1, 1), masks=(1, 0, 1, 1, 1), capacity=2, holds=(False,), generous=1
)
STAYING = Load(sizes=(1, 1), masks=(1, 1), capacity=2, stays=True)
LAST_FOR_OTHERS = Load(sizes=(1, 1), masks=(1, 0), capacity=2, stays=True)
TWO = Load(sizes=(1, 1), masks=(3, 2), capacity=1, holds=(True, False))
BOTH_SLEEP = Load(sizes=(1,), masks=(3,), capacity=1, holds=(False, False), stays=True)
TWO_HOLD = Load(sizes=(1, 1), masks=(3, 3), capacity=1, holds=(True, True))
DOOMED_WRITER = dataclasses.replace(OVERRUN, killable=(0,))
DOOMED_READER = dataclasses.replace(NARROW, killable=(1,))
ALL_DOOMED = dataclasses.replace(NARROW, killable=(0, 1))

LOADS = {
    "held": HELD,
    "narrow": NARROW,
    "overrun": OVERRUN,
    "torn": TORN,
    "some for others": OTHERS,
    "held by one": HELD_BY_ONE,
    "batches": BATCHES,
    "long batch": LONG_BATCH,
    "generous": GENEROUS,
    "staying": STAYING,
    "the last for others": LAST_FOR_OTHERS,
    "writer killed": DOOMED_WRITER,
    "reader killed": DOOMED_READER,
    "both killed": ALL_DOOMED,
    "two who sleep": BOTH_SLEEP,
}

RELAXED, RELEASE, SEQ_CST = Order.RELAXED, Order.RELEASE, Order.SEQ_CST
SC, TSO, PSO = Memory.SC, Memory.TSO, Memory.PSO

SOUND = {
    "flag left set": (Design(flag_left_set=True), NARROW),
    "retires each": (Design(retires_each=True), NARROW),
    "waits without publishing": (Design(waits_without_publishing=True), BATCHES),
    "floor released": (Design(floor=RELEASE), OVERRUN),
    "counts relaxed": (Design(passed=RELAXED), OVERRUN),
    "data relaxed behind a floor that is not": (Design(data=RELAXED), TORN),
}

STUCK, UNSEEN = "ends with", "a header was believed"
TORN_ONE, MISCOUNTED, LOST = "a torn", "a wrong count", "a record was lost"

BUGS = {
    # The order of two accesses.
    "tail released only": (Design(tail=RELEASE), NARROW, TSO, STUCK),
    "tail relaxed": (Design(tail=RELAXED, data=RELAXED), HELD, PSO, UNSEEN),
    "sleeps released only": (Design(sleeps=RELEASE), NARROW, TSO, STUCK),
    "cursor released only": (Design(cursor=RELEASE), NARROW, TSO, STUCK),
    "wanted released only": (Design(wanted=RELEASE), NARROW, TSO, STUCK),
    "closed released only": (Design(closed=RELEASE), STAYING, TSO, STUCK),
    "floor and data relaxed": (Design(floor=RELAXED, data=RELAXED), OVERRUN, PSO, UNSEEN),
    "floor and counts relaxed": (Design(floor=RELAXED, passed=RELAXED), OVERRUN, PSO, MISCOUNTED),
    # Records that are written over.
    "floor after data": (Design(floor_after_data=True), OVERRUN, SC, UNSEEN),
    "floor never looked at": (Design(no_floor_check=True), OVERRUN, SC, UNSEEN),
    "floor looked at before the copy": (Design(floor_checked_before_copy=True), TORN, SC, TORN_ONE),
    "one count for both eras": (Design(one_count=True), OVERRUN, SC, MISCOUNTED),
    "count after the floor": (Design(count_after_floor=True), OVERRUN, SC, MISCOUNTED),
    "lands without a second look": (
        Design(lands_without_second_look=True),
        OVERRUN,
        SC,
        "more than a ring",
    ),
    "holders ignored": (Design(holders_ignored=True), NARROW, SC, LOST),
    "cursor before the copy": (Design(retires_before_copying=True), NARROW, SC, LOST),
    # The order of steps.
    "bell before the flag is cleared": (Design(bell_before_swap=True), NARROW, SC, STUCK),
    "bell read after arming": (Design(bell_read_after_arming=True), NARROW, SC, STUCK),
    "payload after tail": (Design(publishes_before_copying=True), NARROW, SC, UNSEEN),
    "closed before tail": (Design(closes_before_publishing=True), NARROW, SC, STUCK),
    "closed read first": (Design(closed_read_before_arming=True), STAYING, SC, STUCK),
    "sleepers woken before tail": (Design(wakes_before_publishing=True), NARROW, SC, STUCK),
    # The second look.
    "sleeps without a look at tail": (Design(arms_without_looking=True), NARROW, SC, STUCK),
    "sleeps without a look at a cursor": (Design(waits_without_looking=True), NARROW, SC, STUCK),
    "ends without a look at tail": (Design(ends_without_looking=True), NARROW, SC, STUCK),
    # What must not be held back in one's sleep, and who must be woken.
    "sleeps before retiring": (Design(arms_without_retiring=True), NARROW, SC, STUCK),
    "closes without a bell": (Design(closes_without_bell=True), STAYING, SC, STUCK),
    "only one sleeper is woken": (Design(wakes_only_the_first=True), BOTH_SLEEP, SC, STUCK),
    # Death.
    "no drain after a death": (Design(no_drain_after_death=True), DOOMED_WRITER, SC, STUCK),
    "a dead one holds": (Design(keeps_the_dead=True), DOOMED_READER, SC, "goes round"),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_no_interleaving_goes_wrong(load: Load) -> None:
    """PSO allows all that TSO and SC allow."""
    verdict = explore(scene(Design(), load, PSO))
    assert not verdict.bad, str(verdict)


@pytest.mark.skipif(SCALE < 1, reason="takes a minute")
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("load", [TWO, TWO_HOLD], ids=["one of them holds", "both hold"])
def test_two_readers(load: Load) -> None:
    """They share no word that either of them writes."""
    verdict = explore(scene(Design(), load, PSO))
    assert not verdict.bad, str(verdict)


@pytest.mark.parametrize(("design", "load"), SOUND.values(), ids=SOUND.keys())
def test_other_ways_to_get_it_right(design: Design, load: Load) -> None:
    verdict = explore(scene(design, load, PSO))
    assert not verdict.bad, str(verdict)


@pytest.mark.parametrize(("design", "load", "memory", "symptom"), BUGS.values(), ids=BUGS.keys())
def test_the_explorer_finds(design: Design, load: Load, memory: Memory, symptom: str) -> None:
    verdict = explore(scene(design, load, memory))
    assert verdict.bad
    assert verdict.why.startswith(symptom)
    assert verdict.trace


def test_every_bug_is_looked_for() -> None:
    designs = [bug[0] for bug in BUGS.values()] + [sound[0] for sound in SOUND.values()]
    assert_all_are_looked_for(Design, designs)
