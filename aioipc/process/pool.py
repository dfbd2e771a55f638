"""Pools: an object in several processes, called as if it were one."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar

import anyio

from aioipc.errors import ClosedError, IPCError, PeerCrashed, WorkerDied
from aioipc.limits import Limits
from aioipc.process.forking import ForkServer
from aioipc.process.member import Member, Terms
from aioipc.process.restarts import Restarts, Schedule
from aioipc.process.setup import Setup
from aioipc.process.target import Target, check_loaded
from aioipc.process.worker import Start
from aioipc.rpc._caller import OwnCall
from aioipc.rpc._interface import Method
from aioipc.rpc._proxy import Proxy, proxy_of
from aioipc.rpc._streams import ResultStream

__all__ = ["Pool", "PoolOpening", "PoolStatistics", "pool", "pool_of"]

log = logging.getLogger("aioipc.process")

T = TypeVar("T")

_SCHEDULE: Final = Schedule(most=None, first_s=0.05, longest_s=5.0)
_MOST_FALSE_STARTS: Final = 5
_MOST_ATTEMPTS: Final = 3
"""How often a call that may be repeated is made, for it may be what kills the workers."""

_CLOSING_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Figures of a pool since it was opened.

    Attributes:
        workers: Those that serve at present.
        open: Calls that run, or were cancelled and have not ended yet.
        waiting: Calls that wait for a worker.
        calls: Calls that were given to a worker, repeated ones each time.
        deaths: Workers that ended by themselves.
        recycled: Workers that were replaced because they had done enough, or grew too large.
        killed: Workers that were killed because they did not end a cancelled call.
    """

    workers: int
    open: int
    waiting: int
    calls: int
    deaths: int
    recycled: int
    killed: int


