"""One descriptor in the loop for many waits: each is told once, and none for another."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from aioipc.kernel.owned import OwnedFd, owned_pipe
from aioipc.loop.lookout import Lookout
from tests.links import steps

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def lookout() -> AsyncIterator[Lookout]:
    with contextlib.closing(Lookout()) as lookout:
        yield lookout


@pytest.fixture
def pipes() -> Iterator[list[tuple[OwnedFd, OwnedFd]]]:
    with contextlib.ExitStack() as undo:
        pipes = [owned_pipe(os.O_NONBLOCK) for _ in range(3)]
        for end in (end for pipe in pipes for end in pipe):
            undo.enter_context(end)
        yield pipes


async def wait(lookout: Lookout, end: OwnedFd, tell: list[int], number: int) -> None:
    await lookout.ready(end.fileno())
    tell.append(number)


async def test_each_is_told_of_its_own(
    lookout: Lookout, pipes: list[tuple[OwnedFd, OwnedFd]]
) -> None:
    told: list[int] = []
    waits = [
        asyncio.create_task(wait(lookout, reader, told, number))
        for number, (reader, _) in enumerate(pipes)
    ]
    await steps(2)
    os.write(pipes[1][1].fileno(), b"x")
    await waits[1]
    assert told == [1]
    for _, writer in (pipes[0], pipes[2]):
        os.write(writer.fileno(), b"x")
    await asyncio.gather(*waits)
    assert sorted(told) == [0, 1, 2]


async def test_what_was_not_read_is_told_of_again(
    lookout: Lookout, pipes: list[tuple[OwnedFd, OwnedFd]]
) -> None:
    reader, writer = pipes[0]
    os.write(writer.fileno(), b"x")
    for _ in range(3):
        await lookout.ready(reader.fileno())


async def test_a_wait_that_was_cancelled_takes_nothing_from_the_next(
    lookout: Lookout, pipes: list[tuple[OwnedFd, OwnedFd]]
) -> None:
    told: list[int] = []
    reader, writer = pipes[0]
    first = asyncio.create_task(wait(lookout, reader, told, 1))
    await steps(2)
    first.cancel()
    os.write(writer.fileno(), b"x")  # in the same turn
    with pytest.raises(asyncio.CancelledError):
        await first
    await wait(lookout, reader, told, 2)
    assert told == [2]


async def test_the_end_lets_everybody_look(
    lookout: Lookout, pipes: list[tuple[OwnedFd, OwnedFd]]
) -> None:
    told: list[int] = []
    waits = [
        asyncio.create_task(wait(lookout, reader, told, number))
        for number, (reader, _) in enumerate(pipes)
    ]
    await steps(2)
    lookout.end()
    await asyncio.gather(*waits)
    lookout.close()
    lookout.close()
    os.write(pipes[0][1].fileno(), b"x")
    await wait(lookout, pipes[0][0], told, 3)  # it opens anew
    assert sorted(told) == [0, 1, 2, 3]
