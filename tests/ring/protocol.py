"""The ring's protocol as two programs for the explorer, with every known way to get it wrong.

What ring.h does between two private variables is one step here; what it does to shared words is
one operation each, in the same order. Positions count units instead of bytes, and a record says
nothing about its length: both sides know the sizes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

from tests.verify.explorer import (
    Memory,
    Order,
    Program,
    Scene,
    fail,
    load,
    store,
    swap,
    system_call,
    wait,
)
from tests.verify.waiting import Steps, WaitingDesign, arm, take_sleeper


@dataclass(frozen=True)
class Design(WaitingDesign):
    """How the protocol is done. The defaults are ring.h's; the rest is known to be wrong."""

    head: Order = Order.SEQ_CST
    c_wait: Order = Order.SEQ_CST
    p_wait: Order = Order.SEQ_CST
    death_seen_after_drain: bool = False
    wants_more_than_there_is: bool = False


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        sizes: Units of each record.
        capacity: Units of the ring.
        batch: Records that are published together.
        killable: "producer", "consumer", both or none.
        stays: The producer lives on after its last message, so that no death wakes anybody.
    """

    sizes: tuple[int, ...]
    capacity: int
    batch: int = 1
    killable: tuple[str, ...] = ()
    stays: bool = False

    def ends(self) -> list[int]:
        """The position behind each record."""
        return [sum(self.sizes[: number + 1]) for number in range(len(self.sizes))]


# --- producer ----------------------------------------------------------------------------------


def producer(design: Design, load_: Load) -> Program:
    cursor = published = head_seen = 0
    for number in range(len(load_.sizes)):
        size = load_.sizes[number]
        is_last = number + 1 == len(load_.sizes)
        if load_.capacity - (cursor - head_seen) < size:
            head_seen, published, gone = yield from find_room(
                design, load_, cursor, published, size
            )
            if gone:
                return ("crashed", published - head_seen)
        if design.publishes_before_copying:
            yield from publish(design, cursor + size)
        for unit in range(size):
            yield store(slot(load_, cursor + unit), number + 1, Order.RELAXED)
        cursor += size
        if is_last and design.closes_before_publishing:
            yield from close(design)
        if is_last or (number + 1) % load_.batch == 0:
            yield from publish(design, cursor)
            published = cursor
            yield system_call("acknowledged", number + 1)
    if not design.closes_before_publishing:
        yield from close(design)
    if load_.stays:
        yield wait("consumer_gone")
    return "closed"


def find_room(design: Design, load_: Load, cursor: int, published: int, size: int) -> Steps:
    """Returns the head that was seen, what is published now, and whether the consumer is gone."""
    while True:
        head = yield load("head")
        if load_.capacity - (cursor - head) >= size:
            return head, published, 0
        if published != cursor and not design.waits_without_publishing:
            yield from publish(design, cursor)
            published = cursor
        head, sleeps = yield from wait_space(design, load_, cursor, size)
        if not sleeps:
            return head, published, 0
        yield wait("bell_p", "consumer_gone")
        if (yield load("consumer_gone")):
            head = yield load("head")
            return head, published, 1
        yield swap("bell_p", 0)


def publish(design: Design, cursor: int) -> Steps:
    yield store("tail", cursor, design.tail)
    yield from take_sleeper(design, "c_wait", "bell_c")


def wait_space(design: Design, load_: Load, cursor: int, size: int) -> Steps:
    """Returns the head that was seen, and whether to sleep."""
    wanted = load_.capacity + 1 if design.wants_more_than_there_is else size
    yield store("p_wait", wanted, design.p_wait)
    if design.waits_without_looking:
        return 0, True
    head = yield load("head")
    if load_.capacity - (cursor - head) < size:
        return head, True
    yield store("p_wait", 0, design.p_wait)
    return head, False


def close(design: Design) -> Steps:
    yield store("closed", 1, design.closed)
    if not design.closes_without_bell:
        yield from take_sleeper(design, "c_wait", "bell_c")


# --- consumer ----------------------------------------------------------------------------------


def consumer(design: Design, load_: Load) -> Program:
    number = retired = gone = late_bell = 0
    while True:
        number, retired, tail_seen = yield from drain(design, load_, number, retired)
        if gone:
            return "end" if (yield load("closed")) else "crashed"
        cursor = tail_seen  # everything was taken
        if retired != cursor and not design.arms_without_retiring:
            yield from retire(design, load_, cursor, tail_seen)
            retired = cursor
        answer = yield from arm(design, "c_wait", design.c_wait, cursor)
        if answer == "end":
            return "end"
        if answer == "retry":
            continue
        if late_bell:
            yield swap("bell_c", 0)
        yield wait("bell_c", "producer_gone")
        gone, late_bell = yield from wake(design, cursor)
        if gone and (design.no_drain_after_death or design.death_seen_after_drain):
            return "end" if (yield load("closed")) else "crashed"


def drain(design: Design, load_: Load, number: int, retired: int) -> Steps:
    """Returns the number of the next message, what is retired now, and the tail that was seen."""
    cursor = tail_seen = sum(load_.sizes[:number])
    while True:
        if cursor == tail_seen:
            tail_seen = yield load("tail")
            if cursor == tail_seen:
                return number, retired, tail_seen
        size = load_.sizes[number]
        if design.retires_before_copying:
            yield from retire(design, load_, cursor + size, tail_seen)
        yield from copy(load_, number, cursor)
        cursor += size
        number += 1
        yield system_call("delivered", number)
        if design.retires_each:
            yield from retire(design, load_, cursor, tail_seen)
            retired = cursor


def wake(design: Design, cursor: int) -> Steps:
    """Returns whether the producer is gone, and whether the bell is still to be read."""
    if design.death_seen_after_drain:
        tail = yield load("tail")
        gone = yield load("producer_gone")
        if tail != cursor:
            gone = 0
    else:
        gone = yield load("producer_gone")
    if design.bell_read_after_arming:
        return gone, 1
    yield swap("bell_c", 0)
    return gone, 0


def copy(load_: Load, number: int, cursor: int) -> Steps:
    for unit in range(load_.sizes[number]):
        value = yield load(slot(load_, cursor + unit))
        if value != number + 1:
            yield fail("a record was read that is not there yet, or not any more")


def retire(design: Design, load_: Load, cursor: int, tail_seen: int) -> Steps:
    yield store("head", cursor, design.head)
    wanted = yield load("p_wait")
    if not design.wants_more_than_there_is:
        wanted = min(wanted, load_.capacity)
    if (wanted and load_.capacity - (tail_seen - cursor) >= wanted) and (yield swap("p_wait", 0)):
        yield system_call("bell_p", 1)


# --- the scene ----------------------------------------------------------------------------------


def slot(load_: Load, position: int) -> str:
    return f"slot{position % load_.capacity}"


def accepts(load_: Load, sent: Hashable, received: Hashable, words: dict[str, int]) -> bool:
    """Whether both sides came to a good end."""
    published = load_.ends().index(words["tail"]) + 1 if words["tail"] else 0
    if received != "killed":
        everything = words["delivered"] == published >= words["acknowledged"]
        verdict = "end" if words["closed"] else "crashed"
        return everything and received == verdict and sent in ("closed", "killed")
    taken = load_.ends()[words["delivered"] - 1] if words["delivered"] else 0
    if words["head"] > taken:
        return False
    return sent in ("closed", "killed") or sent == ("crashed", words["tail"] - words["head"])


def scene(design: Design, load_: Load, memory: Memory) -> Scene:
    """The protocol for the explorer."""
    words = ("tail", "head", "c_wait", "p_wait", "closed", "bell_c", "bell_p")
    observed = ("producer_gone", "consumer_gone", "acknowledged", "delivered")
    slots = tuple(slot(load_, position) for position in range(load_.capacity))
    return Scene(
        programs=(partial(producer, design, load_), partial(consumer, design, load_)),
        words=(*words, *observed, *slots),
        memory=memory,
        killable=tuple(("producer", "consumer").index(who) for who in load_.killable),
        gone=("producer_gone", "consumer_gone"),
        accepts=partial(accepts, load_),
    )
