"""The polling budget: two short sleeps give it, misses halve it, a long sleep takes it away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from aioipc.native._pacer import PollBudget, TurnsFirst

FULL_NS = 75_000
SHORT_NS = 150_000
LONG_NS = 250_000
MOST_SKIPPED = 1024


def granted() -> PollBudget:
    budget = PollBudget()
    budget.blocked(SHORT_NS)
    budget.blocked(SHORT_NS)
    return budget


def test_nothing_is_polled_before_two_short_sleeps_in_a_row() -> None:
    budget = PollBudget()
    assert budget.next_ns() == 0
    budget.blocked(SHORT_NS)
    assert budget.next_ns() == 0
    budget.blocked(LONG_NS)
    budget.blocked(SHORT_NS)
    assert budget.next_ns() == 0
    budget.blocked(SHORT_NS)
    assert budget.next_ns() == FULL_NS


def test_a_hit_keeps_the_budget() -> None:
    budget = granted()
    for _ in range(1000):
        assert budget.next_ns() == FULL_NS
        budget.hit()


def test_misses_halve_it_down_to_nothing() -> None:
    budget = granted()
    seen = []
    for _ in range(3):
        seen.append(budget.next_ns())
        budget.miss()
    assert seen == [75_000, 37_500, 18_750]
    assert budget.next_ns() == 0


def test_a_long_sleep_takes_it_away() -> None:
    budget = granted()
    budget.blocked(LONG_NS)
    assert budget.next_ns() == 0


def waits_until_polled(budget: PollBudget) -> int:
    """How many waits sleep, each shortly, before one is polled again."""
    for waits in range(10 * MOST_SKIPPED):
        if budget.next_ns():
            return waits
        budget.blocked(SHORT_NS)
    raise AssertionError("never polled again")


def test_where_polling_never_succeeds_it_becomes_rare() -> None:
    budget = granted()
    gaps = []
    for _ in range(40):
        while budget.next_ns():
            budget.miss()
            budget.blocked(SHORT_NS)
        gaps.append(waits_until_polled(budget))
        budget.miss()
        budget.blocked(SHORT_NS)
    assert gaps == sorted(gaps)
    assert gaps[0] < 16
    assert MOST_SKIPPED / 2 <= gaps[-1] <= MOST_SKIPPED


def test_a_hit_forgives_all_earlier_misses() -> None:
    budget = granted()
    for _ in range(10):
        waits_until_polled(budget)
        for _ in range(3):
            budget.miss()
            budget.blocked(SHORT_NS)
    waits_until_polled(budget)
    budget.hit()
    for _ in range(3):
        budget.miss()
        budget.blocked(SHORT_NS)
    assert waits_until_polled(budget) <= 4


def miss_early(budget: PollBudget) -> None:
    budget.miss()
    budget.blocked(SHORT_NS)
    budget.excuse()


def test_a_miss_that_is_excused_is_not_held_against_the_next_poll() -> None:
    budget = granted()
    for _ in range(10):
        assert budget.next_ns() == FULL_NS
        miss_early(budget)


def test_polls_that_always_have_an_excuse_become_rare() -> None:
    budget = granted()
    polls = 0
    for _ in range(10_000):
        if budget.next_ns():
            polls += 1
            miss_early(budget)
        else:
            budget.blocked(SHORT_NS)
    assert polls < 100


def test_the_loop_turns_first_a_few_times_at_most() -> None:
    first = TurnsFirst()
    seen = []
    for _ in range(10):
        seen.append(first.turns)
        first.early()
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_it_unlearns_slowly_what_is_needless() -> None:
    first = TurnsFirst()
    for _ in range(3):
        first.early()
    seen = []
    for _ in range(4 * 16):
        first.turned_needlessly()
        seen.append(first.turns)
    assert seen == [3] * 15 + [2] * 16 + [1] * 16 + [0] * 17
    for _ in range(100):
        first.early()
        for _ in range(15):
            first.turned_needlessly()
    assert first.turns == 8


@given(st.lists(st.integers(0, 10**9)))
def test_a_budget_that_is_switched_off_never_polls(sleeps: list[int]) -> None:
    budget = PollBudget(False)
    for ns in sleeps:
        budget.blocked(ns)
        assert budget.next_ns() == 0


class AnyLife(RuleBasedStateMachine):
    """Whatever happens, the budget stays within its bounds and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = PollBudget()

    @rule()
    def wait(self) -> None:
        ns = self.budget.next_ns()
        assert ns == 0 or 10_000 <= ns <= FULL_NS

    @rule()
    def hit(self) -> None:
        self.budget.hit()

    @rule()
    def miss(self) -> None:
        self.budget.miss()

    @rule()
    def excuse(self) -> None:
        self.budget.excuse()

    @rule(ns=st.integers(0, 10**10))
    def blocked(self, ns: int) -> None:
        self.budget.blocked(ns)

    def teardown(self) -> None:
        assert waits_until_polled(self.budget) <= MOST_SKIPPED + 2


TestAnyLife = AnyLife.TestCase
