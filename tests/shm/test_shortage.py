"""No memory, no descriptors: said when a ring is made, and never found out later (case 51)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

import aioipc
from aioipc import ConnectError, Limits, QuotaExceeded, ResourceExhausted
from tests.children import Peers
from tests.echoes import is_served, served_again, serving
from tests.programs import SERVE_ECHO, program
from tests.shm.bare import LIMITS
from tests.shortage import limited, memory_in_use, open_fds

in_loop = pytest.mark.asyncio


@pytest.mark.parametrize("ring_bytes", [0, 1, 4096, 32 * 1024, 2 * 2**30, -1])
def test_a_ring_that_is_too_small_or_too_large(ring_bytes: int) -> None:
    with pytest.raises(ValueError, match=re.escape("between 65,536 and 1,073,741,824")):
        Limits(ring_bytes=ring_bytes)


@pytest.mark.parametrize("ring_bytes", [65_537, 100_000, 3 * 65_536])
def test_a_ring_that_is_no_power_of_two(ring_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"must be a power of two, not {ring_bytes:,}"):
        Limits(ring_bytes=ring_bytes)


LARGE = Limits(ring_bytes=2**28)
SHORTAGES: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "file size": lambda: limited(resource.RLIMIT_FSIZE, 2**20),
    "address space": lambda: limited(resource.RLIMIT_AS, memory_in_use() + 2**27),
}


@pytest.mark.parametrize("shortage", SHORTAGES)
@in_loop
async def test_no_memory_for_a_pair(shortage: str) -> None:
    before = open_fds()
    with SHORTAGES[shortage](), pytest.raises(ResourceExhausted, match="268,435,456 bytes"):
        aioipc.pair("shm", limits=LARGE)
    assert open_fds() == before
    left, right = aioipc.pair("shm")
    async with left, right:
        await left.send("enough for this one")
        assert await right.receive() == "enough for this one"


@pytest.mark.parametrize("shortage", SHORTAGES)
@in_loop
async def test_no_memory_for_a_client_of_a_listener(
    shortage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, and the listener goes on."""
    async with (
        aioipc.listen("shm:", limits=LARGE) as listener,
        serving(listener),
        aioipc.listen("unix:") as other,
        serving(other),
    ):
        with SHORTAGES[shortage]():
            with pytest.raises(QuotaExceeded, match="make two rings of 268,435,456 bytes"):
                await aioipc.connect(listener.address)
            assert await is_served(other.address)
    assert len(caplog.messages) == 1


@in_loop
async def test_no_memory_at_the_client() -> None:
    """The server has made them; the client cannot map them."""
    ours, theirs = aioipc.pair("shm", limits=LARGE)
    ours.abort()
    _, (fd,) = theirs.detach()
    with (
        limited(resource.RLIMIT_AS, memory_in_use() + 2**27),
        pytest.raises(ResourceExhausted, match="map two rings of 268,435,456 bytes"),
    ):
        await aioipc.connect(f"shm:fd={fd}")


@pytest.mark.parametrize("room", range(8))
@in_loop
async def test_no_descriptors_for_a_pair(room: int) -> None:
    before = open_fds()
    with (
        limited(resource.RLIMIT_NOFILE, first_free() + room),
        pytest.raises(ResourceExhausted) as raised,
    ):
        aioipc.pair("shm", limits=LIMITS)
    assert raised.value.errno == errno.EMFILE
    assert open_fds() == before


def first_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


@pytest.mark.leaves_names
@pytest.mark.parametrize("room", range(1, 5))
@in_loop
async def test_no_descriptors_for_a_client(room: int, peers: Peers) -> None:
    server = program(peers, SERVE_ECHO, "shm:")
    address = await server.next_line()
    assert await is_served(address)
    before = open_fds()
    with (
        limited(resource.RLIMIT_NOFILE, first_free() + room),
        pytest.raises(ResourceExhausted) as raised,
    ):
        await aioipc.connect(address)
    assert raised.value.errno == errno.EMFILE
    assert open_fds() == before
    assert await is_served(address)


@in_loop
async def test_no_descriptors_at_the_listener(tmp_path: Path, peers: Peers) -> None:
    """Who does not get a ring is told so; the others go on, and later ones get theirs."""
    code = """
    import logging, resource
    logging.disable()
    async with aioipc.listen(sys.argv[1]) as listener:
        await asyncio.sleep(0)
        say("listening")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        used = len(os.listdir("/proc/self/fd")) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
        await listener.serve(echo)
    """
    address = f"shm:{tmp_path}/socket"
    server = program(peers, code, address)
    assert await server.next_line() == "listening"
    async with aioipc.connect(address) as first:
        await first.send("hello")
        assert await first.receive() == "hello"
        for _ in range(3):
            with pytest.raises((QuotaExceeded, ConnectError)):
                async with asyncio.timeout(5):
                    await aioipc.connect(address, limits=Limits(connect_s=0.3))
            await first.send("still served")
            assert await first.receive() == "still served"
    await served_again(address)
    server.signal(2)
    await server.ended()
