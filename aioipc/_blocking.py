"""The same channel for a thread without a loop."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

from aioipc._opening import Opening
from aioipc.abc import PeerCredentials
from aioipc.channel import Channel, ChannelStatistics
from aioipc.errors import BusyError, ClosedError, EndOfStream, WouldBlock
from aioipc.kernel.owned import Closing, abandon_in_child
from aioipc.loop.waiting import pacer_of

__all__ = ["BlockingChannel", "blocking"]

T = TypeVar("T")
R = TypeVar("R")

_Operation = Coroutine[Any, Any, R]


_ONCE: Final = ((),)
_STANDSTILL_S = 0.02
"""So long a loop may stand still while nothing has to wait: it hears of deaths, and has timers."""
_LOOK_S = 1.0
"""How often who waits for the loop of another thread looks whether that is still there."""


class BlockingChannel(Closing, Generic[T]):
    """A `Channel` whose operations block the thread that calls them, for at most so long.

    Made by `blocking`. It is a context manager, and an iterator that ends when the peer finishes.

    Attributes:
        channel: The channel itself. Only the thread of its loop may use it.
    """

    def __init__(self, channel: Channel[T], runner: Runner) -> None:
        self.channel = channel
        self._runner = runner
        # An object waits here, not in a future: who is interrupted finds it at the next receive.
        self._received: collections.deque[T] = collections.deque()
        self._receiver: object | None = None
        self._lock = threading.RLock()

    @property
    def address(self) -> str:
        """The address that this end was opened with, resolved."""
        return self.channel.address

    @property
    def peer(self) -> PeerCredentials | None:
        """Who is at the other end, where the kernel tells."""
        return self.channel.peer

    def statistics(self) -> ChannelStatistics:
        """What the channel has done so far."""
        return self.channel.statistics()

    def send(self, obj: T, *, timeout_s: float | None = None) -> None:
        """Send one object; on return it is on its way.

        Args:
            obj: The object.
            timeout_s: How long to wait for room, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: There was no room in time. Nothing was sent.
            PeerCrashed: The peer receives no more.
            ClosedError: This side closed the channel, or its loop has ended.
        """
        if not self._runner.try_now(self.channel.send_nowait, obj):
            self._runner.run(self._send(obj, timeout_s))
        elif not self._runner.try_now(self._flush_now):
            self._runner.run(self._flush(timeout_s))

    def send_many(self, objs: Iterable[T]) -> None:
        """Send several with one system call, where they fit.

        Raises:
            PeerCrashed: The peer receives no more.
            ClosedError: This side closed the channel, or its loop has ended.
        """
        self._runner.run(self._send_many(objs))

    def receive(self, *, timeout_s: float | None = None) -> T:
        """Wait for the next object.

        Args:
            timeout_s: How long, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: There was none in time. None is lost.
            EndOfStream: The peer finished.
            PeerCrashed: The peer is gone.
            BusyError: Another thread or task is receiving.
            ClosedError: This side closed the channel, or its loop has ended.
        """
        return self._take(1, timeout_s)[0]

    def receive_many(self, max_messages: int = 512, *, timeout_s: float | None = None) -> list[T]:
        """Wait for at least one object and return all that are there.

        Args:
            max_messages: The most to return.
            timeout_s: How long to wait for the first one, in seconds.

        Raises:
            TimeoutError: There was none in time. None is lost.
            EndOfStream: The peer finished.
            PeerCrashed: The peer is gone.
            BusyError: Another thread or task is receiving.
            ClosedError: This side closed the channel, or its loop has ended.
        """
        return self._take(max_messages, timeout_s)

    def send_eof(self) -> None:
        """Finish the sending direction; receiving goes on. Idempotent.

        Raises:
            PeerCrashed: The peer receives no more.
            ClosedError: This side closed the channel, or its loop has ended.
        """
        self._runner.run(self.channel.send_eof())

    def close(self) -> None:
        """Close the channel, as `Channel.aclose` does. Idempotent."""
        with contextlib.suppress(ClosedError):  # its loop has ended before
            self._runner.run(self.channel.aclose())
        self._runner.close()

    def _take(self, max_messages: int, timeout_s: float | None) -> list[T]:
        """Receive, and take what came before another thread may receive."""
        this = object()
        received = self._received
        try:  # which Ctrl-C may end at any point
            with self._lock:
                if self._receiver is not None:
                    raise BusyError(f"another thread is receiving from {self.address}")
                self._receiver = this
            if not received and max_messages == 1:
                self._runner.try_now(self._receive_now)
            if not received:
                self._runner.run(self._receive(max_messages, timeout_s))
            return [received.popleft() for _ in range(min(max_messages, len(received)))]
        finally:
            if self._receiver is this:
                self._receiver = None

    async def _send(self, obj: T, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s) as block:
                await self.channel.send(obj)
        except TimeoutError:
            raise TimeoutError(f"{self.address}: no room within {timeout_s:g} s") from None
        # It is accepted, so it counts as sent, whenever the rest of it leaves.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(block.when()):
                await self.channel.flush()

    def _flush_now(self) -> None:
        if not self.channel._try_flush():
            raise WouldBlock(f"{self.address}: no room")

    async def _flush(self, timeout_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.channel.flush()

    async def _send_many(self, objs: Iterable[T]) -> None:
        await self.channel.send_many(objs)
        await self.channel.flush()

    def _receive_now(self) -> None:
        # In one call of native code: what Ctrl-C finds between two calls would be lost.
        self._received.extend(itertools.starmap(self.channel.receive_nowait, _ONCE))

    async def _receive(self, max_messages: int, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                self._received.extend(await self.channel.receive_many(max_messages))
        except TimeoutError:
            raise TimeoutError(f"{self.address}: no message within {timeout_s:g} s") from None

    def __iter__(self) -> Iterator[T]:
        """Receive until the peer finishes."""
        while True:
            try:
                obj = self.receive()
            except EndOfStream:
                return
            yield obj

    def __repr__(self) -> str:
        return f"<Blocking{repr(self.channel)[1:]}"


def blocking(channel: Channel[T] | Opening[Channel[T]]) -> BlockingChannel[T]:
    """The same channel for a plain function: each call waits until it is done.

    Where a loop runs, call it there, with a channel of that loop, and hand the result to a thread:
    its calls are then done by the loop. Any number of threads may send.

    Where no loop runs, in a script or a thread, give it ``aioipc.connect(...)`` or an end of
    `aioipc.pair`. The channel then has a loop of its own, which runs, in this thread, during calls
    that have to wait, and now and then during others; in between it stands still. Between calls
    longer than ``Limits.silence_s`` a peer over ``tcp:`` or ``tls:``, which expects heartbeats,
    takes this process for dead.

    Args:
        channel: The channel, or what opens one.

    Raises:
        RuntimeError: A loop runs here, and the channel is not open yet.
        ConnectError: And what else `aioipc.connect` raises.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _alone(channel)
    if not isinstance(channel, Opening):
        return BlockingChannel(channel, RunnerOfAnother(loop))
    raise RuntimeError("a loop runs here, so await the channel: blocking(await connect(...))")


