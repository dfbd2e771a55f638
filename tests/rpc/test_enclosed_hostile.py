"""What a peer may send with a call that should come with descriptors, or should not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import aioipc
from aioipc import BadArguments, Channel, rpc
from aioipc.memory import SharedMemory
from aioipc.wire.rpc import Call, Cancel, Credit, End, Freed, Item, Raise, Return
from tests.rpc.desk import Clerk, Desk, Pipe

pytestmark = pytest.mark.asyncio

Ext = msgspec.msgpack.Ext
NIL = msgspec.Raw(b"\xc0")


def passed(*said: Any) -> Any:
    """What stands for something that came by its descriptor."""
    return Ext(68, msgspec.msgpack.encode(said))


def alone(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def packed(*args: Any) -> msgspec.Raw:
    return alone(args)


@contextlib.asynccontextmanager
async def attacked(address: str) -> AsyncIterator[tuple[Channel[Any], Desk]]:
    """A bare channel to a server, and a good client of the same server."""
    async with (
        rpc.serve(address, Clerk(), interface=Desk) as server,
        aioipc.connect(server.address, codec=rpc.CODEC) as channel,
        rpc.connect(server.address, Desk) as desk,
    ):
        yield channel, desk
        assert await desk.plain(1) == 1


async def to_the_end(channel: Channel[Any]) -> None:
    while True:
        await channel.receive()


async def ended(channel: Channel[Any]) -> None:
    """The other side ends the connection."""
    with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
        await to_the_end(channel)


TWICE = {"name": "x", "file": passed(0), "frames": [passed(0, ["<u1", [1], "C"])]}
BREACHES = {
    "an ordinary call": (Call(1, "plain", packed(1)), 1),
    "an ordinary call, two": (Call(1, "plain", packed(1)), 2),
    "no arguments for them": (Call(1, "anything", packed(5, None)), 1),
    "the question for the interface": (Call(1, "rpc.interface", packed()), 1),
    "more than arguments": (Call(1, "write", packed(passed(0), "")), 2),
    "fewer than arguments": (Call(1, "write", packed(passed(1), "")), 1),
    "one used twice": (Call(1, "file_away", packed(TWICE)), 1),
    "an index below 0": (Call(1, "write", packed(passed(-1), "")), 1),
    "a cancel": (Cancel(1), 1),
    "a credit": (Credit(1, 1), 1),
    "an end": (End(1), 1),
    "memory given back": (Freed([1]), 1),
    "an outcome of nothing": (Return(1, NIL), 1),
    "a failure": (Raise(2, "raised"), 1),
    "an item of nothing": (Item(1, NIL), 1),
    "memory that was never lent": (Freed([1]), 0),
    "memory with a strange number": (Freed([-(2**63)]), 0),
}


@pytest.mark.parametrize("address", ["unix:", "shm:"])
@pytest.mark.parametrize(("message", "count"), BREACHES.values(), ids=BREACHES)
async def test_breach(
    address: str,
    message: Any,
    count: int,
    pipe: Pipe,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with attacked(address) as (channel, _):
        await channel.send(message, fds=[pipe.writer] * count)
        await ended(channel)
        assert pipe.is_closed()
        warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "Traceback" not in caplog.text


async def test_an_ordinary_item_with_a_descriptor(pipe: Pipe) -> None:
    async with attacked("unix:") as (channel, _):
        await channel.send(Call(1, "add", packed(None)))
        await channel.send(Item(1, msgspec.Raw(b"\x05")), fds=[pipe.writer])
        await ended(channel)
        assert pipe.is_closed()


@pytest.mark.parametrize(
    ("method", "args", "count", "words"),
    [
        ("write", packed(5, ""), 0, "'file': Expected `Descriptor`, got `int`"),
        ("write", packed(None, ""), 1, "'file': Expected `Descriptor`, got `NoneType`"),
        ("write", packed(passed(), ""), 0, "missing required|too short|length"),
        ("write", packed(Ext(65, b"\xc0"), ""), 0, "ext type 65 is not known"),
        ("anything", packed(passed(0), None), 1, "came where none is declared"),
        ("size", packed(passed(0)), 1, "'memory': descriptor .* is no shared memory"),
        ("fill", packed(passed(0, ["<u1", [3], "C"]), 1), 1, "'frame': .*no shared memory"),
        ("fill", packed(passed(0, None), 1), 1, "'frame'"),
        ("total", packed(passed(0, ["<f8", [3], "C"], 1)), 1, "'numbers': .*no shared memory"),
        ("total", packed(passed(0, ["|O", [3], "C"])), 1, "'numbers': '|O' is not the dtype"),
        ("total", packed(passed(0, ["<f8", [-3], "C"])), 1, "'numbers': an array has the shape"),
        ("total", packed(passed(0, ["<f8", [3], "K"])), 1, "'numbers': the order"),
        ("total", packed(passed(0, [[], [3], "C"])), 1, "'numbers'"),
        ("total", packed(passed(0, 5)), 1, "'numbers'"),
        (
            "total",
            packed(Ext(65, msgspec.msgpack.encode(("<f8", [3], "C", b"12")))),
            0,
            "2 bytes came for .* of 24",
        ),
        ("total", packed(Ext(65, b"")), 0, "."),
        ("total", packed(Ext(66, b"")), 0, "ext type 66 is not known"),
    ],
)
async def test_values_that_make_no_sense(
    method: str, args: Any, count: int, words: str, pipe: Pipe
) -> None:
    """The call is refused and nothing else happens."""
    async with attacked("unix:") as (channel, _):
        await channel.send(Call(1, method, args), fds=[pipe.writer] * count)
        answer = await channel.receive()
        assert answer.code == "bad_arguments"
        with pytest.raises(BadArguments, match=words):
            raise BadArguments(answer.message)
        assert pipe.is_closed()
        await channel.send(Call(3, "plain", packed(1)))
        assert isinstance(await channel.receive(), Return)


async def test_memory_that_is_too_small() -> None:
    async with attacked("unix:") as (channel, _):
        with SharedMemory.create(10) as memory:
            facts = ["<f8", [3], "C"]
            await channel.send(Call(1, "total", packed(passed(0, facts, 1))), fds=[memory])
            assert "10 bytes came for an array of 24" in (await channel.receive()).message
            facts = ["<f8", [2**62, 2**62], "C"]
            await channel.send(Call(3, "total", packed(passed(0, facts, 1))), fds=[memory])
            assert (await channel.receive()).code == "bad_arguments"
            await channel.send(Call(5, "size", packed(passed(0))), fds=[memory])
            assert await channel.receive() == Return(5, msgspec.Raw(b"\x0a"))


async def test_a_method_that_nobody_knows(pipe: Pipe) -> None:
    async with attacked("unix:") as (channel, _):
        await channel.send(Call(1, "unknown", packed(passed(0))), fds=[pipe.writer])
        assert (await channel.receive()).code == "not_found"
        assert pipe.is_closed()


ANSWERS = {
    "an ordinary result": ("plain", (1,), Return(1, msgspec.Raw(b"\x01")), 1),
    "more than the result": ("open", ("",), Return(1, alone(passed(0))), 2),
    "fewer than the result": ("open", ("",), Return(1, alone(passed(1))), 1),
    "a failure": ("open", ("",), Raise(1, "raised"), 1),
}


@pytest.mark.parametrize(("method", "args", "answer", "count"), ANSWERS.values(), ids=ANSWERS)
async def test_a_server_that_sends_what_it_should_not(
    method: str, args: Any, answer: Any, count: int, pipe: Pipe
) -> None:
    async with (
        aioipc.listen("unix:", codec=rpc.CODEC) as listener,
        rpc.connect(listener.address, Desk) as desk,
        await anext(aiter(listener)) as channel,
    ):
        task = asyncio.ensure_future(getattr(desk, method)(*args))
        await channel.receive()
        await channel.send(answer, fds=[pipe.writer] * count)
        with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
            await task
        assert pipe.is_closed()
        with pytest.raises(aioipc.IPCError):
            await desk.plain(1)
