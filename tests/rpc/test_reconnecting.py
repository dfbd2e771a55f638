"""A client whose server comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterable, AsyncIterator, Generator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

import aioipc
from aioipc import rpc
from aioipc.native._core import Send
from aioipc.rpc._caller import Caller, OwnCall
from aioipc.wire.rpc import GoAway, Return
from tests.children import PATIENCE_S, Peers
from tests.echoes import serving
from tests.links import steps, until
from tests.rpc.store import MemoryStore, Slow, Store

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


class LearnsLate:
    """A send that was accepted, and wakes when the peer has taken it and is gone."""

    def __init__(self, sending: Send) -> None:
        self.sending = sending

    @property
    def is_accepted(self) -> bool:
        return self.sending.is_accepted

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self.sending.__await__()
        raise aioipc.PeerCrashed("gone")


async def test_nor_one_whose_sender_learns_of_the_end_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Caller._begin

    def begin_late(*args: Any, **options: Any) -> tuple[OwnCall, LearnsLate]:
        call, sending = begin(*args, **options)
        return call, LearnsLate(sending)

    monkeypatch.setattr(Caller, "_begin", begin_late)
    async with (
        aioipc.listen(ADDRESS, codec=rpc.CODEC) as listener,
        rpc.connect(ADDRESS, Store, reconnect=True) as store,
    ):
        peer = await listener.accept()
        first = asyncio.ensure_future(anext(store.count(3)))
        assert (await peer.receive()).method == "count"
        peer.abort()
        again = asyncio.ensure_future(listener.accept())
        await asyncio.wait([first, again], return_when=asyncio.FIRST_COMPLETED)
        assert not again.done()
        with pytest.raises(aioipc.PeerCrashed, match="may have run"):
            await first
        again.cancel()


@pytest.mark.parametrize("reconnect", [False, True])
async def test_a_server_of_something_else_is_not_tried_for_ever(reconnect: bool) -> None:
    async with (
        aioipc.listen("unix:") as listener,
        serving(listener),
        rpc.connect(listener.address, Store, reconnect=reconnect) as store,
        asyncio.timeout(PATIENCE_S),
    ):
        for call in (store.get("a"), store.ping(), anext(store.count(3))):
            with pytest.raises(aioipc.CodecMismatch, match="'msgpack', this side 'rpc'"):
                await call


async def test_an_idempotent_one_is() -> None:
    service = Slow()
    server = await served(service)
    async with rpc.connect(ADDRESS, Store, reconnect=True) as store:
        call = asyncio.ensure_future(store.ping())
        for _ in range(3):
            assert await service.events.get() == "ping"
            for connection in server.connections:
                connection.channel.abort()
        assert await service.events.get() == "ping"
        service.may_end.set()
        assert await call == "pong"
        await server.aclose()


async def test_an_idempotent_one_with_a_stream_is_not() -> None:
    """What was taken out of the stream would be missing."""

    class Adding(Protocol):
        @rpc.idempotent
        async def total(self, numbers: AsyncIterable[int]) -> int: ...

    class Adder:
        async def total(self, numbers: AsyncIterable[int]) -> int:
            result = 0
            async for number in numbers:
                result += number
                if number == 3 and not crashed.is_set():
                    crashed.set()
                    rpc.current_call().connection.channel.abort()
            return result

    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    crashed = asyncio.Event()
    async with (
        rpc.serve(ADDRESS, Adder(), interface=Adding),
        rpc.connect(ADDRESS, Adding, reconnect=True) as adder,
    ):
        with pytest.raises(aioipc.PeerCrashed, match="may have run"):
            await adder.total(numbers())
        assert crashed.is_set()
        assert await adder.total(numbers()) == 45


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


@contextlib.asynccontextmanager
async def leaving(address: str) -> AsyncIterator[tuple[Store, Slow, asyncio.Future[None]]]:
    """A client, the service that one of its calls runs in, and the close that waits for that."""
    slow = Slow()
    limits = aioipc.Limits(max_calls=4)
    server = await rpc.serve(address, slow, interface=Store)
    async with rpc.connect(server.address, Store, reconnect=True, limits=limits) as store:
        running = asyncio.ensure_future(store.ping())
        assert await slow.events.get() == "ping"
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: not server.connections or all_close(server))
        yield store, slow, closing
        slow.may_end.set()
        assert await running == "pong", "it may end, whatever happens elsewhere"
        await closing


def all_close(server: rpc.Server) -> bool:
    return all(connection.is_closing for connection in server.connections)


LASTING = pytest.mark.parametrize("address", ["unix:rolls", "shm:rolls", "memory:rolls"])


@LASTING
async def test_what_a_server_that_closes_does_not_take_is_for_the_next_one(address: str) -> None:
    """Whatever it is, and though it must not run twice, if it is only known not to have run."""
    async with leaving(address) as (store, slow, _):
        old = rpc.connection_of(store)
        calls: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(call)
            for call in (store.get("a"), store.need("bb"), anext(store.count(3)), store.note("1"))
        ]
        more = [asyncio.ensure_future(store.get("a")) for _ in range(9)]  # some wait for a slot
        await until(lambda: old.peer_is_closing)
        next_ = MemoryStore()
        async with rpc.serve(address, next_, interface=Store):
            assert await asyncio.gather(*calls, *more) == [1, 2, 0, None, *[1] * 9]
            assert rpc.connection_of(store) is not old
            assert {await next_.events.get() for _ in range(2)} == {"1", "counted"}
            assert not slow.calls, "the old one ran nothing of it"
            assert slow.events.empty()
            assert old.ending is None
            slow.may_end.set()
            await old.wait_ended()


async def test_no_other_connection_is_asked_for_meanwhile() -> None:
    """While there is no other server, calls wait for one, and those that run go on."""
    async with leaving("unix:rolls") as (store, slow, closing):
        old = rpc.connection_of(store)
        call = asyncio.ensure_future(store.get("a"))
        await until(lambda: old.peer_is_closing)
        for _ in range(3):  # who connects is interrupted
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await store.get("a")
        assert old.ending is None
        slow.may_end.set()
        await closing
        assert not call.done()
        async with rpc.serve("unix:rolls", MemoryStore(), interface=Store):
            assert await call == 1


async def test_closing_the_client_ends_what_runs_over_any_connection() -> None:
    slow = Slow()
    server = await rpc.serve("unix:rolls", slow, interface=Store)
    store = await rpc.connect("unix:rolls", Store, reconnect=True)
    running = asyncio.ensure_future(store.ping())
    assert await slow.events.get() == "ping"
    closing = asyncio.ensure_future(server.aclose())
    old = rpc.connection_of(store)
    await until(lambda: old.peer_is_closing)
    async with rpc.serve("unix:rolls", MemoryStore(), interface=Store):
        assert await store.get("a") == 1
        assert rpc.connection_of(store) is not old
        await rpc.aclose(store)
        with pytest.raises(aioipc.ClosedError, match="may have run"):
            await running
        await closing


async def test_a_stream_of_which_a_part_was_taken_is_not_sent_again() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        taken.set()
        await asyncio.Event().wait()

    taken = asyncio.Event()
    async with (
        aioipc.listen("unix:rolls", codec=rpc.CODEC) as listener,
        rpc.connect("unix:rolls", Store, reconnect=True) as store,
    ):
        peer = await listener.accept()
        call = asyncio.ensure_future(store.total(numbers()))
        await taken.wait()
        await peer.send(GoAway(0))
        with pytest.raises(aioipc.RemoteCancelled, match="was not called: the far side is closing"):
            await call
        await peer.aclose()


async def test_a_server_that_never_said_a_word_ran_nothing(tmp_path: Path) -> None:
    """As one that dies with connections that it has not looked at."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        store = await rpc.connect(f"unix:{path}", Store, reconnect=True)
        call = asyncio.ensure_future(store.get("a"))
        note = asyncio.ensure_future(store.note("1"))
        await note
    path.unlink()
    service = MemoryStore()
    async with rpc.serve(f"unix:{path}", service, interface=Store):
        assert await call == 1
        assert await service.events.get() == "1"
        await rpc.aclose(store)


