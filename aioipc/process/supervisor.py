"""Supervision: workers that are started again when they die, and replaced without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Final

import anyio
from anyio.abc import AsyncResource

from aioipc._opening import Opening
from aioipc.errors import AccessDenied, ClosedError, IPCError, WorkerDied
from aioipc.kernel.notify import notify, watchdog_s
from aioipc.process.life import Child, Life
from aioipc.process.restarts import Restarts
from aioipc.process.worker import ended
from aioipc.signals import SignalReceiver, receiver

__all__ = ["Supervisor", "supervise"]

log = logging.getLogger("aioipc.process")

_CLOSING_S: Final = 2.0


class _Place:
    """One child, with the life that it leads at present, and the one that is to take its place."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.life: Life | None = None
        self.coming: Life | None = None
        self.changing = asyncio.Lock()
        self.was_ready = False
        self.is_done = False


class Supervisor(AsyncResource):
    """Keeps its children running. Made by `supervise`.

    Attributes:
        restarts: How many times a child was started again because it had ended.
        reloads: How many times a child was replaced by a new one.
    """

    def __init__(self, children: Iterable[Child], signals: SignalReceiver | None) -> None:
        self.restarts = 0
        self.reloads = 0
        self._signals = signals
        self._places = [_Place(child) for child in children]
        self._changed = asyncio.Event()
        self._is_closed = False
        self._draining: set[asyncio.Task[None]] = set()
        # Their owner is this object: `aclose` ends them and waits for them.
        self._keepers = [_start(self._keep(place)) for place in self._places]
        self._helpers = [_start(self._feed_watchdog())]
        if signals is not None:
            self._helpers.append(_start(self._reload_on(signals)))

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each child, in their order; None where none runs just now."""
        return tuple(
            place.life.worker.pid if place.life is not None and not place.life.has_ended else None
            for place in self._places
        )

    def terminate(self) -> None:
        """Ask all that run to end: SIGTERM. Close the supervisor next, or they come back.

        Raises:
            AccessDenied: One of them runs as another user; the others were told.
        """
        with contextlib.ExitStack() as each:
            for place in reversed(self._places):
                if place.life is not None:
                    each.callback(place.life.worker.terminate)

    async def wait_ready(self) -> None:
        """Wait until every child was ready once.

        Raises:
            WorkerDied: One died too often; or with ``restart="never"``, before it was ready.

        Cancellation:
            Safe.
        """
        while not all(place.was_ready or place.is_done for place in self._places):
            self._changed.clear()
            await self._changed.wait()
            self._check()
        self._check()

    async def wait(self) -> None:
        """Wait until no child is to run any more.

        Raises:
            WorkerDied: One died too often, or for good: how it died the last time. If it could
                not be started again after that, the cause says why.

        Cancellation:
            Abandons the wait; the children go on.
        """
        await asyncio.wait(self._keepers, return_when=asyncio.FIRST_EXCEPTION)
        self._check()

    async def reload(self) -> None:
        """Replace every child, one after the other.

        A new worker is started, and once it is ready the old one is asked to finish: its
        channel ends. If the new one dies before, the old one stays.

        Raises:
            ClosedError: The supervisor is closed, or was before all were replaced.

        Cancellation:
            Those not yet replaced stay.
        """
        self._check_open()
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            for place in self._places:
                async with place.changing:
                    if place.life is not None and await place.life.wait_ready():
                        await self._replace(place, place.life)
                    self._check_open()
        finally:
            if not self._is_closed:
                notify("READY=1")

    # The children

    async def _keep(self, place: _Place) -> None:
        """Let one child live as often as it takes.

        Raises:
            WorkerDied: It has died too often.
            IPCError: It could not even be started, the first time.
        """
        restarts = Restarts(place.child.schedule)
        clock = asyncio.get_running_loop().time
        try:
            life = await Life.begin(place.child)
            while True:
                life = await self._live(place, life)
                status = life.worker.status
                assert status is not None, "it has ended"
                death = life.worker.death() or ended(life.worker)
                if not place.child.comes_back(status):
                    if status:
                        raise death
                    return
                lived_s = clock() - life.began
                life = await self._begin_again(place.child, restarts, death, lived_s)
        finally:
            place.is_done = True
            self._changed.set()

    async def _begin_again(
        self, child: Child, restarts: Restarts, death: WorkerDied, lived_s: float
    ) -> Life:
        """Start a child that has died; that it cannot be started is one more death.

        Raises:
            WorkerDied: These were too many.
        """
        clock = asyncio.get_running_loop().time
        failure: IPCError | None = None
        while (pause_s := restarts.died(clock(), lived_s)) is not None:
            log.warning("%s; it is started again in %.2f s", failure or death, pause_s)
            await asyncio.sleep(pause_s)
            try:
                life = await Life.begin(child)
            except IPCError as error:
                failure, lived_s = error, 0.0
            else:
                self.restarts += 1
                return life
        raise death from failure

    async def _live(self, place: _Place, life: Life) -> Life:
        """Wait until a child has ended by itself: it or who took its place."""
        place.life = life
        try:
            if await life.wait_ready():
                place.was_ready = True
                self._changed.set()
            elif not life.has_ended:  # with its channel gone it can never say so
                return life
            while True:
                life = place.life
                await life.worker.wait()
                async with place.changing:
                    if place.life is life:
                        return life
        finally:
            await place.life.aclose()

    async def _replace(self, place: _Place, old: Life) -> None:
        self._check_open()
        try:
            new = place.coming = await Life.begin(place.child)
        except IPCError as error:
            log.error("%s is not replaced: %s", old.worker.name, error)  # noqa: TRY400 - no bug
            return
        try:
            is_ready = await new.wait_ready()
        except BaseException:
            self._drain(new)
            raise
        finally:
            place.coming = None
        self._check_open()  # if not, `aclose` lets it finish
        if not is_ready:
            self._drain(new)
            await asyncio.wait(self._draining)
            death = new.worker.death() or ended(new.worker)
            log.error("%s is not replaced: %s", old.worker.name, death)
            return
        place.life = new
        self.reloads += 1
        self._drain(old)

    def _drain(self, life: Life) -> None:
        """Let one finish; `aclose` waits for that."""
        draining = _start(life.aclose())
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the supervisor is closed")

    def _check(self) -> None:
        for keeper in self._keepers:
            if keeper.done() and not keeper.cancelled():
                keeper.result()

    # Beside them

    async def _reload_on(self, signals: SignalReceiver) -> None:
        async for info in signals:
            log.info("reloading, as process %d wished", info.pid)
            await self.reload()

    async def _feed_watchdog(self) -> None:
        limit_s = watchdog_s()
        while limit_s is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(limit_s / 2)

    # Life cycle

    async def aclose(self) -> None:
        """Ask all children to finish, each within its grace, and wait for that. Idempotent.

        Raises:
            AccessDenied: One of them did not end by itself, and runs as another user: it goes on.

        Cancellation:
            They are killed at once.
        """
        self._is_closed = True
        notify("STOPPING=1")
        for place in self._places:
            if place.coming is not None:
                self._drain(place.coming)
        try:
            await self._end(self._helpers)
            outcomes = await self._end(self._keepers)
            while self._draining:
                outcomes += await asyncio.gather(*self._draining, return_exceptions=True)
        except BaseException:
            with anyio.move_on_after(_CLOSING_S, shield=True):
                await self._end([*self._keepers, *self._draining])
            raise
        finally:
            if self._signals is not None:
                await self._signals.aclose()
        for outcome in outcomes:
            if isinstance(outcome, AccessDenied):
                raise outcome

    async def _end(self, tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


def supervise(
    children: Iterable[Child], *, reload_on: int | None = signal.SIGHUP
) -> Opening[Supervisor]:
    """Keep workers running: ``async with process.supervise([Child(target=serve)]) as supervisor``.

    It is open once every child was ready. Each is restarted by its own schedule, without the
    others (one for one). A service manager of systemd's kind is told when it is ready, reloads
    and stops, and that it is alive, if it wants to know.

    Args:
        children: What to run; several processes of a kind are several of them.
        reload_on: The signal that makes it `Supervisor.reload`; None for none.

    Raises:
        WorkerDied: A child died too often before it was ready.
        Others: As `aioipc.process.spawn`, where a child cannot be started at all.
        BusyError: Something else in this process receives the signal.

    Cancellation:
        Undoes: no process is left.
    """
    wanted = list(children)
    if not wanted:
        raise ValueError("supervise() takes at least one child")
    for child in wanted:
        if not isinstance(child, Child):
            raise TypeError(f"supervise() takes process.Child(...), not {child!r}")

    async def open_() -> Supervisor:
        signals = None if reload_on is None else await receiver(reload_on, allow_threads=True)
        supervisor = Supervisor(wanted, signals)
        try:
            await supervisor.wait_ready()
        except BaseException:
            with contextlib.suppress(IPCError):
                await supervisor.aclose()
            raise
        notify("READY=1")
        return supervisor

    return Opening(open_)
