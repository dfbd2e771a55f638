"""Waiting: the pace of each loop, whether polling pays on this machine, and the plain wait.

The hot waits of channels are native (`aioipc.native._core`) over the Pacer made here; the
cold ones, at opening and closing, are the coroutines below.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aioipc.loop.fd import FdWatch
from aioipc.native._pacer import Pacer

__all__ = ["Waits", "pacer_of", "polling_pays", "wait_fd", "wait_readable", "wait_writable"]

_LEAST_CPUS = 1.5


class _Readable(Protocol):
    def on_readable(self, callback: Callable[[], object] | None, /) -> None: ...


class _Writable(Protocol):
    def on_writable(self, callback: Callable[[], object] | None, /) -> None: ...


def pacer_of(loop: asyncio.AbstractEventLoop) -> Pacer:
    """The Pacer of ``loop``, which lives as long as the loop does."""
    pacer: Pacer | None = getattr(loop, "_aioipc_pacer", None)
    if pacer is None:
        pacer = Pacer(loop, polling_pays())
        loop._aioipc_pacer = pacer  # type: ignore[attr-defined]
    return pacer


@functools.cache
def polling_pays() -> bool:
    """Whether two processes can run at the same time here, so that one may poll for the other.

    A process pinned to one CPU may still have its peer on another one; a machine with one
    CPU, or a cgroup with less than one and a half of CPU time, cannot.
    """
    return (os.cpu_count() or 1) > 1 and _cgroup_cpus() >= _LEAST_CPUS


def _cgroup_cpus() -> float:
    """How much CPU time cgroup v2 allows per time (cpu.max in the kernel's cgroup-v2 page)."""
    cpus = float("inf")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = next(line[3:] for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return cpus
    directory = Path("/sys/fs/cgroup") / group.lstrip("/")
    for level in (directory, *directory.parents):
        try:
            quota, period = (level / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            cpus = min(cpus, int(quota) / int(period))
    return cpus


async def wait_readable(source: _Readable) -> None:
    """Wait until ``source`` may have something to read.

    Cancellation:
        Abandons the wait.
    """
    await _wait(source.on_readable)


async def wait_writable(target: _Writable) -> None:
    """Wait until ``target`` may have room.

    Cancellation:
        Abandons the wait.
    """
    await _wait(target.on_writable)


class Waits:
    """The plain waits of one object: for readiness, or until all of them are ended."""

    def __init__(self) -> None:
        self._pending: set[asyncio.Future[None]] = set()

    async def readable(self, source: _Readable) -> None:
        """As `wait_readable`; or until `end`."""
        await _wait(source.on_readable, self._pending)

    async def fd(self, fd: int) -> None:
        """Wait until a descriptor can be read; or until `end`."""
        await wait_fd(fd, pending=self._pending)

    async def until_end(self) -> None:
        """Wait for `end`."""
        await _wait(lambda _: None, self._pending)

    def end(self) -> None:
        """Let everybody who waits look again."""
        for ready in self._pending:
            if not ready.done():
                ready.set_result(None)


async def wait_fd(
    fd: int, *, writing: bool = False, pending: set[asyncio.Future[None]] | None = None
) -> None:
    """Wait until a descriptor can be read, or written.

    Args:
        fd: The descriptor.
        writing: Whether to wait for room.
        pending: Who may end the wait: `Waits`.

    Cancellation:
        Abandons the wait.
    """
    watch = FdWatch()
    begin = watch.watch_writing if writing else watch.watch_reading
    try:
        await _wait(lambda callback: None if callback is None else begin(fd, callback), pending)
    finally:
        watch.close()


async def _wait(
    register: Callable[[Callable[[], object] | None], None],
    pending: set[asyncio.Future[None]] | None = None,
) -> None:
    ready = asyncio.get_running_loop().create_future()

    def look_again() -> None:
        if not ready.done():
            ready.set_result(None)

    register(look_again)
    if pending is not None:
        pending.add(ready)
    try:
        await ready
    finally:
        if pending is not None:
            pending.discard(ready)
        if not ready.done() or ready.cancelled():
            register(None)
