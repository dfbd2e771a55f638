"""Calls that nobody waits for: counted, held up, and heard of when they fail."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import pytest

import aioipc
from aioipc import rpc
from tests.links import steps, until

pytestmark = pytest.mark.asyncio


class Log(Protocol):
    @rpc.notification
    async def note(self, text: str) -> None: ...


class Notebook:
    """Writes once it is let."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.open = asyncio.Event()
        self.began = 0

    async def note(self, text: str) -> object:
        self.began += 1
        await self.open.wait()
        if text == "bad":
            raise ValueError("no such word")
        self.lines.append(text)
        return object()  # which goes nowhere


async def test_they_are_held_up_at_the_limit_and_then_go_on() -> None:
    book = Notebook()
    limits = aioipc.Limits(max_calls=3)
    async with (
        rpc.serve("unix:", book, interface=Log, limits=limits) as server,
        rpc.connect(server.address, Log, limits=limits) as log,
    ):

        async def write() -> None:
            for number in range(100):
                await log.note(str(number))

        writing = asyncio.create_task(write())
        await until(lambda: book.began >= 3)
        await steps(50)
        assert book.began == 3
        assert not writing.done()
        assert len(rpc.connection_of(log).session.calls) == 3
        book.open.set()
        await writing
        await until(lambda: len(book.lines) == 100)
        assert book.lines == list(map(str, range(100)))


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_they_arrive_though_the_client_leaves_at_once(address: str) -> None:
    book = Notebook()
    book.open.set()
    async with rpc.serve(address, book, interface=Log) as server:
        async with rpc.connect(server.address, Log) as log:
            for number in range(20):
                await log.note(str(number))
        await until(lambda: len(book.lines) == 20)


async def test_one_that_fails_is_logged_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    book = Notebook()
    book.open.set()
    async with (
        rpc.serve("shm:", book, interface=Log) as server,
        rpc.connect(server.address, Log) as log,
    ):
        await log.note("bad")
        await until(lambda: len(caplog.records) == 2)
    assert "Log.note failed" in caplog.text
    assert "came to nothing: Log.note failed: ValueError: no such word" in caplog.text
    assert [each.levelno for each in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_one_that_does_not_fit_is_an_error_here() -> None:
    async with (
        rpc.serve("memory:", Notebook(), interface=Log) as server,
        rpc.connect(server.address, Log) as log,
    ):
        with pytest.raises(aioipc.BadArguments, match=r"Log\.note: msgpack has no type for"):
            await log.note(object())  # type: ignore[arg-type]


async def test_its_scope_may_be_left() -> None:
    """A deadline is about how long the caller waits, and it waits for none of it."""
    book = Notebook()
    async with (
        rpc.serve("unix:", book, interface=Log) as server,
        rpc.connect(server.address, Log) as log,
    ):
        async with aioipc.timeout(0.02):
            await log.note("late")
        await asyncio.sleep(0.04)
        book.open.set()
        await until(lambda: book.lines)