async def test_an_answer_that_lies_there_is_read_though_nothing_can_be_sent() -> None:
    async with aioipc.listen("unix:rolls", codec=rpc.CODEC) as listener:
        store = await rpc.connect("unix:rolls", Store, reconnect=True)
        call = asyncio.ensure_future(store.get("a"))
        peer = await listener.accept()
        number = (await peer.receive()).id
    async with rpc.serve("unix:rolls", MemoryStore(), interface=Store):
        peer.send_nowait(Return(number, msgspec.Raw(b"\x07")))
        peer.abort()
        assert await anext(store.count(1)) == 0
        assert await call == 7
        await rpc.aclose(store)


class Asking(Protocol):
    async def tell(self) -> dict[str, str]: ...
    async def ask(self) -> dict[str, str]: ...


class Asker:
    """Has its client ask it what comes along with a call."""

    async def tell(self) -> dict[str, str]:
        return dict(rpc.current_call().metadata)

    async def ask(self) -> dict[str, str]:
        return await rpc.current_call().client(Asking).ask()


class Back:
    async def tell(self) -> dict[str, str]:
        return {}

    async def ask(self) -> dict[str, str]:
        return await rpc.current_call().client(Asking).tell()


async def test_who_needs_the_next_connection_leaves_nothing_of_its_own_in_it() -> None:
    server = await rpc.serve(ADDRESS, Asker(), interface=Asking)
    async with rpc.connect(ADDRESS, Asking, serve=Back(), reconnect=True) as asking:
        assert await asking.ask() == {}
        await server.aclose()
        async with rpc.serve(ADDRESS, Asker(), interface=Asking):
            with rpc.metadata(tenant="acme"):
                assert await asking.tell() == {"tenant": "acme"}
            assert await asking.ask() == {}


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
