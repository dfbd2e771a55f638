"""Locks on regions of any file, which programs that know nothing of aioipc heed as well."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
from collections.abc import Iterator

from aioipc.errors import AddressError, ClosedError, ForkError, WouldBlock
from aioipc.kernel.directory import Directory
from aioipc.kernel.lifeline import Hold, Lifeline, Watch
from aioipc.kernel.region import (
    InTheWay,
    Region,
    RegionHolder,
    is_region_locked,
    region_holders,
    try_region,
)
from aioipc.kernel.region_line import open_region_lines, region_line
from aioipc.sync._guard import Enterable, Guard, Holding, kernel_errors
from aioipc.sync._turns import Turn

__all__ = ["FileLock"]

_MOST_BYTES = 2**63 - 1
_SHORTEST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05


class FileLock(Enterable):
    """A lock on a region of a file: fcntl_locking(2), ``F_OFD_SETLK``.

    Programs that use ``fcntl.lockf``, ``fcntl(F_SETLK)`` or ``F_OFD_SETLK`` heed it, and it
    heeds them; flock(2) is another kind of lock. The file is made (mode 0600) if it is not
    there, and never removed. It excludes tasks, threads, loops and processes alike; tasks of
    one loop get it in the order in which they asked.

    Between programs of this library waiting costs no timer: for it each has a FIFO in the runtime
    directory, until the lock is closed or dropped. That of a killed program is removed by the next
    process that takes any file lock. For a lock of a foreign program, which does not tell when it
    is released, it looks every 5 to 50 ms.

    The process must not hold classic locks on the same file: closing any descriptor of a file
    releases those, and each release of a FileLock closes one.

    Args:
        path: The file.
        start: First byte of the region. It may lie behind the end of the file.
        length: Number of bytes; 0 for all there can be.
        shared: Whether others may hold it too, if they say the same.
        network: Whether the file may be on NFS or the like.

    Raises:
        AddressError: The path is empty, or the region is impossible.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: int = 0,
        length: int = 0,
        shared: bool = False,
        *,
        network: bool = False,
    ) -> None:
        self.path = os.fsdecode(path)
        if not self.path or "\0" in self.path:
            raise AddressError(f"a file lock needs a path, not {self.path!r}")
        start, length = operator.index(start), operator.index(length)
        if start < 0 or length < 0 or start + length > _MOST_BYTES:
            raise AddressError(f"a file has no region of {length:,} bytes from {start:,}")
        super().__init__(f"file lock {self.path!r}")
        self._region = (start, length)
        self._shared = shared
        self._network = network
        self._lines: Directory | None = None
        self._kept: Lifeline | None = None

    async def acquire(self) -> Guard:
        """Wait for the lock and take it.

        Raises:
            RuntimeError: The calling task holds it already, and would wait for itself.
            AccessDenied: The file may not be opened, or is no regular file.
            AddressError: The file is on a network.
            FileNotFoundError: Its directory does not exist.
            ResourceExhausted: There are no descriptors or locks left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: it was not taken.
        """
        self._refuse_again()
        turn = self._turns.here()
        async with turn.line:
            found = self._attempt()
            if isinstance(found, Guard):
                return found
            with self._tally.waiting():
                return await self._wait(turn)

    def acquire_nowait(self) -> Guard:
        """Take the lock if it is free. A thread needs no loop for this.

        Raises:
            WouldBlock: Somebody holds it.
        """
        self._refuse_again()
        while (found := self._attempt()) is None:
            pass
        if isinstance(found, InTheWay):
            raise WouldBlock(f"{self._what} is held")
        return found

    def locked(self) -> bool:
        """Whether somebody holds a lock that excludes this one."""
        start, length = self._region
        with kernel_errors(f"look at {self._what}"):
            return is_region_locked(self.path, start=start, length=length, shared=self._shared)

    def holders(self) -> list[RegionHolder]:
        """Who has locks in the region, shared ones included, of whatever program.

        The kernel does not tell since when; and it tells of the processes only whose descriptors
        this user may see. So there may be none although it is `locked`.
        """
        start, length = self._region
        with kernel_errors(f"look at {self._what}"):
            return region_holders(self.path, start=start, length=length)

    def close(self) -> None:
        """Release it, and end the waits of this object with `ClosedError`. Idempotent."""
        if self._unusable is None:
            self._unusable = ClosedError(f"{self._what} was closed")
            self._drop_all()
            self._leave()
            if self._lines is not None:
                self._lines.close()
            self._turns.close()

    def abandon(self) -> None:
        """Belong to the parent, in a forked child that inherits it held."""
        if self._held:
            self._unusable = ForkError(f"{self._what} belongs to the parent; make one in the child")
        self._lines = self._kept = None
        super().abandon()

    def _attempt(self) -> Guard | InTheWay | None:
        self._check()
        start, length = self._region
        with kernel_errors(f"take {self._what}"):
            found = try_region(
                self.path, start=start, length=length, shared=self._shared, network=self._network
            )
            if not isinstance(found, Region):
                return found
            try:
                held = _HeldRegion(found, self._own_line(found))
            except BaseException:
                found.close()
                raise
        return self._keep(Guard(self._forget, held))

    async def _wait(self, turn: Turn) -> Guard:
        pause_s = 0.0
        while True:
            found = self._attempt()
            if isinstance(found, InTheWay):
                with self._watch(found) as watch:
                    found = self._attempt()  # he may have gone before the watch began
                    if isinstance(found, InTheWay):
                        pause_s = await _wait_behind(turn, watch, pause_s)
            if isinstance(found, Guard):
                return found

    @contextlib.contextmanager
    def _watch(self, obstacle: InTheWay) -> Iterator[Watch | None]:
        """Watch who is in the way; None for a stranger, who has no lifeline."""
        with kernel_errors(f"wait for {self._what}"):
            line = self._line(obstacle, make=False)
            try:
                watch = line.watch()
            except FileNotFoundError:
                yield None
                return
            with watch:
                yield watch if line.is_held() else None

    def _own_line(self, region: Region) -> Lifeline:
        """The lifeline to hold; it stays until `close`, for making a file costs the most of all."""
        line = self._line(InTheWay(region.file, *self._region, self._shared), make=True)
        if self._kept is not None and self._kept.name != line.name:  # it is another file now
            self._leave()
        self._kept = line
        return line

    def _leave(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with contextlib.suppress(OSError):
                kept.remove_unused()

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_kept", None) is not None:
            self._leave()

    def _line(self, region: InTheWay, *, make: bool) -> Lifeline:
        lines = self._lines
        if lines is None or not lines.is_current():
            lines = self._lines = open_region_lines()
        return region_line(lines, region, make=make)


async def _wait_behind(turn: Turn, watch: Watch | None, pause_s: float) -> float:
    """Wait until it is worth trying again; return how long the pause was, in seconds."""
    if watch is not None:
        await turn.lookout.ready(watch.fileno())
        return 0.0
    pause_s = min(max(_SHORTEST_PAUSE_S, pause_s * 2), _LONGEST_PAUSE_S)
    await asyncio.sleep(pause_s)
    return pause_s


class _HeldRegion(Holding):
    """A locked region, and the lifeline that tells others when it is free."""

    __slots__ = ("_region", "_told")

    def __init__(self, region: Region, line: Lifeline) -> None:
        self._region = region
        # None if somebody looks just now whether he is the last one here: then who waits for
        # this holder has to look for himself.
        self._told: Hold | None = line.try_hold(shared=True)

    def close(self) -> None:
        """Release the region first: who is told finds it free."""
        self._region.close()
        if self._told is not None:
            self._told.close()