class Pool:
    """Workers that serve the same object, and who of them is called.

    Made by `pool`, which gives a proxy of it; `pool_of` tells its pool.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._own_server = ForkServer() if terms.start == "forkserver" else None
        start = terms.start
        self._start: Start = self._own_server or ("exec" if isinstance(start, str) else start)
        self._members: list[Member] = []
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._broken: IPCError | None = None
        self._is_open = True
        self._calls = self._deaths = self._recycled = self._killed = 0
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
    def capacity(self) -> int:
        """How many calls can run at once when all workers are there."""
        return self._terms.size * self._terms.calls_per_worker

    def statistics(self) -> PoolStatistics:
        """The figures of this moment."""
        return PoolStatistics(
            workers=len(self.pids),
            open=sum(member.load for member in self._members),
            waiting=len(self._waiters),
            calls=self._calls,
            deaths=self._deaths,
            recycled=self._recycled,
            killed=self._killed,
        )

    @property
    def connection(self) -> NoReturn:
        """There is no such one thing.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a pool has many connections; process.pool_of tells about it")

    # Calling, as a proxy does it

    async def call(self, method: Method, args: tuple[Any, ...]) -> Any:
        """Call a method in some worker, as soon as one is free.

        Raises:
            PeerCrashed: Its worker died, and the method may have run. One that is
                ``@rpc.idempotent`` was called again before, in another worker.
            WorkerDied: No worker can be started any more.
            Others: As for any call.

        Cancellation:
            Cancels the method. A worker that does not let that happen is killed.
        """
        attempts = 1
        while True:
            member, call = await self._open(method, args)
            try:
                return await call.caller.outcome(call)
            except PeerCrashed as error:
                if call.error is not error:
                    raise  # the method itself declares it
                death = await member.death()
                repeats = method.is_idempotent and method.upload is None
                if not repeats or attempts == _MOST_ATTEMPTS:
                    raise _lost(method, death, error) from (death or error)
            attempts += 1

    async def notify(self, method: Method, args: tuple[Any, ...]) -> None:
        """Call a method whose result nobody wants."""
        while True:
            member = await self._take()
            try:
                return await member.connection.caller.notify(method, args)
            except PeerCrashed as error:
                member.lost(error)

    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]:
        """Call a method that gives a stream, once its first item is asked for."""
        return ResultStream(method, functools.partial(self._open_stream, method, args))

    async def _open_stream(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        _, call = await self._open(method, args)
        return call

    async def _open(self, method: Method, args: tuple[Any, ...]) -> tuple[Member, OwnCall]:
        while True:
            member = await self._take()
            try:
                call = await member.open(method, args)
            except PeerCrashed as error:  # so it did not run
                member.lost(error)
            else:
                self._calls += 1
                return member, call

    # Who is next, and who does it

    async def _take(self) -> Member:
        """The freest worker, once there is one and this is the next call in line."""
        self._check()
        if not self._waiters and (member := self._freest()) is not None:
            return member
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            while True:
                await waiter
                self._check()
                if (member := self._freest()) is not None:
                    return member
                waiter = asyncio.get_running_loop().create_future()
                self._waiters[0] = waiter  # only the first one is woken
        finally:
            self._waiters.remove(waiter)
            self._wake()

    def _freest(self) -> Member | None:
        free = [member for member in self._members if member.has_room]
        return min(free, key=_load, default=None)

    def _wake(self) -> None:
        """Let the first in line look again."""
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _check(self) -> None:
        if not self._is_open:
            raise ClosedError("this side closed the pool")
        if self._broken is not None:
            raise _again(self._broken)

    # The workers

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
            if failure is None:
                false_starts = 0
                continue
            is_false_start = not isinstance(failure, _DiedServing)
            false_starts = false_starts + 1 if is_false_start else 0
            if is_false_start and (self._is_starting or false_starts > _MOST_FALSE_STARTS):
                self._break(failure)
                return
            self._deaths += 1
            pause_s = restarts.died(clock(), clock() - began) or 0.0
            log.warning("%s; another one starts in %.2f s", failure, pause_s)
            await asyncio.sleep(pause_s)

    async def _have_one(self, number: int) -> IPCError | None:
        """One worker, from its start to its end; None if that was wished for."""
        member = await Member.start(self._terms, number, self._start, self._wake)
        is_ready = False
        try:
            await member.wait_ready()
            is_ready = True
            self._join(member)
            await member.wait_over()
        except PeerCrashed as error:
            return await member.death() or error
        finally:
            if is_ready:
                self._members.remove(member)
            await member.aclose()
        if member.is_dismissed:
            self._killed += member.was_killed
            self._recycled += not member.was_killed
            return None
        return _DiedServing(str(member.worker.death() or member.worker))

    def _join(self, member: Member) -> None:
        self._members.append(member)
        if self._is_starting and len(self._members) == self._terms.size:
            self._opening.set_result(None)
        self._wake()

    def _break(self, failure: IPCError) -> None:
        """No worker can be started: nobody is to wait for one."""
        self._broken = failure
        if self._is_starting:
            self._opening.set_result(None)
        self._wake()

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
        """Close the pool. Idempotent.

        Calls that are open raise ClosedError, and what they called is cancelled.

        Cancellation:
            Kills the workers at once.
        """
        self._is_open = False
        self._wake()
        try:
            await self._end_keepers()
        except BaseException:
            with anyio.move_on_after(_CLOSING_S, shield=True):
                await self._end_keepers()
            raise

    async def _end_keepers(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.wait(self._keepers)
        if self._own_server is not None:
            await self._own_server.aclose()

    def __repr__(self) -> str:
        return f"<Pool of {self._terms.size} x {self._terms.maker}>"


class _DiedServing(IPCError):
    """A worker died that had been ready."""


def _load(member: Member) -> int:
    return member.load


def _lost(method: Method, death: WorkerDied | None, error: PeerCrashed) -> PeerCrashed:
    if death is None:
        return PeerCrashed(str(error), status=error.status)
    return PeerCrashed(f"{method} may have run: {death}", status=death.status)


def _again(error: IPCError) -> IPCError:
    """The same error for another caller, whose traceback is its own."""
    if isinstance(error, WorkerDied):
        return WorkerDied(
            str(error),
            status=error.status,
            out_of_memory=error.out_of_memory,
            last_lines=error.last_lines,
        )
    return type(error)(*error.args)


class PoolOpening(Generic[T]):
    """A pool about to be opened: enter it with ``async with``, which gives the proxy."""

    def __init__(self, terms: Terms, interface: Callable[..., T]) -> None:
        self._terms = terms
        self._interface = interface
        self._pool: Pool | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._start().__await__()

    async def _start(self) -> T:
        self._pool = Pool(self._terms)
        try:
            await self._pool.wait_open()
        except BaseException:
            await self._pool.aclose()
            raise
        proxy: T = proxy_of(self._interface)(self._pool)
        return proxy

    async def __aenter__(self) -> T:
        return await self._start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._pool is not None, "entered before it is left"
        await self._pool.aclose()


def pool(
    implementation: str | Callable[..., object],
    interface: Callable[..., T],
    *,
    size: int | None = None,
    args: tuple[Any, ...] = (),
    calls_per_worker: int = 1,
    max_tasks_per_worker: int | None = None,
    max_memory_bytes: int | None = None,
    cancel_grace_s: float = 1.0,
    limits: Limits | None = None,
    setup: Setup | None = None,
    start: Literal["forkserver"] | Start | None = None,
) -> PoolOpening[T]:
    """Serve an object from several processes: ``async with process.pool(Impl, Model) as model``.

    Each worker makes an object of its own. A call goes to the worker with the fewest calls, and
    waits in line while all have their fill. It may be made by ``async def`` methods and plain
    ones. Who awaits the pool instead closes it with ``await rpc.aclose(model)``.

    Args:
        implementation: A class, or a function that gives the object, ``async`` or not; or
            ``"module:name"``. Workers import it.
        interface: A ``typing.Protocol`` or class that declares what can be called, as for
            `aioipc.rpc.connect`.
        size: How many workers; by default as many as CPUs that this process may use.
        args: Arguments for the implementation, pickled.
        calls_per_worker: How many calls a worker has at once. A plain method runs where the
            worker also receives, so further calls wait in its channel until it returns; more
            than 1 suits methods that await, or are over so soon that the way costs more.
        max_tasks_per_worker: After how many calls a worker is replaced.
        max_memory_bytes: From how much resident memory on it is. It is looked at when calls
            end, ten times a second at most.
        cancel_grace_s: How many seconds a cancelled call may take to end, before its worker is
            killed and replaced. Other calls there raise PeerCrashed then.
        limits: As for `aioipc.connect`.
        setup: Standard streams, environment, name and grace of the workers; by default with
            a grace of 1 s.
        start: "forkserver" to fork workers from a process of the pool's own that has imported
            the implementation, "exec" to start each in a fresh interpreter, or the server of
            `fork_server`. By default "forkserver", and "exec" where the setup has an environment.

    Raises:
        ValueError: A worker could not import the implementation; or a number is out of range.
        TypeError: The interface has methods that cannot be called remotely.
        WorkerDied: A worker could not make its object: the message has the last lines of its
            traceback.
        ResourceExhausted: There are too many processes or descriptors.

    Cancellation:
        Undoes: no process is left.
    """
    check_loaded()
    proxy_of(interface)  # it complains here, where the interface is named
    setup = setup or Setup(grace_s=1.0)
    terms = Terms(
        maker=Target.of(implementation),
        args=args,
        interface=interface,
        size=len(os.sched_getaffinity(0)) if size is None else size,
        calls_per_worker=calls_per_worker,
        max_tasks_per_worker=max_tasks_per_worker,
        max_memory_bytes=max_memory_bytes,
        cancel_grace_s=cancel_grace_s,
        limits=limits,
        setup=setup,
        start=start or ("forkserver" if setup.env is None else "exec"),
    )
    return PoolOpening(terms, interface)


def pool_of(proxy: object) -> Pool:
    """The pool behind what `pool` gave.

    Raises:
        TypeError: It is something else.
    """
    calls = proxy._calls if isinstance(proxy, Proxy) else None
    if not isinstance(calls, Pool):
        raise TypeError(f"process.pool gives proxies, and {proxy!r} is none")
    return calls
