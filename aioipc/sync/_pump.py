"""One thread for a call that can only block, and permits that are never lost on the way.

The thread runs while somebody waits. It never serves a certain task: it hands each permit to
the loop of whoever has waited longest, and there the oldest waiter who still wants it gets it.
If nobody does, the permit goes back.

`aioipc.loop.pump` only looks now and then, which is right for messages, for they cannot be put back
where they were. Who only looks gets no permit as long as others block in the kernel for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Pump"]

_SLICE_S = 0.05


class _Waiter:
    __slots__ = ("future", "has_permit", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.has_permit = False


class Pump:
    """Waits for permits.

    Args:
        take: Blocks for at most so many seconds; returns whether it took a permit.
        give_back: Puts a permit back.
        name: Of the thread.
    """

    def __init__(
        self, take: Callable[[float], bool], give_back: Callable[[], None], name: str
    ) -> None:
        self._take = take
        self._give_back = give_back
        self._name = name
        # Reentrant, for a wait may be thrown away by the garbage collector anywhere.
        self._mutex = threading.RLock()
        self._waiters: deque[_Waiter] = deque()
        self._thread: threading.Thread | None = None

    async def wait(self) -> None:
        """Wait for a permit, which is then the caller's.

        Raises:
            Exception: What ``take`` raised; it ends all waits.

        Cancellation:
            Safe: a permit that came in the same moment goes to the next waiter, or back.
        """
        waiter = _Waiter(asyncio.get_running_loop())
        with self._mutex:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # or raise, and leave nothing behind
                self._thread = thread
            self._waiters.append(waiter)
        try:
            await waiter.future
        except BaseException:  # also where the loop ended
            if self._withdraw(waiter):
                self._deliver()
            raise

    def is_waited_for(self) -> bool:
        """Whether somebody waits already, before whom nobody should be served."""
        with self._mutex:
            return any(not waiter.future.done() for waiter in self._waiters)

    def fail(self, error: Exception) -> None:
        """End all waits."""
        with self._mutex:
            waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            _call(waiter, _set_exception, waiter.future, error)

    def forget(self) -> None:
        """Know of no waiter and no thread, in a forked child."""
        self._mutex = threading.RLock()
        self._waiters = deque()
        self._thread = None

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._waiters:
                    self._thread = None
                    return
            try:
                # In slices, so that the thread ends soon after the last waiter has gone. A
                # slice ends early when there is a permit.
                if self._take(_SLICE_S):
                    self._deliver()
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                self.fail(error)

    def _deliver(self) -> None:
        """Hand a permit to the loop of the oldest waiter; give it back if there is none."""
        with self._mutex:  # so that whoever withdraws knows whether it is his
            while self._waiters:
                waiter = self._waiters.popleft()
                waiter.has_permit = True
                if _call(waiter, _grant, waiter.future):
                    return
                waiter.has_permit = False
        self._give_back()

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Wait no more; return whether it has a permit, which nobody uses then."""
        with self._mutex:
            if not waiter.has_permit:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            return waiter.has_permit


def _grant(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_exception(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _call(waiter: _Waiter, callback: Callable[..., None], *arguments: object) -> bool:
    """Call something in the waiter's loop; False if that is closed."""
    try:
        waiter.loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return False
    return True
