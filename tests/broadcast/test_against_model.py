"""broadcast.h against lists: every call in any order, readers that come, go and are overrun."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.scale import patience_s, scaled
from tests.verify.build import BROADCAST, Unavailable, program

MASK = 2**64 - 1
READERS = 4
DATA = 1


def _answers() -> list[str]:
    """The names of CastAnswer, in order."""
    text = BROADCAST.header.read_text().split("typedef enum {")[1].split("} CastAnswer;")[0]
    return re.findall(r"^    (CAST_\w+),", text, re.MULTILINE)


ANSWERS = _answers()


class Record(ctypes.Structure):
    _fields_ = (
        ("position", ctypes.c_uint64),
        ("payload", ctypes.c_void_p),
        ("length", ctypes.c_uint32),
        ("tag", ctypes.c_uint32),
    )


_WORDS = ("bells", "lost", "tail", "floor")
_NUMBERS = ("blocker", "copy", "readable", "enter", "leave", "data", "page")


class Hall:
    """A writer and its readers, called by name."""

    def __init__(self, functions: ctypes.CDLL, capacity: int, words: int, start: int) -> None:
        self._functions = functions
        opened = functions.hall_open(ctypes.c_uint64(capacity), words, ctypes.c_uint64(start))
        self._hall = ctypes.c_void_p(opened)

    def __call__(self, verb: str, *arguments: Any) -> Any:
        value = getattr(self._functions, f"hall_{verb}")(self._hall, *arguments)
        return value if verb in _WORDS or verb in _NUMBERS else ANSWERS[value]

    def close(self) -> None:
        self._functions.hall_close(self._hall)


def _load() -> ctypes.CDLL:
    functions = ctypes.CDLL(str(program("library.c", subject=BROADCAST, shared=True)))
    for name in ("open", "data", "page"):
        getattr(functions, f"hall_{name}").restype = ctypes.c_void_p
    for name in _WORDS:
        getattr(functions, f"hall_{name}").restype = ctypes.c_uint64
    return functions


@dataclass
class Model:
    """What one reader knows, and what is on its way to it."""

    holds: bool
    due: list[tuple[int, bytes]] = field(default_factory=list)
    """Position and payload of what was put for it and it has not taken."""
    sleeps: bool = False
    fresh: bool = False
    """Whether something for it is put and not published."""


@dataclass
class Entry:
    """A record, or what fills the end, with whom it is for."""

    begin: int
    end: int
    readers: frozenset[int]


STARTS = st.sampled_from([0, 2**32, 2**64]).flatmap(
    lambda near: st.integers(-64, 64).map(lambda offset: max(0, near + 8 * offset))
)


class BroadcastMachine(RuleBasedStateMachine):
    """Hypothesis chooses the calls; the model says what they must answer."""

    functions: ctypes.CDLL

    @initialize(shift=st.integers(10, 12), words=st.integers(1, 4), start=STARTS)
    def open(self, shift: int, words: int, start: int) -> None:
        self.capacity, self.words = 1 << shift, words
        self.hall = Hall(self.functions, self.capacity, words, start & MASK)
        self.readers: dict[int, Model] = {}
        self.entries: list[Entry] = []
        self.cursor = self.published = self.floor = start
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "hall"):
            self.hall.close()

    # The writer.

    @rule(reader=st.integers(0, READERS - 1), holds=st.booleans())
    def enter(self, reader: int, holds: bool) -> None:
        if reader not in self.readers:
            self.hall("enter", reader, holds)
            self.readers[reader] = Model(holds)
            self.published = self.cursor

    @rule(reader=st.integers(0, READERS - 1))
    def leave(self, reader: int) -> None:
        if self.readers.pop(reader, None) is not None:
            self.hall("leave", reader)
            for entry in self.entries:
                entry.readers -= {reader}

    def span(self, length: int) -> int:
        return 8 + 8 * self.words + (length + 7) // 8 * 8

    def place(self, length: int) -> tuple[int, int]:
        """Where a record would begin and end."""
        room = self.capacity - self.cursor % self.capacity
        begin = self.cursor if self.span(length) <= room else self.cursor + room
        return begin, begin + self.span(length)

    def blockers(self, least: int) -> set[int]:
        """Who holds the first that is held before a position; -1: it is not published."""
        if least > self.published:
            return {-1}
        for entry in self.entries:
            if entry.begin >= least:
                break
            models = {reader: self.readers[reader] for reader in entry.readers}
            held = {
                reader
                for reader, model in models.items()
                if model.holds and self.is_held(model, entry.begin)
            }
            if held:
                return held
        return set()

    def is_held(self, model: Model, begin: int) -> bool:
        return any(position == begin for position, _ in model.due)

    @rule(fraction=st.floats(0, 1), whom=st.integers(0, 2**READERS - 1))
    def put(self, fraction: float, whom: int) -> None:
        self.number += 1
        length = round(fraction * self.capacity / 4)
        data = bytes((self.number * 7 + at) % 251 for at in range(length))
        begin, end = self.place(length)
        blockers = self.blockers(end - self.capacity)
        answer = self.hall("put", ctypes.c_uint64(whom), data, ctypes.c_size_t(length))
        if blockers:
            assert answer == "CAST_FULL"
            assert self.hall("blocker") in blockers
            return
        assert answer == "CAST_DONE"
        self.follow_floor(end - self.capacity)
        readers = frozenset(r for r in self.readers if whom >> r & 1)
        if begin != self.cursor:
            self.entries.append(Entry(self.cursor, begin, frozenset()))
        self.entries.append(Entry(begin, end, readers))
        self.cursor = end
        for reader in readers:
            self.readers[reader].due.append((begin, data))
            self.readers[reader].fresh = True

    def follow_floor(self, least: int) -> None:
        """The floor is where the writer says, and within what was promised."""
        floor = self.floor + ((self.hall("floor") & ~7) - self.floor & MASK)
        if least > self.floor:
            assert least <= floor <= self.published
            assert floor - least <= self.capacity // 8 + self.capacity // 2
        else:
            assert floor == self.floor
        for entry in self.entries:
            if entry.begin < floor:
                assert entry.end <= floor, "the floor is where a record begins"
                assert not any(
                    self.is_held(self.readers[r], entry.begin)
                    for r in entry.readers
                    if self.readers[r].holds
                )
        self.entries = [entry for entry in self.entries if entry.begin >= floor]
        self.floor = floor

    @rule()
    def put_too_much(self) -> None:
        length = self.capacity // 4 + 1
        answer = self.hall("put", ctypes.c_uint64(1), bytes(length), ctypes.c_size_t(length))
        assert answer == "CAST_TOO_LARGE"

    @rule()
    def publish(self) -> None:
        woken = sum(
            1 << reader for reader, model in self.readers.items() if model.sleeps and model.fresh
        )
        assert self.hall("publish") == ("CAST_WAKE" if woken else "CAST_DONE")
        assert self.hall("bells") == woken
        self.published = self.cursor
        for model in self.readers.values():
            model.sleeps &= not model.fresh
            model.fresh = False

    # A reader.

    def some_reader(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.readers)))

    @precondition(lambda self: bool(getattr(self, "readers", ())))
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        reader = self.some_reader(data)
        model, record = self.readers[reader], Record()
        answer = self.hall("next", reader, ctypes.byref(record))
        lost = [each for each in model.due if each[0] < self.floor]
        if lost:
            assert answer == "CAST_GAP"
            assert self.hall("lost", reader) == len(lost)
            assert not model.holds
            del model.due[: len(lost)]
            return
        ready = [each for each in model.due if each[0] < self.published]
        if not ready:
            assert answer == "CAST_EMPTY"
            return
        assert answer == "CAST_RECORD"
        position, payload = ready[0]
        into = ctypes.create_string_buffer(record.length + 1)
        assert record.position == position & MASK
        assert self.hall("copy", reader, ctypes.byref(record), into) == 1
        assert into.raw[: record.length] == payload
        model.due.pop(0)
        assert self.hall("retire", reader) == "CAST_DONE", "the writer does not sleep"

    @precondition(lambda self: bool(getattr(self, "readers", ())))
    @rule(data=st.data())
    def arm(self, data: st.DataObject) -> None:
        reader = self.some_reader(data)
        model = self.readers[reader]
        readable = bool(self.hall("readable", reader))
        answer = self.hall("arm", reader)
        assert answer == ("CAST_RETRY" if readable else "CAST_SLEEP")
        if not readable:
            assert not [each for each in model.due if each[0] < self.published]
        model.sleeps = not readable

    # Always.

    @invariant()
    def shows_what_is_published(self) -> None:
        if hasattr(self, "hall"):
            assert self.hall("tail") == self.published & MASK


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        BroadcastMachine.functions = _load()
    except Unavailable as error:
        pytest.skip(str(error))


def test_there_are_answers() -> None:
    assert ANSWERS[0] == "CAST_DONE"
    assert ANSWERS[-1] == "CAST_POISONED"


@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
def test_every_order_of_calls() -> None:
    run_state_machine_as_test(
        BroadcastMachine,
        settings=settings(
            max_examples=scaled(100, full=2_000),
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def send(hall: Hall, whom: int, data: bytes) -> str:
    return str(hall("put", ctypes.c_uint64(whom), data, ctypes.c_size_t(len(data))))


def take(hall: Hall, reader: int) -> bytes | int | str:
    """A record, or how many are lost, or another answer."""
    record = Record()
    answer = hall("next", reader, ctypes.byref(record))
    if answer == "CAST_GAP":
        return int(hall("lost", reader))
    if answer != "CAST_RECORD":
        return str(answer)
    into = ctypes.create_string_buffer(record.length + 1)
    return into.raw[: record.length] if hall("copy", reader, ctypes.byref(record), into) else "torn"


@pytest.fixture
def hall() -> Any:
    hall = Hall(BroadcastMachine.functions, 1024, 1, 0)
    yield hall
    hall.close()


def test_a_record_that_is_written_over_while_it_is_copied(hall: Hall) -> None:
    hall("enter", 0, 0)
    assert send(hall, 1, b"first") == "CAST_DONE"
    hall("publish")
    record, into = Record(), ctypes.create_string_buffer(8)
    assert hall("next", 0, ctypes.byref(record)) == "CAST_RECORD"
    for _ in range(40):
        assert send(hall, 1, b"x" * 32) == "CAST_DONE"
        hall("publish")
    assert hall("copy", 0, ctypes.byref(record), into) == 0
    lost = take(hall, 0)
    assert isinstance(lost, int)
    rest = 0
    while take(hall, 0) == b"x" * 32:
        rest += 1
    assert lost + rest == 41


def test_who_waits_for_room_is_woken(hall: Hall) -> None:
    hall("enter", 2, 1)
    assert hall("arm", 2) == "CAST_SLEEP"
    while send(hall, 4, b"x" * 100) == "CAST_DONE":
        pass
    assert hall("blocker") == -1, "nothing is published yet"
    assert hall("wait_room") == "CAST_WAKE"
    assert hall("bells") == 4
    assert send(hall, 4, b"x" * 100) == "CAST_FULL"
    assert hall("blocker") == 2
    assert hall("wait_room") == "CAST_SLEEP"
    assert take(hall, 2) == b"x" * 100
    assert hall("retire", 2) == "CAST_WAKE"
    assert send(hall, 4, b"x" * 100) == "CAST_DONE"


def test_records_for_others_hold_nobody_up(hall: Hall) -> None:
    """Neither does a sleeper that they are not for: it is not woken, and its cursor stays."""
    hall("enter", 0, 1)
    hall("enter", 1, 0)
    assert hall("arm", 0) == "CAST_SLEEP"
    for _ in range(100):
        assert send(hall, 2, b"x" * 100) == "CAST_DONE"
        assert hall("publish") == "CAST_DONE"
    assert send(hall, 1, b"mine") == "CAST_DONE"
    assert hall("publish") == "CAST_WAKE"
    assert hall("bells") == 1
    assert take(hall, 0) == b"mine"


def test_the_end_comes_after_the_last_record(hall: Hall) -> None:
    hall("enter", 0, 0)
    hall("enter", 3, 0)
    assert hall("arm", 0) == hall("arm", 3) == "CAST_SLEEP"
    send(hall, 1, b"last")
    hall("publish")
    assert hall("end") == "CAST_WAKE"
    assert hall("bells") == 8, "the other one was woken before"
    assert hall("arm", 0) == "CAST_RETRY"
    assert take(hall, 0) == b"last"
    assert hall("arm", 0) == "CAST_END"
    assert take(hall, 3) == "CAST_EMPTY"
    assert hall("arm", 3) == "CAST_END"


def test_who_takes_a_place_again_sees_nothing_of_its_predecessor(hall: Hall) -> None:
    hall("enter", 0, 0)
    send(hall, 1, b"for the first")
    hall("publish")
    hall("leave", 0)
    hall("enter", 0, 0)
    assert take(hall, 0) == "CAST_EMPTY"
    for _ in range(40):
        send(hall, 0, b"x" * 32)
    hall("publish")
    send(hall, 1, b"for the second")
    hall("publish")
    assert take(hall, 0) == b"for the second", "and no gap"
