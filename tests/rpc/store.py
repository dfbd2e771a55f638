"""The service that the tests of calls talk to, and two ways to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from aioipc import Channel, rpc
from tests.links import Link, link_over
from tests.programs import loop_name, source

SERVE_CHILD = """
from aioipc import rpc
from tests.rpc.store import MemoryStore, Store

async with rpc.serve("stdio:", MemoryStore(), interface=Store) as server:
    await server.wait()
"""


@dataclass
class Change:
    key: str
    value: int


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Missing(Exception):
    pass


class Store(Protocol):
    """Keeps numbers by name."""

    async def get(self, key: str, default: int = -1) -> int:
        """The value of ``key``."""

    async def put(self, change: Change, *, quiet: bool = False) -> None: ...

    async def middle(self, points: list[Point]) -> Point: ...

    @rpc.raises(Missing, KeyError)
    async def need(self, key: str) -> int: ...

    async def fail(self, text: str) -> None: ...

    async def forever(self) -> None: ...

    async def echo(self, value: Any) -> Any: ...

    def watch(self, prefix: str = "") -> AsyncIterator[Change]: ...

    def count(self, to: int) -> AsyncIterator[int]: ...

    async def total(self, numbers: AsyncIterable[int]) -> int: ...

    def doubled(self, numbers: AsyncIterable[int]) -> AsyncIterator[int]: ...

    @rpc.notification
    async def note(self, text: str) -> None: ...

    @rpc.idempotent
    async def ping(self) -> str: ...


class MemoryStore:
    """It tells what happens to it, in ``self.events``."""

    def __init__(self) -> None:
        self.values = {"a": 1, "bb": 2}
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.calls: list[rpc.CallInfo] = []

    def tell(self, event: str) -> None:
        self.events.put_nowait(event)

    async def get(self, key: str, default: int = -1) -> int:
        self.calls.append(rpc.current_call())
        return self.values.get(key, default)

    def put(self, change: Change, *, quiet: bool = False) -> None:
        self.values[change.key] = change.value
        if not quiet:
            self.tell(f"put {change.key}")

    async def middle(self, points: list[Point]) -> Point:
        await asyncio.sleep(0)
        count = len(points)
        return Point(sum(each.x for each in points) / count, sum(each.y for each in points) / count)

    async def need(self, key: str) -> int:
        if not key:
            raise Missing("no key", 7)
        return self.values[key]

    async def fail(self, text: str) -> None:
        raise RuntimeError(text)

    async def forever(self) -> None:
        self.tell("began")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.tell("cancelled")
            raise

    async def echo(self, value: Any) -> Any:
        return value

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        self.tell("watching")
        try:
            for key, value in self.values.items():
                if key.startswith(prefix):
                    yield Change(key, value)
            await asyncio.get_running_loop().create_future()
        finally:
            self.tell("no longer watching")

    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
        finally:
            self.tell("counted")

    async def total(self, numbers: AsyncIterable[int]) -> int:
        result = 0
        async for number in numbers:
            result += number
            if number < 0:
                return result
        return result

    async def doubled(self, numbers: AsyncIterable[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    async def note(self, text: str) -> None:
        self.values[text] = len(text)
        self.tell(text)

    async def ping(self) -> str:
        return "pong"


class Slow(MemoryStore):
    """One whose `ping` ends when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def ping(self) -> str:
        self.tell("ping")
        await self.may_end.wait()
        return "pong"


class Mill:
    """Makes results of any length."""

    async def make(self, size: int) -> bytes:
        return bytes(size)


def packed(*args: Any) -> msgspec.Raw:
    """Arguments, as a peer without a library writes them."""
    return msgspec.Raw(msgspec.msgpack.encode(args))


@contextlib.asynccontextmanager
async def connected(
    link: Link, service: object | None = None, *, serve: object = None, **options: Any
) -> AsyncIterator[tuple[Store, MemoryStore]]:
    """A proxy and the service behind it, over a link of the ``link`` fixture."""
    service = service or MemoryStore()
    async with (
        link(codec=rpc.CODEC, **options) as (left, right),
        rpc.serve(right, service, interface=Store),
        rpc.connect(left, Store, serve=serve) as store,
    ):
        yield store, service  # type: ignore[misc]  # most tests look into a MemoryStore


@contextlib.asynccontextmanager
async def reached(kind: str) -> AsyncIterator[Store]:
    """A proxy over a kind of link; over ``exec`` the service is in a process of its own."""
    if kind != "exec":
        async with connected(link_over(kind)) as (store, _):
            yield store
        return
    command = shlex.join([sys.executable, "-c", source(SERVE_CHILD), loop_name()])
    async with rpc.connect(f"exec:{command}", Store) as store:
        yield store


def channel_of(store: object) -> Channel[Any]:
    return rpc.connection_of(store).channel
