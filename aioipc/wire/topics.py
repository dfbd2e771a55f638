"""Topics and the patterns that they match: the grammar of NATS.

A topic is one or more levels with dots between them: ``eur.usd``. A pattern is a topic in which
``*`` stands for any one level and a ``>`` at the end for one or more: ``eur.*``, ``log.>``.
"""

from __future__ import annotations

import errno
import re
from typing import Final, Generic, TypeVar

from aioipc.errors import QuotaExceeded

__all__ = ["MAX_LEVELS", "MAX_TOPIC_BYTES", "TopicTrie", "check_pattern", "check_topic"]

T = TypeVar("T")

MAX_TOPIC_BYTES: Final = 1024
"""The longest topic or pattern, in UTF-8."""
MAX_LEVELS: Final = 64
"""The most levels of a topic or pattern."""

_ANY: Final = "*"
_REST: Final = ">"
_LEVEL: Final = r"[^.*>\s\x00-\x1f\x7f]+"
_TOPIC: Final = re.compile(rf"{_LEVEL}(?:\.{_LEVEL})*")
_PATTERN: Final = re.compile(rf"(?:(?:{_LEVEL}|\*)\.)*(?:{_LEVEL}|\*|>)")


def check_topic(topic: str) -> None:
    """Refuse what is no topic.

    Raises:
        ValueError: It has an empty level, a wildcard, white space or a control character.
        QuotaExceeded: It is longer than `MAX_TOPIC_BYTES` or has more than `MAX_LEVELS` levels.
        TypeError: It is not text.
    """
    _check_size("topic", topic)
    if _TOPIC.fullmatch(topic) is None:
        raise ValueError(
            f"topic {topic!r}: levels with dots between them, "
            "without wildcards, white space and control characters"
        )


def check_pattern(pattern: str) -> None:
    """Refuse what is no pattern.

    Raises:
        ValueError: It has an empty level, white space or a control character, a ``*`` that is not
            a whole level, or a ``>`` that is not the whole last level.
        QuotaExceeded: As for `check_topic`.
        TypeError: It is not text.
    """
    _check_size("pattern", pattern)
    if _PATTERN.fullmatch(pattern) is None:
        raise ValueError(
            f"pattern {pattern!r}: levels with dots between them, without white space and control "
            "characters; '*' stands for one whole level, and '>' at the end for the rest"
        )


def _check_size(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a {what} is a str, not {type(text).__name__}")
    size = len(text) if len(text) > MAX_TOPIC_BYTES else _size_of(what, text)
    if size > MAX_TOPIC_BYTES:
        raise QuotaExceeded(
            errno.EDQUOT,
            f"a {what} of {size:,} bytes is over the limit of {MAX_TOPIC_BYTES:,}",
        )
    levels = text.count(".") + 1
    if levels > MAX_LEVELS:
        raise QuotaExceeded(
            errno.EDQUOT, f"a {what} of {levels:,} levels is over the limit of {MAX_LEVELS}"
        )


def _size_of(what: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {text!r} cannot be written in UTF-8: {error.reason}") from None


class _Node(Generic[T]):
    """What is known behind some levels of a pattern."""

    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        """By the next level; no topic has a level ``*``."""
        self.here: set[T] = set()
        """Those whose pattern ends here."""
        self.rest: set[T] = set()
        """Those whose pattern goes on with ``>``."""

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.here or self.rest)


class TopicTrie(Generic[T]):
    """Who wants which topics.

    A search takes at most as many steps as the topic has levels, times the patterns that begin as
    the topic does. Nothing here calls itself.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._size = 0

    def __len__(self) -> int:
        """How many pairs of a pattern and somebody there are."""
        return self._size

    def add(self, pattern: str, who: T) -> bool:
        """Let ``who`` want what matches a pattern; False if that was so already.

        Raises:
            ValueError: As `check_pattern`.
            QuotaExceeded: As `check_pattern`.
        """
        check_pattern(pattern)
        node, last = self._root, pattern.split(".")
        ends_open = last[-1] == _REST
        for level in last[:-1] if ends_open else last:
            node = node.children.setdefault(level, _Node())
        members = node.rest if ends_open else node.here
        if who in members:
            return False
        members.add(who)
        self._size += 1
        return True

    def remove(self, pattern: str, who: T) -> bool:
        """Take an `add` back; False if there was none."""
        levels = pattern.split(".")
        ends_open = levels[-1] == _REST
        path = [self._root]
        for level in levels[:-1] if ends_open else levels:
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        members = path[-1].rest if ends_open else path[-1].here
        if who not in members:
            return False
        members.remove(who)
        self._size -= 1
        self._prune(path, levels)
        return True

    def match(self, topic: str) -> set[T]:
        """Everybody with a pattern that matches a topic, once."""
        found: set[T] = set()
        nodes = [self._root]
        for level in topic.split("."):
            following: list[_Node[T]] = []
            for node in nodes:
                found |= node.rest
                for key in (level, _ANY):
                    child = node.children.get(key)
                    if child is not None:
                        following.append(child)
            nodes = following
            if not nodes:
                break
        for node in nodes:
            found |= node.here
        return found

    @staticmethod
    def _prune(path: list[_Node[T]], levels: list[str]) -> None:
        """Forget the nodes at the end of a path behind which nothing is left."""
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].is_empty:
                return
            del path[depth - 1].children[levels[depth - 1]]
