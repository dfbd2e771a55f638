"""How long somebody waits for what comes little by little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Patience"]

_LEAST_S = 0.001


class Patience:
    """Ends after so many seconds of waiting for one thing, in however many waits.

    Only time in which somebody waits counts. The thing has one timer, which goes on through the
    pauses and looks at the clock when it is due; a wait costs no timer of its own.

    Args:
        ran_out: Called from the loop when the time is over, and somebody still waits.
    """

    def __init__(self, ran_out: Callable[[], object]) -> None:
        self._ran_out = ran_out
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._thing = -1
        self._limit_s = 0.0
        self._spent_s = 0.0
        self._since: float | None = None
        self._is_last = False

    def wait(self, thing: int, limit_s: float) -> None:
        """Somebody waits from now on.

        Args:
            thing: For what. With another number the time starts anew.
            limit_s: How long all waits for it may take.
        """
        loop = self._loop = self._loop or asyncio.get_running_loop()
        if thing != self._thing:
            self.forget()
            self._thing = thing
        self._limit_s = limit_s
        self._since = loop.time()
        if self._timer is None:
            self._again_in(limit_s - self._spent_s)

    def pause(self) -> None:
        """Nobody waits for now."""
        if self._since is not None and self._loop is not None:
            self._spent_s += self._loop.time() - self._since
            self._since = None

    def stop(self) -> None:
        """Nobody may ever wait again. Idempotent."""
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """The thing has come: stop, and let the next one have all its time."""
        self.stop()
        self._thing = -1
        self._spent_s = 0.0
        self._is_last = False

    def _again_in(self, delay_s: float) -> None:
        assert self._loop is not None
        delay_s = max(delay_s, _LEAST_S)
        self._due = self._loop.time() + delay_s
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._loop is None:
            return
        now = self._loop.time()
        left_s = self._limit_s - self._spent_s - (now - self._since)
        if left_s > 0:
            self._again_in(left_s)
        elif not self._is_last:
            # A loop that was busy looks at what has come meanwhile, and makes up for its delay.
            self._is_last = True
            self._again_in(now - self._due)
        else:
            self._ran_out()
