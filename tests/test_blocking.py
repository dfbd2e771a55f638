"""blocking: the same channel for threads and scripts without a loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aioipc
from aioipc import (
    BlockingChannel,
    BusyError,
    ClosedError,
    ConnectError,
    EncodeError,
    EndOfStream,
    FrameTooLarge,
    PeerCrashed,
)
from aioipc._blocking import OwnRunner, Runner
from tests.children import PATIENCE_S, Peers, in_child
from tests.links import DUPLEX, Link, fill, steps

SCRIPT = """
import sys
import aioipc
with aioipc.blocking(aioipc.connect(sys.argv[1])) as channel:
    for number in channel:
        channel.send(number * 2)
"""


async def until_somebody_waits(channel: aioipc.Channel[Any]) -> None:
    while not channel.statistics().receive_waits:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


# --- a loop of its own -----------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("address", ["unix:", "shm:", "tcp://127.0.0.1:0"])
async def test_a_script(address: str, peers: Peers) -> None:
    async with aioipc.listen(address) as listener:
        child = peers.script(SCRIPT, listener.address)
        async with await listener.accept() as channel:
            for number in range(100):
                await channel.send(number)
                assert await channel.receive() == 2 * number
        assert await child.ended() == 0


@pytest.mark.parametrize("kind", ["unix", "shm", "pipe", "unix+seqpacket"])
def test_two_threads_without_loops(kind: str) -> None:
    left, right = aioipc.pair(kind)

    def answer() -> None:
        with aioipc.blocking(right) as channel:
            for obj in channel:
                channel.send(obj)

    thread = threading.Thread(target=answer)
    thread.start()
    with aioipc.blocking(left) as channel:
        channel.send("hello")
        assert channel.receive() == "hello"
        channel.send_many(range(100))
        received: list[Any] = []
        while len(received) < 100:
            received += channel.receive_many(7)
        assert received == list(range(100))
        channel.send_eof()
        with pytest.raises(EndOfStream):
            channel.receive()
    thread.join()


def test_a_socket_of_somebody_else() -> None:
    ours, theirs = socket.socketpair()
    with aioipc.blocking(aioipc.wrap(ours)) as left, aioipc.blocking(aioipc.wrap(theirs)) as right:
        left.send("without a loop")
        assert right.receive() == "without a loop"


def until_full(channel: BlockingChannel[Any]) -> int:
    for number in itertools.count():
        try:
            channel.send(b"%7d" % number * 1000, timeout_s=0.01)
        except TimeoutError as error:
            assert "no room within 0.01 s" in str(error)
            return number
    raise AssertionError("never full")


def test_timeouts_lose_nothing() -> None:
    left, right = aioipc.pair("unix")
    with aioipc.blocking(left) as ours, aioipc.blocking(right) as theirs:
        with pytest.raises(TimeoutError, match=r"no message within 0\.01 s"):
            ours.receive(timeout_s=0.01)
        sent = until_full(theirs)
        for number in range(sent):
            assert ours.receive(timeout_s=5) == b"%7d" % number * 1000
        with pytest.raises(TimeoutError):
            ours.receive(timeout_s=0)
        theirs.send("more")
        assert ours.receive(timeout_s=5) == "more"


@pytest.fixture
def settled(request: pytest.FixtureRequest) -> Iterator[tuple[BlockingChannel[Any], ...]]:
    """Two ends that greeted each other, each with a loop of its own."""
    left, right = aioipc.pair(request.param)
    with aioipc.blocking(left) as ours, aioipc.blocking(right) as theirs:
        for one, other in ((ours, theirs), (theirs, ours)):
            one.send("settled")
            assert other.receive() == "settled"
        yield ours, theirs


@pytest.fixture
def long_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioipc._blocking._STANDSTILL_S", 3_600)


each_kind = pytest.mark.parametrize("settled", ["unix", "shm", "pipe", "memory"], indirect=True)
Ends = tuple[BlockingChannel[Any], BlockingChannel[Any]]


@each_kind
def test_what_need_not_wait_does_not_run_the_loop(
    long_standstill: None, settled: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = settled

    def run(runner: object, operation: Any) -> None:
        operation.close()
        raise AssertionError("the loop was to run")

    with monkeypatch.context() as patch:
        patch.setattr(OwnRunner, "run", run)
        for number in range(1_000):
            ours.send(number)
            assert theirs.receive() == number
            theirs.send([number])
            assert ours.receive() == [number]
        with pytest.raises(AssertionError):
            ours.receive()


@each_kind
def test_a_loop_that_stood_still_for_long_runs(
    settled: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioipc._blocking._STANDSTILL_S", 0)
    ours, theirs = settled
    with pytest.raises(TimeoutError):
        ours.receive(timeout_s=0)
    with monkeypatch.context() as patch:
        patch.setattr(OwnRunner, "run", lambda runner, operation: operation.close())
        ours.send("it was to run")
    ours.send("it runs")
    assert theirs.receive() == "it runs"


@each_kind
def test_messages_that_cannot_be_sent_are_no_harm(long_standstill: None, settled: Ends) -> None:
    ours, theirs = settled
    for wrong, error in ((object(), EncodeError), (bytes(70_000_000), FrameTooLarge)):
        with pytest.raises(error):
            ours.send(wrong)
    ours.send("right")
    assert theirs.receive() == "right"


@pytest.mark.parametrize("settled", ["unix"], indirect=True)
def test_where_another_loop_runs_by_now(long_standstill: None, settled: Ends) -> None:
    ours, theirs = settled

    async def use() -> None:
        this = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="would block the loop that runs here"):
            ours.send("from within a loop")
        assert asyncio.get_running_loop() is this

    asyncio.run(use())
    ours.send("outside")
    assert theirs.receive() == "outside"


@each_kind
def test_a_forked_child_is_refused(long_standstill: None, settled: Ends) -> None:
    ours, theirs = settled

    def look() -> None:
        for call in (lambda: ours.send("from the child"), theirs.receive):
            with pytest.raises(aioipc.ForkError):
                call()

    for number in range(3):
        ours.send(number)
    assert theirs.receive() == 0
    assert in_child(look) == 0
    assert [theirs.receive(), theirs.receive()] == [1, 2]
    ours.send("from here")
    assert theirs.receive() == "from here"


@each_kind
def test_another_thread_is_refused(long_standstill: None, settled: Ends) -> None:
    ours, theirs = settled
    refusals: list[str] = []

    def use() -> None:
        for call in (lambda: ours.send("from there"), ours.receive):
            try:
                call()
            except RuntimeError as error:
                refusals.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert refusals == ["this channel belongs to the event loop of another thread"] * 2
    ours.send("from here")
    assert theirs.receive() == "from here"


def send_for_ever(channel: BlockingChannel[Any]) -> None:
    while True:
        channel.send("to nobody")


@pytest.mark.parametrize("kind", ["unix", "shm"])
def test_who_only_sends_hears_of_a_death(kind: str, peers: Peers) -> None:
    left, right = aioipc.pair(kind)
    address, fds = right.detach()
    peer = peers.script(
        """
        import sys
        import aioipc
        with aioipc.blocking(aioipc.connect(sys.argv[1])) as channel:
            for message in channel:
                pass
        """,
        address,
        pass_fds=fds,
    )
    for fd in fds:
        os.close(fd)
    with aioipc.blocking(left) as channel:
        for number in range(100):
            channel.send(number)
        peer.kill()
        with pytest.raises(PeerCrashed):
            send_for_ever(channel)


def test_closed_twice_and_used_afterwards() -> None:
    left, right = aioipc.pair("unix")
    ours, theirs = aioipc.blocking(left), aioipc.blocking(right)
    assert "unix:pair" in repr(ours)
    ours.close()
    ours.close()
    with pytest.raises(ClosedError):
        ours.send(1)
    with pytest.raises(EndOfStream):
        theirs.receive()
    theirs.close()


def test_nobody_is_there() -> None:
    with pytest.raises(ConnectError):
        aioipc.blocking(aioipc.connect("unix:nobody"))


def test_interrupted(peers: Peers) -> None:
    """What arrives at the very moment is there for the next receive."""
    peer = peers.script("""
        import aioipc
        left, right = aioipc.pair("unix")
        with aioipc.blocking(left) as ours, aioipc.blocking(right) as theirs:
            try:
                print("waiting", flush=True)
                ours.receive()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            theirs.send("later")
            print(ours.receive(timeout_s=5), flush=True)
    """)
    assert peer.line() == "waiting"
    peer.process.send_signal(signal.SIGINT)
    assert peer.line() == "interrupted"
    assert peer.line() == "later"
    assert peer.wait() == 0


def test_interrupted_at_the_start(peers: Peers) -> None:
    peer = peers.script("""
        import aioipc
        from tests.peers.signalled_early import raise_in_the_next_runner
        left, right = aioipc.pair("unix")
        with aioipc.blocking(left) as ours, aioipc.blocking(right) as theirs:
            theirs.send("before")
            raise_in_the_next_runner()
            try:
                print("received", ours.receive(timeout_s=5), flush=True)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            print(ours.receive(timeout_s=5), flush=True)
    """)
    assert peer.line() == "interrupted"
    assert peer.line() == "before"
    assert peer.wait() == 0


# --- the loop of another thread --------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("link", DUPLEX, indirect=True)
async def test_a_thread_beside_the_loop(link: Link) -> None:
    def work(channel: BlockingChannel[Any]) -> int:
        total = 0
        for number in channel:
            total += number
            channel.send(total)
        return total

    async with link() as (left, right):
        working = asyncio.create_task(asyncio.to_thread(work, aioipc.blocking(right)))
        for number in range(20):
            await left.send(number)
        assert [await left.receive() for _ in range(20)][-1] == 190
        await left.send_eof()
        assert await working == 190


@pytest.mark.asyncio
async def test_many_threads_send() -> None:
    left, right = aioipc.pair("unix")

    def work(channel: BlockingChannel[Any], name: int) -> None:
        for number in range(50):
            channel.send((name, number))

    async with left, right:
        channel = aioipc.blocking(right)
        threads = [asyncio.create_task(asyncio.to_thread(work, channel, n)) for n in range(4)]
        received = [await left.receive() for _ in range(200)]
        await asyncio.gather(*threads)
    for name in range(4):
        assert [number for who, number in received if who == name] == list(range(50))


@pytest.mark.asyncio
async def test_timeouts_beside_the_loop() -> None:
    left, right = aioipc.pair("unix")
    async with left, right:
        channel = aioipc.blocking(right)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(channel.receive, timeout_s=0.01)
        await left.send("in time")
        assert await asyncio.to_thread(channel.receive, timeout_s=5) == "in time"
        filled = fill(right)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(channel.send, b"too much", timeout_s=0.01)
        assert [await left.receive() for _ in filled] == filled
        await asyncio.to_thread(channel.send, b"again")
        assert await left.receive() == b"again"


@pytest.mark.asyncio
async def test_one_thread_receives_at_a_time() -> None:
    left, right = aioipc.pair("unix")
    async with left, right:
        channel = aioipc.blocking(right)
        first = asyncio.create_task(asyncio.to_thread(channel.receive))
        await until_somebody_waits(right)
        with pytest.raises(BusyError):
            await asyncio.to_thread(channel.receive)
        await left.send("for the first")
        assert await first == "for the first"


class Delayed:
    """A runner after whose operations a thread is held up."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.done = threading.Event()
        self.go_on = threading.Event()

    def try_now(self, call: Callable[..., object], /, *arguments: object) -> bool:
        return self.runner.try_now(call, *arguments)

    def run(self, operation: Any, /) -> Any:
        result = self.runner.run(operation)
        self.done.set()
        assert self.go_on.wait(PATIENCE_S)
        return result

    def close(self) -> None:
        self.runner.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["receive", "receive_many"])
