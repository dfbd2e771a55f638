"""What a peer may send instead of what it should: cases 54 to 63."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import aioipc
from aioipc import Channel, rpc
from aioipc.wire.rpc import WIDEST_WINDOW, Call, Cancel, Credit, End, GoAway, Item, Raise, Return
from tests.links import steps, until
from tests.programs import program
from tests.rpc.store import MemoryStore, Mill, Store, packed

pytestmark = pytest.mark.asyncio

NIL = msgspec.Raw(b"\xc0")


@contextlib.asynccontextmanager
async def attacked(**limits: Any) -> AsyncIterator[tuple[Channel[Any], Store, MemoryStore]]:
    """A bare channel to a server, and a good client of the same server."""
    service = MemoryStore()
    async with (
        rpc.serve("unix:", service, interface=Store, limits=aioipc.Limits(**limits)) as server,
        aioipc.connect(server.address, codec=rpc.CODEC) as channel,
        rpc.connect(server.address, Store) as store,
    ):
        yield channel, store, service
        assert await store.get("a") == 1


async def to_the_end(channel: Channel[Any]) -> None:
    while True:
        await channel.receive()


async def call_for_ever(channel: Channel[Any]) -> None:
    for number in itertools.count(1, 2):
        await channel.send(Call(number, "ping", packed()))


@pytest.mark.parametrize(
    "name",
    [
        "events",
        "values",
        "tell",
        "_private",
        "__init__",
        "__class__",
        "get.__func__",
        "echo.__globals__",
        "rpc",
        "",
        "x" * 100_000,
        "\0",
    ],
)
async def test_names_that_nothing_declares(name: str) -> None:
    async with attacked() as (channel, _, service):
        await channel.send(Call(1, name, packed()))
        answer = await channel.receive()
        assert isinstance(answer, Raise)
        assert answer.code == "not_found"
        assert len(answer.message) < 200
        assert service.events.empty()
        await channel.send(Call(3, "ping", packed()))
        assert await channel.receive() == Return(3, msgspec.Raw(b"\xa4pong"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (packed(), "'key' is missing"),
        (packed("a", 1, 2), "takes 2 arguments, not 3"),
        (packed(b"a"), "'key': Expected `str`"),
        (packed("a", None), "'default': Expected `int`"),
        (msgspec.Raw(b"\xc0"), "takes 2 arguments, not none"),
        (msgspec.Raw(b"\x81\xa1a\x01"), "takes 2 arguments, not none"),
    ],
)
async def test_arguments_that_do_not_fit(args: msgspec.Raw, words: str) -> None:
    async with attacked() as (channel, _, service):
        await channel.send(Call(1, "get", args))
        answer = await channel.receive()
        assert answer.code == "bad_arguments"
        assert words in answer.message
        assert not service.calls


async def test_an_older_caller_may_leave_defaults_out() -> None:
    async with attacked() as (channel, _, _service):
        await channel.send(Call(1, "get", packed("z")))
        assert await channel.receive() == Return(1, msgspec.Raw(b"\xff"))


@pytest.mark.parametrize(
    "said",
    [
        [Return(1, NIL)],
        [Raise(2, "raised")],
        [Item(1, NIL)],
        [End(1)],
        [Cancel(1)],
        [Credit(1, 1)],
        [GoAway(1)],
        [Call(2, "ping", packed())],
        [Call(-1, "ping", packed())],
        [Call(1, "forever", packed()), Call(1, "forever", packed())],
        [Call(1, "forever", packed()), Item(1, NIL)],
        [Call(1, "forever", packed()), Credit(1, WIDEST_WINDOW)],
        [Call(1, "count", packed(2)), Credit(1, 2**31)],
    ],
    ids=lambda said: "-".join(type(each).__name__ for each in said[:3]),
)
async def test_nonsense_ends_this_connection_only(
    said: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked() as (channel, store, _):
        await channel.send_many(said)
        with pytest.raises(aioipc.IPCError) as caught:
            await to_the_end(channel)
        assert isinstance(caught.value, aioipc.ProtocolError | aioipc.PeerCrashed)
        assert await store.get("a") == 1
        warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert not caplog.text.count("Traceback")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\x01",
        b"\x99" * 9,
        b"\xc1",
        b"\x93\x63\x01\x02",
        b"\x92\xa1c\x01",
    ],
)
async def test_bytes_that_are_no_message(blob: bytes) -> None:
    class Liar:
        name = "rpc"
        format = None

        def encode(self, obj: bytes) -> bytes:
            return obj

        def decode(self, buffer: Any) -> bytes:
            return bytes(buffer)

    service = MemoryStore()
    async with rpc.serve("unix:", service, interface=Store) as server:
        async with aioipc.connect(server.address, codec=Liar()) as channel:
            await channel.send(blob)
            with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
                await channel.receive()
        async with rpc.connect(server.address, Store) as store:
            assert await store.get("a") == 1


async def test_too_many_calls_are_refused_and_the_others_go_on() -> None:
    async with attacked(max_calls=8) as (channel, _, service):
        for number in range(1, 41, 2):
            await channel.send(Call(number, "forever", packed()))
        refused = [await channel.receive() for _ in range(12)]
        assert {answer.code for answer in refused} == {"quota"}
        assert [answer.id for answer in refused] == list(range(17, 41, 2))
        for _ in range(8):
            assert await service.events.get() == "began"
        await channel.send(Cancel(1))
        assert (await channel.receive()).code == "cancelled"
        await channel.send(Call(41, "ping", packed()))
        assert isinstance(await channel.receive(), Return)


async def test_who_calls_and_never_reads_is_thrown_out(caplog: pytest.LogCaptureFixture) -> None:
    """What waits to be sent to such a peer is bounded, whether its calls run or are refused."""
    async with attacked(max_calls=8) as (channel, store, _):
        with pytest.raises(aioipc.PeerCrashed):
            await call_for_ever(channel)
        assert await store.get("a") == 1
        assert "messages wait for the peer to read" in caplog.text


async def test_a_result_over_the_limit_behind_a_caller_that_reads_late() -> None:
    small = aioipc.Limits(max_message_bytes=100_000)
    async with (
        rpc.serve("unix:", Mill()) as server,
        aioipc.connect(server.address, codec=rpc.CODEC, limits=small) as channel,
    ):
        sizes = [90_000] * 40 + [200_000, 1]
        for number, size in enumerate(sizes):
            await channel.send(Call(2 * number + 1, "make", packed(size)))
        await channel.flush()
        await until(lambda: any(connection.late for connection in server.connections))
        outcomes = {each.id: each for each in [await channel.receive() for _ in sizes]}
        assert outcomes.pop(2 * 40 + 1).code == "too_large"
        assert {type(each) for each in outcomes.values()} == {Return}


@pytest.mark.parametrize(
    "said",
    [
        Return(1, NIL),
        Return(3, NIL),
        Raise(2, "raised"),
        Item(1, NIL),
        End(1),
        Cancel(1),
        GoAway(2),
        GoAway(-1),
    ],
    ids=lambda said: f"{type(said).__name__}-{msgspec.structs.astuple(said)[0]}",
)
async def test_a_server_that_talks_nonsense(said: Any) -> None:
    async with aioipc.listen("unix:", codec=rpc.CODEC) as listener:
        store = await rpc.connect(listener.address, Store)
        call = asyncio.ensure_future(store.get("a"))
        channel = await listener.accept()
        assert isinstance(await channel.receive(), Call)
        await channel.send(said)
        if said == Return(1, NIL):
            with pytest.raises(aioipc.RemoteError, match="Expected `int`, got `None`"):
                await call
            other = asyncio.ensure_future(store.get("a"))
            assert isinstance(await channel.receive(), Call)
            await channel.send(said)  # once more
            call = other
        with pytest.raises(aioipc.PeerCrashed, match="may have run") as caught:
            await call
        assert isinstance(caught.value.__cause__, aioipc.ProtocolError)
        assert not rpc.connection_of(store).session.calls
        with pytest.raises(aioipc.IPCError):
            await store.get("a")
        await channel.aclose()
        await rpc.aclose(store)


@pytest.mark.parametrize("more", [Item(2, NIL), Cancel(2), Credit(2, 1), End(2)], ids=type)
async def test_a_client_that_serves_nothing_is_called(more: Any) -> None:
    """What follows the call at once comes too late for one that was refused."""
    left, right = aioipc.pair("unix", codec=rpc.CODEC)
    async with left, right, rpc.connect(left, Store) as store:
        call = asyncio.ensure_future(store.ping())
        asked = await right.receive()
        pong = Return(asked.id, msgspec.Raw(b"\xa4pong"))
        await right.send_many([Call(2, "total", packed(None)), more, pong])
        assert await call == "pong"
        refused = await right.receive()
        assert (refused.id, refused.code) == (2, "not_found")


async def test_a_server_that_calls_and_never_reads_holds_nothing_of_its_client() -> None:
    """The client may learn of it much later; what waits to be sent is bounded all the same."""
    limits = aioipc.Limits(max_calls=8)
    left, right = aioipc.pair("unix", codec=rpc.CODEC, limits=limits)
    async with right, rpc.connect(left, Store, serve=Mill()) as store:
        connection = rpc.connection_of(store)
        calling = asyncio.ensure_future(call_what_nobody_has(right))
        await until(lambda: connection.ending is not None)
        await steps(50)
        late = connection.late
        assert late < 200
        await steps(500)
        assert connection.late == late
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling


async def call_what_nobody_has(channel: Channel[Any]) -> None:
    for number in itertools.count(2, 2):
        await channel.send(Call(number, "nothing", packed()))


async def test_an_answer_that_was_there_before_the_call() -> None:
    """What is wrong with it is found in the very step that sends the call."""
    async with (
        aioipc.listen("unix:", codec=rpc.CODEC) as listener,
        rpc.connect(listener.address, Store) as store,
    ):
        call = asyncio.ensure_future(store.get("a"))
        channel = await listener.accept()
        await channel.send_many([Return(1, 7), Return(3, NIL), Return(5, 9)])
        assert await call == 7
        with pytest.raises(aioipc.RemoteError, match="Expected `int`, got `None`"):
            await store.get("a")
        assert await store.get("a") == 9
        await channel.aclose()


async def test_an_answer_after_a_cancel_is_dropped() -> None:
    async with (
        aioipc.listen("unix:", codec=rpc.CODEC) as listener,
        rpc.connect(listener.address, Store) as store,
    ):
        call = asyncio.ensure_future(store.get("a"))
        channel = await listener.accept()
        assert (await channel.receive()).id == 1
        call.cancel()
        assert await channel.receive() == Cancel(1)
        call = asyncio.ensure_future(store.get("b"))
        assert (await channel.receive()).id == 3
        await channel.send(Return(1, packed()))
        await channel.send(Return(3, msgspec.Raw(b"\x07")))
        assert await call == 7
        assert not rpc.connection_of(store).session.calls
        await channel.aclose()


@pytest.mark.leaves_names
async def test_a_server_killed_with_many_calls_in_flight(peers: Any) -> None:
    server = program(
        peers,
        """
        from aioipc import rpc
        class Sleeper:
            async def sleep(self) -> None:
                say("began")
                await asyncio.get_running_loop().create_future()
        limits = aioipc.Limits(max_calls=1000)
        async with rpc.serve("unix:sleeper", Sleeper(), limits=limits) as server:
            say(server.address)
            await server.wait()
        """,
    )

    class Sleeper:
        async def sleep(self) -> None: ...

    limits = aioipc.Limits(max_calls=1000)
    address = await asyncio.to_thread(server.line)
    async with rpc.connect(address, Sleeper, limits=limits) as sleeper:
        calls = [asyncio.ensure_future(sleeper.sleep()) for _ in range(1000)]
        for _ in calls:
            assert await asyncio.to_thread(server.line) == "began"
        server.kill()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in results} == {aioipc.PeerCrashed}
        assert all("Sleeper.sleep may have run" in str(each) for each in results)
        assert len({id(each) for each in results}) == 1000
        assert not rpc.connection_of(sleeper).session.calls
        with pytest.raises(aioipc.PeerCrashed, match="was not called"):
            await sleeper.sleep()


async def test_a_client_killed_within_a_call(peers: Any) -> None:
    service = MemoryStore()
    async with rpc.serve("unix:", service, interface=Store) as server:
        client = program(
            peers,
            """
            from aioipc import rpc
            class Store:
                async def forever(self) -> None: ...
            async with rpc.connect(sys.argv[1], Store) as store:
                await asyncio.gather(*(store.forever() for _ in range(5)))
            """,
            server.address,
        )
        for _ in range(5):
            assert await service.events.get() == "began"
        client.kill()
        for _ in range(5):
            assert await service.events.get() == "cancelled"
        while server.connections:
            await steps(1)
