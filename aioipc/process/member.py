"""One worker of a pool, with the calls that are open there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from aioipc import rpc
from aioipc.errors import PeerCrashed, WorkerDied
from aioipc.kernel.usage import resident_bytes
from aioipc.limits import Limits, check_count
from aioipc.native._calls import Ask, News
from aioipc.process.batch import Pace
from aioipc.process.service import serve
from aioipc.process.setup import Setup
from aioipc.process.target import Target
from aioipc.process.worker import Start, Worker, spawn
from aioipc.rpc.parts import INTERFACE_QUESTION, Method, OwnCall

__all__ = ["NO_ROOM", "Member", "Terms"]

log = logging.getLogger("aioipc.process")

_DYING_S: Final = 1.0
"""How long a worker that broke its connection may take to end."""

_BETWEEN_LOOKS_S: Final = 0.1

NO_ROOM: Final = -sys.maxsize
"""What `Member.room` is where there is none whatsoever."""

_MOST_AHEAD: Final = 64
_OBSERVED_CALLS: Final = 8
"""After how many ends of calls, under load, it is settled how many go ahead."""

_STUCK_S: Final = 0.01
"""After how long without an outcome a worker has to give back what it has not begun."""

_WARY_CALLS: Final = 1_000
"""For how many calls nothing goes ahead to a worker that had to refuse some."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every worker of a pool: see `aioipc.process.pool`."""

    maker: Target
    args: tuple[Any, ...]
    interface: Callable[..., Any]
    size: int
    calls_per_worker: int
    max_tasks_per_worker: int | None
    max_memory_bytes: int | None
    cancel_grace_s: float
    limits: Limits | None
    setup: Setup
    start: Literal["forkserver"] | Start

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: It does not.
        """
        most_calls = (self.limits or Limits()).max_calls
        check_count("size", self.size, 1, 1024)
        if not 1 <= self.calls_per_worker <= most_calls:
            raise ValueError(
                f"calls_per_worker must be between 1 and limits.max_calls, {most_calls:,}, "
                f"not {self.calls_per_worker:,}"
            )
        for name in ("max_tasks_per_worker", "max_memory_bytes"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, 1)
        if not self.cancel_grace_s >= 0:  # nor NaN
            raise ValueError(f"cancel_grace_s must be 0 or more, not {self.cancel_grace_s:g}")


class Member:
    """A worker of a pool.

    Attributes:
        worker: The process.
        connection: To the object that it serves.
        ahead: How many calls it may have beyond those that run, to begin them without waiting
            for this side. They can be taken back.
        is_dismissed: Whether its end was wished for here: it had done enough, or it would not
            give up a call that was cancelled.
        was_killed: Whether it would not.
    """

    def __init__(self, worker: Worker, terms: Terms, freed: Callable[[], object]) -> None:
        self.worker = worker
        self.connection = rpc.Connection(worker.channel, connected=True)
        self._caller = self.connection.caller
        self._caller.watch(self)
        self.ahead = 0
        self.is_dismissed = False
        self.was_killed = False
        self._terms = terms
        self._calls_at_once = terms.calls_per_worker
        self._calls = self.connection.session.calls
        self._tell_freed = freed
        self._taken = 0
        self._most_taken = terms.max_tasks_per_worker or sys.maxsize
        self._looked_at = 0.0
        self._takes_calls = True
        self._over = asyncio.Event()
        self._unsettled = 0
        self._settling: set[News] = set()
        self._ended = 0
        self._pace = Pace(1 + _MOST_AHEAD)
        self._observed: tuple[int, float] | None = None
        self._wary_until = 0
        self._recalled: set[int] = set()
        self._stuck_timer: asyncio.TimerHandle | None = None
        worker.when_ended(self.lost)

    @classmethod
    async def start(
        cls, terms: Terms, number: int, start: Start, freed: Callable[[], object]
    ) -> Member:
        """Start a worker, which will serve once it has made its object."""
        setup = terms.setup
        name = setup.name or terms.maker.function
        worker = await spawn(
            serve,
            terms.maker,
            terms.args,
            terms.interface,
            terms.calls_per_worker,
            codec=rpc.CODEC,
            limits=terms.limits,
            setup=replace(setup, name=f"{name}-{number}"),
            start=start,
        )
        return cls(worker, terms, freed)

    async def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            PeerCrashed: It died before.
        """
        await self.connection.caller.call(INTERFACE_QUESTION, ())

    async def wait_over(self) -> None:
        """Wait until it can take no other call, and none is open."""
        await self._over.wait()

    def lost(self) -> None:
        """It is gone, or nothing can be sent to it; but its answers are still to be read."""
        if self._takes_calls:
            self._takes_calls = False
            if self.connection.ending is None:
                _ = self.connection.start(self._hear_out())
            else:
                self._over.set()

    async def _hear_out(self) -> None:
        """Let somebody read until nothing more comes."""
        try:
            async with asyncio.timeout(_DYING_S):
                while self.connection.ending is None:
                    await self._wait_freed()
        except TimeoutError:
            self.connection.end(PeerCrashed(f"{self.worker} cannot be reached any more"))

    def _end(self) -> None:
        self._takes_calls = False
        self._over.set()

    @property
    def load(self) -> int:
        """How many calls are open there, or about to be; also those cancelled that still run."""
        return len(self._calls) + self._caller.packing

    @property
    def serves(self) -> bool:
        """Whether it is there, as far as this side has heard."""
        return self.connection.ending is None and self.worker.status is None

    @property
    def room(self) -> int:
        """How many more calls would run at once; less than 0 if so many would have to wait.

        `NO_ROOM` while it has to end one that was cancelled, as it may be about to be killed for
        that, and while it has not refused all that were taken back.
        """
        if self.is_dismissed or self._unsettled or self._recalled or not self._takes_calls:
            return NO_ROOM
        return self._calls_at_once - len(self._calls) - self._caller.packing

    @property
    def calls_left(self) -> int:
        """How many calls it may still take before it is replaced."""
        return self._most_taken - self._taken

    def ask(self, method: Method, args: tuple[Any, ...]) -> Ask:
        """Call a method there and wait for its result: `CallCore.ask`."""
        self._count(1)
        if len(self._calls) >= self._calls_at_once:
            self._go_ahead()
        return self.connection.ask(method, args)

    async def open(self, method: Method, args: tuple[Any, ...], *, count: int = 1) -> OwnCall:
        """Make a call there, which counts as so many; see `Connection.caller`."""
        call = await self.connection.caller.open(method, args)
        self._made(count)
        return call

    async def notify(
        self, method: Method, args: tuple[Any, ...], *, missed: Callable[[], object] | None
    ) -> None:
        """Call a method there whose result nobody wants: `Caller.notify`."""
        await self.connection.caller.notify(method, args, missed=missed)
        self._made(1)

    def _made(self, calls: int) -> None:
        self._count(calls)
        self._part()  # they may have ended already

    def _count(self, calls: int) -> None:
        """It gets so many calls; after the last one that it may have, it gets no other."""
        self._taken += calls
        if self._taken >= self._most_taken:
            self.is_dismissed = True

    def _part(self) -> None:
        """End it if that is wished for and no call is open."""
        if self.is_dismissed and not self.load:
            self._end()

    # Calls ahead

    def observe(self) -> None:
        """Callers wait: see how long a call takes, for some of the next ones to go ahead."""
        if self._observed is None and self._ended >= self._wary_until:
            self._observed = self._ended, self.connection.loop.time()

    def _conclude(self, ended: int, began_s: float) -> None:
        self._observed = None
        self._pace.took(self._ended - ended, self.connection.loop.time() - began_s)
        self.ahead = self._pace.size - 1

    def refused(self) -> None:
        """It could not begin what went ahead, for it runs methods that wait for something."""
        self._stop_ahead()
        self._wary_until = self._ended + _WARY_CALLS

    def _stop_ahead(self) -> None:
        self.ahead = 0
        self._observed = None
        self._pace = Pace(1 + _MOST_AHEAD)

    def _go_ahead(self) -> None:
        """Calls have to wait there: see to it that they can be taken back."""
        if not self.connection.is_read:
            self.connection.read_on()  # a caller that reads could not be woken
        if self._stuck_timer is None:
            self._watch_progress()

    def _watch_progress(self) -> None:
        self._stuck_timer = self.connection.loop.call_later(_STUCK_S, self._look, self._ended)

    def _look(self, ended: int) -> None:
        """Take back what goes ahead where nothing has ended for a while."""
        self._stuck_timer = None
        if len(self._calls) <= self._calls_at_once or not self._takes_calls:
            return
        if self._ended == ended:
            self._stop_ahead()
            self._recall()
        else:
            self._watch_progress()

    def _recall(self) -> None:
        """Take back the calls that have not begun: they are made elsewhere."""
        if self._recalled:
            return  # what there was
        calls = [*itertools.takewhile(_can_be_recalled, reversed(self._calls.values()))]
        if calls:
            begun = self.connection.recall(calls[-1].id)
            calls = [*itertools.takewhile(lambda call: call.id > begun, calls)]
            self._recalled = {call.id for call in calls}
            for call in calls:  # the last one first, so that it stands in line behind the others
                call.take_back()
            if calls:
                _ = self.connection.start(self._wait_refused())

    async def _wait_refused(self) -> None:
        """Let somebody read until it has refused all that were taken back."""
        while self._recalled:
            await self._wait_freed()

    async def death(self) -> WorkerDied | None:
        """How it died, after a moment in which it may still do so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DYING_S):
                await self.worker.wait()
        return self.worker.death()

    async def aclose(self) -> None:
        """Close the connection, and see the worker off.

        Cancellation:
            It is killed at once.
        """
        try:
            has_broken = self.connection.ending is not None
            await self.connection.aclose()
            if has_broken and self.worker.status is None:
                _ = await self.death()
                self.worker.kill()
        finally:
            await self.worker.aclose()

    # What its calls tell their observer

    def freed(self) -> None:
        """One call or more are no longer open."""
        self._ended += 1
        if self._observed is not None and self._ended >= self._observed[0] + _OBSERVED_CALLS:
            self._conclude(*self._observed)
        if self._recalled:
            self._recalled.intersection_update(self._calls)
        for waiter in self._settling:
            self.connection.wake(waiter)
        if self._terms.max_memory_bytes is not None and not self.is_dismissed:
            self._look_at_memory(self._terms.max_memory_bytes)
        if self.connection.ending is not None:
            self._end()
        else:
            self._part()
        self._tell_freed()

    def cancelled(self, call: OwnCall) -> None:
        """A call was given up here: see to it that it ends there, or never begins."""
        self._recall()
        if call.id in self._recalled:
            return
        self._unsettled += 1
        _ = self.connection.start(self._settle(call))

    async def _settle(self, call: OwnCall) -> None:
        """Wait until a cancelled call has ended; kill the worker that does not let it."""
        grace_s = self._terms.cancel_grace_s
        try:
            async with asyncio.timeout(grace_s):
                while call.id in self._calls:
                    await self._wait_freed()
        except TimeoutError:
            log.warning(
                "%s %d was killed: %s went on for %g s after it was cancelled",
                *(self.worker.name, self.worker.pid, call.method, grace_s),
            )
            self.is_dismissed = self.was_killed = True
            self.worker.kill()
        finally:
            self._unsettled -= 1
            self._tell_freed()

    async def _wait_freed(self) -> None:
        waiter = News(self.connection.loop)
        self._settling.add(waiter)
        self.connection.follow()
        try:
            await waiter
        finally:
            self.connection.forget(waiter)
            self._settling.discard(waiter)

    def _look_at_memory(self, most_bytes: int) -> None:
        now = self.connection.loop.time()
        if now - self._looked_at >= _BETWEEN_LOOKS_S:
            self._looked_at = now
            self.is_dismissed = resident_bytes(self.worker.pid) > most_bytes


def _can_be_recalled(call: OwnCall) -> bool:
    """Whether it can be made anew, and who waits for it be told to."""
    return call.method.is_plain and (call.is_cancelled or call.waiter is not None)
