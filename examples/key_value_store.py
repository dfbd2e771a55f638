"""A typed key-value store in a process of its own, with a watch stream.

Run it with ``python key_value_store.py``: the parent starts the store as a child, and calls it from
several tasks at once. Type checkers see ``Store``, whose methods run in the child.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import aioipc
from aioipc import rpc


@dataclass
class Change:
    """A key has a new value; None: it is gone."""

    key: str
    value: int | None


class Store(Protocol):
    """What both processes agree on."""

    async def get(self, key: str) -> int | None: ...

    @rpc.raises(ValueError)
    async def put(self, key: str, value: int) -> None: ...

    async def delete(self, key: str) -> bool: ...

    def watch(self, prefix: str = "") -> AsyncIterator[Change]: ...


class MemoryStore:
    """The implementation: in memory, in the child."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._watchers: set[asyncio.Queue[Change]] = set()

    async def get(self, key: str) -> int | None:
        """The value, None if there is none."""
        return self._values.get(key)

    async def put(self, key: str, value: int) -> None:
        """Set a value."""
        if not key:
            raise ValueError("a key has at least one letter")
        self._values[key] = value
        self._tell(Change(key, value))

    async def delete(self, key: str) -> bool:
        """Forget a key; whether it was there."""
        found = self._values.pop(key, None) is not None
        if found:
            self._tell(Change(key, None))
        return found

    async def watch(self, prefix: str = "") -> AsyncGenerator[Change, None]:
        """What there is, and then every change, until the watcher leaves."""
        changes: asyncio.Queue[Change] = asyncio.Queue()
        self._watchers.add(changes)
        try:
            for key, value in sorted(self._values.items()):
                if key.startswith(prefix):
                    yield Change(key, value)
            while True:
                change = await changes.get()
                if change.key.startswith(prefix):
                    yield change
        finally:
            self._watchers.discard(changes)
            print("a watcher has left", file=sys.stderr, flush=True)

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(change)


async def serve() -> None:
    """The child."""
    async with rpc.serve("stdio:", MemoryStore(), interface=Store) as server:
        await server.wait()


async def use() -> None:
    """The parent."""
    async with rpc.connect(f"exec:{sys.executable} {__file__} serve", Store) as store:
        await asyncio.gather(*(store.put(f"n/{number}", number**2) for number in range(4)))
        print("3 squared is", await store.get("n/3"))
        try:
            await store.put("", 1)
        except ValueError as error:
            print("refused:", error)
        async with rpc.closing(store.watch("n/")) as changes:
            print("there:", [(await anext(changes)).key for _ in range(4)])
            await store.put("other", 1)
            await store.delete("n/2")
            print("then:", await anext(changes))


if __name__ == "__main__":
    aioipc.run(serve() if sys.argv[1:] == ["serve"] else use())
