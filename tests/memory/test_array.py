"""Arrays in shared memory: one memory on both sides, whatever the transport, never a crash."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import aioipc
from aioipc import AccessDenied, DecodeError, EncodeError, Limits, ProtocolError
from aioipc.kernel.ancillary import send_with_fds
from aioipc.memory import SharedArray, SharedMemory
from aioipc.wire.framing import Kind, pack_header
from aioipc.wire.hello import Hello, WireCapability
from tests.children import Peers
from tests.codecs.test_arrays import packed
from tests.links import link_over
from tests.programs import program

CARRIERS = ("unix", "unix-listen", "packets", "packets-listen", "shm", "shm-listen", "fd")
OTHERS = ("memory", "pipe", "tcp")


def test_an_array_of_zeros() -> None:
    array = SharedArray.create((2, 3), "f4")
    assert array.tolist() == [[0.0] * 3] * 2
    assert array.memory is not None
    assert array.memory.size == array.nbytes == 24
    array[1] = 7
    assert np.frombuffer(array.memory.buffer, "f4").tolist() == [0, 0, 0, 7, 7, 7]
    assert SharedArray.create((2, 3), order="F").flags.f_contiguous
    assert SharedArray.create(()).shape == ()
    assert SharedArray.create((0, 3)).size == 0


def test_what_is_computed_lies_elsewhere() -> None:
    array = SharedArray.create((2, 3))
    for other in (array + 1, array[0], array.sum(axis=0), np.exp(array)):
        assert type(other) is np.ndarray
    assert type(array.sum()) is np.float64
    assert array.T.memory is None
    assert array.copy().memory is None
    array += 1
    assert array.memory is not None


def test_what_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="cannot be shared"):
        SharedArray.create(3, object)
    shape: Any
    for shape in (-1, -3, (-1,), (2, -1)):
        with pytest.raises(ValueError, match="no extent below 0"):
            SharedArray.create(shape)
    for shape in ("3", (2.5,), None):
        with pytest.raises(TypeError, match="integer"):
            SharedArray.create(shape)
    with SharedMemory.create(8) as memory, pytest.raises(ValueError, match="over the 8 there are"):
        SharedArray(memory, 3, "f4")


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.asyncio
async def test_it_travels_by_its_descriptor(kind: str) -> None:
    async with link_over(kind)(codec="arrays") as (left, right):
        mine = SharedArray.create((100, 10), "i8")
        for order in range(3):
            await left.send({"array": mine, "n": order})
            theirs = (await right.receive())["array"]
            assert type(theirs) is SharedArray
            assert (theirs.shape, theirs.dtype) == ((100, 10), np.dtype("i8"))
            mine[5, 5] = order
            assert theirs[5, 5] == order
            with pytest.raises(ValueError, match="read-only"):
                theirs[0, 0] = 1
            assert right.take_fds() == []
            theirs.open_writable()[6, 6] = 9
            assert mine[6, 6] == 9


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.asyncio
async def test_the_cost_does_not_grow(kind: str) -> None:
    """The same bytes and system calls for 4 KiB and for 64 MiB, which no limit counts."""
    costs = []
    for size in (4096, 2**26):
        async with link_over(kind)(codec="arrays", limits=Limits(max_message_bytes=4096)) as ends:
            await ends[0].send(SharedArray.create(size, "u1"))
            assert (await ends[1].receive()).nbytes == size
            used = ends[0].statistics()
            costs.append((used.bytes_sent // 8, used.messages_sent, used.write_calls))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.asyncio
async def test_elsewhere_its_elements_travel(kind: str) -> None:
    async with link_over(kind)(codec="arrays") as (left, right):
        mine = SharedArray.create(10)
        mine[:] = range(10)
        await left.send(mine)
        theirs = await right.receive()
        mine[:] = 0
        assert theirs.tolist() == list(range(10))


@pytest.mark.parametrize("kind", ["unix:", "unix+seqpacket:", "shm:"])
@pytest.mark.asyncio
async def test_a_peer_that_takes_no_descriptors(kind: str) -> None:
    """Also where that is known only when its HELLO comes."""
    limits = Limits(max_fds=0)
    async with (
        aioipc.listen(kind, codec="arrays", limits=limits) as listener,
        aioipc.connect(listener.address, codec="arrays") as left,
    ):
        mine = SharedArray.create(10, "u1")
        mine[:] = 7
        first = asyncio.create_task(left.send(mine))
        right = await listener.accept()
        await first
        await left.send_many([mine])
        left.send_nowait(mine)
        for _ in range(3):
            theirs = await right.receive()
            assert type(theirs) is np.ndarray
            assert theirs.tolist() == [7] * 10
        reader, writer = os.pipe()
        with pytest.raises(aioipc.AddressError, match="takes no descriptors"):
            await left.send(mine, fds=[reader])
        os.close(reader)
        os.close(writer)
        await right.aclose()


@pytest.mark.asyncio
async def test_beside_descriptors_of_the_caller() -> None:
    async with link_over("unix")(codec="arrays") as (left, right):
        mine = SharedArray.create(3)
        reader, writer = os.pipe()
        await left.send([mine, 1, mine], fds=[reader, writer])
        first, _, second = await right.receive()
        mine[0] = 5
        assert first[0] == second[0] == 5
        taken = right.take_fds()
        assert [os.fstat(fd).st_ino for fd in taken] == [
            os.fstat(fd).st_ino for fd in (reader, writer)
        ]
        for fd in (reader, writer, *taken):
            os.close(fd)
        await left.send([mine, "none of these are taken"], fds=[0, 0])
        await right.receive()
        await left.send("so they are closed")
        await right.receive()


@pytest.mark.asyncio
async def test_parts_and_closed_arrays_are_copied() -> None:
    async with link_over("unix")(codec="arrays") as (left, right):
        mine = SharedArray.create(10, "u1")
        mine[:] = range(10)
        await left.send([mine[2:5], mine[::2], mine.reshape(2, 5)])
        for array in await right.receive():
            assert type(array) is np.ndarray
        mine.close()
        mine.close()
        await left.send(mine)
        assert (await right.receive()).tolist() == list(range(10))


@pytest.mark.asyncio
async def test_named_memory_is_copied(request: pytest.FixtureRequest) -> None:
    """Whoever has its name may cut it short, so nobody takes it by descriptor."""
    with SharedMemory.create(80, f"/aioipc-array-{os.getpid()}") as memory:
        request.addfinalizer(memory.unlink)
        array = SharedArray(memory, 10)
        array[:] = 3
        with SharedMemory.open(memory.name or "") as same:
            assert SharedArray(same, 10).tolist() == [3] * 10
            with pytest.raises(AccessDenied):
                SharedArray(same, 10).open_writable()
        async with link_over("unix")(codec="arrays") as (left, right):
            await left.send(array)
            assert type(await right.receive()) is np.ndarray
        del array


@pytest.mark.asyncio
async def test_only_the_maker_writes() -> None:
    async with link_over("unix")(codec="arrays") as (left, right):
        mine = SharedArray.create(3, read_only_elsewhere=True)
        await left.send(mine)
        theirs = await right.receive()
        mine[0] = 1
        assert theirs[0] == 1
        with pytest.raises(AccessDenied):
            theirs.open_writable()
        with pytest.raises(ValueError, match="has no memory"):
            theirs.T.open_writable()


@pytest.mark.asyncio
async def test_a_view_outlives_everything() -> None:
    left, right = aioipc.pair("unix", codec="arrays")
    mine = SharedArray.create((1000, 1000), "u1")
    mine[:] = 7
    await left.send(mine)
    theirs = await right.receive()
    view = theirs[500:, ::2].T
    mine.close()
    theirs.close()
    await left.aclose()
    await right.aclose()
    del mine, theirs
    gc.collect()
    assert view.sum() == 7 * 500 * 500


@pytest.mark.parametrize("kind", ["unix:", "shm:"])
@pytest.mark.asyncio
async def test_it_outlives_its_maker(kind: str, peers: Peers) -> None:
    async with aioipc.listen(kind, codec="arrays") as listener:
        child = program(
            peers,
            """
            array = aioipc.memory.SharedArray.create((1000, 1000))
            array[:] = 4
            channel = await aioipc.connect(sys.argv[1], codec="arrays")
            await channel.send(array)
            await asyncio.sleep(1000)
            """,
            listener.address,
        )
        async with await listener.accept() as channel:
            array = await channel.receive()
            child.kill()
            await child.ended()
            assert array.sum() == 4_000_000


# Enemies


def hello() -> bytes:
    body = Hello("arrays", 2**20, WireCapability.FDS).pack()
    return pack_header(len(body), Kind.HELLO, 0, 0) + body


@contextlib.contextmanager
def enemies() -> Any:
    """Descriptors that are not memory as it should be."""
    reader, writer = os.pipe()
    unsealed = os.memfd_create("aioipc-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4096)
    small = SharedMemory.create(8)
    yield {"pipe": reader, "unsealed": unsealed, "small": small.fileno()}
    small.close()
    for fd in (reader, writer, unsealed):
        os.close(fd)


@pytest.mark.asyncio
async def test_what_is_no_array() -> None:
    bare, other = socket.socketpair()
    with bare, enemies() as fds:
        channel = await aioipc.connect(f"fd:{other.detach()}", codec="arrays")
        bare.send(hello())
        body = packed([["<i4", [1000], "C", None]])
        before = len(os.listdir("/proc/self/fd"))
        for fd in fds.values():
            send_with_fds(bare, pack_header(len(body), Kind.DATA, 0, 1) + body, [fd])
            with pytest.raises(DecodeError, match=r"no shared memory|over the 8 there are"):
                await channel.receive()
            assert len(os.listdir("/proc/self/fd")) == before
        bare.send(pack_header(len(body), Kind.DATA, 0, 0) + body)
        with pytest.raises(DecodeError, match="did not come"):
            await channel.receive()
        channel.abort()


def test_from_fd() -> None:
    with SharedMemory.create(8) as memory:
        assert SharedArray.from_fd(os.dup(memory.fileno()), 2, "f4").shape == (2,)
        cases: list[tuple[Any, Any]] = [(3, "f4"), (1, object), ((2, -1), "f4")]
        for shape, dtype in cases:
            with pytest.raises(ProtocolError, match="no such array"):
                SharedArray.from_fd(os.dup(memory.fileno()), shape, dtype)


@pytest.mark.asyncio
async def test_more_arrays_than_descriptors() -> None:
    async with link_over("unix")(codec="arrays") as (left, right):
        mine = SharedArray.create(1)
        with pytest.raises(EncodeError, match="at most 253"):
            await left.send([mine] * 254)
        await left.send([mine] * 253)
        assert len(await right.receive()) == 253


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def test_numpy_is_loaded_by_those_who_use_it() -> None:
    code = "import sys, aioipc, aioipc.memory; aioipc.pair('memory'); print('numpy' in sys.modules)"
    assert run(code) == "False"


def test_without_numpy() -> None:
    code = """
import sys
sys.modules["numpy"] = None
import aioipc
for look in (lambda: aioipc.memory.SharedArray, lambda: aioipc.codecs.get("arrays")):
    try:
        look()
    except ModuleNotFoundError as error:
        print(error)
"""
    assert run(code).count("pip install 'aioipc[arrays]'") == 2
