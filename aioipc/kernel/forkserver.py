"""Fork servers from the inside: one thread that forks on request, and tends what it forked.

`aioipc.kernel.forked` has the protocol.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aioipc.kernel.ancillary import receive_with_fds, send_with_fds
from aioipc.kernel.forked import ANSWER, UNFIT
from aioipc.kernel.leash import tie_to
from aioipc.kernel.memory import retrieve
from aioipc.kernel.owned import OwnedFd, OwnedSocket
from aioipc.kernel.pidfd import Child, open_pidfd

__all__ = ["ForkServer", "Forked"]

_MOST_FDS: Final = 64


@dataclass(frozen=True, slots=True)
class Forked:
    """What a forked process has to do.

    Attributes:
        order: What the request says.
        fds: What it hands down, close-on-exec.
    """

    order: bytes
    fds: tuple[int, ...]


class ForkServer:
    """Forks, until whoever asks for it is gone.

    Args:
        fd: The end of `aioipc.kernel.forked.requests_pair` that was inherited.
        prepare: Called with each order before the fork, to load what it will need.
    """

    def __init__(self, fd: int, prepare: Callable[[bytes], object]) -> None:
        self._requests = OwnedSocket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fd)
        self._prepare = prepare
        self._epoll = select.epoll()
        self._is_wanted = True
        self._lines: dict[int, tuple[OwnedSocket, Child]] = {}
        self._dying: dict[int, Child] = {}

    def serve(self) -> Forked | None:
        """Serve until the other end closes, and those who were forked have ended.

        Returns:
            None; and in each process that was forked what that has to do.
        """
        gc.disable()  # a collection would copy what could be shared
        self._epoll.register(self._requests, select.EPOLLIN)
        while self._is_wanted or self._lines or self._dying:
            for fd, _ in self._epoll.poll():
                if fd in self._lines:
                    self._let_go(fd)
                elif fd in self._dying:
                    self._reap(fd)
                elif fd == self._requests.fileno():
                    data, fds, _ = receive_with_fds(self._requests, 16, _MOST_FDS)
                    if not data:
                        self._epoll.unregister(fd)
                        self._is_wanted = False
                    elif (forked := self._serve_one(fds)) is not None:
                        return forked
        return None

    def _serve_one(self, fds: Sequence[OwnedFd]) -> Forked | None:
        line = OwnedSocket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fds[0].detach())
        leash, memory, *handed_down = [fd.detach() for fd in fds[1:]]  # a fork closes owned ones
        order = retrieve(memory)
        try:
            self._prepare(order)
            if _has_threads():
                _answer(line, UNFIT)
                return None
            gc.freeze()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # or each process would write what is in it
            try:
                pid = os.fork()
            except OSError as error:
                _answer(line, -(error.errno or 1))
                return None
            if pid == 0:
                return self._begin(order, leash, handed_down)
        finally:
            if not self._epoll.closed:  # this is the server
                for fd in (leash, *handed_down):
                    os.close(fd)
        with contextlib.suppress(PermissionError):  # it leads a session of its own by now
            os.setpgid(pid, pid)  # it does so itself as well; who comes first is not known
        self._tend(line, Child(pid, open_pidfd(pid)))
        return None

    def _begin(self, order: bytes, leash: int, handed_down: Sequence[int]) -> Forked:
        """In a forked process: leave everything that is the server's."""
        self._epoll.close()
        self._lines.clear()
        os.setpgid(0, 0)
        tie_to(leash)
        gc.enable()
        directory, *rest = handed_down
        os.fchdir(directory)
        os.close(directory)
        standard, passed = rest[:3], rest[3:]
        for target, source in enumerate(standard):
            os.dup2(source, target)
        for source in standard:
            os.close(source)
        return Forked(order, tuple(passed))

    # What was forked

    def _tend(self, line: OwnedSocket, child: Child) -> None:
        self._lines[line.fileno()] = line, child
        _answer(line, child.pid, child.pidfd)
        self._epoll.register(line, select.EPOLLIN)

    def _let_go(self, fd: int) -> None:
        """Nobody wants to know any more: it is to end, and be reaped."""
        line, child = self._lines.pop(fd)
        self._epoll.unregister(fd)
        line.close()
        with contextlib.suppress(PermissionError):  # it became another user
            child.signal_group(signal.SIGKILL)
        self._dying[child.pidfd] = child
        self._epoll.register(child.pidfd, select.EPOLLIN)

    def _reap(self, pidfd: int) -> None:
        child = self._dying.pop(pidfd)
        self._epoll.unregister(pidfd)
        child.status()
        child.close()


def _answer(line: OwnedSocket, number: int, *fds: int) -> None:
    with contextlib.suppress(ConnectionError):  # nobody waits for it, as the line says next
        send_with_fds(line, ANSWER.pack(number), fds)


def _has_threads() -> bool:
    """Whether there are threads that a fork would leave behind.

    Some libraries end theirs before a fork and start them anew when they need them, which
    pthread_atfork(3) is for: OpenBLAS does, and with it numpy. So a first fork is for nothing else.
    """
    if _threads() == 1:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, as is known
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return _threads() > 1


def _threads() -> int:
    """How many threads this process has: proc_pid_task(5)."""
    return len(os.listdir("/proc/self/task"))
