"""A process that forks with everything open, and goes on: see tests/test_fork.py.

Its argument is a loop. Says "fine" when neither the children nor itself found anything wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Awaitable
from typing import Any

import aioipc
from aioipc import Channel, Listener
from tests.conftest import LOOPS

Link = tuple[Channel[Any], Channel[Any]]

DIRECTORY = os.environ["AIOIPC_RUNTIME_DIR"]


class Open:
    """Channels and listeners of every kind, each in use."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.links: list[Link] = []
        self.listeners: list[Listener[Any]] = []
        self.receiving: list[asyncio.Task[Any]] = []
        self.accepting: list[asyncio.Task[Channel[Any]]] = []

    @classmethod
    async def everything(cls) -> Open:
        own = cls()
        enter = own.stack.enter_async_context
        own.listeners = [
            await enter(aioipc.listen("unix:name")),
            await enter(aioipc.listen(f"unix:{DIRECTORY}/path")),
            await enter(aioipc.listen(f"unix:@{DIRECTORY}", allow=aioipc.same_user)),
            await enter(aioipc.listen("tcp://127.0.0.1:0")),
            await enter(aioipc.listen("memory:name")),
        ]
        for listener in own.listeners:
            near = await enter(aioipc.connect(listener.address))
            own.links.append((near, await enter(await listener.accept())))
        fifo = await enter(aioipc.listen(f"fifo:{DIRECTORY}/fifo"))
        near = await enter(aioipc.connect(fifo.address))
        own.links.append((near, await enter(await fifo.accept())))
        left, right = aioipc.pair("pipe")
        own.links.append((await enter(left), await enter(right)))
        cat = await enter(aioipc.connect("exec:cat", framing="lines", codec="text"))
        own.links.append((cat, cat))
        for near, far in own.links:
            await near.send("before")
            assert await far.receive() == "before"
        own.receiving = [asyncio.ensure_future(far.receive()) for _, far in own.links]
        own.accepting = [asyncio.ensure_future(each.accept()) for each in own.listeners]
        for _ in range(5):
            await asyncio.sleep(0)  # whatever is to be registered is so now
        return own

    async def go_on(self) -> None:
        """Check that nothing happened to them."""
        for (near, _), receiving in zip(self.links, self.receiving, strict=True):
            await near.send("after")
            assert await receiving == "after"
        for listener, accepting in zip(self.listeners, self.accepting, strict=True):
            async with aioipc.connect(listener.address) as near, await accepting as far:
                await near.send("after")
                assert await far.receive() == "after"
                await far.send("and back")
                assert await near.receive() == "and back"


async def main() -> None:
    before = set(os.listdir("/proc/self/fd"))
    own = await Open.everything()
    for close in (True, False):
        pid = os.fork()
        if pid == 0:
            _exit_as(lambda own=own, close=close: in_child(own, before, close=close))
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
    await own.go_on()
    await own.stack.aclose()
    names = [*os.listdir(DIRECTORY), *os.listdir(f"{DIRECTORY}/socket")]
    assert names == ["socket"], names
    print("fine", flush=True)


def _exit_as(work: Any) -> None:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def in_child(own: Open, before: set[str], *, close: bool) -> None:
    """Check what a child has of it all: nothing that it could use, or break."""
    unraisable: list[object] = []
    sys.unraisablehook = unraisable.append
    open_now = {name for name in os.listdir("/proc/self/fd") if _is_open(int(name))}
    assert open_now <= before, "copies would hide the end of the parent from its peers"
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(use(own))
        runner.run(live_on())
        if close:
            runner.run(close_all(own))
    own.stack.pop_all()
    own.links.clear()
    own.listeners.clear()
    gc.collect()
    assert not unraisable, unraisable


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def use(own: Open) -> None:
    for channel in {channel for link in own.links for channel in link}:
        await refused(channel.send("x"))
        await refused(channel.send_many(["x"]))
        await refused(channel.receive())
        await refused(channel.receive_many())
        await refused(channel.flush())
        await refused(anext(channel))
    for listener in own.listeners:
        await refused(listener.accept())
        await refused(listener.serve(lambda channel: channel.aclose()))


async def refused(operation: Awaitable[Any]) -> None:
    try:
        await operation
    except aioipc.ForkError:
        return
    raise AssertionError(f"{operation} was not refused")


async def live_on() -> None:
    """The child may open channels of its own."""
    async with (
        aioipc.listen("memory:of-the-child") as listener,
        aioipc.connect(listener.address) as near,
        await listener.accept() as far,
    ):
        await near.send("in the child")
        assert await far.receive() == "in the child"
    left, right = aioipc.pair("unix")
    async with left, right:
        await left.send("in the child")
        assert await right.receive() == "in the child"


async def close_all(own: Open) -> None:
    for channel in {channel for link in own.links for channel in link}:
        await channel.aclose()
    for listener in own.listeners:
        await listener.aclose()


if __name__ == "__main__":
    warnings.simplefilter("error")
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(main())
