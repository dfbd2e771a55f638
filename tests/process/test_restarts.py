"""When to start again: the table, and what holds for any deaths."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc.process.restarts import Restarts, Schedule

EXACT = Schedule(most=3, within_s=60, first_s=1, longest_s=5, factor=2, jitter=0, calm_s=10)


def pauses(schedule: Schedule, *deaths: tuple[float, float]) -> list[float | None]:
    restarts = Restarts(schedule)
    return [restarts.died(now, lived_s) for now, lived_s in deaths]


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        ([(0, 0)], [0]),
        ([(0, 0), (1, 0), (3, 0)], [0, 1, 2]),
        ([(0, 0), (1, 0), (2, 0), (3, 0)], [0, 1, 2, None]),  # the fourth within a minute
        ([(0, 0), (1, 0), (2, 0), (61, 0)], [0, 1, 2, 4]),  # the first two count no more
        ([(0, 0), (1, 0), (30, 10)], [0, 1, 0]),  # it had lived long enough
        ([(0, 0), (1, 0), (30, 9.9)], [0, 1, 2]),
        ([(n * 100, 0) for n in range(5)], [0, 1, 2, 4, 5]),  # the longest pause
    ],
)
def test_table(deaths: list[tuple[float, float]], expected: list[float | None]) -> None:
    assert pauses(EXACT, *deaths) == expected


def test_none_at_all() -> None:
    assert pauses(Schedule(most=0), (0, 0)) == [None]


def test_any_number() -> None:
    schedule = Schedule(most=None, longest_s=0.5, jitter=0)
    found = pauses(schedule, *[(0, 0)] * 5_000)
    assert found[:5] == [0, 0.1, 0.2, 0.4, 0.5]
    assert {*found[5:]} == {0.5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"most": -1}, "most must be 0 or more, not -1"),
        ({"jitter": 1.5}, "jitter must be between 0 and 1, not 1.5"),
        ({"factor": 0.5}, "factor must be between 1 and 100, not 0.5"),
        ({"first_s": 5, "longest_s": 1}, "longest_s must be at least first_s, 5, not 1"),
    ],
)
def test_impossible(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(**options)  # type: ignore[arg-type]


@given(
    steps=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=50),
    most=st.none() | st.integers(0, 5),
    jitter=st.floats(0, 1),
    seed=st.integers(),
)
def test_whatever_dies(
    steps: list[tuple[float, float]], most: int | None, jitter: float, seed: int
) -> None:
    schedule = Schedule(most=most, within_s=60, jitter=jitter)
    restarts = Restarts(schedule, random.Random(seed))
    now = 0.0
    started: list[float] = []
    for step_s, lived_s in steps:
        now += step_s
        recent = [when for when in started if when > now - schedule.within_s]
        pause_s = restarts.died(now, lived_s)
        assert (pause_s is None) == (most is not None and len(recent) >= most)
        if pause_s is not None:
            assert 0 <= pause_s <= schedule.longest_s
            started.append(now)
