"""The outbox of one subscriber: each policy, and random lives beside a plain model."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioipc.wire.pubsub import (
    Away,
    Credit,
    Look,
    Lost,
    Open,
    Outbox,
    Publication,
    Ride,
    Ring,
    Subscribe,
    Unsubscribe,
    Welcome,
    WhenFull,
)
from tests.scale import scaled


def outbox(when_full: str, *, messages: int = 3, size: int = 100, window: int = 1) -> Outbox:
    return Outbox(WhenFull(when_full), max_messages=messages, max_bytes=size, window=window)


def everything(box: Outbox) -> list[bytes | int]:
    """What a subscriber that takes all at once would see."""
    box.grant(2**32)
    found: list[bytes | int] = []
    while (message := box.take()) is not None:
        found.append(message.count if isinstance(message, Lost) else message)
        box.grant(1)
    return found


def offered(box: Outbox, *messages: str) -> list[bool]:
    return [box.offer(text[0], text.encode()) for text in messages]


def test_the_window() -> None:
    box = outbox("block", window=2)
    offered(box, "a1", "a2", "a3")
    assert [box.take(), box.take(), box.take()] == [b"a1", b"a2", None]
    box.grant(1)
    assert [box.take(), box.take()] == [b"a3", None]
    assert box.is_empty


def test_there_is_never_more_credit_than_the_window() -> None:
    box = outbox("block", messages=10, window=2)
    box.grant(2**32 - 1)
    offered(box, "a1", "a2", "a3")
    assert [box.take(), box.take(), box.take()] == [b"a1", b"a2", None]


@pytest.mark.parametrize(
    ("when_full", "seen", "dropped"),
    [
        ("drop_oldest", [2, b"a3", b"b4", b"a5"], 2),
        ("drop_newest", [b"a1", b"b2", b"a3", 2], 2),
        ("latest", [2, b"a5", 1, b"b4"], 3),
    ],
)
def test_policies(when_full: str, seen: list[object], dropped: int) -> None:
    box = outbox(when_full)
    assert all(offered(box, "a1", "b2", "a3", "b4", "a5"))
    assert everything(box) == seen
    assert (box.offered, box.dropped) == (5, dropped)


def test_disconnect() -> None:
    box = outbox("disconnect")
    assert offered(box, "a1", "a2", "a3", "a4") == [True, True, True, False]
    assert (box.offered, box.dropped, len(box)) == (3, 0, 3)


def test_block_is_for_the_publisher_to_ask() -> None:
    box = outbox("block")
    offered(box, "a1", "a2")
    assert box.has_room(2)
    offered(box, "a3")
    assert not box.has_room(2)
    with pytest.raises(AssertionError):
        box.offer("a", b"a4")


def test_latest_keeps_the_places_of_topics_and_drops_the_oldest_topic() -> None:
    box = outbox("latest")
    offered(box, "a1", "b1", "a2", "c1", "b2", "d1")
    assert everything(box) == [3, b"b2", b"c1", b"d1"]


def test_a_gap_stands_where_the_messages_are_missing() -> None:
    box = outbox("drop_newest", messages=1)
    offered(box, "a1", "a2", "a3")
    assert box.take() == b"a1"
    offered(box, "a4", "a5")
    assert everything(box) == [2, b"a4", 1]


def test_a_stopped_subscriber_is_told_of_no_loss_until_it_goes_on() -> None:
    box = outbox("drop_oldest", messages=1)
    offered(box, "a1")
    assert box.take() == b"a1"
    for _ in range(10):
        offered(box, "a2")
        assert box.take() is None
    assert everything(box) == [9, b"a2"]


def test_what_takes_no_credit_is_settled_by_the_message_behind_it() -> None:
    """Until that is granted, nobody knows that the other was read."""
    box = outbox("drop_newest", messages=2, window=1)
    assert box.is_settled
    offered(box, "a1", "a2", "a3")
    assert everything(box) == [b"a1", b"a2", 1]
    assert not box.is_settled
    offered(box, "a4")
    assert everything(box) == [b"a4"]
    assert box.is_settled
    box.let_pass(1)
    box.grant(1)
    assert box.is_settled, "whatever was taken from a ring"
    box.take_back([])
    assert not box.is_settled
    box.let_pass(1)
    assert not box.is_settled
    box.grant(1)
    assert box.is_settled


def test_bytes_count_and_one_message_may_always_wait() -> None:
    box = outbox("drop_oldest", messages=100, size=10)
    box.offer("a", b"x" * 50)
    assert len(box) == 1
    box.offer("a", b"y" * 5)
    box.offer("a", b"z" * 5)
    box.offer("a", b"w")
    assert everything(box) == [2, b"zzzzz", b"w"]


def test_latest_counts_the_bytes_of_what_takes_a_place() -> None:
    box = outbox("latest", messages=100, size=10)
    offered(box, "a1", "b1")
    box.offer("b", b"x" * 9)
    assert everything(box) == [2, b"x" * 9]


def test_what_cannot_be_sent_is_lost() -> None:
    box = outbox("block", window=2)
    offered(box, "a1", "a2")
    assert box.take() == b"a1"
    box.lose()
    assert everything(box) == [1, b"a2"]
    assert box.dropped == 1


def test_what_is_retained_has_room() -> None:
    box = outbox("block", messages=1)
    for text in ("a1", "a2", "a3"):
        box.keep("a", text.encode())
    assert not box.has_room(2)
    assert everything(box) == [b"a1", b"a2", b"a3"]


class Life(RuleBasedStateMachine):
    """Numbered messages, of which each is seen or stands in a gap at its very place."""

    @initialize(
        when_full=st.sampled_from(["drop_oldest", "drop_newest", "latest", "block"]),
        messages=st.integers(1, 4),
        size=st.integers(8, 40),
        window=st.integers(1, 4),
    )
    def begin(self, when_full: str, messages: int, size: int, window: int) -> None:
        self.box = outbox(when_full, messages=messages, size=size, window=window)
        self.numbers = itertools.count()
        self.published = 0
        self.seen: list[int] = []
        self.missed = 0
        self.owed = 0
        self.window = window

    @rule(topic=st.sampled_from("abc"), length=st.integers(8, 16))
    def publish(self, topic: str, length: int) -> None:
        if self.box.when_full is WhenFull.BLOCK and not self.box.has_room(length):
            return
        assert self.box.offer(topic, b"%08d" % next(self.numbers) + b"-" * (length - 8))
        self.published += 1

    @rule()
    def pass_through(self) -> None:
        if self.box.passes:
            self.box.let_pass(1)
            assert len(self.box) == 0
            assert self.missed == self.box.dropped
            self.seen.append(next(self.numbers))
            self.published += 1
            self.owed += 1

    @rule()
    def send(self) -> None:
        message = self.box.take()
        if isinstance(message, Lost):
            self.missed += message.count
        elif message is not None:
            self.seen.append(int(message[:8]))
            self.owed += 1
            if self.box.when_full is not WhenFull.LATEST:
                assert self.seen[-1] == len(self.seen) + self.missed - 1, "a gap is where it is"

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def grant(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.owed))
        self.owed -= count
        self.box.grant(count)

    @invariant()
    def every_message_is_somewhere(self) -> None:
        if hasattr(self, "box"):
            assert self.owed <= self.window
            assert self.box.offered == self.published
            assert len(self.box) + len(self.seen) + self.box.dropped == self.published
            assert self.missed <= self.box.dropped
            assert len(set(self.seen)) == len(self.seen)

    def teardown(self) -> None:
        if hasattr(self, "box"):
            for message in everything(self.box):
                if isinstance(message, int):
                    self.missed += message
                else:
                    self.seen.append(int(message[:8]))
            assert self.missed == self.box.dropped
            assert len(self.seen) + self.missed == self.published
            assert self.box.is_empty


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=scaled(150, full=5_000))


@pytest.mark.parametrize(
    ("message", "packed"),
    [
        (Open(["a.*"], WhenFull.LATEST, 10, 1), "95 01 91 a3 61 2e 2a a6 6c 61 74 65 73 74 0a 01"),
        (Subscribe(["a"]), "92 02 91 a1 61"),
        (Unsubscribe(["a"]), "92 03 91 a1 61"),
        (Credit(128), "92 04 cc 80"),
        (Welcome(), "91 05"),
        (Publication("a", memoryview(b"xyz")), "93 06 a1 61 c4 03 78 79 7a"),
        (Lost(3), "92 07 03"),
        (Ring(65536, 4, 2, 8), "95 08 ce 00 01 00 00 04 02 08"),
        (Away(1, 3, 64), "94 09 01 03 40"),
        (Look(), "91 0a"),
        (Ride(5), "92 0b 05"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_bytes(message: msgspec.Struct, packed: str) -> None:
    data = bytes.fromhex(packed)
    assert msgspec.msgpack.encode(message) == data
    assert msgspec.msgpack.decode(data, type=type(message)) == message
