"""``exec:`` a child process, started on connect, and its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.errors import PeerCrashed, from_os_error
from aioipc.kernel.owned import abandon_in_child, pipe_from_child, pipe_to_child
from aioipc.kernel.pidfd import describe
from aioipc.kernel.spawn import Child, spawn
from aioipc.limits import Limits
from aioipc.loop.child import ends_within
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream
from aioipc.transports._stream import STREAM

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
    writer, child_reads = pipe_to_child()
    reader, child_writes = pipe_from_child()
    with child_reads, child_writes:
        try:
            child = spawn(address.argv, stdin=child_reads.fileno(), stdout=child_writes.fileno())
        except OSError as error:
            raise from_os_error(error, f"connect to {address}", connecting=True) from error
    program = Program(child, str(address), limits.linger_s)
    return ProgramStream(reader.detach(), writer.detach(), program)


class ProgramStream(FdStream):
    """The standard input and output of a child."""

    def __init__(self, read_fd: int, write_fd: int, program: Program) -> None:
        super().__init__(
            read_fd,
            write_fd,
            FdWatch(),
            is_socket=False,
            address=program.address,
            capabilities=CAPABILITIES,
            on_close=program.let_go,
            last_word=program,
        )
        self.wait_closed = program.wait_ended
        self.kill = program.kill
        abandon_in_child(self)


class Program:
    """A child on the other side of a stream: how it ended, and that it does end.

    Attributes:
        address: For messages.
    """

    def __init__(self, child: Child, address: str, linger_s: float) -> None:
        self.address = address
        self._child = child
        self._linger_s = linger_s
        self._watch = FdWatch()
        self._reaper = FdWatch()
        self._waiting: Callable[[], object] | None = None
        self._at_end = False
        self._patience: asyncio.TimerHandle | None = None
        self._lost_patience = False
        self._failure: int | None = None

    def __call__(self) -> bool:
        """Whether the end of the stream can be judged now, and is clean.

        A child that closes its standard output and lives on is waited for as long as a close
        would wait for it.

        Raises:
            PeerCrashed: The child ended with another status than 0.
        """
        self._at_end = True
        status = self._child.status()
        if status is None:
            return self._lost_patience
        self._failure = status
        self.check()
        return True

    def check(self) -> None:
        """Do not wait for the end of the stream where the child has failed.

        Its own children may hold the stream open for ever. Where it ended well, they may go on
        with it.

        Raises:
            PeerCrashed: The child ended with another status than 0.
        """
        if self._failure:
            raise PeerCrashed(
                f"{self.address}: the program {describe(self._failure)}", status=self._failure
            )

    def on_ready(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback`` once the child has ended, or was waited for long enough."""
        self._waiting = callback
        if callback is None:
            self._stop_patience()
            return
        if self._failure is None and not self._watch.reading:
            self._watch.watch_reading(self._child.pidfd, self._ended)
        if self._at_end and self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._linger_s, self._lose_patience)

    def _ended(self) -> None:
        self._watch.unwatch_reading()
        self._failure = self._child.status()
        if self._failure or self._at_end:
            self._ring()

    def _lose_patience(self) -> None:
        self._lost_patience = True
        self._ring()

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _ring(self) -> None:
        self._stop_patience()
        callback, self._waiting = self._waiting, None
        if callback is not None:
            callback()

    def let_go(self) -> None:
        """The stream closes. `wait_ended` or `kill` is to follow; else the child gets SIGTERM."""
        self._stop_patience()
        self._waiting = None
        self._watch.close()

    async def wait_ended(self) -> None:
        """Wait for the child to end, by force in the end, and reap it.

        Cancellation:
            The child is killed at once.
        """
        try:
            if not await ends_within(self._child, self._linger_s):
                self._child.send_signal(signal.SIGTERM)
                if not await ends_within(self._child, _TERMINATE_GRACE_S):
                    self._child.send_signal(signal.SIGKILL)
                    await ends_within(self._child, None)
        except BaseException:
            self.kill()
            raise
        self._child.close()

    def kill(self) -> None:
        """End the child at once, and reap it as soon as it has ended. Idempotent."""
        self.let_go()
        if self._child.send_signal(signal.SIGKILL) and not self._reaper.reading:
            with contextlib.suppress(RuntimeError):  # no loop runs: it is reaped some time later
                self._reaper.watch_reading(self._child.pidfd, self._reap)

    def _reap(self) -> None:
        self._reaper.close()
        self._child.close()

    def __del__(self) -> None:
        if self._child.fileno() >= 0:
            self._child.send_signal(signal.SIGTERM)
            self._child.close()
