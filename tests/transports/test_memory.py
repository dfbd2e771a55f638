"""``memory:`` within one process and one loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

import aioipc
from aioipc import (
    AddressError,
    Capability,
    ConnectError,
    EndOfStream,
    PeerCrashed,
    ResourceExhausted,
    WouldBlock,
)
from tests.programs import converse, ends

pytestmark = pytest.mark.asyncio


async def _echo(channel: aioipc.Channel[object]) -> None:
    async for obj in channel:
        await channel.send(obj)
    await channel.send_eof()


async def test_a_listener() -> None:
    async with aioipc.listen("memory:name") as listener:
        assert listener.address == "memory:name"
        serving = asyncio.create_task(listener.serve(_echo))
        for _ in range(3):
            async with aioipc.connect("memory:name") as channel:
                assert channel.address == "memory:name"
                assert channel.peer is None
                assert channel.capabilities == (
                    Capability.STREAM | Capability.DUPLEX | Capability.BACKPRESSURE
                )
                await converse(channel)
        serving.cancel()


async def test_a_pair() -> None:
    left, right = aioipc.pair("memory")
    async with left, right:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_echo(right))
            await converse(left)
        assert left.address == "memory:pair"


async def test_a_name_that_the_listener_makes_up() -> None:
    async with aioipc.listen("memory:") as first, aioipc.listen("memory:") as second:
        assert first.address != second.address
        async with aioipc.connect(second.address) as near, await second.accept() as far:
            await near.send("found")
            assert await far.receive() == "found"


async def test_it_holds_a_bounded_amount() -> None:
    left, right = aioipc.pair("memory", codec="raw")
    async with left, right:
        sent = 0
        with contextlib.suppress(WouldBlock):
            while True:
                left.send_nowait(bytes(10_000))
                sent += 1
        assert sent * 10_000 < 2**20
        for _ in range(sent):
            assert await right.receive() == bytes(10_000)


async def test_one_end_is_aborted() -> None:
    left, right = aioipc.pair("memory")
    async with left:
        waiting = asyncio.create_task(left.receive())
        await asyncio.sleep(0)
        right.abort()
        with pytest.raises(PeerCrashed):
            await waiting
        with pytest.raises(PeerCrashed):
            await left.send("too late")


async def test_one_end_is_closed() -> None:
    left, right = aioipc.pair("memory")
    async with left:
        await right.send("last")
        await right.aclose()
        assert await left.receive() == "last"
        await ends(left)


@pytest.mark.parametrize("framing", ["lines", "headers", "none"])
async def test_foreign_framings(framing: str) -> None:
    left, right = aioipc.pair("memory", codec="text", framing=framing)
    async with left, right:
        await left.send("there")
        assert await right.receive() == "there"
        await left.send_eof()
        with pytest.raises(EndOfStream):
            await right.receive()


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectError, match="connect to memory:name: nobody listens"):
        await aioipc.connect("memory:name")
    async with aioipc.listen("memory:name"):
        pass
    with pytest.raises(ConnectError, match="connect to memory:name: nobody listens"):
        await aioipc.connect("memory:name")


async def test_somebody_listens_already() -> None:
    async with aioipc.listen("memory:name"):
        with pytest.raises(ResourceExhausted, match="listen on memory:name: address in use"):
            await aioipc.listen("memory:name")


async def test_an_old_listener_does_not_close_the_new_one() -> None:
    old = await aioipc.listen("memory:name")
    await old.aclose()
    async with aioipc.listen("memory:name") as new:
        await old.aclose()
        async with aioipc.connect("memory:name") as near, await new.accept() as far:
            await near.send("still there")
            assert await far.receive() == "still there"


async def test_who_was_not_taken_sees_the_end_of_the_listener() -> None:
    async with aioipc.listen("memory:name"):
        channel = await aioipc.connect("memory:name")
    async with channel:
        with pytest.raises(PeerCrashed):
            await channel.receive()


async def test_a_listener_dropped_open_frees_the_name() -> None:
    listener = await aioipc.listen("memory:name")
    listener._accept()  # as a task does that waits; cancelled, it would leave a traceback
    del listener
    with pytest.warns(ResourceWarning, match="unclosed <Listener memory:name"):
        gc.collect()  # it is part of a cycle
    async with aioipc.listen("memory:name"):
        pass


@pytest.mark.parametrize("address", ["memory:a b", "memory:/path", "memory:" + "n" * 65])
async def test_a_wrong_address(address: str) -> None:
    with pytest.raises(AddressError, match="wrong name"):
        await aioipc.listen(address)


def _in_another_thread(work: Callable[[], Awaitable[object]]) -> object:
    answer: list[object] = []

    def run() -> None:
        try:
            answer.append(asyncio.run(_await(work)))
        except Exception as error:
            answer.append(error)

    async def _await(work: Callable[[], Awaitable[object]]) -> object:
        return await work()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answer[0]


async def test_another_loop_cannot_reach_it() -> None:
    async with aioipc.listen("memory:name") as listener:
        error = _in_another_thread(lambda: aioipc.connect("memory:name"))
        assert isinstance(error, RuntimeError)
        assert "another event loop" in str(error)
        async with aioipc.connect("memory:name") as near, await listener.accept() as far:
            await near.send("unharmed")
            assert await far.receive() == "unharmed"
