"""A side of a channel over shared memory that a test plays: a socket, memory, plain numbers.

It knows of the protocol what docs/ring.md says, and keeps to it as far as the test likes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

import aioipc
from aioipc import Channel, Limits
from aioipc.wire.framing import Kind
from aioipc.wire.hello import Hello
from aioipc.wire.offer import Offer
from tests.children import PATIENCE_S
from tests.victim import Victim, attacked

CAPACITY = 64 * 1024
LIMITS = Limits(ring_bytes=CAPACITY, handshake_s=PATIENCE_S, connect_s=PATIENCE_S)
OPTIONS: dict[str, Any] = {"codec": "raw", "limits": LIMITS}
OFFER_BYTES = 24
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
HEAD_BYTES = 4096
MOST = 2**64
TAIL, HEAD, C_WAIT, P_WAIT, CLOSED = 0x000, 0x080, 0x100, 0x180, 0x200


def ring_file_bytes(capacity: int = CAPACITY) -> int:
    """The size of the memory of two rings."""
    return 2 * (HEAD_BYTES + capacity)


def memory_file(size: int | None = None, seals: int = SEALS, flags: int = 0) -> int:
    """Make memory as a server does, unless told otherwise; the caller closes it."""
    size = ring_file_bytes() if size is None else size
    fd = os.memfd_create("aioipc-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if size and not flags:
        os.posix_fallocate(fd, 0, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def bell() -> int:
    """Make a bell, which the caller closes."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def span(size: int) -> int:
    """Bytes that a record of this payload takes."""
    return 8 + (size + 7 & ~7)


