"""The last messages of each topic, for who subscribes later."""

from __future__ import annotations

import collections
import errno
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

from aioipc.errors import QuotaExceeded

__all__ = ["Retained"]

_NUMBER: Final = itemgetter(0)


class Retained:
    """Keeps messages, packed as they were sent.

    Args:
        depth: How many of each topic.
        max_topics: Of how many topics.
    """

    def __init__(self, depth: int, max_topics: int) -> None:
        self._depth = depth
        self._max_topics = max_topics
        self._number = 0
        self._topics: dict[str, collections.deque[tuple[int, str, bytes]]] = {}

    def check(self, topic: str) -> None:
        """Refuse a topic that there is no room for.

        Raises:
            QuotaExceeded: There are too many others.
        """
        if self._depth and topic not in self._topics and len(self._topics) >= self._max_topics:
            raise QuotaExceeded(
                errno.EDQUOT,
                f"messages of {self._max_topics:,} topics are retained, the limit; "
                f"{topic!r} would be another",
            )

    def keep(self, topic: str, data: bytes) -> None:
        """Keep a message, in the place of the oldest of its topic."""
        if self._depth:
            self._number += 1
            if topic not in self._topics:
                self._topics[topic] = collections.deque(maxlen=self._depth)
            self._topics[topic].append((self._number, topic, data))

    def of(self, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Topics and messages, in the order in which they were published."""
        found = [each for topic, kept in self._topics.items() if wants(topic) for each in kept]
        for _, topic, data in sorted(found, key=_NUMBER):
            yield topic, data
