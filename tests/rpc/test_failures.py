"""Methods that fail in unusual ways: whoever called is told, and the connection goes on."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aioipc
from aioipc import rpc
from aioipc.wire.rpc import Call, Return
from tests.links import Link, link_over
from tests.programs import loop_name, source
from tests.rpc.store import MemoryStore, Missing, Store, connected, packed

pytestmark = pytest.mark.asyncio


class Abort(BaseException):
    """What libraries raise that nobody is to catch."""


class Record(Exception):
    """One of those whose attributes are looked up in a table."""

    def __getattr__(self, name: str) -> Any:
        return vars(self)[name]


class Faulty(MemoryStore):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def ping(self) -> str:  # type: ignore[override]
        raise self.error

    async def fail(self, text: str) -> None:
        await asyncio.sleep(0)
        raise self.error

    async def need(self, key: str) -> int:
        raise self.error

    async def count(self, to: int) -> AsyncIterator[int]:
        yield to
        raise self.error


OVER = pytest.mark.parametrize("link", ["memory", "unix", "shm"], indirect=True)
ERRORS = pytest.mark.parametrize(
    "error",
    [
        Abort("all of it"),
        BaseExceptionGroup("two", [Abort(1), ValueError(2)]),
        ExceptionGroup("two", [KeyError(1), ValueError(2)]),
        Record("7"),
        GeneratorExit(),  # as whatever is closed while it waits
    ],
    ids=lambda error: type(error).__name__,
)


@OVER
@ERRORS
async def test_whatever_a_method_raises_is_told(
    link: Link, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(error, Record):  # pytest's handler of records cannot tell its traceback either
        caplog.set_level(logging.CRITICAL, "aioipc.rpc")
    kind = f"failed: {type(error).__name__}: "
    async with connected(link, Faulty(error)) as (store, _):
        for call in (store.ping, lambda: store.fail(""), lambda: store.need("a")):
            with pytest.raises(aioipc.RemoteError, match=kind):
                await call()
        items = store.count(5)
        assert await anext(items) == 5
        with pytest.raises(aioipc.RemoteError, match=kind):
            await anext(items)
        assert await store.get("a") == 1


@OVER
async def test_a_method_whose_task_other_code_cancels(link: Link) -> None:
    class Jobs(MemoryStore):
        async def ping(self) -> str:
            self.task = asyncio.current_task()
            self.tell("began")
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    service = Jobs()
    async with connected(link, service) as (store, _):
        call = asyncio.ensure_future(store.ping())
        assert await service.events.get() == "began"
        assert service.task is not None
        service.task.cancel()
        with pytest.raises(aioipc.RemoteCancelled):
            await call
        assert await store.get("a") == 1


async def test_a_method_that_cancels_who_reads_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(MemoryStore):
        def ping(self) -> str:  # type: ignore[override]
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "pong"

    async with rpc.serve("unix:", Wrong(), interface=Store) as server:
        async with rpc.connect(server.address, Store) as store:
            with pytest.raises(aioipc.PeerCrashed):
                assert not [await store.ping() for _ in range(9)]
        async with rpc.connect(server.address, Store) as store:
            assert await store.get("a") == 1
    assert "the task that reads was ended by CancelledError()" in caplog.text


QUITS = """
import asyncio
import sys
from aioipc import rpc
from tests.programs import loop_name, source
from tests.rpc.store import MemoryStore, Store

class Quitting(MemoryStore):
    def ping(self):
        sys.exit("enough")

    async def fail(self, text):
        await asyncio.sleep(0)
        raise KeyboardInterrupt(text)

async with rpc.serve("stdio:", Quitting(), interface=Store) as server:
    await server.wait()
"""


@pytest.mark.parametrize(("name", "args"), [("ping", ()), ("fail", ("enough",))])
async def test_a_method_that_ends_its_process_is_told_of(name: str, args: tuple[str, ...]) -> None:
    command = shlex.join([sys.executable, "-c", source(QUITS), loop_name()])
    async with rpc.connect(f"exec:{command}", Store) as store:
        with pytest.raises(aioipc.RemoteError, match=r"(SystemExit|KeyboardInterrupt): enough"):
            await getattr(store, name)(*args)


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("error", "max_bytes", "words"),
    [
        (Missing(endless()), 1_000_000, r"Missing: \[\[\.\.\.\]\]"),
        (Missing("x" * 200_000), 100_000, "Missing: xxx"),
        (Missing("x" * 200_000), 600, "failed: raised"),
        (RuntimeError("x" * 1000), 1200, "RuntimeError: xxx"),
        (RuntimeError("x" * 1000), 600, "failed: raised"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_what_an_exception_brings_and_cannot_travel(
    error: Exception, max_bytes: int, words: str, late: bool
) -> None:
    class Slow(Faulty):
        async def need(self, key: str) -> int:
            if late:
                await asyncio.sleep(0)
            raise self.error

    limits = aioipc.Limits(max_message_bytes=max_bytes)
    async with connected(link_over("unix"), Slow(error), limits=limits) as (store, _):
        with pytest.raises(aioipc.RemoteError, match=words) as caught:
            await store.need("a")
        assert not isinstance(caught.value, Missing)
        assert await store.get("a") == 1


async def test_a_failure_over_the_limit_behind_others() -> None:
    """So it is also where it has to wait until there is room."""
    limits = aioipc.Limits(max_message_bytes=100_000)
    left, right = aioipc.pair("unix", codec=rpc.CODEC, limits=limits)
    service = Faulty(Missing("x" * 200_000))
    async with left, rpc.serve(right, service, interface=Store):
        numbers = range(1, 100, 2)
        for number in numbers:
            await left.send(Call(number, "echo", packed("y" * 90_000)))
        await left.send(Call(199, "need", packed("a")))
        answers = {each.id: each for each in [await left.receive() for _ in [*numbers, 199]]}
        fault = answers.pop(199)
        assert (fault.code, fault.kind) == ("raised", "Missing")
        assert {type(each) for each in answers.values()} == {Return}


@OVER
async def test_a_failure_is_logged_once(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(link, Faulty(Abort("all of it"))) as (store, _):
        with pytest.raises(aioipc.RemoteError):
            await store.ping()
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert record.getMessage().endswith("Store.ping failed")
