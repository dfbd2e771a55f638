"""The waits of one object for descriptors that come and go, of which the loop sees only one."""

from __future__ import annotations

import asyncio
import select

from aioipc.errors import from_os_error
from aioipc.loop.fd import FdWatch
from aioipc.native._operation import Waiter

__all__ = ["Lookout"]

_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Lookout:
    """Waits in one loop, which watches a single descriptor for all of them: epoll(7).

    That one stays registered. What is waited for costs one epoll_ctl(2) before the wait and none
    after it: each is told of once, and whoever closes it ends the watch. With ``add_reader`` and
    ``remove_reader`` the loop has more to do than who waits, between the wake-up and his next step.
    """

    __slots__ = ("_epoll", "_waits", "_watch")

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watch = FdWatch()
        self._waits: dict[int, Waiter] = {}

    def ready(self, fd: int) -> Waiter:
        """What to await: it ends once a descriptor can be read, or at `end`.

        Nobody else waits here for the same descriptor meanwhile.

        Args:
            fd: The descriptor.

        Raises:
            ResourceExhausted: There are no descriptors left, or the kernel has no room for it.

        Cancellation:
            Abandons the wait.
        """
        try:
            epoll = self._epoll or self._open()
            try:
                epoll.register(fd, _ONCE)
            except FileExistsError:  # it was waited for before
                epoll.modify(fd, _ONCE)
        except OSError as error:
            raise from_os_error(error, "watch a descriptor") from error
        waiter = self._waits[fd] = Waiter(asyncio.get_running_loop())
        return waiter

    def end(self) -> None:
        """Let everybody who waits look again."""
        waits, self._waits = self._waits, {}
        for waiter in waits.values():
            waiter.wake()

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        self._watch.close()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def abandon(self) -> None:
        """Do the same without touching the loop, in a forked child."""
        self._watch.abandon()
        self.close()

    def _open(self) -> select.epoll:
        epoll = select.epoll()
        try:
            self._watch.bind(asyncio.get_running_loop())
            self._watch.watch_reading(epoll.fileno(), self._look)
        except BaseException:
            epoll.close()
            raise
        self._epoll = epoll
        return epoll

    def _look(self) -> None:
        if self._epoll is None:  # closed after the loop found it ready
            return
        found = self._epoll.poll(0, len(self._waits) or 1)
        for fd, _ in found:
            waiter = self._waits.pop(fd, None)
            if waiter is not None:
                waiter.wake(now=len(found) == 1)
