"""Clients that reconnect, and servers that are no good."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stamina

import aioipc
from aioipc import _renewal, rpc
from tests.children import PATIENCE_S
from tests.links import steps, until
from tests.rpc.store import MemoryStore, Store

pytestmark = pytest.mark.asyncio

LEAST_S = (0.002, 0.004, 0.008, 0.016)
CLOCK_S = 0.001  # uvloop counts milliseconds
DROPPED = 2 + len(LEAST_S)


async def test_servers_that_drop_connections_are_asked_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_renewal, "_FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(_renewal, "_LONGEST_PAUSE_S", 0.02)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    async with (
        aioipc.listen("unix:", codec=rpc.CODEC) as listener,
        rpc.connect(listener.address, Store, reconnect=True) as store,
    ):
        call = asyncio.ensure_future(store.ping())
        for _ in range(DROPPED):
            channel = await listener.accept()
            times.append(loop.time())
            channel.abort()
        async with rpc.serve(await listener.accept(), MemoryStore(), interface=Store):
            assert await call == "pong"
    # The first one is tried again soon, those after it 2, 4, 8 and 16 ms later at the earliest.
    for before, after, least_s in zip(times[1:-1], times[2:], LEAST_S, strict=True):
        assert after - before >= least_s - CLOCK_S


async def test_an_outage_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this package, and not by what it retries with; that may be the program's, too."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_renewal, "_FIRST_PAUSE_S", 0.001)
    attempts: list[int] = []
    try_ = _renewal.Renewal._try

    async def count(self: Any, number: int) -> Any:
        attempts.append(number)
        return await try_(self, number)

    monkeypatch.setattr(_renewal.Renewal, "_try", count)
    server = await rpc.serve("unix:comes-and-goes", MemoryStore(), interface=Store)
    async with rpc.connect(server.address, Store, reconnect=True) as store:
        await server.aclose()
        call = asyncio.ensure_future(store.ping())
        await until(lambda: len(attempts) == 4)
        call.cancel()
        await asyncio.wait([call])
        (record,) = caplog.records
        assert record.name == "aioipc.reconnect"
        assert "trying again until somebody is there: connect to unix:comes-and-goes" in caplog.text
        await retry()
        assert [record.name for record in caplog.records] == ["aioipc.reconnect", "stamina"]


async def retry() -> None:
    """Fail once, as a program might that uses the same package."""
    async for attempt in stamina.retry_context(on=LookupError, attempts=2, wait_initial=0):
        with attempt:
            if attempt.num == 1:
                raise LookupError


async def test_what_a_connection_runs_may_retry_aloud(caplog: pytest.LogCaptureFixture) -> None:
    class Retries:
        async def ping(self) -> str:
            await retry()
            return "pong"

    class Asks(MemoryStore):
        async def ping(self) -> str:
            return await rpc.current_call().client(Retries).ping()

    address = "unix:comes-and-goes"
    server = await rpc.serve(address, Asks(), interface=Store)
    async with rpc.connect(address, Store, serve=Retries(), reconnect=True) as store:
        await server.aclose()
        call = asyncio.ensure_future(store.ping())
        await steps(20)
        async with rpc.serve(address, Asks(), interface=Store):
            assert await call == "pong"
    assert [record.name for record in caplog.records] == ["stamina"]


async def test_closing_while_the_connection_before_cleans_up() -> None:
    may_end = asyncio.Event()
    cleans_up = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            cleans_up.set()
            await may_end.wait()

    listener = await aioipc.listen("unix:", codec=rpc.CODEC)
    store = await rpc.connect(listener.address, Store, reconnect=True)
    peer = await listener.accept()
    total = asyncio.ensure_future(store.total(numbers()))
    await peer.receive()
    await listener.aclose()
    call = asyncio.ensure_future(store.ping())  # idempotent: it is made again
    peer.abort()
    await cleans_up.wait()
    closing = asyncio.ensure_future(rpc.aclose(store))
    await steps(5)
    may_end.set()
    async with asyncio.timeout(PATIENCE_S):
        await closing
    with pytest.raises(aioipc.ClosedError):
        await call
    with pytest.raises(aioipc.IPCError):
        await total
