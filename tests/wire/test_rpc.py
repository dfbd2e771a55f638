"""The session of calls: every state by every event, and random conversations of two of them."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc.errors import ProtocolError, QuotaExceeded
from aioipc.native._call_table import Incoming, Outgoing
from aioipc.rpc._session import Session
from aioipc.wire.rpc import (
    DROP,
    WIDEST_WINDOW,
    WINDOW,
    Answer,
    Call,
    Cancel,
    Credit,
    End,
    GoAway,
    Item,
    Raise,
    Return,
)

AnySession = Session[Outgoing, Incoming]
Message = Call | Answer | GoAway

NIL = msgspec.Raw(b"\xc0")
NONE = msgspec.Raw(b"\x90")


def message(kind: str, number: int) -> Message:
    messages: dict[str, Message] = {
        "call": Call(number, "m", NONE),
        "return": Return(number, NIL),
        "raise": Raise(number, "raised"),
        "item": Item(number, NIL),
        "end": End(number),
        "credit": Credit(number, 1),
        "cancel": Cancel(number),
    }
    return messages[kind]


def outgoing(*, is_streaming: bool, is_uploading: bool) -> Outgoing:
    call = Outgoing()
    call.is_streaming, call.is_uploading = is_streaming, is_uploading
    return call


def own(state: str) -> tuple[AnySession, int]:
    """A session with a call of its own in that state, and the number of the call."""
    session: AnySession = Session(connected=True, max_calls=2)
    if state == "never":
        return session, 1
    call = outgoing(is_streaming=state == "streaming", is_uploading=state == "uploading")
    number = session.open(call)
    call.room -= 1
    if state == "cancelled":
        assert session.cancel(call) == Cancel(number)
    elif state == "done":
        session.receive(Return(number, NIL))
    return session, number


def served(state: str) -> tuple[AnySession, int]:
    """A session with a call of the peer's in that state, and the number of the call."""
    session: AnySession = Session(connected=False, max_calls=2)
    if state == "never":
        return session, 1
    call = session.admit(Incoming(Call(1, "m", NONE)))
    call.room -= 1
    call.is_uploading = state in ("uploading", "ended")
    if state == "ended":
        session.receive(End(1))
    elif state == "cancelled":
        session.receive(Cancel(1))
    elif state == "done":
        session.finish(call)
    return session, 1


TAKEN, DROPPED, BREACH = "taken", "dropped", "breach"

# What a message about a call of one's own means, by the state of the call.
CALLER = {
    #             return   raise    item     credit
    "never":     (BREACH,  BREACH,  BREACH,  BREACH),
    "waiting":   (TAKEN,   TAKEN,   BREACH,  TAKEN),
    "streaming": (TAKEN,   TAKEN,   TAKEN,   TAKEN),
    "uploading": (TAKEN,   TAKEN,   BREACH,  TAKEN),
    "cancelled": (DROPPED, DROPPED, DROPPED, DROPPED),
    "done":      (BREACH,  BREACH,  BREACH,  BREACH),
}  # fmt: skip
ABOUT_OWN = ("return", "raise", "item", "credit")

# What a message about a call of the peer's means.
CALLEE = {
    #             call     item     end      credit   cancel
    "never":     (TAKEN,   BREACH,  BREACH,  BREACH,  BREACH),
    "running":   (BREACH,  BREACH,  BREACH,  TAKEN,   TAKEN),
    "uploading": (BREACH,  TAKEN,   TAKEN,   TAKEN,   TAKEN),
    "ended":     (BREACH,  BREACH,  BREACH,  TAKEN,   TAKEN),
    "cancelled": (BREACH,  DROPPED, DROPPED, DROPPED, DROPPED),
    "done":      (BREACH,  DROPPED, DROPPED, DROPPED, DROPPED),
}  # fmt: skip
ABOUT_SERVED = ("call", "item", "end", "credit", "cancel")


def meaning(session: AnySession, event: Message) -> str:
    try:
        if isinstance(event, Call):
            session.admit(Incoming(event))
            return TAKEN
        if isinstance(event, GoAway):
            return TAKEN if session.go_away(event) else DROPPED
        return DROPPED if session.receive(event) is DROP else TAKEN
    except ProtocolError:
        return BREACH


@pytest.mark.parametrize(("state", "kind"), [*itertools.product(CALLER, ABOUT_OWN)])
def test_a_message_about_a_call_of_ones_own(state: str, kind: str) -> None:
    session, number = own(state)
    expected = CALLER[state][ABOUT_OWN.index(kind)]
    assert meaning(session, message(kind, number)) == expected
    is_over = state in ("never", "done") or kind in ("return", "raise")
    assert (number in session.calls) is not is_over


