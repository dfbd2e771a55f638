"""A client whose server comes and goes."""

from __future__ import annotations

import asyncio

import pytest

import aioipc
from aioipc import rpc
from tests.children import Peers
from tests.links import steps
from tests.rpc.store import MemoryStore, Store

pytestmark = pytest.mark.asyncio

ADDRESS = "unix:comes-and-goes"


async def served(service: MemoryStore, linger_s: float = 0.0) -> rpc.Server:
    limits = aioipc.Limits(linger_s=linger_s)
    return await rpc.serve(ADDRESS, service, interface=Store, limits=limits)


async def test_calls_wait_for_the_server_to_come_back() -> None:
    server = await served(MemoryStore())
    async with rpc.connect(ADDRESS, Store, reconnect=True) as store:
        assert await store.get("a") == 1
        first = rpc.connection_of(store)
        await server.aclose()
        calls = [asyncio.ensure_future(store.get("a")) for _ in range(5)]
        note = asyncio.ensure_future(store.note("hello"))
        await steps(10)
        assert not any(call.done() for call in calls)
        service = MemoryStore()
        async with await served(service):
            assert await asyncio.gather(*calls) == [1] * 5
            await note
            assert await service.events.get() == "hello"
            assert rpc.connection_of(store) is not first
            assert [number async for number in store.count(3)] == [0, 1, 2]


async def test_a_call_that_may_have_run_is_not_repeated() -> None:
    service = MemoryStore()
    server = await served(service)
    async with rpc.connect(ADDRESS, Store, reconnect=True) as store:
        call = asyncio.ensure_future(store.forever())
        assert await service.events.get() == "began"
        for connection in server.connections:
            connection.channel.abort()
        with pytest.raises(aioipc.PeerCrashed, match="may have run"):
            await call
        assert await store.get("a") == 1
        assert await service.events.get() == "cancelled"
        assert service.events.empty()
        await server.aclose()


async def test_an_idempotent_one_is() -> None:
    class Slow(MemoryStore):
        async def ping(self) -> str:
            self.tell("ping")
            await may_answer.wait()
            return "pong"

    may_answer = asyncio.Event()
    service = Slow()
    server = await served(service)
    async with rpc.connect(ADDRESS, Store, reconnect=True) as store:
        call = asyncio.ensure_future(store.ping())
        for _ in range(3):
            assert await service.events.get() == "ping"
            for connection in server.connections:
                connection.channel.abort()
        assert await service.events.get() == "ping"
        may_answer.set()
        assert await call == "pong"
        await server.aclose()


async def test_cancelling_who_connects_lets_another_one() -> None:
    server = await served(MemoryStore())
    async with rpc.connect(ADDRESS, Store, reconnect=True) as store:
        await server.aclose()
        calls = [asyncio.ensure_future(store.get("a")) for _ in range(3)]
        await steps(10)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        async with await served(MemoryStore()):
            assert await asyncio.gather(*calls[1:]) == [1, 1]


async def test_closing_while_nobody_is_there() -> None:
    server = await served(MemoryStore())
    store = await rpc.connect(ADDRESS, Store, reconnect=True)
    await server.aclose()
    call = asyncio.ensure_future(store.get("a"))
    await steps(10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await rpc.aclose(store)
    await rpc.aclose(store)
    with pytest.raises(aioipc.ClosedError):
        await store.get("a")


async def test_the_first_connection_is_made_at_once_or_not() -> None:
    with pytest.raises(aioipc.ConnectError):
        await rpc.connect("unix:nobody", Store, reconnect=True)
    left, right = aioipc.pair("memory", codec=rpc.CODEC)
    with pytest.raises(ValueError, match="needs an address"):
        _ = rpc.connect(left, Store, reconnect=True)
    await left.aclose()
    await right.aclose()


async def test_nothing_is_imported_for_what_is_not_used(peers: Peers) -> None:
    peer = peers.script("""
        import sys
        from aioipc import rpc
        print(*{"stamina", "opentelemetry", "numpy", "click", "aioipc"} & set(sys.modules))
    """)
    assert peer.rest().split() == ["aioipc"]
