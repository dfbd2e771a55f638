"""A process that forks others which are about to die: each takes milliseconds, not a start.

Commands come as JSON over a socket, with descriptors; each is answered with one number: the
pid of the process that was forked, or the status of one that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn

import uvloop

import aioipc
from tests.children import PATIENCE_S, Peer, Peers

SIZES = [0, 3, 30, 300, 3_000, 0, 20, 4_000]
LARGE = 150_000
COUNTER = struct.Struct("<Q")
_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def message(number: int, *, large: bool) -> bytes:
    """The message of that number, which no mixture of others looks like."""
    size = LARGE if large and number % 50 == 49 else SIZES[number % len(SIZES)]
    return number.to_bytes(8, "little") + bytes([number % 251]) * size


def is_whole(received: bytes, *, large: bool) -> bool:
    """Whether it is one of those messages."""
    return received == message(int.from_bytes(received[:8], "little"), large=large)


class Counter:
    """A number in a file, which outlives whoever counts."""

    @classmethod
    @contextlib.contextmanager
    def at_zero(cls, path: Path) -> Iterator[Counter]:
        """A new one."""
        path.write_bytes(bytes(COUNTER.size))
        counter = cls(str(path))
        yield counter
        counter.close()

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), COUNTER.size)
        # One store: struct clears the bytes first, and a process may be killed right then.
        self._number = memoryview(self._map).cast("Q")

    @property
    def value(self) -> int:
        return self._number[0]

    @value.setter
    def value(self, number: int) -> None:
        self._number[0] = number

    def close(self) -> None:
        self._number.release()
        self._map.close()


# What the forked processes do


async def send_for_ever(address: str, *, counter: str, large: bool) -> None:
    """Send message after message; count how many were handed to the kernel."""
    delivered = Counter(counter)
    channel = await aioipc.connect(address, codec="raw")
    if address.startswith("tcp:"):
        # The end of a process that has not read everything resets the connection, and what
        # was on its way is lost: tcp(7). The peer's HELLO is all that there is to read.
        while not channel.port.greeted:  # noqa: ASYNC110 - the port has no event for it
            await asyncio.sleep(0)
    number = 0
    while True:
        for _ in range(number % 5 + 1):
            await channel.send(message(number, large=large))
            number += 1
        await channel.send_many(message(n, large=large) for n in range(number, number + 3))
        number += 3
        await channel.flush()
        delivered.value = number


async def receive_for_ever(address: str) -> None:
    """Receive until killed."""
    channel = await aioipc.connect(address, codec="raw")
    async for _ in channel:
        pass


async def count_for_ever(address: str, *, counter: str) -> None:
    """Receive until killed; count how many messages came."""
    taken = Counter(counter)
    channel = await aioipc.connect(address, codec="raw")
    async for _ in channel:
        taken.value += 1


async def journal_until_the_end(address: str, *, journal: str) -> None:
    """Look at messages in place, up to eight at a time, and write down the number of each.

    What is written down is given back only afterwards, so that a kill loses nothing. Eight bytes
    reach a file whole or not at all: no page ends among them.
    """
    channel = await aioipc.connect(address, codec="raw")
    with io.FileIO(journal, "a") as file, contextlib.suppress(aioipc.EndOfStream):
        for turn in itertools.count():
            async with contextlib.AsyncExitStack() as looking:
                for _ in range(turn % 8 + 1):
                    view = await looking.enter_async_context(channel.borrow())
                    file.write(view[:8])
    await channel.aclose()


async def sleep_for_ever(address: str) -> None:
    """Connect, and take nothing."""
    channel = await aioipc.connect(address, codec="raw")
    await asyncio.Event().wait()
    await channel.aclose()


async def fill_and_leave(address: str) -> None:
    """Send until there is no room, and end cleanly."""
    channel = await aioipc.connect(address, codec="raw")
    number = 0
    with contextlib.suppress(aioipc.WouldBlock):
        while True:
            channel.send_nowait(message(number, large=False))
            number += 1
    await channel.aclose()


async def flood(address: str) -> None:
    """Send until the peer is gone, under the action that SIGPIPE has outside Python."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    channel = await aioipc.connect(address, codec="raw")
    with contextlib.suppress(aioipc.PeerCrashed):
        while True:
            await channel.send(bytes(1_000))
    await channel.aclose()


ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "send": send_for_ever,
    "receive": receive_for_ever,
    "count": count_for_ever,
    "journal": journal_until_the_end,
    "sleep": sleep_for_ever,
    "fill_and_leave": fill_and_leave,
    "flood": flood,
}


def act(loop: str, role: str, options: dict[str, Any]) -> NoReturn:
    """Play a role to its end, and the process's."""
    status = 1
    try:
        with asyncio.Runner(loop_factory=_LOOPS[loop]) as runner:
            runner.run(ROLES[role](**options))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(control: socket.socket) -> None:
    """Do what is asked until nobody asks any more."""
    while True:
        data, fds, _, _ = socket.recv_fds(control, 4096, 8)
        if not data:
            return
        command = json.loads(data)
        if "wait" in command:
            _, status = os.waitpid(command["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            if fds:
                scheme = command["options"].pop("scheme", "")
                numbers = ",".join(map(str, fds))
                address = f"{scheme}:fd={numbers}" if scheme else f"fd:{numbers}"
                command["options"]["address"] = address
            answer = os.fork()
            if answer == 0:
                control.close()
                act(**command)
        for fd in fds:
            os.close(fd)
        control.send(str(answer).encode())


# For the test


class Nursery:
    """The other end: ask for processes, and hear how they ended."""

    def __init__(self, peers: Peers) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE_S)
        with theirs:
            fd = theirs.fileno()
            self._peer: Peer = peers.module("tests.peers.nursery", fd, pass_fds=[fd])

    def start(self, loop: str, role: str, *, fds: tuple[int, ...] = (), **options: object) -> int:
        """Fork a process and return its pid. With ``fds`` they are its address.

        ``scheme`` says of which transport they are, if it is not ``fd:``.
        """
        return self._ask({"loop": loop, "role": role, "options": options}, fds)

    def wait(self, pid: int) -> int:
        """Wait for the end of a process: an exit status, or minus a signal."""
        return self._ask({"wait": pid})

    def kill(self, pid: int) -> None:
        """Kill a process and wait for its end."""
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def close(self) -> None:
        self._control.close()

    def _ask(self, command: dict[str, Any], fds: tuple[int, ...] = ()) -> int:
        socket.send_fds(self._control, [json.dumps(command).encode()], fds)
        return int(self._control.recv(100))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
