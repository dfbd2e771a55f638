"""Values that one side writes and the other does not take: what they are for fails, no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aioipc
from aioipc import rpc
from aioipc.native._plain import Unreadable, read_head
from aioipc.rpc._codec import encode, salvage
from aioipc.wire.rpc import Call, Cancel, Item, Raise, Return

LIMITS = aioipc.Limits(max_depth=10, max_elements=5_000)


class Refusal(Exception):
    """One that is declared."""


class Values:
    """Gives and takes values of any shape."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.went_on = asyncio.Event()

    async def give(self, value: str) -> Any:
        return VALUES[value][0]

    async def take(self, value: Any) -> None:
        self.taken.append(value)

    @rpc.raises(Refusal)
    async def refuse(self, value: str) -> None:
        raise Refusal(VALUES[value][0])

    async def stream(self, value: str) -> AsyncIterator[Any]:
        yield 1
        yield VALUES[value][0]
        yield 2

    async def total(self, values: AsyncIterable[Any]) -> int:
        return sum([each async for each in values])

    async def wait(self) -> str:
        await self.went_on.wait()
        return "waited"

    async def go_on(self) -> None:
        self.went_on.set()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES = {
    "deep": (nested(20), "nests deeper than the limit of 10"),
    "deep and long": ([nested(20), "x" * 10_000], "nests deeper than the limit of 10"),
    "many": (list(range(6_000)), "has more elements than the limit of 5,000"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("address", ["unix:", "shm:", "tcp://127.0.0.1:0"])
async def test_what_is_over_a_limit_fails_alone(address: str, value: str) -> None:
    object_, words = VALUES[value]
    service = Values()
    async with (
        rpc.serve(address, service, limits=LIMITS) as server,
        rpc.connect(server.address, Values, limits=LIMITS) as values,
    ):
        waiting = asyncio.ensure_future(values.wait())
        with pytest.raises(aioipc.RemoteError, match=f"Values.give gave what .* {words}"):
            await values.give(value)
        with pytest.raises(aioipc.BadArguments, match=f"Values.take: the message {words}"):
            await values.take(object_)
        assert service.taken == []
        with pytest.raises(aioipc.RemoteError, match=f"it raised is not taken here: .* {words}"):
            await values.refuse(value)
        stream = values.stream(value)
        assert await anext(stream) == 1
        with pytest.raises(aioipc.RemoteError, match=f"Values.stream gave what .* {words}"):
            await anext(stream)

        async def upload() -> AsyncIterator[Any]:
            yield 1
            yield object_

        with pytest.raises(aioipc.BadArguments, match=f"an item of 'values': .* {words}"):
            await values.total(upload())
        await values.go_on()
        assert await waiting == "waited"


@pytest.mark.asyncio
async def test_what_is_no_call_ends_the_connection_still() -> None:
    raw = msgspec.Raw(encode(nested(20)))
    async with rpc.serve("unix:", Values(), limits=LIMITS) as server:
        for wrong in (
            encode([7, 1, raw]),  # a Cancel with more
            encode([99, 1, raw]),
            encode([1, "x", raw]),
            encode([1, 1, raw]),
            encode({1: raw}),
            encode(raw),
        ):
            async with aioipc.connect(server.address, codec=rpc.CODEC) as channel:
                await channel.send(msgspec.Raw(wrong))
                with pytest.raises((aioipc.ProtocolError, aioipc.PeerCrashed)):
                    await channel.receive()


numbers = st.integers(0, 2**63 - 1)


@given(numbers, st.text(max_size=300), st.sampled_from([Return, Item]))
def test_heads(number: int, text: str, kind: type[Return | Item]) -> None:
    long = len(text.encode()) > 255
    tag = kind.__struct_config__.tag
    assert read_head(encode(kind(number, [text]))) == (tag, number, None)
    assert read_head(encode(Call(number, text, []))) == (1, number, None if long else text)
    assert read_head(encode(Cancel(number))) == (7, number, None)


@given(st.binary(max_size=40))
def test_noise(noise: bytes) -> None:
    for data in (noise, b"\x93\x02" + noise, b"\x96\x01" + noise):
        head = read_head(data)
        try:
            found = salvage(data, ValueError("over"))
        except ValueError:
            assert head is None or head[0] not in (1, 2, 3, 4) or head[::2] == (1, None)
        else:
            assert head is not None
            assert isinstance(found, Call | Return | Item | Raise)
            assert found.id == head[1]


def test_a_look_at_what_is_unreadable_says_why() -> None:
    error = aioipc.DecodeError("too much")
    for _ in range(2):
        with pytest.raises(aioipc.DecodeError) as caught:
            memoryview(Unreadable(error))  # type: ignore[arg-type]
        assert caught.value is error