async def test_what_one_thread_received_another_does_not_take(how: str) -> None:
    left, right = aioipc.pair("unix")
    async with left, right:
        channel = aioipc.blocking(right)
        channel._runner = runner = Delayed(channel._runner)
        await left.send("for the first")
        first = asyncio.create_task(asyncio.to_thread(channel.receive))
        try:
            assert await asyncio.to_thread(runner.done.wait, PATIENCE_S)
            with pytest.raises(BusyError, match="another thread"):
                await asyncio.to_thread(getattr(channel, how))
        finally:
            runner.go_on.set()
            await asyncio.wait([first])
        assert await first == "for the first"


@pytest.mark.asyncio
async def test_the_channel_is_closed_under_a_thread() -> None:
    left, right = aioipc.pair("unix")
    async with left:
        channel = aioipc.blocking(right)
        waiting = asyncio.create_task(asyncio.to_thread(channel.receive))
        await until_somebody_waits(right)
        await right.aclose()
        with pytest.raises(ClosedError):
            await waiting


@pytest.mark.asyncio
async def test_the_peer_dies_under_a_thread() -> None:
    left, right = aioipc.pair("unix")
    async with right:
        channel = aioipc.blocking(right)
        waiting = asyncio.create_task(asyncio.to_thread(channel.receive))
        await steps(3)
        await left.send(1)
        await waiting
        left.abort()
        with pytest.raises(PeerCrashed):
            await asyncio.to_thread(channel.receive)


