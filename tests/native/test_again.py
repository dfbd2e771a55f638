"""Messages whose memory is used again: nobody who still has one may see that."""

import sys

import pytest

import aioipc

SIZES = [4, 16, 64, 1024, 4096, 8192]
LONG = [65536]  # of which a socket does not hold ten
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize(
        ("where", "size"),
        [("unix", size) for size in SIZES] + [("shm", size) for size in SIZES + LONG],
    ),
]


def numbered(size: int, number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


async def test_what_somebody_keeps_stays_as_it_is(where: str, size: int) -> None:
    left, right = aioipc.pair(where, codec="raw")
    kept = {}
    async with left, right:
        for start in range(0, 200, 10):
            await left.send_many([numbered(size, start + i) for i in range(10)])
            for number in range(start, start + 10):
                message = await right.receive()
                assert message == numbered(size, number)
                if number % 3 == 0:
                    kept[number] = message
                elif number % 5 == 0:
                    kept[number] = memoryview(message)
    assert all(message == numbered(size, number) for number, message in kept.items())


async def test_a_hash_is_that_of_the_message(where: str, size: int) -> None:
    left, right = aioipc.pair(where, codec="raw")
    async with left, right:
        await left.send_many([numbered(size, number) for number in range(10)])
        found = [hash(await right.receive()) for _ in range(10)]
    assert found == [hash(numbered(size, number)) for number in range(10)]


async def test_an_idle_channel_holds_no_message(where: str, size: int) -> None:
    left, right = aioipc.pair(where, codec="raw")
    async with left, right:
        await left.send_many([numbered(size, number) for number in range(3)])
        messages = [await right.receive() for _ in range(3)]
        with pytest.raises(aioipc.WouldBlock):
            right.receive_nowait()
        last = messages.pop()
        other = bytearray(last)
        assert sys.getrefcount(last) == sys.getrefcount(other)  # the names, and nobody else
