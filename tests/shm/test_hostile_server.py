"""A server that offers anything but a ring: refused by name, nothing stays open, no SIGBUS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    ConnectError,
    HandshakeError,
    IPCError,
    Limits,
    QuotaExceeded,
    ResourceExhausted,
    VersionMismatch,
)
from aioipc.kernel.memory import what_is_wrong
from aioipc.wire.framing import Kind as Record
from aioipc.wire.hello import Goodbye, GoodbyeCode
from aioipc.wire.offer import MAGIC, Offer, pack_refusal
from tests.shm.bare import (
    CAPACITY,
    OPTIONS,
    BareEnd,
    bell,
    memory_file,
    played_server,
    ring_file_bytes,
    send_fds,
)
from tests.shortage import open_fds

in_loop = pytest.mark.asyncio
OFFER = Offer(CAPACITY, 1)
SIZE = ring_file_bytes()


@pytest.fixture(autouse=True)
def all_fds_closed() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


@contextlib.contextmanager
def closing(*fds: int) -> Iterator[tuple[int, ...]]:
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


async def refused(
    directory: Path, data: bytes, *fds: int, kind: type[IPCError] = HandshakeError
) -> str:
    """Offer this to a client and return why it wants none of it."""
    with closing(*fds):
        async with played_server(directory) as (connecting, sock):
            send_fds(sock, data, fds)
            with pytest.raises(IPCError) as raised:
                await connecting
            assert type(raised.value) is kind
            assert sock.recv(100) == b"", "the client closed, and said nothing"
            address, _, why = str(raised.value).partition(": ")
            assert address.startswith("shm:")
            return why


# Memory


def file_in_dev_shm() -> int:
    fd, path = tempfile.mkstemp(dir="/dev/shm", prefix="aioipc-test-")
    os.unlink(path)
    os.posix_fallocate(fd, 0, SIZE)
    return fd


def file_on_disk() -> int:
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
        return os.dup(file.fileno())


def huge_pages() -> int:
    try:
        return memory_file(2 * 1024 * 1024, flags=os.MFD_HUGETLB)
    except OSError:
        pytest.skip("this kernel has no huge pages")


def reopened(flags: int) -> int:
    fd = memory_file()
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    finally:
        os.close(fd)


def sparse() -> int:
    fd = os.memfd_create("aioipc-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def sealed_with(*seals: int) -> Callable[[], int]:
    def make() -> int:
        together = 0
        for seal in seals:
            together |= seal
        return memory_file(seals=together)

    return make


def one_of_pipe() -> int:
    reads, writes = os.pipe()
    os.close(writes)
    return reads


def a_socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def an_epoll() -> int:
    with select.epoll() as epoll:
        return os.dup(epoll.fileno())


ALL_SEALS = (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL)
BAD_MEMORY: dict[str, tuple[Callable[[], int], str]] = {
    "no seals": (sealed_with(), "its seals are 0x0, and 0x7 are due"),
    "may grow": (sealed_with(fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SEAL), "its seals are 0x3"),
    "may shrink": (sealed_with(fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL), "its seals are 0x5"),
    "not final": (sealed_with(fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW), "its seals are 0x6"),
    "read only for ever": (sealed_with(*ALL_SEALS, 0x8), "it cannot be written"),
    "read only from now on": (sealed_with(*ALL_SEALS, 0x10), "it cannot be written"),
    "too short": (lambda: memory_file(SIZE - 4096), f"has {SIZE - 4096:,} bytes, not {SIZE:,}"),
    "too long": (lambda: memory_file(SIZE + 4096), f"has {SIZE + 4096:,} bytes, not {SIZE:,}"),
    "empty": (lambda: memory_file(0), f"has 0 bytes, not {SIZE:,}"),
    "huge pages": (huge_pages, "made of huge pages or on another file system"),
    "a file in /dev/shm": (file_in_dev_shm, "its seals are 0x1"),
    "a file on a disk": (file_on_disk, "cannot be sealed|on another file system|seals are 0x1"),
    "opened to read": (lambda: reopened(os.O_RDONLY), "it cannot be written"),
    "opened to write": (lambda: reopened(os.O_WRONLY), "it cannot be written"),
    "opened as a path": (lambda: reopened(os.O_PATH), "cannot be sealed"),
    "not allocated": (sparse, "it is not allocated"),
    "a pipe": (one_of_pipe, "it is no file in memory"),
    "a socket": (a_socket, "it is no file in memory"),
    "an eventfd": (bell, "it is no file in memory"),
    "/dev/zero": (lambda: os.open("/dev/zero", os.O_RDWR), "it is no file in memory"),
    "a directory": (lambda: os.open("/", os.O_RDONLY), "it is no file in memory"),
}


@in_loop
@pytest.mark.parametrize("memory", BAD_MEMORY)
async def test_bad_memory(memory: str, runtime_dir: Path) -> None:
    """Case 41."""
    make, says = BAD_MEMORY[memory]
    why = await refused(runtime_dir, OFFER.pack(), make(), bell(), bell())
    assert why.startswith("the peer offers bad memory for a ring: ")
    assert [part for part in says.split("|") if part in why], why


def test_good_memory() -> None:
    with closing(memory_file()) as (fd,):
        assert what_is_wrong(fd, SIZE) is None


# Bells


BAD_BELLS: dict[str, Callable[[], int]] = {
    "a pipe": one_of_pipe,
    "a socket": a_socket,
    "memory": memory_file,
    "an epoll": an_epoll,
    "a pidfd": lambda: os.pidfd_open(os.getpid()),
    "/dev/null": lambda: os.open("/dev/null", os.O_RDWR),
    "/dev/full": lambda: os.open("/dev/full", os.O_WRONLY),
    "a directory": lambda: os.open("/", os.O_RDONLY),
}


@in_loop
@pytest.mark.parametrize("kind", BAD_BELLS)
@pytest.mark.parametrize("place", [0, 1])
async def test_a_bell_that_is_no_eventfd(kind: str, place: int, runtime_dir: Path) -> None:
    bells = [bell(), BAD_BELLS[kind]()]
    why = await refused(runtime_dir, OFFER.pack(), memory_file(), bells[place - 1], bells[place])
    assert why == "the peer offers a bell that is no eventfd"


# Descriptors


@in_loop
@pytest.mark.parametrize("count", [0, 1, 2])
async def test_as_many_descriptors_as_are_due(count: int, runtime_dir: Path) -> None:
    fds = [memory_file(), *(bell() for _ in range(count - 1))] if count else []
    why = await refused(runtime_dir, OFFER.pack(), *fds)
    assert why == f"the offer of a ring came with {count} descriptors, 3 are due"


@in_loop
@pytest.mark.parametrize("count", [0, 2, 3])
async def test_with_socket_bells_there_is_one(count: int, runtime_dir: Path) -> None:
    fds = [memory_file(), *(bell() for _ in range(count - 1))] if count else []
    why = await refused(runtime_dir, Offer(CAPACITY, 1, socket_bells=True).pack(), *fds)
    assert why == f"the offer of a ring came with {count} descriptors, 1 are due"


@in_loop
@pytest.mark.parametrize("count", [4, 5, 100, 253])
async def test_a_flood_of_descriptors(count: int, runtime_dir: Path) -> None:
    bells = [bell() for _ in range(count)]
    why = await refused(runtime_dir, OFFER.pack(), *bells)
    assert "the peer sent more than 3 descriptors" in why


@in_loop
@pytest.mark.parametrize("data", [OFFER.pack(), pack_refusal(Goodbye(5, "no" * 500))])
async def test_descriptors_with_every_byte(data: bytes, runtime_dir: Path) -> None:
    """However many come, few are ever held."""
    before = open_fds()
    most = 0
    with closing(memory_file(), bell(), bell()) as fds:
        async with played_server(runtime_dir) as (connecting, sock):
            sock.setblocking(False)
            for byte in data:
                with contextlib.suppress(ConnectionError):
                    send_fds(sock, bytes([byte]), fds)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                most = max(most, open_fds() - before)
            with pytest.raises(HandshakeError, match="descriptors"):
                await connecting
    assert most < 3 + 1 + 2 + 8, "ours, the sockets, and what a client may hold"


@in_loop
async def test_descriptors_with_a_refusal_are_closed(runtime_dir: Path) -> None:
    data = pack_refusal(Goodbye(GoodbyeCode.ACCESS_DENIED, "no"))
    why = await refused(runtime_dir, data, memory_file(), bell(), kind=AccessDenied)
    assert "'no'" in why


@in_loop
async def test_no_room_for_descriptors(runtime_dir: Path) -> None:
    """The kernel drops what it cannot install, and says no more than that it did."""
    with closing(memory_file(), bell(), bell()) as fds:
        async with played_server(runtime_dir) as (connecting, sock):
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            with closing(os.dup(0)) as (next_fd,):
                pass
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd, limits[1]))
            try:
                send_fds(sock, OFFER.pack(), fds)
                with pytest.raises(ResourceExhausted) as raised:
                    await connecting
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert raised.value.errno == errno.EMFILE


# Words


def offer(
    *, magic: bytes = MAGIC, major: int = 1, kind: int = 1, side: int = 1, value: int = CAPACITY
) -> bytes:
    return struct.pack("<8sHHBBHQ", magic, major, 7, kind, side, 0, value)


BAD_OFFERS: dict[str, tuple[bytes, type[IPCError], str]] = {
    "text": (b"HTTP/1.1 400 Bad", HandshakeError, "it began with b'HTTP/1.1 400 Bad'"),
    "one byte": (b"x", HandshakeError, "it began with b'x'"),
    "a HELLO": (b"\x89aioipc\n" + bytes(16), HandshakeError, "it began with"),
    "zeros": (bytes(24), HandshakeError, "it began with"),
    "another version": (offer(major=2), VersionMismatch, "a ring of version 2.7, not 1.0"),
    "another kind": (offer(kind=3), HandshakeError, "the unknown kind 3"),
    "another side": (offer(side=2), HandshakeError, "side 2 of a ring"),
    "no capacity": (offer(value=0), HandshakeError, "a ring of 0 bytes"),
    "an odd capacity": (offer(value=CAPACITY + 8), HandshakeError, "65,544 bytes"),
    "2 GiB": (offer(value=2**31), HandshakeError, "2,147,483,648 bytes"),
    "all": (offer(value=2**64 - 1), HandshakeError, "18,446,744,073,709,551,615"),
    "a long refusal": (offer(kind=0, value=2**63), HandshakeError, "a refusal of 9,223"),
    "no quota": (
        pack_refusal(Goodbye(GoodbyeCode.QUOTA_EXCEEDED, "full")),
        QuotaExceeded,
        "the peer is at its limit; it says: 'full'",
    ),
}


@in_loop
@pytest.mark.parametrize("words", BAD_OFFERS)
@pytest.mark.parametrize("with_fds", [False, True])
async def test_bad_words(words: str, with_fds: bool, runtime_dir: Path) -> None:
    data, kind, says = BAD_OFFERS[words]
    fds = [memory_file(), bell(), bell()] if with_fds else []
    assert says in await refused(runtime_dir, data, *fds, kind=kind)


@in_loop
@pytest.mark.parametrize("size", [0, 1, 8, 23])
@pytest.mark.parametrize("reset", [False, True])
async def test_it_dies_in_the_middle(size: int, reset: bool, runtime_dir: Path) -> None:
    with closing(memory_file(), bell(), bell()) as fds:
        async with played_server(runtime_dir) as (connecting, sock):
            if size:
                send_fds(sock, OFFER.pack()[:size], fds)
            if not reset:
                sock.shutdown(socket.SHUT_WR)
            sock.close()
            with pytest.raises(ConnectError, match="the server went away"):
                await connecting


@in_loop
@pytest.mark.parametrize("size", [0, 10])
async def test_it_says_no_more(size: int, runtime_dir: Path) -> None:
    limits = Limits(connect_s=0.05)
    with closing(memory_file(), bell(), bell()) as fds:
        async with played_server(runtime_dir, limits=limits) as (connecting, sock):
            if size:
                send_fds(sock, OFFER.pack()[:size], fds)
            with pytest.raises(ConnectError, match=r"no answer within 0\.05 s"):
                await connecting


@in_loop
async def test_a_cancelled_connect(runtime_dir: Path) -> None:
    with closing(memory_file(), bell(), bell()) as fds:
        async with played_server(runtime_dir) as (connecting, sock):
            send_fds(sock, OFFER.pack()[:10], fds)
            for _ in range(3):
                await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert sock.recv(1) == b""


@in_loop
@pytest.mark.parametrize("at", [0, 23])
async def test_a_good_offer_in_pieces(at: int, runtime_dir: Path) -> None:
    """Descriptors come with a byte, whichever it is."""
    async with played_server(runtime_dir) as (connecting, sock):
        with closing(memory_file(), bell(), bell()) as fds:
            for number, byte in enumerate(OFFER.pack()):
                send_fds(sock, bytes([byte]), fds if number == at else [])
                await asyncio.sleep(0)
            async with await connecting as channel:
                copies = [os.dup(fd) for fd in fds]
                with BareEnd(sock.dup(), copies[0], 0, copies[:0:-1], CAPACITY) as end:
                    end.greet()
                    end.say(Record.DATA, b"hello")
                    assert await channel.receive() == b"hello"
                    await channel.send(b"answer")
                    assert await end.heard(Record.DATA) == b"answer"
                    end.say(Record.GOODBYE)
                    with pytest.raises(aioipc.EndOfStream):
                        await channel.receive()


@in_loop
async def test_the_same_bell_twice(runtime_dir: Path) -> None:
    """Whoever rings itself loses nothing but time."""
    async with played_server(runtime_dir, **OPTIONS) as (connecting, sock):
        with closing(memory_file(), bell()) as (memory, one):
            send_fds(sock, OFFER.pack(), [memory, one, one])
            async with await connecting as channel:
                copies = [os.dup(memory), os.dup(one), os.dup(one)]
                with BareEnd(sock.dup(), copies[0], 0, copies[1:], CAPACITY) as end:
                    end.greet()
                    end.say(Record.DATA, b"hello")
                    assert await channel.receive() == b"hello"
                    await channel.send(b"answer")
                    assert (Record.DATA, b"answer") in list(end.reads.take())
