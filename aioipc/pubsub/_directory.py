"""Who subscribes to what."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aioipc.native._pubsub import Audience, Subject
from aioipc.pubsub._feed import Feed
from aioipc.wire.topics import TopicTrie, check_topic

__all__ = ["Directory"]

_KNOWN_TOPICS: Final = 4096
"""Topics that are remembered, so that they need no search for their subscribers."""


class Directory:
    """Finds the audience of a topic: those with a pattern that matches it."""

    def __init__(self) -> None:
        self.subjects: dict[str, Subject] = {}
        """The topics that are known, by name."""
        self._trie: TopicTrie[Feed] = TopicTrie()
        self._audiences: dict[frozenset[Feed], Audience[Feed]] = {}

    def add(self, feed: Feed, patterns: Collection[str]) -> None:
        """One subscriber matches other patterns as well."""
        for pattern in patterns:
            self._trie.add(pattern, feed)
        feed.patterns.update(patterns)
        self._forget()

    def remove(self, feed: Feed, patterns: Collection[str]) -> None:
        """One subscriber matches some patterns no longer, if it did."""
        for pattern in feed.patterns.intersection(patterns):
            feed.patterns.remove(pattern)
            self._trie.remove(pattern, feed)
        self._forget()

    def is_for(self, feed: Feed, topic: str) -> bool:
        """Whether a subscriber gets what is published about a topic."""
        return feed in self._trie.match(topic)

    def audience(self, topic: str) -> Audience[Feed]:
        """Who gets what is published about a topic.

        Raises:
            ValueError: That is no topic.
        """
        return self.subject(topic).audience

    def subject(self, topic: str) -> Subject:
        """What is known of a topic.

        Raises:
            ValueError: That is no topic.
        """
        known = self.subjects.get(topic)
        if known is None:
            check_topic(topic)
            if len(self.subjects) >= _KNOWN_TOPICS:
                self._forget()
            known = self.subjects[topic] = Subject(topic, self._audience_of(topic))
        return known

    def _audience_of(self, topic: str) -> Audience[Feed]:
        feeds = frozenset(self._trie.match(topic))
        known = self._audiences.get(feeds)
        if known is None:
            blocking = tuple(feed for feed in feeds if feed.blocks)
            known = self._audiences[feeds] = Audience(tuple(feeds), blocking)
        return known

    def _forget(self) -> None:
        self.subjects.clear()
        self._audiences.clear()
