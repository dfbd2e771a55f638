"""What the workers of the tests do."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import aioipc
from aioipc import BlockingChannel

Channel = aioipc.Channel[Any]


class Event(msgspec.Struct):
    """What a typed channel carries."""

    name: str


@dataclass(frozen=True)
class Point:
    """Something that only pickle can carry."""

    x: int
    y: int


# Well-behaved


async def echo(channel: Channel) -> None:
    async for obj in channel:
        await channel.send(obj)


def plain_echo(channel: BlockingChannel[Any]) -> None:
    for obj in channel:
        channel.send(obj)


def plain_batches(channel: BlockingChannel[Any]) -> None:
    while True:
        channel.send_many([2 * number for number in channel.receive_many()])


class Adder:
    @staticmethod
    async def add(channel: Channel, point: Point, *, more: int = 0) -> None:
        await channel.send(point.x + point.y + more)


async def tell_events(channel: aioipc.Channel[Event], names: list[str]) -> None:
    for name in names:
        await channel.send(Event(name))


async def tell(channel: Channel, *objects: object) -> None:
    for obj in objects:
        await channel.send(obj)
    async for _ in channel:
        pass


async def report(channel: Channel) -> None:
    """Say what this process was given, once it knows its parent: that takes a descriptor."""
    await channel.receive()
    await channel.send(
        {
            "fds": open_fds(),
            "inheritable": open_fds(only_inheritable=True),
            "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "group": os.getpgrp(),
            "parent": os.getppid(),
            "loop": type(asyncio.get_running_loop()).__module__,
            "argv": sys.argv,
            "MARK": os.environ.get("MARK"),
            "stdin": sys.stdin.read(),
        }
    )


async def where(channel: Channel) -> None:
    """Say in which directory it is, and with which umask."""
    umask = os.umask(0)
    os.umask(umask)
    await channel.send([os.getcwd(), umask])


def open_fds(*, only_inheritable: bool = False) -> list[str]:
    """What each descriptor from 3 on stands for."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing
            if fd > 2 and (os.get_inheritable(fd) or not only_inheritable):
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


async def until_cancelled(channel: Channel) -> None:
    await channel.send("ready")
    try:
        await asyncio.Event().wait()
    finally:
        print("cancelled, cleaning up")


async def parent_of(channel: Channel) -> None:
    """Start a worker of its own, and pass on what it says."""
    async with aioipc.process.spawn(echo) as worker:
        await channel.send(worker.pid)
        await worker.channel.send("from the grandchild")
        await channel.send(await worker.channel.receive())


# In many words


async def write_out(channel: Channel) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    await channel.receive()


async def write_garbage(channel: Channel) -> None:
    out = sys.stdout.buffer
    out.write(bytes(range(256)) + b"\n" + b"x" * 20_000 + b"\nno end")
    out.flush()
    await channel.send("written")


async def write_much(channel: Channel) -> None:
    for number in range(20_000):
        print("a line of output that somebody has to read", number)
    await channel.send("written")


# Badly


async def raise_an_error(channel: Channel) -> None:
    await channel.send("soon")
    raise LookupError("no such luck")


def plainly_raise_an_error(channel: BlockingChannel[Any]) -> None:
    channel.send("soon")
    raise LookupError("no such luck")


async def leave(channel: Channel, status: int) -> None:
    sys.exit(status)


async def die(channel: Channel, how: str) -> None:
    await channel.send("soon")
    await channel.receive()
    DEATHS[how]()


def eat_memory() -> None:
    """Until the kernel has had enough."""
    eaten = []
    while True:
        eaten.append(b"x" * 1_000_000)


DEATHS: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(8),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(7),
    "memory": eat_memory,
}


async def ignore_everything(channel: Channel) -> None:
    """Ignore signals and the channel, and have a child that does the same."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = await asyncio.create_subprocess_exec("sh", "-c", "trap '' TERM; exec sleep 1000")
    await channel.send([os.getpid(), child.pid])
    while True:
        signal.pause()


async def leave_its_group(channel: Channel) -> None:
    """Join that of the parent, as who wants the terminal does."""
    os.setpgid(0, os.getpgid(os.getppid()))
    await channel.send("left")
    await asyncio.Event().wait()


async def have_a_grandchild(channel: Channel) -> None:
    """End well, and leave somebody behind who also holds the standard streams."""
    child = await asyncio.create_subprocess_exec("sh", "-c", "trap '' TERM; exec sleep 1000")
    await channel.send(child.pid)


# Run once


class Complaint(Exception):
    pass


def power(base: int, *, exponent: int) -> tuple[Point, int]:
    return Point(base**exponent, 0), os.getpid()


async def power_later(base: int, *, exponent: int) -> tuple[Point, int]:
    await asyncio.sleep(0)
    return power(base, exponent=exponent)


def complain(about: str) -> None:
    raise Complaint(about)


async def complain_later(about: str) -> None:
    raise Complaint(about)


def unpicklable(what: str) -> object:
    if what == "result":
        return lambda: None
    raise Complaint(lambda: None)


class Quarrel(Exception):
    """What can be pickled, but not unpickled: that lacks an argument."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} against {other}")


def quarrel() -> None:
    raise Quarrel("one", "the other")


def settle() -> Quarrel:
    return Quarrel("one", "the other")


async def run_what_dies() -> None:
    await aioipc.process.run(leave_at_once)


def leave_at_once() -> None:
    os._exit(9)


async def leave_later(status: int) -> None:
    await asyncio.sleep(0)
    sys.exit(status)


def leave_at_once_with(status: str) -> None:
    os._exit(int(status))


def hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        pass


async def hang_later(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        Path(path).with_suffix(".cancelled").touch()


def hang_for_ever(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(path)


async def greet_at(channel: Channel, address: str) -> None:
    """Tell whoever connects who this is, until the parent closes the channel."""

    async def greet(client: Channel) -> None:
        async for _ in client:
            await client.send(os.getpid())

    async with aioipc.listen(address) as listener, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(listener.serve(greet))
        async for _ in channel:
            pass
        serving.cancel()


# Supervised


async def serve_until_told(channel: Channel, path: str) -> None:
    """Write down that it lives, say that it is ready, and finish when the channel ends."""
    note(path, "began")
    await channel.send("ready")
    async for _ in channel:
        pass
    note(path, "ended")


def note(path: str, what: str) -> None:
    with Path(path).open("a") as diary:
        print(what, os.getpid(), file=diary)


async def refuse_after_the_first(channel: Channel, path: str) -> None:
    if Path(path).exists():
        raise LookupError("not a second time")
    await serve_until_told(channel, path)


async def hesitate_after_the_first(channel: Channel, path: str) -> None:
    if not Path(path).exists():
        await serve_until_told(channel, path)
        return
    note(path, "began")
    async for _ in channel:
        pass
    note(path, "ended")


async def be_deaf(channel: Channel, path: str) -> None:
    note(path, "began")
    await channel.aclose()
    await asyncio.Event().wait()


async def be_deaf_after_the_first(channel: Channel, path: str) -> None:
    await (be_deaf if Path(path).exists() else serve_until_told)(channel, path)


def leave_with(channel: BlockingChannel, status: int) -> None:
    os._exit(status)
