"""Precise ticks and loop lag, from one kernel timer (timerfd).

A loop's own timers are rounded to milliseconds, so they can neither pace 1,000 messages/s nor see
a lag of 100 µs. A timerfd can, and it is the same for asyncio and uvloop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from benchmarks.proc import queued_ns

T = TypeVar("T")

LAG_INTERVAL_NS = 1_000_000
NEIGHBOUR_NS = 100_000
"""A process that waited longer than this for its CPU was not late by its own doing."""

_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def of(cls, nanoseconds: int) -> _TimeSpec:
        return cls(*divmod(nanoseconds, 1_000_000_000))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


class Ticker:
    """Ticks at a fixed interval on CLOCK_MONOTONIC, awaitable, without drift."""

    def __init__(self, interval_ns: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_ns = interval_ns
        self._waiter: asyncio.Future[int] | None = None
        self._due_ns = time.monotonic_ns() + interval_ns
        self._fd = self._open()
        self._loop.add_reader(self._fd, self._fired)

    def _open(self) -> int:
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        spec = _TimerSpec(_TimeSpec.of(self._interval_ns), _TimeSpec.of(self._due_ns))
        if fd < 0 or _libc.timerfd_settime(fd, _TIMER_ABSTIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd")
        return fd

    async def tick(self) -> int:
        """Wait for the next tick; returns how late this task runs, in nanoseconds.

        Ticks that nobody waited for are skipped.
        """
        self._waiter = self._loop.create_future()
        due_ns = await self._waiter
        return time.monotonic_ns() - due_ns

    def _fired(self) -> None:
        """Tell the waiter when the oldest tick since the last look was due."""
        try:
            expired = int.from_bytes(os.read(self._fd, 8), sys.byteorder)
        except BlockingIOError:
            return
        oldest_ns = self._due_ns
        self._due_ns += expired * self._interval_ns
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(oldest_ns)

    def close(self) -> None:
        """Stop ticking."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


async def watch_lag(work: Coroutine[Any, Any, T], lags_ns: list[int]) -> T:
    """Run ``work`` while a second task in the same loop records how late each tick reaches it."""
    watcher = asyncio.create_task(_record_lag(lags_ns))
    try:
        return await work
    finally:
        watcher.cancel()


async def _record_lag(lags_ns: list[int]) -> None:
    """Record the lag of each tick, but for those in which a neighbour had the CPU."""
    ticker = Ticker(LAG_INTERVAL_NS)
    queued_before_ns = queued_ns()
    try:
        while True:
            lag_ns = await ticker.tick()
            queued_now_ns = queued_ns()
            if queued_now_ns - queued_before_ns < NEIGHBOUR_NS:
                lags_ns.append(lag_ns)
            queued_before_ns = queued_now_ns
    finally:
        ticker.close()
