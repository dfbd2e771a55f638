"""Signals as things to await: one after the other, with who sent them, and without a handler."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Protocol, Self

from aioipc._opening import Opening
from aioipc.errors import BusyError, ClosedError, ForkError, IPCError, from_os_error
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.pidfd import open_pidfd, send_signal
from aioipc.kernel.signalfd import SignalFd, SignalInfo, clean_mask, open_threads, taken
from aioipc.loop.fd import OnceWatch
from aioipc.loop.waiting import Waits

__all__ = ["SignalInfo", "SignalReceiver", "clean_mask", "receiver", "send"]

_CANNOT_WAIT: dict[int, str] = {
    signal.SIGKILL: "it cannot be caught",
    signal.SIGSTOP: "it cannot be caught",
    signal.SIGSEGV: "a fault of this process does not wait",
    signal.SIGBUS: "a fault of this process does not wait",
    signal.SIGFPE: "a fault of this process does not wait",
    signal.SIGILL: "a fault of this process does not wait",
}
_PER_TURN = 64


class HasFileno(Protocol):
    """A process held by descriptor: a worker, or a file object over pidfd_open(2)."""

    def fileno(self) -> int:
        """The pidfd."""


class SignalReceiver:
    """The signals that this process is sent, as an async iterator of `SignalInfo`.

    Made by `receiver`. The kernel keeps them until they are received: a real-time signal as
    often as it was sent, another one once, however often that was (signal(7)).
    """

    def __init__(self, fd: SignalFd) -> None:
        self._fd = fd
        self._watch = OnceWatch()
        self._waits = Waits()
        self._pid = os.getpid()
        self._receiving = False
        self._received = 0
        self._overflows = 0
        self._lost = 0

    @property
    def numbers(self) -> frozenset[int]:
        """The signals that it receives."""
        return self._fd.numbers

    @property
    def overflows(self) -> int:
        """How often real-time signals were lost because the kernel's queue was full.

        Counted are the events that stand for one or more of them (`SignalInfo.is_overflow`),
        and those that another thread could not pass on. Where a signal is sent with a value,
        its sender is told instead.
        """
        return self._overflows + (self._fd.lost() if self._fd.fileno() >= 0 else self._lost)

    async def receive(self) -> SignalInfo:
        """Wait for the next signal.

        Raises:
            BusyError: Another task is receiving.
            ClosedError: This side closed the receiver.
            RuntimeError: This is another thread than the one that opened it.

        Cancellation:
            Safe: nothing is lost.
        """
        self._check()
        if self._receiving:
            raise BusyError(f"another task is receiving {self._names}")
        self._receiving = True
        try:
            await self._pace()
            while (info := self._fd.take()) is None:
                await self._waits.readable(self)
                self._check()
        finally:
            self._receiving = False
        self._overflows += info.is_overflow
        return info

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        """Call ``callback`` once, as soon as there may be a signal."""
        self._watch.on_readable(self._fd.fileno(), callback)

    async def aclose(self) -> None:
        """Give the signals back. Idempotent.

        The handlers and the mask are as they were before. A signal that nobody received is then
        handled as if it came only now: one without a handler ends the process.

        Raises:
            RuntimeError: This is another thread than the one that opened it.
        """
        if self._fd.fileno() < 0:
            return
        if self._pid == os.getpid():
            self._check_thread("closed")
        self._release()
        self._waits.end()

    def _release(self) -> None:
        if self._pid == os.getpid():
            self._watch.close()
            self._lost = self._fd.lost()
        self._fd.close()

    async def _pace(self) -> None:
        """Let the loop turn now and then: signals may come as fast as they are received."""
        self._received += 1
        if self._received % _PER_TURN == 0:
            await asyncio.sleep(0)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkError("this receiver belongs to the parent process; open one in the child")
        if self._fd.fileno() < 0:
            raise ClosedError(f"this side closed the receiver of {self._names}")
        self._check_thread("used")  # of the signals that were passed on to it others see none

    def _check_thread(self, done: str) -> None:
        if not self._fd.is_here():
            raise RuntimeError(
                f"a receiver is {done} in the thread that opened it, whose mask it is"
            )

    @property
    def _names(self) -> str:
        return ", ".join(_name(number) for number in sorted(self.numbers))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SignalInfo:
        return await self.receive()

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is None or fd.fileno() < 0:
            return
        try:
            if self._pid == os.getpid():
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._release()

    def __repr__(self) -> str:
        state = "closed" if self._fd.fileno() < 0 else "open"
        return f"<SignalReceiver {self._names} {state}>"


def receiver(*numbers: int, allow_threads: bool = False) -> Opening[SignalReceiver]:
    """Receive signals of this process: await it, or enter it with ``async with``.

    Until it is closed, nothing else in this process sees them: they are blocked in this thread,
    and other handlers, also those of the event loop, rest. Threads started from here on inherit
    the blocked mask. Children that aioipc, `os.fork` or `multiprocessing` start do not; for
    others see docs/signals.md.

    Args:
        numbers: Such as ``signal.SIGHUP`` or ``signal.SIGRTMIN + 1``.
        allow_threads: Whether other threads may exist that do not block the signals. The kernel
            may choose one of those, and interrupt a system call there, but it passes the signal
            on.

    Raises:
        BusyError: Another receiver of this process has one of the signals.
        RuntimeError: There are threads that do not block the signals.
        ValueError: No signal was given, or one that cannot be received.
        ResourceExhausted: There are no descriptors left.
    """
    wanted = _checked(numbers)

    async def open_() -> SignalReceiver:
        if held := taken(wanted):
            names = ", ".join(map(_name, sorted(held)))
            raise BusyError(f"another receiver of this process has {names}")
        try:
            fd = SignalFd(wanted)
        except OSError as error:
            raise from_os_error(error, "receive signals") from error
        if not allow_threads and (threads := open_threads(wanted)):
            fd.close()
            raise RuntimeError(
                f"the kernel may give the signals to {_described(threads)}, where they are not "
                f"blocked; open the receiver before they start, or say allow_threads=True"
            )
        return SignalReceiver(fd)

    return Opening(open_)


def send(process: int | HasFileno, number: int, *, value: int | None = None) -> None:
    """Send a signal to a process.

    It goes through a pidfd, so a pid that was free to be used again cannot deceive it half-way.
    Who wants to be sure for longer holds the process by a pidfd, or as a worker, and gives that.

    Args:
        process: A pid, or anything whose ``fileno()`` is a pidfd.
        number: Which; 0 only asks whether it could be sent.
        value: A number of 32 bits to go with it, which makes the kernel queue the signal.

    Raises:
        ProcessLookupError: There is no such process.
        AccessDenied: It belongs to somebody else.
        ResourceExhausted: The queue is full: RLIMIT_SIGPENDING in setrlimit(2).
        ValueError: The pid, the signal or the value is impossible.
    """
    if number != 0 and number not in signal.valid_signals():
        raise ValueError(f"there is no signal {number}")
    if value is not None and not -(2**31) <= value < 2**31:
        raise ValueError(f"value must fit 32 bits, with a sign; {value} does not")
    if isinstance(process, int) and process <= 0:
        raise ValueError(f"a pid is positive, not {process}")
    try:
        if _send(process, number, value):
            return
    except (ProcessLookupError, OverflowError):  # or no pid can be that high
        pass
    except OSError as error:
        raise _translated(error, number, process) from error
    raise ProcessLookupError(errno.ESRCH, f"{_name(number)} to {process}: there is no such process")


def _send(process: int | HasFileno, number: int, value: int | None) -> bool:
    if not isinstance(process, int):
        pidfd = process.fileno()
        return pidfd >= 0 and send_signal(pidfd, number, value)
    with OwnedFd(open_pidfd(process)) as opened:
        return send_signal(opened.fileno(), number, value)


def _translated(error: OSError, number: int, process: int | HasFileno) -> IPCError:
    return from_os_error(error, f"{_name(number)} to {process}")


def _checked(numbers: Iterable[int]) -> frozenset[int]:
    wanted = frozenset(numbers)
    if not wanted:
        raise ValueError("receiver() takes at least one signal")
    for number in wanted:
        if number not in signal.valid_signals():
            raise ValueError(f"there is no signal {number}")
        if number in _CANNOT_WAIT:
            raise ValueError(f"{_name(number)} cannot be received: {_CANNOT_WAIT[number]}")
    return wanted


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _described(threads: list[int]) -> str:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    listed = ", ".join(names.get(thread, f"number {thread}") for thread in threads)
    return f"thread {listed}" if len(threads) == 1 else f"threads {listed}"
