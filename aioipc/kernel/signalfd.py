"""Signals as something to read: signalfd(2)."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aioipc.kernel.owned import OwnedFd
from aioipc.native._os import PASSED_ON, lost_in_passing, signalfd, start_passing, stop_passing

__all__ = ["SignalFd", "SignalInfo", "clean_mask", "open_threads", "taken"]

_RECORD = struct.Struct("=IiiII24xi80x")  # struct signalfd_siginfo
_SI_TKILL = -6  # the lowest code that a thread may not send to another one
_CARRY_A_VALUE = frozenset({-1, -2, -3})  # SI_QUEUE, SI_TIMER, SI_MESGQ: sigaction(2)


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """One signal that arrived.

    Attributes:
        number: Which one; `signal.Signals` where it has a name.
        pid: Who sent it; 0 where the kernel did, or a process of another pid namespace.
        uid: The real user of who sent it.
        code: How it came: 0 for kill(2), -1 for sigqueue(3), 128 for the kernel; sigaction(2)
            has the others.
        value: The number that came with it, if it was sent with one.
    """

    number: int
    pid: int
    uid: int
    code: int
    value: int | None

    @property
    def is_overflow(self) -> bool:
        """Whether it stands for one or more real-time signals that the queue had no room for.

        Their details are lost: RLIMIT_SIGPENDING in setrlimit(2). A signal of a root process
        outside this pid namespace looks the same.
        """
        return self.number >= signal.SIGRTMIN and (self.code, self.pid, self.uid) == (0, 0, 0)


class SignalFd(OwnedFd):
    """Takes signals of this process, which are blocked in the thread that made it.

    A thread whose mask is open passes them on to that thread. Closing it unblocks what it has
    blocked and puts back the handlers; in a forked child that happens at once.

    Attributes:
        numbers: The signals.
    """

    __slots__ = ("_blocked", "_pid", "_thread", "numbers")

    def __init__(self, numbers: Iterable[int]) -> None:
        """Start taking them.

        Raises:
            OSError: There are no descriptors left.
        """
        self.numbers = frozenset(numbers)
        self._pid, self._thread = os.getpid(), threading.get_native_id()
        self._blocked: set[int] = set()
        super().__init__(signalfd(self.numbers, os.O_NONBLOCK | os.O_CLOEXEC))
        for number in self.numbers:
            start_passing(number, self._thread)
        self._blocked = set(self.numbers - signal.pthread_sigmask(signal.SIG_BLOCK, self.numbers))
        _open.add(self)

    def take(self) -> SignalInfo | None:
        """Take the next signal; None if there is none. Only in the thread that made it."""
        try:
            return _parse(os.read(self._fd, _RECORD.size))
        except BlockingIOError:
            return None

    def lost(self) -> int:
        """How many real-time signals another thread got and could not pass on."""
        return sum(map(lost_in_passing, self.numbers))

    def abandon(self) -> None:
        """Give the signals back; those that nobody took are then handled as without it."""
        if self in _open:
            _open.discard(self)
            for number in self.numbers:
                stop_passing(number)
            if self.is_here():
                self.unblock()
        super().abandon()

    def close(self) -> None:
        """The same, and close the descriptor. Idempotent."""
        self.abandon()

    def unblock(self) -> None:
        """Unblock what it has blocked, in this thread."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)

    def is_here(self) -> bool:
        """Whether this is the thread with the mask, or what became of one in a forked child."""
        return threading.get_native_id() == self._thread or os.getpid() != self._pid


_open: set[SignalFd] = set()


def clean_mask() -> None:
    """Unblock, in this thread, what every open `SignalFd` has blocked."""
    for opened in _open:
        opened.unblock()


def taken(numbers: Iterable[int]) -> set[int]:
    """Those of the signals that an open `SignalFd` has."""
    return {number for number in numbers for opened in _open if number in opened.numbers}


def open_threads(numbers: Iterable[int]) -> list[int]:
    """The native ids of the other Python threads that would be given one of the signals.

    Not of threads that some library keeps for itself, as libuv does to look up names: nobody can
    start those later or block anything there, and they pass on what they are given.
    """
    wanted = sum(1 << (number - 1) for number in numbers)
    ours = {thread.native_id for thread in threading.enumerate()} - {threading.get_native_id()}
    return [thread for thread, blocked in _masks() if thread in ours and blocked & wanted != wanted]


def _masks() -> Iterator[tuple[int, int]]:
    """Each thread of this process and what it has blocked: SigBlk in proc_pid_status(5)."""
    for path in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            lines = (path / "status").read_text().splitlines()
            blocked = next(line.split()[1] for line in lines if line.startswith("SigBlk:"))
            yield int(path.name), int(blocked, 16)


def _parse(record: bytes) -> SignalInfo:
    number, _, code, pid, uid, value = _RECORD.unpack(record)
    if code <= PASSED_ON - _SI_TKILL:
        code = PASSED_ON - code
    with contextlib.suppress(ValueError):  # most real-time signals have no name
        number = signal.Signals(number)
    return SignalInfo(number, pid, uid, code, value if code in _CARRY_A_VALUE else None)
