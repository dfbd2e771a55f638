"""Counts the words of many texts in a pool of processes, with a progress bar.

Run it with ``python word_pool.py [TEXTS]``. Each worker makes its counter once. One of the texts
kills the worker that reads it; the pool starts another one, and only that text is missing.
"""

import collections
import os
import random
import signal
import sys
from typing import Protocol

from rich.console import Console
from rich.progress import Progress

import aioipc
from aioipc import process

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]
POISON = 17


class Counter(Protocol):
    """What the pool is called by."""

    async def count(self, number: int) -> dict[str, int]: ...


class WordCounter:
    """What each worker has."""

    def __init__(self, words_per_text: int) -> None:
        self._length = words_per_text

    def count(self, number: int) -> dict[str, int]:
        """How often each word stands in a text; this computes, so it is no coroutine."""
        if number == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        chance = random.Random(number)  # noqa: S311 - any words will do
        return collections.Counter(chance.choices(WORDS, k=self._length))


async def main(texts: int) -> None:
    """Count, and say how it went."""
    total: collections.Counter[str] = collections.Counter()
    lost = []

    async with process.pool(WordCounter, Counter, size=2, args=(2_000,)) as counter:

        async def count(number: int) -> dict[str, int]:
            try:
                return await counter.count(number)
            except aioipc.PeerCrashed:
                lost.append(number)
                return {}

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("counting", total=texts)
            results = process.imap_unordered(
                count,
                range(texts),
                lookahead=8,
                progress=lambda done: bar.update(task, completed=done),
            )
            async with results:
                async for found in results:
                    total.update(found)
        deaths = process.pool_of(counter).statistics().deaths

    word, _ = total.most_common(1)[0]
    print(f"{total.total()} words in {texts - len(lost)} texts, {word!r} most often")
    print(f"lost: {lost}, workers that died: {deaths}")


if __name__ == "__main__":
    aioipc.run(main(int(sys.argv[1]) if sys.argv[1:] else 200))
