"""``exec:`` a child process, started on connect, and its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.errors import PeerCrashed, from_os_error
from aioipc.kernel.owned import above_stdio
from aioipc.kernel.spawn import Child, spawn
from aioipc.limits import Limits
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream
from aioipc.transports._stream import STREAM, descriptor_stream

__all__ = ["CAPABILITIES", "connect"]

CAPABILITIES = STREAM
_TERMINATE_GRACE_S = 1.0


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Start the program; closing the stream ends it.

    Closing closes the child's standard input. A child that has not ended ``limits.linger_s``
    later gets SIGTERM, and SIGKILL a second after that.

    Raises:
        ConnectError: The program cannot be started.
        ValueError: ``allow`` was given; the child is this process's own.
    """
    if allow is not None:
        raise ValueError(f"{address}: the child runs as this user, so allow= has no question")
    with contextlib.ExitStack() as undo:
        child_reads, write_fd = _pipe(undo)
        read_fd, child_writes = _pipe(undo)
        try:
            child = spawn(address.argv, stdin=child_reads, stdout=child_writes)
        except OSError as error:
            raise from_os_error(error, f"connect to {address}", connecting=True) from error
        undo.pop_all()
    os.close(child_reads)
    os.close(child_writes)
    for fd in (read_fd, write_fd):
        os.set_blocking(fd, False)
    program = Program(child, str(address), limits.linger_s)
    stream = descriptor_stream(
        read_fd,
        write_fd,
        address=str(address),
        capabilities=CAPABILITIES,
        on_close=program.let_go,
        last_word=program,
    )
    stream.wait_closed = program.wait_ended
    return stream


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    # The child's ends are its own open file descriptions, so they may block.
    ends = tuple(above_stdio(end) for end in os.pipe2(os.O_CLOEXEC))
    for end in ends:
        undo.callback(os.close, end)
    return ends[0], ends[1]


class Program:
    """A child on the other side of a stream: how it ended, and that it does end."""

    def __init__(self, child: Child, address: str, linger_s: float) -> None:
        self._child = child
        self._address = address
        self._linger_s = linger_s
        self._watch = FdWatch()
        self._waiting: Callable[[], object] | None = None
        self._let_go = False
        self._clean_end: bool | None = None

    def __call__(self) -> bool:
        """Whether the end of the stream can be judged now, and was clean.

        Raises:
            PeerCrashed: The child ended with another status than 0.
        """
        status = self._child.status()
        if status is None:
            return False
        if status:
            raise PeerCrashed(f"{self._address}: {describe(status)}", status=status)
        return True

    def on_ready(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback`` once the child has ended."""
        self._waiting = callback
        if callback is None:
            self._watch.unwatch_reading()
        elif self._child.pidfd >= 0 and not self._watch.reading:
            self._watch.watch_reading(self._child.pidfd, self._ended)

    def _ended(self) -> None:
        self._watch.unwatch_reading()
        callback, self._waiting = self._waiting, None
        if callback is not None:
            callback()

    def let_go(self) -> None:
        """The stream closes. `wait_ended` is to follow; else the child gets SIGTERM."""
        self._watch.close()
        self._let_go = True

    async def wait_ended(self) -> None:
        """Wait for the child to end, by force in the end, and reap it.

        Cancellation:
            The child is killed at once.
        """
        try:
            if not await self._ends_within(self._linger_s):
                self._child.send_signal(signal.SIGTERM)
                if not await self._ends_within(_TERMINATE_GRACE_S):
                    self._child.send_signal(signal.SIGKILL)
                    await self._ends_within(None)
        except asyncio.CancelledError:
            self._child.send_signal(signal.SIGKILL)
            raise
        finally:
            self._watch.close()
            self._child.close()

    async def _ends_within(self, limit_s: float | None) -> bool:
        ended = asyncio.Event()
        while self._child.status() is None:
            ended.clear()
            self.on_ready(ended.set)
            try:
                async with asyncio.timeout(limit_s):
                    await ended.wait()
            except TimeoutError:
                return False
        return True

    def __del__(self) -> None:
        if self._child.fileno() >= 0:
            self._child.send_signal(signal.SIGTERM)
            self._child.close()


def describe(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"the program ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"the program was killed by {name}"