def _alone(channel: Channel[T] | Opening[Channel[T]]) -> BlockingChannel[T]:
    runner = OwnRunner()
    try:
        if isinstance(channel, Opening):
            channel = runner.run(_opened(channel))
    except BaseException:
        runner.close()
        raise
    return BlockingChannel(channel, runner)


async def _opened(opening: Opening[R]) -> R:
    return await opening


class Runner(Protocol):
    """Has the operations of a channel done, one at a time for each thread."""

    def try_now(self, call: Callable[..., object], /, *arguments: object) -> bool:
        """Call what does not wait, here: False if it raised WouldBlock, or is to be run instead."""

    def run(self, operation: _Operation[R], /) -> R:
        """Wait until ``operation`` is done; it is cancelled if the wait is interrupted."""

    def close(self) -> None:
        """There will be no other operation. Idempotent."""


class OwnRunner:
    """A loop of this thread, which runs in operations that wait, and now and then in others.

    It is asyncio's own, which starts and stops in less time than uvloop. Ctrl-C cancels the
    operation, and KeyboardInterrupt is raised once that has ended.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._runs_at_s = 0.0
        self._thread = 0
        abandon_in_child(self)

    def abandon(self) -> None:
        """Do nothing at once, in a forked child: what lies gathered is the parent's to send."""
        self._runs_at_s = 0.0

    def try_now(self, call: Callable[..., object], /, *arguments: object) -> bool:
        # A loop takes tens of microseconds to start and to stop.
        if (
            time.monotonic() > self._runs_at_s
            or threading.get_ident() != self._thread
            or asyncio._get_running_loop() is not None
        ):
            return False
        try:
            asyncio._set_running_loop(self._loop)  # inside, for Ctrl-C comes behind any call
            pacer_of(self._loop).begin_turn()  # else what is sent would be gathered
            call(*arguments)
        except WouldBlock:
            return False
        finally:
            asyncio._set_running_loop(None)
        return True

    def run(self, operation: _Operation[R], /) -> R:
        if self._loop.is_closed():
            operation.close()
            raise ClosedError("this side closed the channel")
        if asyncio._get_running_loop() is not None:
            operation.close()
            raise RuntimeError("this would block the loop that runs here; await a channel of that")
        task = self._loop.create_task(operation)
        try:
            return self._runner.run(_result_of(task))
        except asyncio.CancelledError:
            # asyncio.Runner has its handler before it sets its count of signals to 0.
            raise KeyboardInterrupt from None
        finally:
            if not task.done():  # what another signal handler raised, for one
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)
            self._runs_at_s = time.monotonic() + _STANDSTILL_S
            self._thread = threading.get_ident()

    def close(self) -> None:
        self._runs_at_s = 0.0
        self._runner.close()