@pytest.mark.asyncio
async def test_a_thread_closes_it() -> None:
    left, right = aioipc.pair("unix")

    def work(channel: BlockingChannel[Any]) -> None:
        with channel:
            channel.send("goodbye")

    async with left:
        await asyncio.to_thread(work, aioipc.blocking(right))
        assert [obj async for obj in left] == ["goodbye"]


@pytest.mark.asyncio
async def test_not_in_the_loop_itself() -> None:
    left, right = aioipc.pair("unix")
    async with left, right:
        with pytest.raises(RuntimeError, match="would block the loop"):
            aioipc.blocking(left).receive()
    with pytest.raises(RuntimeError, match="await the channel"):
        aioipc.blocking(aioipc.connect("unix:x"))


@pytest.mark.parametrize("when", ["while it waits", "before it is asked"])
def test_the_loop_ends(when: str) -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()
    raised: list[type[BaseException]] = []

    def work(channel: BlockingChannel[Any]) -> None:
        if when == "before it is asked":
            ended.wait()
        try:
            channel.receive()
        except ClosedError:
            raised.append(ClosedError)
        finally:
            channel.close()

    async def main() -> threading.Thread:
        channel = aioipc.wrap(ours)
        thread = threading.Thread(target=work, args=(aioipc.blocking(channel),))
        thread.start()
        if when == "before it is asked":
            await channel.aclose()
        else:
            await until_somebody_waits(channel)
            asyncio.get_running_loop().call_soon(channel.abort)
        return thread

    with theirs:
        thread = asyncio.run(main())
        ended.set()
        thread.join()
    assert raised == [ClosedError]
