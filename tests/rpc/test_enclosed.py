"""Descriptors, shared memory and arrays as arguments and results of calls."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shlex
import sys
from collections.abc import AsyncIterator
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

import aioipc
from aioipc import BadArguments, Limits, RemoteError, rpc
from aioipc.memory import SharedArray, SharedMemory
from aioipc.rpc import Descriptor
from tests.lent import lent_memory
from tests.links import until
from tests.rpc.desk import Clerk, Desk, Drawer, Pipe

pytestmark = pytest.mark.asyncio

LARGE = 1_000_000

CHILD = """
import aioipc
from aioipc import rpc
from tests.rpc.desk import Clerk, Desk

async def main():
    async with rpc.serve("stdio:", Clerk(), interface=Desk) as server:
        await server.wait()

aioipc.run(main())
"""


@contextlib.asynccontextmanager
async def served(address: str, **limits: Any) -> AsyncIterator[tuple[Desk, Clerk]]:
    clerk = Clerk()
    if address == "exec:":  # the same in a child, over its standard streams
        async with rpc.connect(address + shlex.join([sys.executable, "-c", CHILD]), Desk) as desk:
            yield desk, clerk
        return
    async with (
        rpc.serve(address, clerk, interface=Desk, limits=Limits(**limits)) as server,
        rpc.connect(server.address, Desk) as desk,
    ):
        yield desk, clerk


CARRYING = pytest.mark.parametrize("address", ["unix:", "unix+seqpacket:", "shm:"])
NOT_CARRYING = pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "memory:desk", "exec:"])


def lent_by(desk: Desk) -> Any:
    """What the client has lent to the server."""
    return rpc.connection_of(desk).parcels._lender


# Descriptors


@CARRYING
async def test_a_descriptor_as_an_argument(address: str, pipe: Pipe) -> None:
    async with served(address) as (desk, _):
        with Descriptor(pipe.writer) as file:
            assert await desk.write(file, "hello") == 5
            assert os.read(pipe.reader, 9) == b"hello"
            assert file.fileno() > 2, "what was passed stays the caller's"
        assert pipe.is_closed(), "what the method did not keep was closed with it"


@CARRYING
async def test_a_descriptor_as_a_result(address: str) -> None:
    async with served(address) as (desk, _):
        with await desk.open("here") as file:
            assert os.read(file.fileno(), 9) == b"here"
            assert os.read(file.fileno(), 9) == b"", "the service has none left"


@CARRYING
async def test_what_a_method_keeps_stays_open(address: str, pipe: Pipe) -> None:
    async with served(address) as (desk, clerk):
        await desk.keep(Descriptor.from_fd(pipe.give_away()))
        assert not pipe.is_closed()
        assert clerk.kept is not None
        assert not os.get_inheritable(clerk.kept.fileno())
        await desk.drop()
        assert pipe.is_closed()


@CARRYING
async def test_streams_of_descriptors(address: str) -> None:
    async with served(address) as (desk, clerk):
        read = [os.read(file.fileno(), 9) async for file in desk.files(40)]
        assert read == [str(number).encode() for number in range(40)]

        async def some() -> AsyncIterator[Descriptor]:
            for number in range(40):
                yield clerk.open(str(number))

        assert await desk.collect(some()) == sum(range(40))


@CARRYING
async def test_what_follows_a_call_with_a_descriptor_finds_it(address: str, pipe: Pipe) -> None:
    """The items of its stream, and that it is given up, come right behind it."""

    async def lines() -> AsyncIterator[str]:
        for number in range(9):
            yield str(number)

    async with served(address) as (desk, _):
        with Descriptor(pipe.writer) as file:
            assert await desk.log(file, lines()) == 9
            assert os.read(pipe.reader, 99) == b"012345678"
            await asyncio.gather(*(desk.write(file, str(number)) for number in range(9)))
            assert os.read(pipe.reader, 99) == b"012345678", "calls begin in their order"
            for _ in range(20):
                task = asyncio.ensure_future(desk.sleep(file))
                await asyncio.sleep(0)
                task.cancel()
            assert await desk.plain(1) == 1


@CARRYING
async def test_a_stream_that_is_left_closes_what_came(address: str) -> None:
    async with served(address) as (desk, _):
        await desk.plain(1)
        before = len(os.listdir("/proc/self/fd"))
        async with rpc.closing(desk.files(40)) as files:
            await anext(files)
            await desk.plain(1)
        await desk.plain(1)
        del files
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@CARRYING
async def test_things_inside_things(address: str, pipe: Pipe) -> None:
    small, large = np.zeros(3, "u1"), np.ones(LARGE, "u1")
    async with served(address) as (desk, _):
        drawer = Drawer("top", Descriptor.from_fd(pipe.give_away()), [small, large])
        given = await desk.file_away(drawer)
        assert given.name == "TOP"
        assert [frame.tolist()[:2] for frame in given.frames] == [[1, 1], [2, 2]]
        assert given.file is not None
        os.write(given.file.fileno(), b"!")
        assert os.read(pipe.reader, 9) == b"!"
        given.file.close()
        del drawer
        assert pipe.is_closed()
        assert (await desk.file_away(Drawer("empty"))).file is None


@CARRYING
async def test_a_call_that_is_cancelled_closes_what_came(address: str, pipe: Pipe) -> None:
    async with served(address) as (desk, clerk):
        task = asyncio.ensure_future(desk.sleep(Descriptor.from_fd(pipe.give_away())))
        await clerk.sleeping.wait()
        assert not pipe.is_closed()
        task.cancel()
        await asyncio.wait([task])
        del task
        await desk.plain(1)
        await until(pipe.is_closed)


@CARRYING
async def test_a_caller_that_is_gone_leaves_nothing_open(address: str, pipe: Pipe) -> None:
    clerk = Clerk()
    async with rpc.serve(address, clerk, interface=Desk) as server:
        async with rpc.connect(server.address, Desk) as desk:
            with Descriptor(pipe.writer) as file:
                task = asyncio.ensure_future(desk.sleep(file))
                await clerk.sleeping.wait()
        with pytest.raises(aioipc.ClosedError):
            await task
        # What was cancelled hangs in a cycle with its task.
        await until(lambda: gc.collect() >= 0 and pipe.is_closed())


@CARRYING
async def test_cancelled_before_it_was_sent(address: str, pipe: Pipe) -> None:
    """The caller has its descriptor as before, and its memory can be lent again."""
    clerk = Clerk()
    async with (
        rpc.serve(address, clerk, interface=Desk) as server,
        rpc.connect(server.address, Desk, limits=Limits(max_calls=1)) as desk,
    ):
        with Descriptor(pipe.writer) as file:
            first = asyncio.ensure_future(desk.sleep(file))
            await clerk.sleeping.wait()
            array = np.ones(LARGE)
            waiting = [
                asyncio.ensure_future(desk.write(file, "never")),
                asyncio.ensure_future(desk.total(array)),
            ]
            await until(lambda: bool(lent_by(desk)._lent))
            for task in (*waiting, first):
                task.cancel()
            await asyncio.wait([*waiting, first])
            assert await desk.write(file, "now") == 3
            assert not lent_by(desk)._lent
            assert len(lent_by(desk)._here) == 1


@CARRYING
async def test_a_closed_descriptor(address: str, pipe: Pipe) -> None:
    file = Descriptor(pipe.writer)
    file.close()
    async with served(address) as (desk, _):
        with pytest.raises(BadArguments, match="'file': this descriptor is closed"):
            await desk.write(file)
        assert await desk.plain(1) == 1


@CARRYING
async def test_results_that_are_none(address: str) -> None:
    async with served(address) as (desk, _):
        with pytest.raises(RemoteError, match="Expected `Descriptor`, got `int`"):
            await desk.give("number")
        with pytest.raises(RemoteError, match="no type for 'object'"):
            await desk.give("object")
        assert await desk.plain(1) == 1


@NOT_CARRYING
async def test_where_descriptors_do_not_travel(address: str, pipe: Pipe) -> None:
    async with served(address) as (desk, _):
        with Descriptor(pipe.writer) as file:
            with pytest.raises(BadArguments, match=r"Desk.write: argument 'file': a Descriptor"):
                await desk.write(file)
            with pytest.raises(BadArguments, match=r"'drawer': .* carries no descriptors"):
                await desk.file_away(Drawer("top", file))
        with SharedMemory.create(5) as memory, pytest.raises(BadArguments, match="'memory'"):
            await desk.size(memory)
        with pytest.raises(RemoteError, match=r"the result of Desk.open: a Descriptor cannot"):
            await desk.open("here")
        with pytest.raises(BadArguments, match=r"'frame': Expected `SharedArray`, got `.*ndarray`"):
            await desk.fill(SharedArray.create(3), 1)
        array = np.ones((LARGE, 2))
        assert await desk.total(array) == array.size, "elements go with the message"
        assert (await desk.doubled(array)).sum() == 2 * array.size


@pytest.mark.parametrize("address", ["unix:", "shm:"])
async def test_a_peer_that_takes_no_descriptors(address: str, pipe: Pipe) -> None:
    """It says so while the first call waits."""
    async with served(address, max_fds=0) as (desk, _):
        array = np.ones(LARGE)
        assert await desk.total(array) == array.size
        with Descriptor(pipe.writer) as file, pytest.raises(BadArguments, match="'file'"):
            await desk.write(file)
    async with served(address, max_fds=0) as (desk, _):
        with Descriptor(pipe.writer) as file, pytest.raises(BadArguments, match="'file'"):
            await desk.write(file)
        assert not lent_by(desk)._lent


async def test_descriptor_object(pipe: Pipe) -> None:
    file = Descriptor(pipe.writer)
    assert file.fileno() not in (pipe.reader, pipe.writer)
    assert f"fd={file.fileno()}" in repr(file)
    assert not pipe.is_closed()
    number = file.detach()
    assert file.fileno() == -1
    with pytest.raises(ValueError, match="is closed"):
        file.detach()
    file.close()
    os.close(number)
    assert pipe.is_closed()
    with pytest.raises(ValueError, match="-1 is closed"):
        Descriptor(-1)
    with pytest.raises(aioipc.IPCError):
        Descriptor(1_000_000)


# Shared memory


@CARRYING
async def test_shared_memory(address: str) -> None:
    async with served(address) as (desk, _):
        with SharedMemory.create(12345) as memory:
            assert await desk.size(memory) == 12345
        with pytest.raises(BadArguments, match="'memory': a SharedMemory cannot travel"):
            await desk.size(memory)


@CARRYING
async def test_shared_arrays(address: str) -> None:
    async with served(address) as (desk, _):
        mine = SharedArray.create((2, 3), "i4", order="F")
        await desk.fill(mine, 7)
        assert mine.tolist() == [[7] * 3] * 2, "it is the same memory"
        theirs = await desk.frame(9)
        assert isinstance(theirs, SharedArray)
        assert theirs.tolist() == [[9] * 3] * 4
        assert not theirs.flags.writeable
        with pytest.raises(BadArguments, match="'frame': Expected `SharedArray`"):
            await desk.fill(mine[:1], 1)
        assert (await desk.doubled(mine)).tolist() == [[14] * 3] * 2


# Arrays


@CARRYING
@pytest.mark.parametrize("count", [0, 3, LARGE])
async def test_arrays(address: str, count: int) -> None:
    async with served(address) as (desk, _):
        numbers = np.arange(2.0 * count).reshape(2, count)
        for array in (numbers, numbers.T, numbers[:, ::2], np.asfortranarray(numbers)):
            assert await desk.total(array) == array.sum()
            doubled = await desk.doubled(array)
            assert np.array_equal(doubled, 2 * array)
            assert not doubled.flags.writeable
            assert doubled.flags.aligned


async def test_arrays_of_another_type() -> None:
    async with served("unix:") as (desk, _):
        for wrong, words in [
            (np.arange(3), "'numbers': Expected an array of float64, got one of int64"),
            (np.ones(LARGE, "f4"), "'numbers': Expected an array of float64, got one of float32"),
            ([1.0], r"'numbers': Expected `numpy.ndarray`, got `list`"),
            (np.array([object()]), "'numbers': an array of dtype.*cannot be sent"),
            (np.ma.masked_array([1.0]), "'numbers': a MaskedArray is more than its elements"),
        ]:
            with pytest.raises(BadArguments, match=words):
                await desk.total(wrong)  # type: ignore[arg-type]
        assert await desk.plain(1) == 1
        assert not lent_by(desk)._lent


@CARRYING
async def test_memory_is_lent_again_when_the_method_is_done(address: str) -> None:
    array = np.ones(LARGE)
    async with served(address) as (desk, _):
        for _ in range(5):
            assert await desk.total(array) == LARGE
        lender = lent_by(desk)
        assert not lender._lent
        assert [loan.number for loan in lender._here] == [1]


@CARRYING
async def test_what_is_kept_is_not_written_over(address: str) -> None:
    async with served(address) as (desk, _):
        await desk.hold(np.ones(LARGE))
        assert await desk.total(np.full(LARGE, 2.0)) == 2 * LARGE
        assert await desk.held() == LARGE
        await desk.plain(1)  # with what comes in, it also hears of that
        assert not lent_by(desk)._lent
        assert len(lent_by(desk)._here) == 2
        kept = await desk.doubled(np.ones(LARGE))
        other = await desk.doubled(np.full(LARGE, 2.0))
        assert (kept.sum(), other.sum()) == (2 * LARGE, 4 * LARGE)


async def test_what_came_outlives_the_connection() -> None:
    async with served("shm:") as (desk, clerk):
        kept = await desk.doubled(np.ones(LARGE))
        await desk.hold(np.ones(LARGE))
    assert kept.sum() == 2 * LARGE
    assert clerk.array.sum() == LARGE
    del kept, clerk
    assert lent_memory() == 0, "nothing of the connection is left"


async def test_memory_that_is_kept_is_bounded() -> None:
    """More than sixteen loans, or 256 MiB, are made for once."""
    async with served("unix:") as (desk, _):
        kept = [await desk.doubled(np.full(LARGE // 8, number)) for number in range(20)]
        assert [each[0] for each in kept] == [2 * number for number in range(20)]
        assert await desk.total(np.ones(LARGE)) == LARGE
        many = Drawer("many", None, [np.full(LARGE, number, "u1") for number in range(20)])
        assert [frame[0] for frame in (await desk.file_away(many)).frames] == [*range(1, 21)]
        assert len(lent_by(desk)._here) + len(lent_by(desk)._lent) <= 16
        del kept, many
        gc.collect()
        await desk.plain(1)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_the_connection_ends_while_an_array_is_copied(is_cancelled: bool) -> None:
    """The memory that was lent for it is no longer there to be given back."""
    async with served("unix:") as (desk, _):
        await desk.plain(1)
        connection = rpc.connection_of(desk)
        call = asyncio.ensure_future(desk.total(np.ones(10 * LARGE)))
        await until(lambda: connection.caller.packing == 1)
        connection.end(aioipc.PeerCrashed("the far side is gone"))
        if is_cancelled:
            call.cancel()
        with pytest.raises(asyncio.CancelledError if is_cancelled else aioipc.PeerCrashed):
            await call


async def test_memory_of_a_result_over_the_limit_is_lent_again() -> None:
    class Printer(Protocol):
        async def page(self, margin: int) -> tuple[NDArray[np.uint8], bytes]: ...

    class Press:
        def page(self, margin: int) -> tuple[NDArray[np.uint8], bytes]:
            return np.ones(LARGE, "u1"), bytes(margin)

    limits = Limits(max_message_bytes=100_000)
    async with (
        rpc.serve("unix:", Press(), interface=Printer, limits=limits) as server,
        rpc.connect(server.address, Printer) as printer,
    ):
        for _ in range(3):
            with pytest.raises(RemoteError, match="over the limit"):
                await printer.page(200_000)
        (connection,) = server.connections
        assert not connection.parcels._lender._lent
        assert len(connection.parcels._lender._here) == 1


class OlderDesk(Protocol):
    async def write(self, file: Descriptor) -> int: ...
    async def total(self) -> float: ...


@CARRYING
async def test_an_older_caller_may_leave_defaults_out(address: str, pipe: Pipe) -> None:
    class Newer(Clerk):
        def write(self, file: Descriptor, text: str = "default") -> int:
            return super().write(file, text)

    class NewerDesk(Protocol):
        async def write(self, file: Descriptor, text: str = "default") -> int: ...
        async def total(self, numbers: NDArray[np.float64]) -> float: ...

    async with (
        rpc.serve(address, Newer(), interface=NewerDesk) as server,
        rpc.connect(server.address, OlderDesk) as desk,
    ):
        with Descriptor(pipe.writer) as file:
            assert await desk.write(file) == len("default")
        assert os.read(pipe.reader, 99) == b"default"
        assert pipe.is_closed()
        with pytest.raises(BadArguments, match="'numbers' is missing"):
            await desk.total()


async def test_others_go_on_while_an_array_is_copied() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with served("unix:") as (desk, _):
        task = asyncio.ensure_future(count())
        await desk.total(np.ones(LARGE))
        task.cancel()
    assert turns > 8 * LARGE // 2**19


async def test_a_descriptor_where_anything_goes(pipe: Pipe) -> None:
    async with served("unix:") as (desk, _):
        with Descriptor(pipe.writer) as file:
            with pytest.raises(BadArguments, match="a descriptor came where none is declared"):
                await desk.anything(file)
            assert await desk.anything("text", file) == "str"
            assert await desk.anything("text") == "str"
