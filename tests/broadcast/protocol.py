"""The broadcast ring's protocol as programs for the explorer, with known ways to get it wrong.

What broadcast.h does between two private variables is one step here; what it does to shared words
is one operation each, in the same order. Positions count units, a record has at least one, and
each of its units holds its number, so that a torn or a wrong one is noticed. Sizes, and whom a
record is for, follow from its number; what a reader believes of them it has read first.
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
    """How the protocol is done. The defaults are broadcast.h's; the rest is known to be wrong.

    Only `flag_left_set`, `retires_each`, `waits_without_publishing` and, by itself, a weaker
    `floor`, `passed` or `data` are other ways to get it right, as far as stores alone can show.
    """

    floor: Order = Order.SEQ_CST
    data: Order = Order.RELEASE
    passed: Order = Order.SEQ_CST
    cursor: Order = Order.SEQ_CST
    sleeps: Order = Order.SEQ_CST
    wanted: Order = Order.SEQ_CST
    wakes_before_publishing: bool = False
    wakes_only_the_first: bool = False
    keeps_the_dead: bool = False
    holders_ignored: bool = False
    floor_after_data: bool = False
    no_floor_check: bool = False
    floor_checked_before_copy: bool = False
    one_count: bool = False
    count_after_floor: bool = False
    lands_without_second_look: bool = False


@dataclass(frozen=True)
class Load:
    """What is sent, and to whom.

    Attributes:
        sizes: Units of each record.
        masks: For each record the readers that it is for, bit by bit.
        capacity: Units of the ring.
        holds: For each reader whether it holds the writer back.
        batch: Records that are published together.
        generous: Units that the floor is raised beyond what is needed.
        killable: Numbers of programs: 0 the writer, 1 the first reader, and so on.
        stays: The writer lives on after its last record, so that no death wakes anybody.
        closes: The writer closes the stream.
    """

    sizes: tuple[int, ...]
    masks: tuple[int, ...]
    capacity: int
    holds: tuple[bool, ...] = (True,)
    batch: int = 1
    generous: int = 0
    killable: tuple[int, ...] = ()
    stays: bool = False
    closes: bool = True

    def begin(self, number: int) -> int:
        """The position of a record, or that behind the last."""
        return sum(self.sizes[:number])

    def number_at(self, position: int) -> int:
        """The record that begins at a position."""
        return next(n for n in range(len(self.sizes) + 1) if self.begin(n) == position)

    def is_for(self, number: int, reader: int) -> bool:
        return bool(self.masks[number] >> reader & 1)

    def count(self, reader: int, end: int) -> int:
        """How many records for a reader are before a position."""
        numbers = range(self.number_at(end))
        return sum(self.is_for(number, reader) for number in numbers)

    def holders(self, number: int) -> list[int]:
        """Whom a record has to wait for before it is written over."""
        return [
            reader
            for reader, holds in enumerate(self.holds)
            if holds and self.is_for(number, reader)
        ]


def slot(load_: Load, position: int) -> str:
    return f"slot{position % load_.capacity}"


def passed(design: Design, reader: int, era: int) -> str:
    return f"passed{reader}.{0 if design.one_count else era}"


# --- writer ------------------------------------------------------------------------------------


def writer(design: Design, load_: Load) -> Program:
    number = published = floor = era = left = 0
    while number < len(load_.sizes):
        room = yield from make_room(design, load_, number, published, (floor, era, left))
        if room is None:
            yield from publish(design, load_, published, number, left)
            published = number
            continue
        floor, era, left, blocker, blocked = room
        if blocker >= 0:
            if not design.waits_without_publishing:
                yield from publish(design, load_, published, number, left)
                published = number
            left = yield from wait_room(design, load_, blocker, blocked, left)
            continue
        yield from put(design, load_, number, floor, era)
        number += 1
        if number == len(load_.sizes) or number % load_.batch == 0:
            yield from publish(design, load_, published, number, left)
            published = number
    if load_.closes:
        yield from close(design, load_, left)
    if load_.stays:
        yield wait(f"gone{len(load_.holds)}")
    return "closed"


def put(design: Design, load_: Load, number: int, floor: int, era: int) -> Steps:
    if design.publishes_before_copying:
        yield store("tail", load_.begin(number + 1), design.tail)
    for unit in range(load_.sizes[number]):
        at = slot(load_, load_.begin(number) + unit)
        yield store(at, number + 1, design.data)
    if design.floor_after_data and floor > 0:
        yield store("floor", 2 * floor + era, design.floor)
    if design.closes_before_publishing and number + 1 == len(load_.sizes):
        yield store("closed", 1, design.closed)


def make_room(
    design: Design, load_: Load, number: int, published: int, state: tuple[int, int, int]
) -> Steps:
    """Returns floor, era, who left, and the reader that is in the way with the position behind.

    None if what would be written over was not published yet.
    """
    floor, era, left = state
    least = load_.begin(number + 1) - load_.capacity
    if floor >= least:
        return floor, era, left, -1, 0
    if load_.begin(published) < least:
        return None
    goal = min(least + load_.generous, load_.begin(published))
    reach = floor
    while reach < goal:
        record = load_.number_at(reach)
        blocker = yield from holder(design, load_, record, left)
        if blocker >= 0:
            if reach < least:
                return floor, era, left, blocker, load_.begin(record + 1)
            break
        reach = load_.begin(record + 1)
    yield from raise_floor(design, load_, reach, era ^ 1, left)
    return reach, era ^ 1, left, -1, 0


def holder(design: Design, load_: Load, record: int, left: int) -> Steps:
    if design.holders_ignored:
        return -1
    for reader in load_.holders(record):
        if left >> reader & 1:
            continue
        cursor = yield load(f"cursor{reader}")
        if cursor <= load_.begin(record):
            return reader
    return -1


def raise_floor(design: Design, load_: Load, floor: int, era: int, left: int) -> Steps:
    if design.count_after_floor:
        yield store("floor", 2 * floor + era, design.floor)
    for reader in range(len(load_.holds)):
        if not left >> reader & 1:
            count = load_.count(reader, floor)
            yield store(passed(design, reader, era), count, design.passed)
    if not (design.floor_after_data or design.count_after_floor):
        yield store("floor", 2 * floor + era, design.floor)


def publish(design: Design, load_: Load, begin: int, end: int, left: int) -> Steps:
    """Show some records, and wake whom they are for."""
    whom = 0
    for number in range(begin, end):
        whom |= load_.masks[number]
    if design.wakes_before_publishing:
        yield from wake_sleepers(design, load_, whom & ~left)
        whom = 0
    if begin != end:
        yield store("tail", load_.begin(end), design.tail)
        yield system_call("acknowledged", end)
    yield from wake_sleepers(design, load_, whom & ~left)


def wake_sleepers(design: Design, load_: Load, whom: int) -> Steps:
    for reader in range(len(load_.holds)):
        if not whom >> reader & 1:
            continue
        woken = yield from take_sleeper(design, f"sleeps{reader}", f"bell{reader}")
        if woken and design.wakes_only_the_first:
            return


def wait_room(design: Design, load_: Load, blocker: int, blocked: int, left: int) -> Steps:
    """Returns who left."""
    yield store(f"wanted{blocker}", blocked, design.wanted)
    if not design.waits_without_looking:
        cursor = yield load(f"cursor{blocker}")
        if cursor >= blocked:
            yield store(f"wanted{blocker}", 0, design.wanted)
            return left
    yield wait("bell_w", f"gone{blocker + 1}")
    if not design.keeps_the_dead and (yield load(f"gone{blocker + 1}")):
        return left | 1 << blocker
    yield swap("bell_w", 0)
    return left


def close(design: Design, load_: Load, left: int) -> Steps:
    if not design.closes_before_publishing:
        yield store("closed", 1, design.closed)
    if not design.closes_without_bell:
        yield from wake_sleepers(design, load_, ~left)


# --- reader ------------------------------------------------------------------------------------


def reader(design: Design, load_: Load, me: int) -> Program:
    cursor = retired = taken = gone = late_bell = 0
    while True:
        cursor, retired, taken = yield from drain(design, load_, me, (cursor, retired, taken))
        if gone:
            return ("end" if (yield load("closed")) else "crashed", taken)
        if retired != cursor and not design.arms_without_retiring:
            yield from retire(design, me, cursor)
            retired = cursor
        answer = yield from arm(design, f"sleeps{me}", design.sleeps, cursor)
        if answer == "end":
            return ("end", taken)
        if answer == "retry":
            continue
        if late_bell:
            yield swap(f"bell{me}", 0)
        yield wait(f"bell{me}", "gone0")
        gone = yield load("gone0")
        if gone and design.no_drain_after_death:
            return ("end" if (yield load("closed")) else "crashed", taken)
        if design.bell_read_after_arming:
            late_bell = 1
        else:
            yield swap(f"bell{me}", 0)


def drain(design: Design, load_: Load, me: int, state: tuple[int, int, int]) -> Steps:
    """Take everything. Returns cursor, what is retired now, and how many were for us so far."""
    cursor, retired, taken = state
    tail = cursor
    while True:
        if cursor == tail:
            tail = yield load("tail")
            if cursor == tail:
                return cursor, retired, taken
        number, cursor_after = yield from look(design, load_, me, cursor)
        if number >= 0 and design.retires_before_copying:
            yield from retire(design, me, cursor_after)
            retired = cursor_after
        if number >= 0 and (yield from copy(design, load_, number, cursor)):
            cursor = cursor_after
            taken += 1
            if design.retires_each:
                yield from retire(design, me, cursor)
                retired = cursor
        elif number == PASSED:
            cursor = cursor_after
        else:
            cursor, tail, taken = yield from land(design, load_, me, (cursor, tail, taken))


PASSED, GONE = -1, -2


def look(design: Design, load_: Load, me: int, cursor: int) -> Steps:
    """Returns the number of the record at the cursor, or PASSED or GONE, and what is behind it."""
    unit = yield load(slot(load_, cursor))
    if not design.no_floor_check and cursor < (yield load("floor")) // 2:
        return GONE, cursor
    number = unit - 1
    if number != load_.number_at(cursor):
        yield fail("a header was believed that is not there yet, or not any more")
    return (number if load_.is_for(number, me) else PASSED), load_.begin(number + 1)


def copy(design: Design, load_: Load, number: int, cursor: int) -> Steps:
    """Returns whether the record is whole."""
    is_torn = False
    for unit in range(load_.sizes[number]):
        value = yield load(slot(load_, cursor + unit))
        is_torn |= value != number + 1
    trusts_blindly = design.no_floor_check or design.floor_checked_before_copy
    if not trusts_blindly and cursor < (yield load("floor")) // 2:
        return False
    if is_torn:
        yield fail("a torn record was believed")
    return True


def land(design: Design, load_: Load, me: int, state: tuple[int, int, int]) -> Steps:
    """Returns cursor, tail and how many were for us so far: the same if the floor moves."""
    _, _, taken = state
    floor = yield load("floor")
    count = yield load(passed(design, me, floor % 2))
    tail_now = yield load("tail")
    if not design.lands_without_second_look and (yield load("floor")) != floor:
        return state
    if count != load_.count(me, floor // 2):
        yield fail("a wrong count was believed")
    if load_.holds[me] and count != taken:
        yield fail("a record was lost that was held")
    if tail_now - floor // 2 > load_.capacity:
        yield fail("more than a ring was believed")
    return floor // 2, tail_now, count


def retire(design: Design, me: int, cursor: int) -> Steps:
    yield store(f"cursor{me}", cursor, design.cursor)
    wanted = yield load(f"wanted{me}")
    if wanted and cursor >= wanted and (yield swap(f"wanted{me}", 0)):
        yield system_call("bell_w", 1)


# --- the scene -----------------------------------------------------------------------------------


def accepts(load_: Load, *ends: Hashable) -> bool:
    """Whether all came to a good end: every reader knows of every record that was for it."""
    words = ends[-1]
    assert isinstance(words, dict)
    written, *read = ends[:-1]
    if written not in ("closed", "killed"):
        return False
    tail = words["tail"]
    if tail < load_.begin(words["acknowledged"]):
        return False
    verdict = "end" if words["closed"] else "crashed"
    due = ((verdict, load_.count(me, tail)) for me in range(len(load_.holds)))
    return all(end in ("killed", good) for end, good in zip(read, due, strict=True))


def scene(design: Design, load_: Load, memory: Memory) -> Scene:
    """The protocol for the explorer."""
    readers = range(len(load_.holds))
    own = ("cursor", "sleeps", "wanted", "bell", "gone")
    words = [f"{word}{me}" for me in readers for word in own]
    words += [f"passed{me}.{era}" for me in readers for era in (0, 1)]
    words += [f"gone{len(load_.holds)}", "tail", "floor", "closed", "bell_w", "acknowledged"]
    slots = [slot(load_, position) for position in range(load_.capacity)]
    programs = [partial(writer, design, load_)]
    programs += [partial(reader, design, load_, me) for me in readers]
    return Scene(
        programs=tuple(programs),
        words=(*words, *slots),
        memory=memory,
        killable=load_.killable,
        gone=tuple(f"gone{who}" for who in range(len(programs))),
        accepts=partial(accepts, load_),
        names=("writer", *(f"reader {me}" for me in readers)),
    )
