"""aioipc's locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from aioipc.sync import FileLock, Lock
from benchmarks.contender import Loop, Seat
from benchmarks.locks import AwaitedLock


class AioipcLock(AwaitedLock):
    """``async with lock``."""

    family = "aioipc"

    def __init__(self, kind: Callable[[str], Lock | FileLock], name: str, loop: Loop) -> None:
        self.name = f"aioipc {name} ({loop})"
        self.loop = loop
        self.quick = True
        self._kind = kind

    @contextmanager
    def opened(self, seat: Seat) -> Iterator[Lock | FileLock]:
        with closing(self._kind(seat.wiring.lock)) as lock:
            yield lock


CONTENDERS = [
    AioipcLock(kind, kind.__name__, loop)
    for loop in ("uvloop", "asyncio")
    for kind in (Lock, FileLock)
]
