"""Channels that nobody closed: one ResourceWarning, and their descriptors are closed."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import aioipc
from aioipc import Channel, ClosedError, EndOfStream, PeerCrashed
from tests import links
from tests.children import Peers
from tests.conftest import LOOPS
from tests.links import DUPLEX, opened, steps

every_kind = pytest.mark.parametrize("kind", DUPLEX)
pairs = pytest.mark.parametrize("kind", ["unix", "pipe", "memory"])


@contextmanager
def resource_warnings() -> Iterator[list[str]]:
    """Collect what is said about resources while this is open."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
        gc.collect()
    told += [str(warning.message) for warning in caught if warning.category is ResourceWarning]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def use_nothing(left: Channel[Any], right: Channel[Any]) -> None:
    """Leave them as they were made."""


async def exchange(left: Channel[Any], right: Channel[Any]) -> None:
    """Leave them registered with the loop."""
    receiving = asyncio.create_task(right.receive())
    await asyncio.sleep(0)
    await left.send("hello")
    assert await receiving == "hello"


async def cancel_a_receive(left: Channel[Any], right: Channel[Any]) -> None:
    receiving = asyncio.create_task(right.receive())
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])


async def leave_something_unsent(left: Channel[Any], right: Channel[Any]) -> None:
    left.send_nowait("x" * 5_000_000)
    left.receive().close()


async def fill(left: Channel[Any], right: Channel[Any]) -> None:
    sending = asyncio.create_task(left.send("x" * 5_000_000))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])


USES = [use_nothing, exchange, cancel_a_receive, leave_something_unsent, fill]


@pytest.mark.asyncio
@every_kind
@pytest.mark.parametrize("use", USES)
async def test_an_end_that_is_dropped_open_warns_once_and_is_closed(
    kind: str, use: Callable[[Channel[Any], Channel[Any]], Any]
) -> None:
    before = descriptors()
    left, right = await opened(kind)
    await use(left, right)
    shown = repr(left)
    right.abort()
    await asyncio.sleep(0)
    with resource_warnings() as told:
        del left
    assert told == [f"unclosed {shown}"]
    del right
    assert descriptors() <= before


@pytest.mark.asyncio
@pairs
@pytest.mark.parametrize("use", [use_nothing, exchange])
async def test_without_the_help_of_the_collector(
    kind: str, use: Callable[[Channel[Any], Channel[Any]], Any]
) -> None:
    left, right = await opened(kind)
    await use(left, right)
    alive = weakref.ref(left)
    gc.disable()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del left
        assert [warning.category for warning in caught] == [ResourceWarning]
        caught.clear()  # a warning refers to what it is about
        assert alive() is None
    finally:
        gc.enable()
        right.abort()


@pytest.mark.asyncio
@pairs
async def test_in_a_reference_cycle(kind: str) -> None:
    class Owner:
        def __init__(self, channel: Channel[Any]) -> None:
            self.channel = channel
            self.myself = self
            channel.when_closed(self.closed)

        def closed(self, channel: Channel[Any]) -> None:
            closed.append(repr(channel))

    closed: list[str] = []
    before = descriptors()
    left, right = await opened(kind)
    await exchange(left, right)
    shown = repr(left)
    Owner(left)
    with resource_warnings() as told:
        del left
    assert told == [f"unclosed {shown}"]
    assert len(closed) == 1
    with pytest.raises(PeerCrashed):
        await right.receive()
    await right.aclose()
    del right
    assert descriptors() <= before


@pytest.mark.asyncio
@every_kind
async def test_what_was_closed_does_not_warn(kind: str) -> None:
    async def aclose(channel: Channel[Any]) -> None:
        await channel.aclose()

    async def abort(channel: Channel[Any]) -> None:
        channel.abort()

    for close in (aclose, abort):
        left, right = await opened(kind)
        await close(left)
        await close(right)
        with resource_warnings() as told:
            del left, right
        assert told == []


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["unix", "pipe"])
async def test_what_was_detached_does_not_warn(kind: str) -> None:
    left, right = await opened(kind)
    _, fds = left.detach()
    with resource_warnings() as told:
        del left
    assert told == []
    for fd in fds:
        os.close(fd)
    right.abort()


