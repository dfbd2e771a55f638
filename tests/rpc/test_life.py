"""How connections and servers end, and calls back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Protocol

import pytest

import aioipc
from aioipc import rpc
from aioipc.rpc import _connection as connections
from aioipc.wire.rpc import Call, Return
from tests.children import PATIENCE_S, Peers, come_to_rest
from tests.links import Link, steps, until
from tests.programs import loop_name, program
from tests.rpc.store import MemoryStore, Mill, Slow, Store, connected, packed

pytestmark = pytest.mark.asyncio
over_memory = pytest.mark.parametrize("link", ["memory"], indirect=True)
over_two = pytest.mark.parametrize("link", ["memory", "shm"], indirect=True)


class Watcher(Protocol):
    async def changed(self, key: str) -> str: ...


class KeyWatcher:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def changed(self, key: str) -> str:
        self.seen.append(key)
        if len(self.seen) % 2:
            await asyncio.sleep(0)
        return key.upper()


class CallsBack(MemoryStore):
    async def echo(self, value: Any) -> Any:
        watcher = rpc.current_call().client(Watcher)
        return [await watcher.changed(each) for each in value]


@over_two
async def test_the_far_side_calls_back(link: Link) -> None:
    watcher = KeyWatcher()
    async with connected(link, CallsBack(), serve=watcher) as (store, _):
        assert await store.echo(["a", "b", "c"]) == ["A", "B", "C"]
        results = await asyncio.gather(*(store.echo([str(n), "x"]) for n in range(50)))
        assert results == [[str(n), "X"] for n in range(50)]
        assert len(watcher.seen) == 103


@over_two
async def test_calls_deep_in_each_other(link: Link) -> None:
    """A call within a call within a call, over one connection."""

    class Down(Protocol):
        async def down(self, depth: int) -> int: ...

    class Digger:
        async def down(self, depth: int) -> int:
            if depth == 0:
                return 0
            return 1 + await rpc.current_call().client(Down).down(depth - 1)

    async with (
        link(codec=rpc.CODEC) as (left, right),
        rpc.serve(right, Digger()),
        rpc.connect(left, Down, serve=Digger()) as digger,
    ):
        assert await digger.down(60) == 60


@over_two
async def test_calling_back_a_client_that_is_gone_is_no_news(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    class Asks(MemoryStore):
        async def echo(self, value: Any) -> Any:
            try:
                return await rpc.current_call().client(Watcher).changed("a")
            finally:
                self.tell("over")

    class Silent:
        async def changed(self, key: str) -> str:
            asked.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    asked = asyncio.Event()
    async with connected(link, Asks(), serve=Silent()) as (store, service):
        call = asyncio.ensure_future(store.echo(1))
        await asked.wait()
        channel = rpc.connection_of(store).channel
        channel.abort()
        with pytest.raises(aioipc.ClosedError):
            await call
        assert await service.events.get() == "over"
        await steps(3)
        assert not caplog.records


@over_memory
async def test_who_serves_nothing_cannot_be_called_back(link: Link) -> None:
    async with connected(link, CallsBack()) as (store, _):
        with pytest.raises(aioipc.RemoteError, match="MethodNotFound: no method 'changed'"):
            await store.echo(["a"])


@over_two
async def test_closing_the_client_fails_its_calls_and_cancels_the_methods(link: Link) -> None:
    async with connected(link) as (store, service):
        calls = [asyncio.ensure_future(store.forever()) for _ in range(3)]
        for _ in calls:
            assert await service.events.get() == "began"
        await rpc.aclose(store)
        for call in calls:
            with pytest.raises(aioipc.ClosedError, match=r"Store\.forever may have run"):
                await call
        for _ in calls:
            assert await service.events.get() == "cancelled"
        with pytest.raises(aioipc.ClosedError):
            await store.get("a")
        with pytest.raises(aioipc.ClosedError):
            await store.note("a")


async def test_a_server_that_closes_lets_calls_finish() -> None:
    service = Slow()
    server = await rpc.serve("unix:", service, interface=Store)
    async with rpc.connect(server.address, Store) as store:
        call = asyncio.ensure_future(store.ping())
        assert await service.events.get() == "ping"
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: rpc.connection_of(store).peer_is_closing)
        for refused in (store.get("a"), anext(store.count(3)), store.note("1")):
            with pytest.raises(aioipc.RemoteCancelled, match="was not called: the far side is"):
                await refused
        assert not service.calls
        service.may_end.set()
        assert await call == "pong"
        await closing
        await rpc.connection_of(store).wait_ended()
        with pytest.raises(aioipc.PeerCrashed):
            await store.get("a")
        await server.aclose()


async def test_a_server_that_closes_cancels_what_takes_too_long() -> None:
    service = MemoryStore()
    limits = aioipc.Limits(linger_s=0.05)
    async with rpc.serve("unix:", service, interface=Store, limits=limits) as server:
        store = await rpc.connect(server.address, Store)
        call = asyncio.ensure_future(store.forever())
        assert await service.events.get() == "began"
    with pytest.raises(aioipc.RemoteCancelled, match="this side is closing"):
        await call
    assert await service.events.get() == "cancelled"
    await rpc.connection_of(store).aclose()


@pytest.mark.parametrize("closers", [1, 2])
async def test_a_server_that_closes_sends_what_came_of_calls(closers: int) -> None:
    """Their methods have ended; there was no room yet for what they returned."""
    limits = aioipc.Limits(linger_s=2 * PATIENCE_S)
    server = await rpc.serve("unix:", Mill(), limits=limits)
    async with aioipc.connect(server.address, codec=rpc.CODEC) as channel:
        made = range(1, 41, 2)
        await channel.send_many([Call(number, "make", packed(100_000)) for number in made])
        await channel.flush()
        await until(lambda: server.connections)
        (connection,) = server.connections
        session = connection.session
        await until(lambda: session.peer_last_id == made[-1] and not session.served)
        assert connection.late
        closing = [asyncio.ensure_future(server.aclose()) for _ in range(closers)]
        await steps(10)
        outcomes = [await channel.receive() for _ in made]
        assert {type(each) for each in outcomes} == {Return}
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*closing)


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_a_server_that_closes_sends_the_rest_of_a_long_result(address: str) -> None:
    limits = aioipc.Limits(linger_s=2 * PATIENCE_S)
    server = await rpc.serve(address, Mill(), limits=limits)
    async with aioipc.connect(server.address, codec=rpc.CODEC) as channel:
        await channel.send(Call(1, "make", packed(10_000_000)))
        await channel.flush()
        await until(lambda: server.connections)
        (connection,) = server.connections
        session = connection.session
        await until(lambda: session.peer_last_id == 1 and not session.served)
        assert not connection.late, "the channel has taken it"
        closing = asyncio.ensure_future(server.aclose())
        await steps(10)
        assert type(await channel.receive()) is Return
        async with asyncio.timeout(PATIENCE_S):
            await closing


class CleansUp(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def ping(self) -> str:
        self.tell("began")
        try:
            return str(await asyncio.Event().wait())
        finally:
            self.tell("cleans up")
            try:
                await self.may_end.wait()
                self.tell("is clean")
            except asyncio.CancelledError:
                self.tell("is cancelled again")
                raise


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_method_that_cleans_up_is_not_cancelled_again(who: str) -> None:
    service = CleansUp()
    limits = aioipc.Limits(linger_s=0.05)
    async with rpc.serve("unix:", service, interface=Store, limits=limits) as server:
        store = await rpc.connect(server.address, Store)
        client = rpc.connection_of(store)
        call = asyncio.ensure_future(store.ping())
        assert await service.events.get() == "began"
        closing = asyncio.ensure_future(client.aclose() if who == "client" else server.aclose())
        assert await service.events.get() == "cleans up"
        await steps(20)
        service.may_end.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await service.events.get() == "is clean"
            await asyncio.wait([call, closing])
        await client.aclose()
    with pytest.raises(aioipc.IPCError):
        await call


async def test_a_method_that_cleans_up_for_ever_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_CLEANUP_S", 0.01)
    service = CleansUp()
    async with rpc.serve("unix:", service, interface=Store) as server:
        store = await rpc.connect(server.address, Store)
        call = asyncio.ensure_future(store.ping())
        assert await service.events.get() == "began"
        await rpc.connection_of(store).aclose()
        assert await service.events.get() == "cleans up"
        async with asyncio.timeout(PATIENCE_S):
            assert await service.events.get() == "is cancelled again"
    with pytest.raises(aioipc.IPCError):
        await call


class TimesOut(CleansUp):
    async def ping(self) -> str:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await super().ping()
            return str(await asyncio.Event().wait())
        finally:
            self.tell("has ended")


@over_memory
async def test_a_method_that_its_own_deadline_cancels_is_cancelled_all_the_same(link: Link) -> None:
    service = TimesOut()
    async with connected(link, service) as (store, _):
        call = asyncio.ensure_future(store.ping())
        assert [await service.events.get() for _ in range(2)] == ["began", "cleans up"]
        call.cancel()
        await asyncio.wait([call])
        async with asyncio.timeout(PATIENCE_S):
            assert await service.events.get() == "is cancelled again"
            assert await service.events.get() == "has ended"


async def test_waiting_for_a_server() -> None:
    server = await rpc.serve("unix:", MemoryStore(), interface=Store)
    waiting = asyncio.ensure_future(server.wait())
    await steps(3)
    assert not waiting.done()
    await server.aclose()
    await waiting


@over_memory
async def test_a_server_of_one_channel_ends_with_it(link: Link) -> None:
    async with (
        link(codec=rpc.CODEC) as (left, right),
        rpc.serve(right, MemoryStore(), interface=Store) as server,
    ):
        async with rpc.connect(left, Store) as store:
            assert await store.get("a") == 1
        await server.wait()


@over_memory
async def test_an_idle_client_leaves_nothing_running(link: Link) -> None:
    async with connected(link) as (store, _):
        await store.get("a")
        before = len(asyncio.all_tasks())
        await asyncio.gather(*(store.get("a") for _ in range(20)))
        assert await store.get("a") == 1
        await steps(3)
        assert len(asyncio.all_tasks()) == before


@over_memory
async def test_calls_that_do_not_wait_make_no_tasks(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(link) as (store, _):
        await store.get("a")
        monkeypatch.setattr(rpc.Connection, "start", None)
        for _ in range(100):
            assert await store.get("a") == 1
        monkeypatch.undo()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin later before Python 3.12")
@over_two
async def test_tasks_that_begin_at_once(link: Link) -> None:
    """With asyncio's eager task factory."""
    if loop_name() == "uvloop":
        pytest.skip("uvloop gives the factory an argument that Python 3.13.0 refuses")
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    try:
        async with connected(link, CallsBack(), serve=KeyWatcher()) as (store, _):
            assert await store.get("a") == 1
            assert await asyncio.gather(*(store.get("a") for _ in range(50))) == [1] * 50
            results = await asyncio.gather(*(store.echo([str(n)]) for n in range(50)))
            assert results == [[str(n)] for n in range(50)]
            assert [number async for number in store.count(100)] == list(range(100))
            assert await store.get("a") == 1
    finally:
        loop.set_task_factory(None)


SERVE = """
from aioipc import rpc
class Adder:
    async def add(self, a: int, b: int) -> int:
        return a + b
async with rpc.serve(sys.argv[1], Adder()) as server:
    say(server.address)
    await server.wait()
"""
CALL = """
from aioipc import rpc
class Adder:
    async def add(self, a: int, b: int) -> int: ...
async with rpc.connect(sys.argv[1], Adder) as adder:
    assert await asyncio.gather(*(adder.add(n, n) for n in range(50))) == [*range(0, 100, 2)]
    say(await adder.add(1, 2))
    await asyncio.Event().wait()
"""


@pytest.mark.leaves_names
@pytest.mark.parametrize("scheme", ["unix:", "shm:"])
async def test_both_sides_rest_between_calls(scheme: str, peers: Peers) -> None:
    server = program(peers, SERVE, scheme)
    client = program(peers, CALL, await server.next_line())
    assert await client.next_line() == "3"
    await come_to_rest(server, client)