@pytest.mark.parametrize(("state", "kind"), [*itertools.product(CALLEE, ABOUT_SERVED)])
def test_a_message_about_a_call_of_the_peer(state: str, kind: str) -> None:
    session, number = served(state)
    expected = CALLEE[state][ABOUT_SERVED.index(kind)]
    assert meaning(session, message(kind, number)) == expected


@pytest.mark.parametrize("kind", ["call", "end", "cancel"])
def test_what_only_a_caller_says_is_not_said_by_a_callee(kind: str) -> None:
    session, number = own("streaming")
    assert meaning(session, message(kind, number)) == BREACH


@pytest.mark.parametrize("kind", ["return", "raise"])
def test_what_only_a_callee_says_is_not_said_by_a_caller(kind: str) -> None:
    session, number = served("uploading")
    assert meaning(session, message(kind, number)) == BREACH


@pytest.mark.parametrize("number", [-3, -2, -1, 0, 2**63 - 1])
@pytest.mark.parametrize("kind", ["return", "raise", "item", "end", "credit", "cancel"])
def test_numbers_that_no_call_has(kind: str, number: int) -> None:
    for session in (own("waiting")[0], served("uploading")[0]):
        assert meaning(session, message(kind, number)) == BREACH


@pytest.mark.parametrize("number", [-1, 0, 2, 4])
def test_a_call_has_the_next_number_of_its_side(number: int) -> None:
    session: AnySession = Session(connected=False, max_calls=2)
    assert meaning(session, Call(number, "m", NONE)) == BREACH


def test_numbers_may_have_gaps_and_never_come_again() -> None:
    session: AnySession = Session(connected=False, max_calls=9)
    for number in (1, 7, 9):
        session.admit(Incoming(Call(number, "m", NONE)))
    for number in (3, 7, 9):
        assert meaning(session, Call(number, "m", NONE)) == BREACH


def test_a_call_over_the_quota_is_refused_and_the_others_go_on() -> None:
    session: AnySession = Session(connected=False, max_calls=2)
    first = session.admit(Incoming(Call(1, "m", NONE)))
    session.admit(Incoming(Call(3, "m", NONE)))
    with pytest.raises(QuotaExceeded, match="2 calls"):
        session.admit(Incoming(Call(5, "m", NONE)))
    session.finish(first)
    session.admit(Incoming(Call(7, "m", NONE)))
    assert list(session.served) == [3, 7]


def test_items_beyond_the_credit() -> None:
    session, number = own("streaming")
    for _ in range(WINDOW):
        assert meaning(session, message("item", number)) == TAKEN
    assert meaning(session, message("item", number)) == BREACH
    session, number = served("uploading")
    for _ in range(WINDOW):
        assert meaning(session, message("item", number)) == TAKEN
    assert meaning(session, message("item", number)) == BREACH


@pytest.mark.parametrize("items", [0, -1, WIDEST_WINDOW + 1, 2**31])
def test_credit_that_makes_no_sense(items: int) -> None:
    for session, number in (own("uploading"), served("running")):
        assert meaning(session, Credit(number, items)) == BREACH


def test_credit_fills_the_widest_window_and_no_more() -> None:
    for session, number in (own("uploading"), served("running")):
        under_way = 1
        assert meaning(session, Credit(number, WIDEST_WINDOW - WINDOW + under_way)) == TAKEN
        assert meaning(session, Credit(number, 1)) == BREACH


def test_a_withdrawn_call_was_never_made() -> None:
    session: AnySession = Session(connected=True, max_calls=2)
    call = Outgoing()
    number = session.open(call)
    session.withdraw(call)
    assert session.cancel(call) is None
    assert meaning(session, Return(number, NIL)) == BREACH


@pytest.mark.parametrize(("last", "missed"), [(0, [1, 5, 7]), (3, [5, 7]), (5, [7]), (7, [])])
def test_calls_that_a_side_that_goes_away_did_not_take(last: int, missed: list[int]) -> None:
    session: AnySession = Session(connected=True, max_calls=2)
    calls = [outgoing(is_streaming=True, is_uploading=True) for _ in range(4)]
    for call in calls:
        session.open(call)
    session.cancel(calls[1])
    assert [call.id for call in session.go_away(GoAway(last))] == missed
    for number in (1, 5, 7):
        assert meaning(session, Return(number, NIL)) == (DROPPED if number in missed else TAKEN)
    assert [*session.calls] == [3]


@pytest.mark.parametrize("number", [-1, 2, 3, 2**63 - 1])
def test_what_goes_away_after_a_call_that_was_never_made(number: int) -> None:
    session, _ = own("waiting")
    assert meaning(session, GoAway(number)) == BREACH
    assert meaning(served("running")[0], GoAway(1)) == BREACH