@pytest.mark.asyncio
@pairs
async def test_the_peer_of_a_dropped_end_sees_a_crash(kind: str) -> None:
    left, right = await opened(kind)
    async with right:
        await left.send("last words")
        await left.flush()
        with resource_warnings():
            del left
        assert await right.receive() == "last words"
        with pytest.raises(PeerCrashed):
            await right.receive()


@pytest.mark.asyncio
@pairs
async def test_a_task_that_receives_keeps_its_channel(kind: str) -> None:
    left, right = await opened(kind)
    receiving = asyncio.create_task(right.receive())
    await asyncio.sleep(0)
    with resource_warnings() as told:
        shown = repr(right)
        del right
        gc.collect()
        await left.send("received")
        assert await receiving == "received"
        assert shown
        del receiving
        await asyncio.sleep(0)
    assert told == [f"unclosed {shown}"]
    await left.aclose()


@pytest.mark.asyncio
@pairs
async def test_an_ending_that_was_raised_holds_no_channel(kind: str) -> None:
    """What a caught exception refers to is gone when it is."""

    async def end(channel: Channel[Any]) -> None:
        large = bytearray(10)
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await channel.receive()
        assert large

    left, right = await opened(kind)
    await left.aclose()
    await end(right)
    await right.aclose()
    for _ in range(2):
        with pytest.raises(ClosedError):
            await right.receive()
    alive = weakref.ref(right)
    del right
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory", "tcp"])
def test_dropped_after_its_loop_was_closed(
    kind: str, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> Any:
        ends = await opened(kind)
        await exchange(*ends)
        return ends

    before = descriptors()
    with asyncio.Runner(loop_factory=factory) as runner:
        left, right = runner.run(main())
    with resource_warnings() as told:
        del left, right
    assert len(told) == 2
    assert descriptors() <= before


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory", "shm", "tcp"])
@pytest.mark.parametrize("how", ["abort", "aclose"])
def test_closed_after_its_loop_was_closed_under_those_who_waited(
    how: str, kind: str, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> Any:
        left, right = await opened(kind, codec="raw", limits=aioipc.Limits(linger_s=0.01))
        links.fill(left)
        waiting = [asyncio.create_task(op) for op in (left.receive(), left.send(b"x"))]
        await steps(5)
        return left, right, waiting

    before = descriptors()
    loop = factory()
    left, right, waiting = loop.run_until_complete(main())
    loop.close()
    for channel in (left, right):
        if how == "abort":
            channel.abort()
        else:
            asyncio.run(channel.aclose())
    assert descriptors() <= before
    for task in waiting:
        task._log_destroy_pending = False


AT_EXIT = """
    import asyncio, sys, aioipc
    async def main():
        left, right = aioipc.pair("unix")
        await left.send(1)
        await right.receive()
        return left, right
    with asyncio.Runner() as runner:
        ends = runner.run(main())
        if sys.argv[1] == "cycle":
            ends = [*ends]
            ends.append(ends)
    print("end of main")
"""


@pytest.mark.parametrize("how", ["global", "cycle"])
def test_at_the_exit_of_the_interpreter(how: str, peers: Peers) -> None:
    peer = peers.script(AT_EXIT, how, env={"PYTHONWARNINGS": "always"}, stderr=subprocess.PIPE)
    assert peer.rest() == "end of main\n"
    assert peer.wait() == 0
    assert peer.process.stderr is not None
    said = peer.process.stderr.read().decode()
    peer.process.stderr.close()
    assert said.count("ResourceWarning: unclosed <Channel unix:pair msgpack open>") == 2
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_a_pair_without_a_loop() -> None:
    before = descriptors()
    with resource_warnings() as told:
        aioipc.pair("unix")
    assert len(told) == 2
    assert descriptors() <= before
