"""The end of other processes, for those who talk to them: one pidfd for each, in each loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from aioipc.kernel.credentials import peer_pidfd
from aioipc.kernel.owned import OwnedFd, abandon_in_child
from aioipc.kernel.pidfd import exit_status, holder_pidfd
from aioipc.loop.fd import FdWatch

__all__ = ["DeathWatch", "watch_holder", "watch_peer"]

_Died = Callable[[], object]


class _Mortal:
    """A process whose end somebody waits for."""

    def __init__(self, pidfd: int, watch: FdWatch) -> None:
        self._pidfd = OwnedFd(pidfd)
        self._watch = watch
        self.mourners: set[DeathWatch] = set()
        self.is_over = False
        self.status: int | None = None
        abandon_in_child(self)
        watch.watch_reading(self._pidfd.fileno(), self._died)

    def leave(self, mourner: DeathWatch) -> None:
        self.mourners.discard(mourner)
        if not self.mourners:
            self._end()

    def find_status(self) -> int | None:
        """How it ended, where that can be known by now."""
        if self.status is None and not self.is_over:
            self.status = exit_status(self._pidfd.fileno(), reap=False)
        return self.status

    def _died(self) -> None:
        self.find_status()
        mourners, self.mourners = self.mourners, set()
        self._end()
        for mourner in mourners:
            mourner.tell()

    def _end(self) -> None:
        self.is_over = True
        self._watch.close()
        self._pidfd.close()

    def abandon(self) -> None:
        """Leave the loop to the parent process, in a forked child."""
        self._watch.abandon()


_mortals: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Mortal]] = (
    weakref.WeakKeyDictionary()
)


def _nobody() -> None:
    return None


class DeathWatch:
    """Somebody who wants to know when a process has ended, until `close`."""

    def __init__(self, mortal: _Mortal, died: _Died) -> None:
        self._mortal = mortal
        self._died: Callable[[], _Died | None] = weakref.WeakMethod(died)
        mortal.mourners.add(self)

    def tell(self) -> None:
        """The process has ended."""
        died = self._died()
        if died is not None:
            died()

    @property
    def status(self) -> int | None:
        """How a child of ours ended, as in `PeerCrashed`. It is not reaped by this."""
        return self._mortal.find_status()

    def close(self) -> None:
        """Stop waiting. Idempotent."""
        self._died = _nobody
        self._mortal.leave(self)


def watch_peer(sock: int, pid: int, died: _Died) -> DeathWatch | None:
    """Call ``died()`` from the running loop once the process at the other end has ended.

    Its sockets may outlive it, in a child that inherited them.

    Args:
        sock: A connected Unix socket.
        pid: The process, as ``SO_PEERCRED`` names it.
        died: A bound method, whose object is not kept alive.

    Returns:
        What ends this, or None of a process that is gone already.
    """
    return _watch(pid, lambda: peer_pidfd(sock), died)


def watch_holder(pid: int, file: str, died: _Died) -> DeathWatch | None:
    """Do the same for a process that says it is the one at the other end.

    Args:
        pid: The process.
        file: What it has to be able to write to: see `aioipc.kernel.pidfd.holder_pidfd`.
        died: A bound method, whose object is not kept alive.

    Returns:
        What ends this, or None where it cannot be seen that the process has the file.
    """
    pidfd = holder_pidfd(pid, file)
    if pidfd is None:
        return None
    with OwnedFd(pidfd) as held:
        return _watch(pid, held.detach, died)


def _watch(pid: int, open_pidfd: Callable[[], int | None], died: _Died) -> DeathWatch | None:
    loop = asyncio.get_running_loop()
    mortals = _mortals.setdefault(loop, {})
    mortal = mortals.get(pid)
    if mortal is None or mortal.is_over:
        pidfd = open_pidfd()
        if pidfd is None:
            return None
        _forget_the_dead(mortals)
        mortal = mortals[pid] = _Mortal(pidfd, FdWatch())
    return DeathWatch(mortal, died)


def _forget_the_dead(mortals: dict[int, _Mortal]) -> None:
    for pid in [pid for pid, mortal in mortals.items() if mortal.is_over]:
        del mortals[pid]
