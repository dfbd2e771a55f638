"""ring.h against a list: every call in any order, both sides, leases, replaced sides, wraps."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.scale import patience_s, scaled
from tests.verify.build import HEADER, Unavailable, program

HEADER_BYTES = 8
MAX_LEASES = 64
DATA = 1
MASK = 2**64 - 1


def _answers() -> list[str]:
    """The names of RingAnswer, in order."""
    text = HEADER.read_text().split("typedef enum {")[1].split("} RingAnswer;")[0]
    return [
        name.strip(" ,")
        for line in text.splitlines()
        if (name := line.split("/*")[0]).strip().startswith("RING_")
    ]


ANSWERS = _answers()


class Lease(ctypes.Structure):
    _fields_ = (
        ("payload", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("ticket", ctypes.c_uint32),
    )


class Record(ctypes.Structure):
    _fields_ = (("payload", ctypes.c_void_p), ("length", ctypes.c_uint32), ("tag", ctypes.c_uint32))

    def payload_bytes(self) -> bytes:
        return ctypes.string_at(self.payload, self.length)


class Pair:
    """Both sides of one ring, called by name."""

    def __init__(self, functions: ctypes.CDLL, capacity: int, start: int) -> None:
        self._functions = functions
        self._pair = functions.pair_open(ctypes.c_uint64(capacity), ctypes.c_uint64(start))

    def __call__(self, verb: str, *arguments: Any) -> Any:
        value = getattr(self._functions, f"pair_{verb}")(self._pair, *arguments)
        return value if verb in _PLAIN else ANSWERS[value]


_PLAIN = {
    "close",
    "data",
    "head",
    "tail",
    "replace_producer",
    "replace_consumer",
    "is_sound",
    "needed",
    "count_unconsumed",
    "readable",
    "writable",
}


def _load() -> ctypes.CDLL:
    functions = ctypes.CDLL(str(program("library.c", shared=True)))
    functions.copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    functions.pair_open.restype = functions.pair_data.restype = ctypes.c_void_p
    for name in ("needed", "count_unconsumed", "head", "tail"):
        getattr(functions, f"pair_{name}").restype = ctypes.c_uint64
    for name in (*_PLAIN, *_VERBS):
        getattr(functions, f"pair_{name}").argtypes = [ctypes.c_void_p, *_VERBS.get(name, ())]
    return functions


_VERBS: dict[str, tuple[Any, ...]] = {
    "put": (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t),
    "publish": (),
    "reserve": (ctypes.c_size_t, ctypes.c_void_p),
    "commit": (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t),
    "abort": (ctypes.c_void_p,),
    "wait_space": (),
    "close_stream": (),
    "pop": (ctypes.c_void_p,),
    "retire": (),
    "borrow": (ctypes.c_void_p, ctypes.c_void_p),
    "release": (ctypes.c_uint32,),
    "arm": (),
}


def span(length: int) -> int:
    return HEADER_BYTES + (length + 7) // 8 * 8


@dataclass(eq=False)
class Entry:
    """A span of the ring: a message, or nothing (a PAD)."""

    begin: int
    end: int
    message: bytes | None = None
    is_open: bool = False


@dataclass(eq=False)
class Reserved:
    lease: Lease
    entry: Entry


@dataclass(eq=False)
class Borrowed:
    record: Record
    ticket: int
    entry: Entry


@dataclass
class Model:
    """What must be in the ring. Positions are integers that never wrap."""

    capacity: int
    cursor: int
    published: int
    retired: int
    head_seen: int
    entries: list[Entry] = field(default_factory=list)  # from the first not popped on
    reserved: list[Entry] = field(default_factory=list)  # leases, the oldest first
    borrowed: list[Entry] = field(default_factory=list)
    consumer_sleeps: bool = False
    producer_needs: int = 0

    def place(self, length: int) -> tuple[Entry | None, Entry] | None:
        """The PAD and the place of a record, or None if there is no room."""
        room = self.capacity - self.cursor % self.capacity
        size = span(length)
        pad = Entry(self.cursor, self.cursor + room) if size > room else None
        begin = pad.end if pad else self.cursor
        if begin + size - self.retired > self.capacity:
            return None
        return pad, Entry(begin, begin + size)

    def add(self, pad: Entry | None, entry: Entry) -> None:
        self.entries += [pad, entry] if pad else [entry]
        self.cursor = entry.end

    def give_back(self, entry: Entry, size: int) -> None:
        """Leave so many bytes of the entry."""
        at = self.entries.index(entry)
        rest = Entry(entry.begin + size, entry.end)
        entry.end = rest.begin
        if rest.end == self.cursor:
            self.cursor = rest.begin
        elif rest.end > rest.begin:
            self.entries.insert(at + 1, rest)
        if size == 0:
            self.entries.remove(entry)

    def publish(self) -> str:
        """Move the tail; what ring_publish answers."""
        while self.reserved and not self.reserved[0].is_open:
            self.reserved.pop(0)
        tail = self.reserved[0].begin if self.reserved else self.cursor
        if tail == self.published:
            return "RING_QUEUED"
        self.published = tail
        woken, self.consumer_sleeps = self.consumer_sleeps, False
        return "RING_WAKE" if woken else "RING_QUEUED"

    def retire(self, read_to: int, tail_seen: int) -> str:
        while self.borrowed and not self.borrowed[0].is_open:
            self.borrowed.pop(0)
        head = self.borrowed[0].begin if self.borrowed else read_to
        if head == self.retired:
            return "RING_RETIRED"
        self.retired = head
        free = self.capacity - (tail_seen - head)
        if not self.producer_needs or free < self.producer_needs:
            return "RING_RETIRED"
        self.producer_needs = 0
        return "RING_WAKE"


STARTS = st.sampled_from([0, 2**32, 2**64]).flatmap(
    lambda near: st.integers(-64, 64).map(lambda offset: max(0, near + 8 * offset))
)


class RingMachine(RuleBasedStateMachine):
    """Hypothesis chooses the calls; the model says what they must answer."""

    functions: ctypes.CDLL

    reservations = Bundle("reservations")
    borrows = Bundle("borrows")

    @initialize(shift=st.integers(6, 12), start=STARTS)
    def open(self, shift: int, start: int) -> None:
        self.capacity = 1 << shift
        self.most = self.capacity // 4
        self.pair = Pair(self.functions, self.capacity, start & MASK)
        self.model = Model(self.capacity, start, start, start, start)
        self.read_to = self.tail_seen = start
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair("close")

    def message(self, length: int) -> bytes:
        self.number += 1
        return bytes((self.number * 7 + at) % 251 for at in range(length))

    def length(self, fraction: float) -> int:
        return round(fraction * self.most)

    # The producer.

    @rule(fraction=st.floats(0, 1))
    def put(self, fraction: float) -> None:
        message = self.message(self.length(fraction))
        place = self.model.place(len(message))
        answer = self.pair("put", DATA, message, len(message))
        if place is None:
            assert answer == "RING_FULL"
            return
        assert answer == "RING_QUEUED"
        self.model.add(*place)
        place[1].message = message

    @rule()
    def put_too_much(self) -> None:
        assert self.pair("put", DATA, bytes(self.most + 1), self.most + 1) == "RING_TOO_LARGE"

    @rule()
    def publish(self) -> None:
        assert self.pair("publish") == self.model.publish()

    @rule(target=reservations, fraction=st.floats(0, 1))
    def reserve(self, fraction: float) -> Any:
        length = self.length(fraction)
        lease = Lease()
        place = self.model.place(length)
        answer = self.pair("reserve", length, ctypes.byref(lease))
        if len(self.model.reserved) == MAX_LEASES:
            assert answer == "RING_BUSY"
            return multiple()
        if place is None:
            assert answer == "RING_FULL"
            return multiple()
        assert answer == "RING_QUEUED"
        self.model.add(*place)
        entry = place[1]
        entry.is_open = True
        self.model.reserved.append(entry)
        return Reserved(lease, entry)

    @rule(reserved=consumes(reservations), fraction=st.floats(0, 1))
    def commit(self, reserved: Reserved, fraction: float) -> None:
        message = self.message(round(fraction * reserved.lease.length))
        self.finish(reserved, message)

    @rule(reserved=consumes(reservations))
    def abort(self, reserved: Reserved) -> None:
        self.finish(reserved, None)

    def finish(self, reserved: Reserved, message: bytes | None) -> None:
        entry, lease = reserved.entry, ctypes.byref(reserved.lease)
        entry.is_open, entry.message = False, message
        self.model.give_back(entry, 0 if message is None else span(len(message)))
        expected = self.model.publish()
        if message is None:
            assert self.pair("abort", lease) == expected
        else:
            assert self.pair("commit", lease, DATA, message, len(message)) == expected
        assert self.pair("abort", lease) == "RING_QUEUED", "a lease ends once"
        assert self.pair("commit", lease, DATA, b"", 0) == "RING_QUEUED"

    @rule(reserved=reservations)
    def commit_too_much(self, reserved: Reserved) -> None:
        most = span(reserved.lease.length) - HEADER_BYTES
        lease = ctypes.byref(reserved.lease)
        assert self.pair("commit", lease, DATA, bytes(most + 1), most + 1) == "RING_TOO_LARGE"

    @rule()
    def wait_space(self) -> None:
        if self.model.publish() == "RING_WAKE":
            assert self.pair("wait_space") == "RING_WAKE"
            return
        needed = self.pair("needed")
        free = self.capacity - (self.model.cursor - self.model.retired)
        assert self.pair("writable") == (free >= needed)
        sleeps = free < needed
        assert self.pair("wait_space") == ("RING_SLEEP" if sleeps else "RING_RETRY")
        self.model.producer_needs = needed if sleeps else 0

    @precondition(lambda self: not self.model.reserved)
    @rule()
    def replace_producer(self) -> None:
        """Whatever was not published is lost, as if the process had been replaced."""
        self.pair("replace_producer")
        self.model.entries = [entry for entry in self.model.entries if self.is_published(entry)]
        self.model.cursor = self.model.published

    def is_published(self, entry: Entry) -> bool:
        return entry.end <= self.model.published

    # The consumer.

    def next_entry(self) -> tuple[str, Entry | None]:
        """What pop must answer: at most 64 PADs are skipped."""
        for _ in range(64):
            if self.read_to == self.tail_seen:
                self.tail_seen = self.model.published
                if self.read_to == self.tail_seen:
                    return "RING_EMPTY", None
            entry = self.model.entries.pop(0)
            assert entry.begin == self.read_to
            self.read_to = entry.end
            if entry.message is not None:
                return "RING_RECORD", entry
        return "RING_AGAIN", None

    @rule()
    def pop(self) -> None:
        record = Record()
        expected, entry = self.next_entry()
        assert self.pair("pop", ctypes.byref(record)) == expected
        if entry is not None:
            assert (record.payload_bytes(), record.tag) == (entry.message, DATA)

    @rule()
    def retire(self) -> None:
        assert self.pair("retire") == self.model.retire(self.read_to, self.tail_seen)

    @rule(target=borrows)
    def borrow(self) -> Any:
        record, ticket = Record(), ctypes.c_uint32()
        if len(self.model.borrowed) == MAX_LEASES:
            answer = self.pair("borrow", ctypes.byref(record), ctypes.byref(ticket))
            assert answer == "RING_BUSY"
            return multiple()
        expected, entry = self.next_entry()
        assert self.pair("borrow", ctypes.byref(record), ctypes.byref(ticket)) == expected
        if entry is None:
            return multiple()
        entry.is_open = True
        self.model.borrowed.append(entry)
        return Borrowed(record, ticket.value, entry)

    @rule(borrowed=borrows)
    def look_at_borrowed(self, borrowed: Borrowed) -> None:
        assert borrowed.record.payload_bytes() == borrowed.entry.message

    @rule(borrowed=consumes(borrows))
    def release(self, borrowed: Borrowed) -> None:
        assert borrowed.record.payload_bytes() == borrowed.entry.message
        borrowed.entry.is_open = False
        expected = self.model.retire(self.read_to, self.tail_seen)
        assert self.pair("release", borrowed.ticket) == expected
        assert self.pair("release", borrowed.ticket) == "RING_RETIRED", "a ticket ends once"

    @rule()
    def arm(self) -> None:
        if self.model.retire(self.read_to, self.tail_seen) == "RING_WAKE":
            assert self.pair("arm") == "RING_WAKE"
            return
        is_empty = self.read_to == self.model.published
        assert self.pair("readable") == (not is_empty)
        assert self.pair("arm") == ("RING_SLEEP" if is_empty else "RING_RETRY")
        self.model.consumer_sleeps = is_empty

    @precondition(lambda self: not self.model.borrowed and self.read_to == self.model.retired)
    @rule()
    def replace_consumer(self) -> None:
        self.pair("replace_consumer")
        self.tail_seen = self.read_to

    # Always.

    @invariant()
    def is_sound(self) -> None:
        assert not hasattr(self, "pair") or self.pair("is_sound")

    @invariant()
    def what_a_dead_consumer_would_leave(self) -> None:
        if hasattr(self, "pair") and not self.has_read_ahead():
            left = [entry for entry in self.model.entries if self.is_published(entry)]
            count = sum(entry.message is not None for entry in left)
            assert self.pair("count_unconsumed") == count

    def has_read_ahead(self) -> bool:
        return self.read_to != self.model.retired


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        RingMachine.functions = _load()
    except Unavailable as error:
        pytest.skip(str(error))


def test_there_are_answers() -> None:
    assert ANSWERS[0] == "RING_QUEUED"
    assert ANSWERS[-1] == "RING_POISONED"


@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
def test_every_order_of_calls() -> None:
    run_state_machine_as_test(
        RingMachine,
        settings=settings(
            max_examples=scaled(100, full=1_000),
            stateful_step_count=80,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def fill(pair: Pair, lengths: Sequence[int]) -> list[str]:
    return [pair("put", DATA, bytes(length), length) for length in lengths]


@pytest.mark.parametrize("start", [0, 2**32 - 64, 2**64 - 64])
def test_a_ring_can_be_filled_to_the_last_byte(start: int) -> None:
    pair = Pair(RingMachine.functions, 4096, start)
    lengths = [64 - HEADER_BYTES] * (4096 // 64)
    assert fill(pair, lengths) == ["RING_QUEUED"] * len(lengths)
    assert fill(pair, [0]) == ["RING_FULL"]
    assert pair("publish") == "RING_QUEUED"
    record = Record()
    taken = []
    while pair("pop", ctypes.byref(record)) == "RING_RECORD":
        taken.append(record.length)
    assert taken == lengths
    assert pair("retire") == "RING_RETIRED"
    assert fill(pair, [0]) == ["RING_QUEUED"]
    pair("close")


def test_a_flood_of_pads_is_taken_in_portions() -> None:
    pair = Pair(RingMachine.functions, 4096, 0)
    leases = [Lease() for _ in range(MAX_LEASES)]
    for lease in leases:
        assert pair("reserve", 8, ctypes.byref(lease)) == "RING_QUEUED"
    assert pair("reserve", 8, ctypes.byref(Lease())) == "RING_BUSY"
    assert fill(pair, [3]) == ["RING_QUEUED"], "a record waits behind the leases"
    record = Record()
    assert pair("publish") == "RING_QUEUED"
    assert pair("pop", ctypes.byref(record)) == "RING_EMPTY"
    for lease in leases:
        pair("abort", ctypes.byref(lease))
    assert pair("pop", ctypes.byref(record)) == "RING_AGAIN"
    assert pair("pop", ctypes.byref(record)) == "RING_RECORD"
    assert record.length == 3
    pair("close")


def test_the_end_comes_after_the_last_record() -> None:
    pair = Pair(RingMachine.functions, 4096, 0)
    assert pair("arm") == "RING_SLEEP"
    assert fill(pair, [1]) == ["RING_QUEUED"]
    assert pair("publish") == "RING_WAKE"
    assert pair("close_stream") == "RING_QUEUED"
    assert pair("arm") == "RING_RETRY"
    assert pair("pop", ctypes.byref(Record())) == "RING_RECORD"
    assert pair("arm") == "RING_END"
    pair("close")


def test_closing_wakes_a_sleeper() -> None:
    pair = Pair(RingMachine.functions, 4096, 0)
    assert pair("arm") == "RING_SLEEP"
    assert pair("close_stream") == "RING_WAKE"
    assert pair("arm") == "RING_END"
    pair("close")


LENGTHS = (*range(300), 511, 512, 2047, 2048, 2049, 5_000)


@pytest.mark.parametrize("offset", [0, 1, 7, 8, 30, 31, 32])
def test_a_copy_is_exact(offset: int) -> None:
    """Whatever its length and wherever it lies in its page; and nothing beside it changes."""
    source = bytes(1 + number % 255 for number in range(max(LENGTHS)))
    taken = ctypes.create_string_buffer(source, len(source))
    memory = ctypes.create_string_buffer(16_384)
    distance = 4096 + (ctypes.addressof(taken) - ctypes.addressof(memory) + offset) % 4096
    place = ctypes.addressof(memory) + distance
    for length in LENGTHS:
        ctypes.memset(memory, 0, len(memory))
        RingMachine.functions.copy(place, taken, length)
        expected = bytes(distance) + source[:length]
        assert memory.raw == expected.ljust(len(memory), b"\0")
    RingMachine.functions.copy(place, None, 0)


def test_a_copy_reads_nothing_beyond() -> None:
    """Behind its source lies a page that nobody may touch: mprotect(2)."""
    page, to = mmap.PAGESIZE, ctypes.create_string_buffer(mmap.PAGESIZE)
    with mmap.mmap(-1, 2 * page) as memory:
        memory[:page] = bytes(number % 251 for number in range(page))
        first = ctypes.c_char.from_buffer(memory)
        begin = ctypes.addressof(first)
        forbidden = (ctypes.c_void_p(begin + page), ctypes.c_size_t(page))
        assert ctypes.CDLL(None).mprotect(*forbidden, 0) == 0
        for length in range(200):
            RingMachine.functions.copy(to, begin + page - length, length)
            assert to.raw[:length] == memory[page - length : page]
        assert ctypes.CDLL(None).mprotect(*forbidden, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        del first


# --- docs/ring.md --------------------------------------------------------------------------------

PAGE = (HEADER.parents[2] / "docs" / "ring.md").read_text()


def test_the_page_shows_the_bytes() -> None:
    (block,) = re.findall(r"<!-- dump: ring -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    shown = bytes.fromhex("".join(line[10:58] for line in block.splitlines()))
    pair = Pair(RingMachine.functions, 64, 0)
    for message in (b"one message", b"another one"):
        assert pair("put", DATA, message, len(message)) == "RING_QUEUED"
    pair("publish")
    for _ in range(2):
        assert pair("pop", ctypes.byref(Record())) == "RING_RECORD"
    pair("retire")
    assert pair("put", DATA, b"third time", 10) == "RING_QUEUED"
    pair("publish")
    assert ctypes.string_at(pair("data"), 64) == shown
    assert f"`tail` is {pair('tail')} and `head` is {pair('head')}" in " ".join(PAGE.split())
    pair("close")


def test_the_page_shows_the_layout() -> None:
    words = re.findall(r"offsetof\(RingShared, (\w+)\) == (0x\w+)", HEADER.read_text())
    assert len(words) == 8
    for word, offset in words:
        assert f"| `{offset}` | `{word}`" in PAGE
