"""One thread per process that looks now and then at what no event loop can watch.

It never takes anything, so nothing can be lost with it: when a look finds something, it posts a
callback to the loop, and whoever waits there takes it. It runs only while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable

__all__ = ["Watched", "pump"]

_SHORTEST_S = 0.0005
_LONGEST_S = 0.02
_LINGER_S = 0.1
"""How long the thread stays when nobody waits: the next one waits soon, mostly."""


class Watched:
    """One wait for one thing.

    Args:
        is_ready: A quick look, made by the thread: whether it is worth while to try.
        callback: Called in the loop, once.
    """

    __slots__ = ("callback", "is_ready", "loop")

    def __init__(self, is_ready: Callable[[], bool], callback: Callable[[], object]) -> None:
        self.is_ready = is_ready
        self.callback = callback
        self.loop = asyncio.get_running_loop()


class _Pump:
    """Everything that this process waits for in this way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._pause_s = _SHORTEST_S

    def watch(self, watched: Watched) -> None:
        """Look until it is ready."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="aioipc-pump", daemon=True)
                thread.start()  # or raise, and leave nothing behind
                self._thread = thread
            self._watched.add(watched)
            self._pause_s = _SHORTEST_S
            self._changed.notify()

    def forget(self, watched: Watched) -> None:
        """Look no more. Idempotent."""
        with self._changed:
            self._watched.discard(watched)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched and not self._changed.wait(_LINGER_S) and not self._watched:
                    self._thread = None
                    return
                watched = list(self._watched)
            found = [self._look(each) for each in watched]
            if not any(found):
                self._pause_s = min(2 * self._pause_s, _LONGEST_S)
            with self._changed:
                self._changed.wait(self._pause_s)

    def _look(self, watched: Watched) -> bool:
        if not watched.is_ready():
            return False
        self.forget(watched)
        with contextlib.suppress(RuntimeError):  # the loop was closed
            watched.loop.call_soon_threadsafe(watched.callback)
        return True


class _Process:
    """The pump of this process: a forked child starts with none."""

    def __init__(self) -> None:
        self.pump = _Pump()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        self.pump = _Pump()


_process = _Process()


def pump() -> _Pump:
    """The one of this process."""
    return _process.pump
