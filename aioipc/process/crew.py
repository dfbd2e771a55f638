"""The workers of a pool: which one is next, and that another one takes the place of who dies."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import anyio

from aioipc.errors import ClosedError, IPCError, PeerCrashed, WorkerDied
from aioipc.loop.line import Line
from aioipc.process.forking import ForkServer
from aioipc.process.member import NO_ROOM, Member, Terms
from aioipc.process.restarts import Restarts, Schedule
from aioipc.process.worker import Start, ended

__all__ = ["Crew"]

log = logging.getLogger("aioipc.process")

_SCHEDULE: Final = Schedule(most=None, first_s=0.05, longest_s=5.0)
_MOST_FALSE_STARTS: Final = 5
_CLOSING_S: Final = 2.0


class Crew:
    """As many workers as the terms say.

    Attributes:
        deaths: Workers that ended by themselves.
        recycled: Workers that were replaced because they had done enough, or grew too large.
        killed: Workers that were killed because they did not end a cancelled call.
    """

    def __init__(self, terms: Terms) -> None:
        self.deaths = self.recycled = self.killed = 0
        self._terms = terms
        self._own_server = ForkServer(terms.setup) if terms.start == "forkserver" else None
        start = terms.start
        self._start: Start = self._own_server or ("exec" if isinstance(start, str) else start)
        self._members: list[Member] = []
        self._line = Line()
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._broken: Exception | None = None
        self._is_open = True
        # Their owner is this object: `aclose` ends them and waits for them.
        self._keepers = [
            asyncio.get_running_loop().create_task(self._keep(number))
            for number in range(1, terms.size + 1)
        ]

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that serve at present."""
        return tuple(member.worker.pid for member in self._members if member.serves)

    @property
    def load(self) -> int:
        """How many calls are open."""
        return sum(member.load for member in self._members)

    @property
    def waiting(self) -> int:
        """How many wait for a worker."""
        return len(self._line.places)

    # Who is next

    async def take(self, *, ahead: bool = False, again: bool = False) -> Member:
        """The freest worker, once there is one and this is the next call in line.

        Args:
            ahead: One will do that can begin the call soon, and give it back before.
            again: It had its turn, and comes before the others.

        Raises:
            ClosedError: This side closed the pool.
            WorkerDied: No worker can be started any more.

        Cancellation:
            Safe.
        """
        look = self._soonest if ahead else self._freest
        member = None if self._line.places else look()
        return await self._line.until(look, again=again) if member is None else member

    def free(self) -> Member | None:
        """As `take` of one that may be ahead, but None if that waits."""
        return None if self._line.places else self._soonest()

    def _freest(self) -> Member | None:
        """One that begins a call at once."""
        freest, room = self._roomiest()
        return freest if room > 0 else None

    def _soonest(self) -> Member | None:
        """One that begins a call at once, or is soon done with what it has."""
        freest, room = self._roomiest()
        if freest is None or room > -freest.ahead:
            return freest
        for member in self._members:
            member.observe()
        return None

    def _roomiest(self) -> tuple[Member | None, int]:
        if not self._is_open or self._broken is not None:
            self._check()
        freest, most = None, NO_ROOM
        for member in self._members:
            room = member.room
            if room > most:
                freest, most = member, room
        return freest, most

    def _check(self) -> None:
        if not self._is_open:
            raise ClosedError("this side closed the pool")
        if self._broken is not None:
            raise _again(self._broken)

    # One worker after the other

    async def _keep(self, number: int) -> None:
        """Have one worker at a time, for as long as the pool is open."""
        restarts = Restarts(_SCHEDULE)
        clock = asyncio.get_running_loop().time
        false_starts = 0
        while self._broken is None:
            began = clock()
            try:
                failure = await self._have_one(number)
            except IPCError as error:  # it could not even be started
                failure = error
            except Exception as error:  # noqa: BLE001 - who waits for a worker raises it
                self._break(error)  # nor could any other: what it is made of cannot be sent
                return
            if failure is None:
                false_starts = 0
                continue
            is_false_start = not isinstance(failure, _DiedServing)
            false_starts = false_starts + 1 if is_false_start else 0
            if is_false_start and (self._is_starting or false_starts > _MOST_FALSE_STARTS):
                self._break(failure)
                return
            self.deaths += 1
            pause_s = restarts.died(clock(), clock() - began) or 0.0
            log.warning("%s; another one starts in %.2f s", failure, pause_s)
            await asyncio.sleep(pause_s)

    async def _have_one(self, number: int) -> IPCError | None:
        """One worker, from its start to its end; None if that was wished for."""
        member = await Member.start(self._terms, number, self._start, self._line.wake_next)
        is_ready = False
        try:
            await member.wait_ready()
            is_ready = True
            self._join(member)
            await member.wait_over()
        except PeerCrashed as error:
            return await member.death() or (
                error if member.worker.status is None else ended(member.worker)
            )
        finally:
            if is_ready:
                self._members.remove(member)
            await member.aclose()
        if member.is_dismissed:
            self.killed += member.was_killed
            self.recycled += not member.was_killed
            return None
        return _DiedServing(str(member.worker.death() or member.worker))

    def _join(self, member: Member) -> None:
        self._members.append(member)
        if self._is_starting and len(self._members) == self._terms.size:
            self._opening.set_result(None)
        self._line.wake()

    def _break(self, failure: Exception) -> None:
        """No worker can be started: nobody is to wait for one."""
        self._broken = failure
        if self._is_starting:
            self._opening.set_result(None)
        self._line.wake()

    @property
    def _is_starting(self) -> bool:
        return not self._opening.done()

    # Life cycle

    async def wait_open(self) -> None:
        """Wait until all workers serve.

        Raises:
            WorkerDied: One of them could not make its object.
            Others: As `aioipc.process.spawn`.
        """
        await self._opening
        self._check()

    async def aclose(self) -> None:
        """End all workers. Idempotent.

        Cancellation:
            Kills them at once.
        """
        self._is_open = False
        self._line.wake()
        try:
            await self._end_keepers()
        except BaseException:
            try:
                with anyio.move_on_after(_CLOSING_S, shield=True):
                    await self._end_keepers()
            finally:  # which asyncio can interrupt all the same
                if self._own_server is not None:
                    self._own_server.kill()
            raise

    async def _end_keepers(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.wait(self._keepers)
        if self._own_server is not None:
            await self._own_server.aclose()


class _DiedServing(IPCError):
    """A worker died that had been ready."""


def _again(error: Exception) -> Exception:
    """The same error for another caller, without the traceback of the one before."""
    if not isinstance(error, IPCError):
        return error.with_traceback(None)
    if isinstance(error, WorkerDied):
        return WorkerDied(
            str(error),
            status=error.status,
            out_of_memory=error.out_of_memory,
            last_lines=error.last_lines,
        )
    return type(error)(*error.args)
