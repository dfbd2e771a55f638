"""Message queues of the kernel: the bare libraries' calls that do not wait, and ours; mailboxes.

One process puts messages in and takes them out again, so that nobody ever waits: what is measured
is what the calls cost.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import posix_ipc
import sysv_ipc

from aioipc import queues
from benchmarks.contender import Contender, Flow, Gauge, Loop, Plan, Seat, Wiring

FEW = 8
"""Messages that are in the queue at once: a POSIX queue holds ten by default."""

_KEY = 0x62000000


class KernelQueueContender(Contender):
    """A queue with a name of this run; who fills it removes it."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        name = f"/{folder.name}" if self.scheme == "mq" else hex(_KEY + os.getpid() % 0x1000000)
        yield name, name

    def stand_by(self, seat: Seat) -> None:
        """The other process has nothing to do."""
        seat.wait()


class BareQueue(KernelQueueContender):
    """posix_ipc or sysv_ipc, called directly, without waiting."""

    family = "reference"

    def __init__(self, scheme: str, library: str) -> None:
        super().__init__(scheme)
        self.name = f"bare {library}"

    def shuttle(self, seat: Seat) -> Flow:
        """Put some, take them out."""
        gauge = Gauge(seat, 1)
        with _opened(self.scheme, seat.wiring) as (put, take):
            seat.announce("listening")
            _shuttle(put, take, seat.plan.warming())
            gauge.warm()
            gauge.start()
            gauge.stop(_shuttle(put, take, seat.plan.measured()))
        return gauge.flow()


def _shuttle(put: Callable[[Any], Any], take: Callable[[], Any], messages: Iterator[Any]) -> Any:
    last = None
    while some := list(islice(messages, FEW)):
        for message in some:
            put(message)
        for _ in some:
            last = take()[0]
    return last


@contextmanager
def _opened(scheme: str, name: str) -> Iterator[tuple[Callable[[Any], Any], Callable[[], Any]]]:
    if scheme == "mq":
        posix = posix_ipc.MessageQueue(name, posix_ipc.O_CREX)
        posix.block = False
        try:
            yield posix.send, posix.receive
        finally:
            posix.unlink()
            posix.close()
    else:
        sysv = sysv_ipc.MessageQueue(int(name, 16), sysv_ipc.IPC_CREX)
        try:
            yield (lambda message: sysv.send(message, False)), (lambda: sysv.receive(False))
        finally:
            sysv.remove()


class AioipcQueue(KernelQueueContender):
    """``queues.open``."""

    family = "aioipc"

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(scheme)
        self.name = f"aioipc {scheme} queue ({loop})"
        self.loop = loop
        self.quick = loop == "uvloop"

    async def shuttle(self, seat: Seat) -> Flow:
        """Put some, take them out."""
        gauge = Gauge(seat, 1)
        async with self._opened(seat) as (put, get):
            seat.announce("listening")
            await _shuttle_async(put, get, seat.plan.warming())
            gauge.warm()
            gauge.start()
            gauge.stop(await _shuttle_async(put, get, seat.plan.measured()))
        return gauge.flow()

    @asynccontextmanager
    async def _opened(self, seat: Seat) -> AsyncIterator[tuple[Any, Any]]:
        async with queues.open(f"{self.scheme}:{seat.wiring}", create=True, codec="raw") as queue:
            try:
                yield queue.put, queue.get
            finally:
                queue.unlink()


class AioipcMailbox(AioipcQueue):
    """Two mailboxes of one process: what is sent goes through a socket and is verified."""

    pace = 0.2

    def __init__(self, loop: Loop) -> None:
        super().__init__("mailbox", loop)
        self.name = f"aioipc mailbox ({loop})"

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        yield folder.name, folder.name

    @asynccontextmanager
    async def _opened(self, seat: Seat) -> AsyncIterator[tuple[Any, Any]]:
        names = f"{seat.wiring}-a", f"{seat.wiring}-b"
        async with (
            queues.mailbox(names[0], codec="raw") as sender,
            queues.mailbox(names[1], codec="raw") as owner,
        ):

            async def receive() -> Any:
                return (await owner.receive()).value

            yield functools.partial(sender.send, names[1]), receive


async def _shuttle_async(put: Any, get: Any, messages: Iterator[Any]) -> Any:
    last = None
    while some := list(islice(messages, FEW)):
        for message in some:
            await put(message)
        for _ in some:
            last = await get()
    return last


LOOPS: tuple[Loop, ...] = ("uvloop", "asyncio")

CONTENDERS: list[Contender] = [
    BareQueue("mq", "posix_ipc"),
    BareQueue("sysv", "sysv_ipc"),
    *(AioipcQueue(scheme, loop) for scheme in ("mq", "sysv") for loop in LOOPS),
    *(AioipcMailbox(loop) for loop in LOOPS),
]
