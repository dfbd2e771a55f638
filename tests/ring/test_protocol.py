"""The protocol of ring.h in every interleaving, and every known way to get it wrong."""

from __future__ import annotations

import dataclasses

import pytest

from tests.ring.protocol import Design, Load, scene
from tests.verify.explorer import Memory, Order, explore
from tests.verify.waiting import assert_all_are_looked_for

STREAM = Load(sizes=(1, 1, 1), capacity=2)
NARROW = Load(sizes=(1, 1, 1), capacity=1)
UNEVEN = Load(sizes=(1, 2, 1, 2), capacity=2)
BATCHES = Load(sizes=(1, 1, 1, 1), capacity=3, batch=2)
LONG_BATCH = Load(sizes=(1, 1, 1, 1), capacity=2, batch=4)
STAYING = Load(sizes=(1, 1), capacity=2, stays=True)
DOOMED_PRODUCER = dataclasses.replace(STREAM, killable=("producer",))
DOOMED_CONSUMER = dataclasses.replace(STREAM, killable=("consumer",))
BOTH_DOOMED = Load(sizes=(1, 1), capacity=1, killable=("producer", "consumer"))

LOADS = {
    "stream": STREAM,
    "narrow": NARROW,
    "uneven": UNEVEN,
    "batches": BATCHES,
    "long batch": LONG_BATCH,
    "staying": STAYING,
    "producer killed": DOOMED_PRODUCER,
    "consumer killed": DOOMED_CONSUMER,
    "both killed": BOTH_DOOMED,
}

SOUND = {
    "as in ring.h": Design(),
    "flag left set": Design(flag_left_set=True),
    "retires each": Design(retires_each=True),
}

STUCK = "ends with"
UNSEEN = "a record was read"
RELAXED, RELEASE = Order.RELAXED, Order.RELEASE

BUGS = {
    # The lost wake-ups that no stress test finds: the order of two accesses.
    "tail released only": (Design(tail=RELEASE), NARROW, Memory.TSO, STUCK),
    "tail relaxed": (Design(tail=RELAXED), NARROW, Memory.PSO, UNSEEN),
    "c_wait released only": (Design(c_wait=RELEASE), NARROW, Memory.TSO, STUCK),
    "neither seq_cst": (Design(tail=RELEASE, c_wait=RELEASE), NARROW, Memory.TSO, STUCK),
    "head released only": (Design(head=RELEASE), NARROW, Memory.TSO, STUCK),
    "p_wait relaxed": (Design(p_wait=RELAXED), NARROW, Memory.TSO, STUCK),
    "closed relaxed": (Design(closed=RELAXED), STAYING, Memory.TSO, STUCK),
    # The order of steps.
    "bell before the flag is cleared": (Design(bell_before_swap=True), NARROW, Memory.SC, STUCK),
    "bell read after arming": (Design(bell_read_after_arming=True), NARROW, Memory.SC, STUCK),
    "payload after tail": (Design(publishes_before_copying=True), NARROW, Memory.SC, UNSEEN),
    "head before copy": (Design(retires_before_copying=True), NARROW, Memory.SC, UNSEEN),
    "closed before tail": (Design(closes_before_publishing=True), NARROW, Memory.SC, STUCK),
    "closed read first": (Design(closed_read_before_arming=True), STAYING, Memory.SC, STUCK),
    # The second look.
    "sleeps without a look at tail": (Design(arms_without_looking=True), NARROW, Memory.SC, STUCK),
    "sleeps without a look at head": (Design(waits_without_looking=True), NARROW, Memory.SC, STUCK),
    "ends without a look at tail": (Design(ends_without_looking=True), NARROW, Memory.SC, STUCK),
    # What must not be held back in one's sleep.
    "sleeps before retiring": (Design(arms_without_retiring=True), NARROW, Memory.SC, STUCK),
    "sleeps before publishing": (
        Design(waits_without_publishing=True),
        LONG_BATCH,
        Memory.SC,
        STUCK,
    ),
    "closes without a bell": (Design(closes_without_bell=True), STAYING, Memory.SC, STUCK),
    "waits for more than there is": (
        Design(wants_more_than_there_is=True),
        NARROW,
        Memory.SC,
        STUCK,
    ),
    # Death.
    "no drain after a death": (
        Design(no_drain_after_death=True),
        DOOMED_PRODUCER,
        Memory.SC,
        STUCK,
    ),
    "death seen after the drain": (
        Design(death_seen_after_drain=True),
        DOOMED_PRODUCER,
        Memory.SC,
        STUCK,
    ),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_no_interleaving_goes_wrong(load: Load) -> None:
    """PSO allows all that TSO and SC allow."""
    verdict = explore(scene(Design(), load, Memory.PSO))
    assert not verdict.bad, str(verdict)


@pytest.mark.parametrize("memory", Memory, ids=lambda memory: memory.value)
@pytest.mark.parametrize("design", SOUND.values(), ids=SOUND.keys())
def test_other_ways_to_get_it_right(design: Design, memory: Memory) -> None:
    verdict = explore(scene(design, NARROW, memory))
    assert not verdict.bad, str(verdict)


@pytest.mark.parametrize(("design", "load", "memory", "symptom"), BUGS.values(), ids=BUGS.keys())
def test_the_explorer_finds(design: Design, load: Load, memory: Memory, symptom: str) -> None:
    verdict = explore(scene(design, load, memory))
    assert verdict.bad
    assert verdict.why.startswith(symptom)
    assert verdict.trace


def test_every_bug_is_looked_for() -> None:
    bugs = [design for design, *_ in BUGS.values()]
    assert_all_are_looked_for(Design, [*bugs, *SOUND.values()])