class BareRing:
    """One direction, of which a test writes any word it likes."""

    def __init__(self, memory: mmap.mmap, offset: int, capacity: int) -> None:
        self.memory = memory
        self.offset = offset
        self.capacity = capacity

    def word(self, at: int) -> int:
        """Read a word."""
        value: int = struct.unpack_from("=Q", self.memory, self.offset + at)[0]
        return value

    def set_word(self, at: int, value: int) -> None:
        """Write a word."""
        struct.pack_into("=Q", self.memory, self.offset + at, value % MOST)

    def header(self, position: int, length: int, kind: int, flags: int = 0, fds: int = 0) -> None:
        """Write the header of a record."""
        at = self.offset + HEAD_BYTES + position % self.capacity
        struct.pack_into("=Q", self.memory, at, length | kind << 32 | flags << 40 | fds << 48)

    def put(self, kind: int, payload: bytes = b"", flags: int = 0, fds: int = 0) -> None:
        """Write a record where there is room for it, and show it."""
        tail = self.word(TAIL)
        room = self.capacity - tail % self.capacity
        if span(len(payload)) > room:
            self.header(tail, room - 8, Kind.PAD)
            tail += room
        self.header(tail, len(payload), kind, flags, fds)
        at = self.offset + HEAD_BYTES + tail % self.capacity + 8
        self.memory[at : at + len(payload)] = payload
        self.set_word(TAIL, tail + span(len(payload)))

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Take what is there, without PADs."""
        while (head := self.word(HEAD)) != self.word(TAIL):
            at = self.offset + HEAD_BYTES + head % self.capacity
            length, kind = struct.unpack_from("=IB", self.memory, at)
            payload = self.memory[at + 8 : at + 8 + length]
            self.set_word(HEAD, head + span(length))
            if kind != Kind.PAD:
                yield kind, payload


class BareEnd:
    """One side: the socket, the rings that it writes and reads, the bells."""

    def __init__(
        self, sock: socket.socket, memory: int, side: int, bells: Sequence[int], capacity: int
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.memory_fd = memory
        self.own_bell, self.peer_bell = bells or (-1, -1)
        self.map = mmap.mmap(memory, ring_file_bytes(capacity))
        rings = [
            BareRing(self.map, number * (HEAD_BYTES + capacity), capacity) for number in range(2)
        ]
        self.writes, self.reads = rings[side], rings[1 - side]

    @classmethod
    async def at(cls, address: str) -> Self:
        """Connect to a listener, as a client."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await loop.sock_connect(sock, address.partition(":")[2])
        return await cls.taking_over(sock)

    @classmethod
    async def taking_over(cls, sock: socket.socket) -> Self:
        """Take what is offered over a socket."""
        sock.setblocking(False)
        with watched(sock) as readable:
            await readable.wait()
        data, fds, _, _ = socket.recv_fds(sock, OFFER_BYTES, 3)
        _, _, _, _, side, _, capacity = struct.unpack("<8sHHBBHQ", data)
        memory, *bells = fds
        return cls(sock, memory, side, bells, capacity)

    @classmethod
    def offering(cls, sock: socket.socket, *, socket_bells: bool = False) -> Self:
        """Offer rings over a socket, as a server."""
        memory, bells = memory_file(), [] if socket_bells else [bell(), bell()]
        offer = Offer(CAPACITY, 1, socket_bells)
        socket.send_fds(sock, [offer.pack()], [memory, *reversed(bells)])
        return cls(sock, memory, 0, bells, CAPACITY)

    def greet(self, codec: str = "raw") -> None:
        """Say HELLO."""
        self.say(Kind.HELLO, Hello(codec, 2**26).pack())

    def say(self, kind: int, payload: bytes = b"", flags: int = 0) -> None:
        """Write a record, and ring."""
        self.writes.put(kind, payload, flags)
        self.ring()

    def say_all(self, *records: tuple[int, bytes, int]) -> None:
        """Write several records, and ring."""
        for kind, payload, flags in records:
            self.writes.put(kind, payload, flags)
        self.ring()

    def ring(self) -> None:
        """Wake the other side, asleep or not."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            if self.peer_bell < 0:
                self.sock.send(b"!")
            else:
                os.eventfd_write(self.peer_bell, 1)

    async def heard(self, kind: int) -> bytes:
        """Wait for the next record of a kind, and pass over the others."""
        fd = self.sock if self.own_bell < 0 else self.own_bell
        with watched(fd) as rung:
            while True:
                rung.clear()
                # A socket that was closed before all bells were read is reset: unix(7).
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    self.sock.recv(4096) if self.own_bell < 0 else os.eventfd_read(self.own_bell)
                self.reads.set_word(C_WAIT, 1)
                for came, payload in self.reads.take():
                    if came == kind:
                        return payload
                await rung.wait()

    async def settled(self) -> None:
        """Wait until all that was written was retired: then any byte of it may change."""
        while self.writes.word(HEAD) != self.writes.word(TAIL):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)

    def close(self) -> None:
        """Be gone, without a word."""
        self.sock.close()
        self.map.close()
        for fd in (self.memory_fd, self.own_bell, self.peer_bell):
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


@contextlib.contextmanager
def watched(fd: Any) -> Iterator[asyncio.Event]:
    """Yield an event that is set while a descriptor can be read."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        yield event
    finally:
        loop.remove_reader(fd)


# A listener, and a server that is played


def serving(directory: Path, **options: Any) -> AbstractAsyncContextManager[Victim]:
    """A listener that echoes."""
    return attacked(f"shm:{directory}/victim", **{**OPTIONS, **options})


Accept = Callable[[], Any]


@contextlib.asynccontextmanager
async def played_server(
    directory: Path, **options: Any
) -> AsyncIterator[tuple[asyncio.Task[Channel[bytes]], socket.socket]]:
    """Yield a connect in progress, and the other end of its socket."""
    loop = asyncio.get_running_loop()
    path = directory / "played"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.setblocking(False)
        opening = aioipc.connect(f"shm:{path}", **{**OPTIONS, **options})
        connecting = asyncio.ensure_future(opening.__aenter__())
        sock, _ = await loop.sock_accept(server)
        path.unlink()
        with sock:
            try:
                yield connecting, sock
            finally:
                connecting.cancel()
                with contextlib.suppress(asyncio.CancelledError, aioipc.IPCError):
                    (await connecting).abort()


def send_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send bytes with descriptors, more of them than `socket.send_fds` may take."""
    numbers = array.array("i", fds)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if fds else [])