class Side:
    """One end of a conversation, which does what it may at random."""

    def __init__(self, *, connected: bool) -> None:
        self.session: AnySession = Session(connected=connected, max_calls=3)
        self.out: deque[Message] = deque()
        self.open: dict[int, Outgoing] = {}
        self.running: dict[int, Incoming] = {}
        self.outcomes: dict[int, int] = {}
        self.made = 0
        self.goes_away = self.other_goes_away = False
        self.ran: set[int] = set()

    def act(self, choose: Any) -> None:
        acts = ("call", "cancel", "upload", "item", "answer", "grant", "go_away")
        getattr(self, choose(acts))(choose)

    def go_away(self, choose: Any) -> None:
        if not self.goes_away and choose((True, False, False)):
            self.goes_away = True
            self.out.append(GoAway(max(self.session.peer_last_id, 0)))

    def call(self, choose: Any) -> None:
        if len(self.session.calls) < 3 and not self.other_goes_away:
            call = outgoing(is_streaming=choose((True, False)), is_uploading=choose((True, False)))
            number = self.session.open(call)
            self.open[number] = call
            self.made += 1
            self.out.append(Call(number, "us"[call.is_uploading], NONE))

    def cancel(self, choose: Any) -> None:
        if self.open:
            number = choose(sorted(self.open))
            last = self.session.cancel(self.open.pop(number))
            assert last is not None
            self.out.append(last)

    def upload(self, choose: Any) -> None:
        ready = [n for n, call in self.open.items() if call.is_uploading]
        if ready:
            number = choose(ready)
            call = self.open[number]
            if call.room and choose((True, True, False)):
                call.room -= 1
                self.out.append(Item(number, NIL))
            else:
                call.is_uploading = False
                self.out.append(End(number))

    def item(self, choose: Any) -> None:
        ready = [n for n, call in self.running.items() if call.is_streaming and call.room]
        if ready:
            number = choose(ready)
            self.running[number].room -= 1
            self.out.append(Item(number, NIL))

    def answer(self, choose: Any) -> None:
        if self.running:
            number = choose(sorted(self.running))
            self.session.finish(self.running.pop(number))
            self.out.append(choose((Return(number, NIL), Raise(number, "raised"))))

    def grant(self, choose: Any) -> None:
        calls: list[tuple[int, Any]] = [*self.open.items(), *self.running.items()]
        ready = [
            (n, call) for n, call in calls if call.credit < WIDEST_WINDOW and not call.is_cancelled
        ]
        if ready:
            number, call = choose(ready)
            call.credit += 1
            self.out.append(Credit(number, 1))

    def hear(self, said: Message, other: Side) -> None:
        if isinstance(said, GoAway):
            self.other_goes_away = True
            for call in self.session.go_away(said):
                assert call.id not in other.ran
                del self.open[call.id]
        elif isinstance(said, Call) and self.goes_away:
            self.session.finish(self.session.admit(Incoming(said)))
            self.out.append(Raise(said.id, "cancelled"))
        elif isinstance(said, Call):
            self.ran.add(said.id)
            served = self.running[said.id] = self.session.admit(Incoming(said))
            served.is_uploading = said.method == "s"
            asked = other.open.get(said.id)
            served.is_streaming = asked is not None and asked.is_streaming
        elif self.session.receive(said) is not DROP and isinstance(said, Return | Raise):
            self.outcomes[said.id] = self.outcomes.get(said.id, 0) + 1
            self.open.pop(said.id, None)


@given(st.data())
def test_two_sides_that_keep_the_rules_never_break_them(data: st.DataObject) -> None:
    left, right = sides = Side(connected=True), Side(connected=False)

    def choose(options: Any) -> Any:
        return data.draw(st.sampled_from(list(options)))

    def deliver(receiver: Side, sender: Side) -> None:
        if sender.out:
            receiver.hear(sender.out.popleft(), sender)

    for _ in range(data.draw(st.integers(10, 80))):
        one, other = choose((sides, sides[::-1]))
        if choose((True, False)):
            one.act(choose)
        else:
            deliver(one, other)
    while left.out or right.out or left.running or right.running:
        for one, other in (sides, sides[::-1]):
            deliver(one, other)
            one.answer(choose)
    for side in sides:
        assert not side.session.calls, "every call has had its last message"
        assert not side.session.served
        assert all(count == 1 for count in side.outcomes.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("call", "return", "raise", "item", "end", "credit", "cancel")),
            st.integers(-2, 9),
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_whatever_comes_the_tables_stay_small(
    events: list[tuple[str, int]], connected: bool
) -> None:
    session: AnySession = Session(connected=connected, max_calls=2)
    session.open(outgoing(is_streaming=True, is_uploading=True))
    for kind, number in events:
        with contextlib.suppress(QuotaExceeded):
            meaning(session, message(kind, number))
    assert len(session.calls) <= 1
    assert len(session.served) <= 2
