"""Topics, patterns and the trie, beside a matcher that tries every pattern in turn."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioipc.errors import QuotaExceeded
from aioipc.wire.topics import (
    MAX_LEVELS,
    MAX_TOPIC_BYTES,
    TopicTrie,
    check_pattern,
    check_topic,
)
from tests.scale import scaled

levels = st.sampled_from(["a", "b", "c", "ü"])
topics = st.lists(levels, min_size=1, max_size=5).map(".".join)
wild = st.lists(st.sampled_from(["a", "b", "*"]), max_size=4)
patterns = st.builds(
    lambda front, last: ".".join([*front, last]), wild, st.sampled_from(["a", "b", "*", ">"])
)


def is_match(pattern: str, topic: str) -> bool:
    """What the grammar says, level by level."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        want in ("*", level) for want, level in zip(wanted, given, strict=True)
    )


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a", ["a"], ["b", "a.b", "A"]),
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
        ("*", ["a", "b"], ["a.b"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c", "b.b"]),
        ("*.b", ["a.b", "c.b"], ["b", "a.b.b"]),
        ("a.*.c", ["a.b.c"], ["a.c", "a.b.b.c"]),
        (">", ["a", "a.b", "a.b.c"], []),
        ("a.>", ["a.b", "a.b.c"], ["a", "b.a"]),
        ("*.>", ["a.b", "a.b.c"], ["a"]),
        ("eur.ÜSD.*", ["eur.ÜSD.1"], ["eur.USD.1"]),
    ],
)
def test_the_grammar(pattern: str, yes: list[str], no: list[str]) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, "who")
    for topic in yes:
        assert trie.match(topic) == {"who"}
        assert is_match(pattern, topic)
    for topic in no:
        assert trie.match(topic) == set()
        assert not is_match(pattern, topic)


WRONG = ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\n", "a.\0", "\x7f", "a\u2003b", "\ud800"]


@pytest.mark.parametrize("text", WRONG)
def test_neither_topic_nor_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        check_topic(text)
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(text)


@pytest.mark.parametrize("text", ["*", ">", "a.*", "a.>", "a*", "a.>b"])
def test_no_topic_has_wildcards(text: str) -> None:
    with pytest.raises(ValueError, match="without wildcards"):
        check_topic(text)


@pytest.mark.parametrize("text", ["a*", "*a", "a.b*", "**", ">.a", "a.>.b", ">>", "a>"])
def test_wildcards_are_whole_levels(text: str) -> None:
    with pytest.raises(ValueError, match="one whole level"):
        check_pattern(text)


@pytest.mark.parametrize("what", [b"a", None, 1])
def test_topics_are_text(what: object) -> None:
    with pytest.raises(TypeError, match="is a str, not"):
        check_topic(what)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 2**20, "1,048,576 bytes is over the limit of 1,024"),
        ("ü" * 600, "1,200 bytes is over"),
        (".".join("a" * 10_000), "bytes is over"),
        (".".join("a" * (MAX_LEVELS + 1)), "65 levels is over the limit of 64"),
        ("." * 100, "levels is over"),
    ],
    ids=["1 MiB", "utf-8", "10,000 levels", "65 levels", "dots"],
)
def test_what_is_too_much(text: str, words: str) -> None:
    for check in (check_topic, check_pattern):
        with pytest.raises(QuotaExceeded, match=words) as caught:
            check(text)
        assert len(str(caught.value)) < 100


def test_the_largest() -> None:
    deepest = ".".join("a" * MAX_LEVELS)
    longest = "x" * MAX_TOPIC_BYTES
    trie: TopicTrie[str] = TopicTrie()
    for text in (deepest, longest):
        check_topic(text)
        trie.add(text, text)
        assert trie.match(text) == {text}


def test_adding_and_removing_is_told() -> None:
    trie: TopicTrie[int] = TopicTrie()
    assert trie.add("a.>", 1)
    assert not trie.add("a.>", 1)
    assert trie.add("a.>", 2)
    assert len(trie) == 2
    assert trie.remove("a.>", 1)
    assert not trie.remove("a.>", 1)
    assert not trie.remove("a.b", 1)
    assert not trie.remove("b.>", 2)
    assert trie.match("a.b") == {2}
    assert len(trie) == 1


@given(st.lists(st.tuples(patterns, st.integers(0, 3))), st.lists(topics, max_size=10), st.data())
@settings(max_examples=scaled(300, full=10_000))
def test_the_trie_and_the_naive_matcher(
    members: list[tuple[str, int]], asked: list[str], data: st.DataObject
) -> None:
    trie: TopicTrie[int] = TopicTrie()
    model: set[tuple[str, int]] = set()
    for pattern, who in members:
        assert trie.add(pattern, who) == ((pattern, who) not in model)
        model.add((pattern, who))
    if members:
        for pattern, who in data.draw(st.lists(st.sampled_from(members))):
            assert trie.remove(pattern, who) == ((pattern, who) in model)
            model.discard((pattern, who))
    assert len(trie) == len(model)
    for topic in asked:
        assert trie.match(topic) == {who for pattern, who in model if is_match(pattern, topic)}


@given(st.lists(st.tuples(patterns, st.integers(0, 3))))
def test_nothing_is_left_of_what_was_removed(members: list[tuple[str, int]]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for pattern, who in members:
        trie.add(pattern, who)
    for pattern, who in members:
        trie.remove(pattern, who)
    assert len(trie) == 0
    assert trie._root.is_empty


def test_a_hundred_thousand_subscriptions_without_recursion() -> None:
    """Case 65."""
    count = 100_000
    trie: TopicTrie[int] = TopicTrie()
    for number in range(count):
        trie.add(f"many.{number % 1000}.{number}.>", number)
    deep = ".".join("a" * MAX_LEVELS)
    trie.add(deep, -1)
    trie.add(">", -2)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60)  # less than a topic may have levels, and enough for pytest's assert
    try:
        found = [trie.match(topic) for topic in ("many.7.1007.x", "many.7.8.x", deep)]
        removed = trie.remove(deep, -1)
    finally:
        sys.setrecursionlimit(limit)
    assert found == [{1007, -2}, {-2}, {-1, -2}]
    assert removed
    assert len(trie) == count + 1