async def _result_of(task: asyncio.Task[R]) -> R:
    return await task


class RunnerOfAnother:
    """The loop of another thread, where operations are done among all others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()

    def try_now(self, call: Callable[..., object], /, *arguments: object) -> bool:
        return False

    def run(self, operation: _Operation[R], /) -> R:
        if threading.get_ident() == self._thread:
            operation.close()
            raise RuntimeError("this would block the loop of the channel; await the channel itself")
        order = _Order(operation)
        done = order.done
        try:
            self._loop.call_soon_threadsafe(order)
        except RuntimeError:
            raise ClosedError("the loop of the channel has ended") from None
        del order  # the loop's now: with it, it is gone
        try:
            # A loop that ends may leave what was begun at the last moment unfinished.
            while not concurrent.futures.wait([done], _LOOK_S).done and not self._loop.is_closed():
                pass
            return done.result(0)
        except concurrent.futures.CancelledError:
            raise ClosedError("the loop of the channel has ended") from None
        except TimeoutError:
            if done.done():
                raise  # it is the operation's
            done.cancel()
            raise ClosedError("the loop of the channel has ended") from None
        except BaseException:
            done.cancel()
            raise

    def close(self) -> None:
        pass


class _Order(Generic[R]):
    """An operation on its way to the loop of another thread.

    Attributes:
        done: Its outcome. It is cancelled if the loop ends before the operation begins.
    """

    def __init__(self, operation: _Operation[R]) -> None:
        self.done: concurrent.futures.Future[R] = concurrent.futures.Future()
        self._operation: _Operation[R] | None = operation

    def __call__(self) -> None:
        operation, self._operation = self._operation, None
        assert operation is not None, "called once"
        loop = asyncio.get_running_loop()
        task = loop.create_task(operation)
        task.add_done_callback(self._finish)

        def stop(done: concurrent.futures.Future[R]) -> None:
            if done.cancelled():  # in the thread that waited
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(task.cancel)

        self.done.add_done_callback(stop)

    def _finish(self, task: asyncio.Task[R]) -> None:
        if task.cancelled():
            self.done.cancel()
            return
        error = task.exception()
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
            if error is None:
                self.done.set_result(task.result())
            else:
                self.done.set_exception(error)

    def __del__(self) -> None:
        if self._operation is not None:
            self._operation.close()
            self.done.cancel()
