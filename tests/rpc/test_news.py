"""All whose news came in one turn of the loop go on in one of its callbacks, each on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from aioipc import rpc
from aioipc.native._calls import News
from tests.links import Link
from tests.rpc.store import MemoryStore, connected

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("link", ["memory"], indirect=True),
]


class Abort(BaseException):
    """What no callback ought to raise."""


def raising(error: BaseException) -> Callable[[Any], None]:
    def callback(_: Any) -> None:
        raise error

    return callback


@pytest.mark.parametrize("error", [ValueError("no"), Abort("now")], ids=["error", "abort"])
async def test_a_callback_that_fails_is_reported_and_keeps_nobody_back(
    link: Link, error: BaseException
) -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    heard: list[str] = []
    last = loop.create_future()
    async with connected(link, MemoryStore()) as (store, _):
        connection = rpc.connection_of(store)
        callbacks: list[Callable[[Any], None]] = [
            lambda _: heard.append("first"),
            raising(error),
            lambda _: heard.append("third"),
            last.set_result,
        ]
        for callback in callbacks:
            news = News(loop)
            news.add_done_callback(callback)
            connection.follow()
            assert connection.wake(news)
            assert not connection.wake(news), "once"
        assert not heard, "not within the call"
        await last
        assert heard == ["first", "third"]
        assert [context["exception"] for context in reported] == [error]
        assert await store.echo("on") == "on"


async def test_who_is_cancelled_when_its_news_is_there(link: Link) -> None:
    """By another that goes on in the same callback; nobody else notices."""
    async with connected(link, MemoryStore()) as (store, _):

        async def first() -> None:
            await store.echo(0)
            assert not tasks[1].done()
            tasks[1].cancel()

        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(first()),
            *(asyncio.create_task(store.echo(number)) for number in range(1, 10)),
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert results[2:] == [*range(2, 10)]
        assert await store.echo("on") == "on"
        assert not rpc.connection_of(store).session.calls


async def test_the_context_of_who_asked(link: Link) -> None:
    """Each goes on in its own context, whoever read for it."""
    name: ContextVar[int] = ContextVar("name")

    async def caller(store: Any, number: int) -> int:
        name.set(number)
        for _ in range(3):
            assert await store.echo(number) == number
            assert name.get() == number
        return name.get()

    async with connected(link, MemoryStore()) as (store, _):
        assert await asyncio.gather(*(caller(store, n) for n in range(50))) == [*range(50)]
