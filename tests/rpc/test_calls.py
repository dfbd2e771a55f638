"""Calls, over every transport that goes both ways."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import rpc
from tests.links import DUPLEX, Link
from tests.rpc.store import Change, MemoryStore, Missing, Point, Store, connected, reached

every_transport = pytest.mark.parametrize("link", DUPLEX, indirect=True)
over_memory = pytest.mark.parametrize("link", ["memory"], indirect=True)


async def numbers(to: int) -> Any:
    for number in range(to):
        yield number


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [*DUPLEX, "exec"])
async def test_the_same_service_over_every_transport(kind: str) -> None:
    async with reached(kind) as store:
        assert await store.get("a") == 1
        assert await store.get("z", 5) == 5
        assert await store.get(key="z", default=6) == 6
        await store.put(Change("c", 3), quiet=True)
        assert await store.get("c") == 3
        assert await store.middle([Point(1, 2), Point(3)]) == Point(2, 1)
        assert [number async for number in store.count(100)] == list(range(100))
        assert await store.total(numbers(200)) == sum(range(200))
        assert [each async for each in store.doubled(numbers(90))] == [*range(0, 180, 2)]
        await store.note("well")
        assert await store.ping() == "pong"
        assert await store.get("well") == len("well")
        big = os.urandom(300_000)
        assert await store.echo(big) == big
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(store.middle([Point(number)])) for number in range(300)]
        assert [call.result().x for call in calls] == list(range(300))


@pytest.mark.asyncio
@over_memory
async def test_declared_exceptions_come_back_as_themselves(link: Link) -> None:
    async with connected(link) as (store, _):
        with pytest.raises(Missing) as caught:
            await store.need("")
        assert caught.value.args == ("no key", 7)
        with pytest.raises(KeyError, match="zz"):
            await store.need("zz")


@pytest.mark.asyncio
@over_memory
async def test_other_exceptions_say_what_they_were(link: Link) -> None:
    async with connected(link) as (store, _):
        with pytest.raises(
            aioipc.RemoteError, match=r"Store\.fail failed: RuntimeError: oh"
        ) as caught:
            await store.fail("oh")
        assert caught.value.type == "RuntimeError"
        assert caught.value.text == "oh"
        (note,) = caught.value.__notes__
        assert note.startswith("On the far side:\nTraceback")
        assert "raise RuntimeError(text)" in note
        assert "aioipc/rpc" not in note
        assert await store.get("a") == 1


class Untellable(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


@pytest.mark.asyncio
@over_memory
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Untellable(), "Untellable: its text cannot be told"),
        (FileNotFoundError("no \udcff"), r"FileNotFoundError: no \\udcff"),
    ],
)
async def test_texts_that_cannot_be_sent(link: Link, error: Exception, words: str) -> None:
    class Fails(MemoryStore):
        async def ping(self) -> str:
            raise error

    async with connected(link, Fails()) as (store, _):
        with pytest.raises(aioipc.RemoteError, match=words):
            await store.ping()
        assert await store.get("a") == 1


@pytest.mark.asyncio
@over_memory
async def test_long_texts_are_cut(link: Link) -> None:
    async with connected(link) as (store, _):
        with pytest.raises(aioipc.RemoteError) as caught:
            await store.fail("x" * 100_000)
        assert len(caught.value.text) == 1024


@pytest.mark.asyncio
@over_memory
@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing a required argument: 'key'"),
        ((), {"kye": "a"}, "missing a required argument: 'key'; there is no argument 'kye'$"),
        (("a", 1, 2), {}, "too many positional arguments"),
        (("a",), {"color": 1}, "unexpected keyword argument 'color'$"),
        ((5,), {}, "argument 'key': Expected `str`, got `int`"),
        (("a", "b"), {}, "argument 'default': Expected `int`, got `str`"),
        ((object(),), {}, "Encoding objects of type object|msgpack has no type for 'object'"),
    ],
)
async def test_wrong_arguments_are_named(
    link: Link, args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    async with connected(link) as (store, service):
        with pytest.raises(aioipc.BadArguments, match=words) as caught:
            await store.get(*args, **kwargs)
        assert "Store.get" in str(caught.value)
        assert not service.calls
        assert await store.get("a") == 1


@pytest.mark.asyncio
@over_memory
async def test_a_wrong_part_of_an_argument_is_named(link: Link) -> None:
    async with connected(link) as (store, _):
        with pytest.raises(aioipc.BadArguments, match=r"argument 'points\[1\]\.x'"):
            await store.middle([Point(1), {"x": "two"}])  # type: ignore[list-item]


@pytest.mark.asyncio
@over_memory
async def test_a_wrong_result_is_the_service_s_fault(link: Link) -> None:
    class Liar(MemoryStore):
        async def get(self, key: str, default: int = -1) -> Any:
            return "text"

        async def ping(self) -> Any:
            return object()

        async def count(self, to: int) -> Any:
            yield "text"

    async with connected(link, Liar()) as (store, _):
        with pytest.raises(aioipc.RemoteError, match=r"Store\.get .*Expected `int`, got `str`"):
            await store.get("a")
        with pytest.raises(aioipc.RemoteError, match=r"result of Store\.ping"):
            await store.ping()
        with pytest.raises(aioipc.RemoteError, match=r"Store\.count .*Expected `int`, got `str`"):
            [_ async for _ in store.count(1)]
        assert await store.need("a") == 1


@pytest.mark.asyncio
@over_memory
async def test_a_result_over_the_limit(link: Link) -> None:
    class Generous(MemoryStore):
        async def echo(self, value: Any) -> Any:
            return b"x" * value

    limits = aioipc.Limits(max_message_bytes=100_000)
    async with connected(link, Generous(), limits=limits) as (store, _):
        with pytest.raises(aioipc.RemoteError, match="100,000 bytes"):
            await store.echo(100_000)
        assert await store.echo(10) == b"x" * 10
        with pytest.raises(aioipc.FrameTooLarge, match="100,000 bytes"):
            await store.echo(b"y" * 100_000)
        assert await store.get("a") == 1


@pytest.mark.asyncio
@over_memory
async def test_who_calls_is_known(link: Link) -> None:
    async with connected(link) as (store, service):
        await store.get("a")
        with rpc.metadata(tenant="t1", trace="x"), rpc.metadata(trace="y"):
            await store.get("a")
        first, second = service.calls
        assert first.method == "get"
        assert first.metadata == {}
        assert second.metadata == {"tenant": "t1", "trace": "y"}
        assert first.remaining_s == float("inf")
        assert "get" in repr(first)
    with pytest.raises(RuntimeError, match="does not run for a call"):
        rpc.current_call()


def test_metadata_are_text() -> None:
    with pytest.raises(TypeError, match="tenant is int"), rpc.metadata(tenant=1):  # type: ignore[arg-type]
        pass


@pytest.mark.asyncio
@pytest.mark.parametrize("link", ["unix"], indirect=True)
async def test_the_peer_is_known(link: Link) -> None:
    async with connected(link) as (store, service):
        await store.get("a")
        (call,) = service.calls
        assert call.peer is not None
        assert call.peer.pid == os.getpid()


@pytest.mark.asyncio
@over_memory
async def test_what_a_method_does_to_its_context_ends_with_it(link: Link) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    class Careless(MemoryStore):
        async def ping(self) -> str:
            variable.set(variable.get() + 1)
            return str(variable.get())

        async def echo(self, value: Any) -> Any:
            variable.set(variable.get() + 10)
            await asyncio.sleep(0)
            return variable.get()

    async with connected(link, Careless()) as (store, _):
        assert [await store.ping() for _ in range(3)] == ["1"] * 3
        assert [await store.echo(0) for _ in range(3)] == [10] * 3


@pytest.mark.asyncio
@over_memory
async def test_timeouts_and_tasks_inside_a_method(link: Link) -> None:
    import anyio

    class Careful(MemoryStore):
        async def ping(self) -> str:
            task = asyncio.current_task()
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                pass
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0)
            assert asyncio.current_task() is task
            return "fine"

    async with connected(link, Careful()) as (store, _):
        assert await asyncio.gather(*(store.ping() for _ in range(10))) == ["fine"] * 10


@pytest.mark.asyncio
async def test_a_served_address() -> None:
    async with rpc.serve("unix:", MemoryStore(), interface=Store) as server:
        async with (
            rpc.connect(server.address, Store) as one,
            rpc.connect(server.address, Store) as other,
        ):
            await one.put(Change("k", 9))
            assert await other.get("k") == 9
            assert len(server.connections) == 2
        store = await rpc.connect(server.address, Store)
        assert await store.get("k") == 9
        await rpc.aclose(store)
        with pytest.raises(aioipc.ClosedError):
            await store.get("k")
    with pytest.raises(aioipc.ConnectError):
        await rpc.connect(server.address, Store)


@pytest.mark.asyncio
async def test_a_channel_with_another_codec_is_no_connection() -> None:
    async with rpc.serve("unix:", MemoryStore(), interface=Store) as server:
        channel = await aioipc.connect(server.address)
        await channel.send({})
        with pytest.raises(aioipc.CodecMismatch, match="rpc"):
            await channel.receive()
        await channel.aclose()


@pytest.mark.asyncio
@over_memory
async def test_a_proxy_looks_like_its_interface(link: Link) -> None:
    import inspect

    async with connected(link) as (store, _):
        assert type(store).__name__ == "Store"
        assert inspect.getdoc(store.get) == "The value of ``key``."
        assert list(inspect.signature(store.get).parameters) == ["key", "default"]
        assert "Store" in repr(store)
    with pytest.raises(TypeError, match="is none"):
        rpc.connection_of(object())


@pytest.mark.asyncio
@over_memory
async def test_the_methods_are_coroutine_functions(link: Link) -> None:
    async with connected(link) as (store, _):
        assert inspect.iscoroutinefunction(store.get)
        async with anyio.create_task_group() as group:
            group.start_soon(store.put, Change("a", 7))
        async with asyncio.TaskGroup() as tasks:
            value = tasks.create_task(store.get("a"))
        assert value.result() == 7
