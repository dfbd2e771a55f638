"""What the two processes of the demo tell each other, and the check that all of it came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

__all__ = ["TITLE", "Check", "read_book"]

TITLE = "the source of Python's asyncio, line by line"

Message = list[object]
"""The number of a line, and the line."""

_SHORT = 1000  # characters; on a FIFO a message has at most 4,088 bytes


def read_book() -> list[Message]:
    """Real text that both processes have: some thousand numbered lines."""
    files = sorted(Path(asyncio.__file__).parent.glob("*.py"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    return [[number, line[:_SHORT]] for number, line in enumerate(lines or ["no source here"])]


class Check:
    """Compares messages with the book, which is read aloud over and over.

    A message that is lost, doubled, changed or out of order shows up as the wrong line; only
    whole books could get lost unseen, and they show up in the count.

    Attributes:
        count: How many messages were right.
    """

    def __init__(self, book: Sequence[Message]) -> None:
        self._book = book
        self.count = 0

    def wrong(self, messages: Sequence[Message]) -> str:
        """Say what is wrong with the next messages; nothing if they are as they should be."""
        start = 0
        while start < len(messages):
            page = self.count % len(self._book)
            due = self._book[page : page + len(messages) - start]
            if messages[start : start + len(due)] != due:
                return self._first_wrong(messages[start:], due)
            start += len(due)
            self.count += len(due)
        return ""

    def _first_wrong(self, messages: Sequence[object], due: Sequence[Message]) -> str:
        for came, should in zip(messages, due, strict=False):
            if came != should:
                return f"message {self.count:,} is {came!r:.200} instead of {should!r:.200}"
            self.count += 1
        raise AssertionError("compared unequal as a whole")
