"""Pools: an object in several processes, called as if it were one."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar

from aioipc import rpc
from aioipc.errors import (
    BadArguments,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    QuotaExceeded,
    WorkerDied,
)
from aioipc.limits import Limits
from aioipc.native._calls import Ask
from aioipc.process.batch import EACH, Failed, Took, outcome_of
from aioipc.process.crew import Crew
from aioipc.process.member import Member, Terms
from aioipc.process.setup import Setup
from aioipc.process.target import Target, check_loaded
from aioipc.process.worker import Start
from aioipc.rpc.parts import (
    Method,
    NotBegun,
    OwnCall,
    Repeats,
    ResultStream,
    active_tracing,
    calls_of,
    describe,
    proxy_of,
)
from aioipc.wire.rpc import Code, Raise

__all__ = ["Pool", "PoolOpening", "PoolStatistics", "pool", "pool_of"]

T = TypeVar("T")
Finished = Callable[[Any], object]

_MOST_ATTEMPTS: Final = 3
"""How often a call that may be repeated is made, for it may be what kills the workers."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Figures of a pool since it was opened.

    Attributes:
        workers: Those that serve at present.
        open: Calls that run, that went ahead to a worker, or that were cancelled or taken back
            and have not ended yet.
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
        self._crew = Crew(terms)
        self._repeats = Repeats()
        self._calls = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that serve at present."""
        return self._crew.pids

    @property
    def capacity(self) -> int:
        """How many calls can run at once when all workers are there."""
        return self._terms.size * self._terms.calls_per_worker

    def statistics(self) -> PoolStatistics:
        """The figures of this moment."""
        crew = self._crew
        return PoolStatistics(
            workers=len(crew.pids),
            open=crew.load,
            waiting=crew.waiting,
            calls=self._calls,
            deaths=crew.deaths,
            recycled=crew.recycled,
            killed=crew.killed,
        )

    @property
    def size(self) -> int:
        """How many workers it has when all are there."""
        return self._terms.size

    def method(self, name: str) -> Method:
        """What the interface declares by a name."""
        return describe(self._terms.interface).methods[name]

    @property
    def connection(self) -> NoReturn:
        """There is no such one thing.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a pool has many connections; process.pool_of tells about it")

    # Calling, as a proxy does it

    async def call(
        self,
        method: Method,
        args: tuple[Any, ...],
        *,
        member: Member | None = None,
        attempts: int = _MOST_ATTEMPTS,
    ) -> Any:
        """Call a method in some worker, as soon as one is free.

        Args:
            method: What to call.
            args: All arguments, in the order of the declaration.
            member: A worker that was taken for it.
            attempts: How often it may begin, if it is idempotent.

        Raises:
            PeerCrashed: Its worker died, and the method may have run. One that is
                ``@rpc.idempotent`` was called again before, in another worker.
            WorkerDied: No worker can be started any more.
            Others: As for any call.

        Cancellation:
            Cancels the method. A worker that does not let that happen is killed.
        """
        again = False
        while True:
            if member is None:
                member = self._crew.free() if method.is_plain and not again else None
                if member is None:
                    member = await self._crew.take(ahead=method.is_plain, again=again)
            asked = member.ask(method, args)
            self._calls += 1
            try:
                return await asked
            except (NotBegun, QuotaExceeded, PeerCrashed) as error:
                if _did_not_run(member, asked, error):
                    self._calls -= 1
                    again = True
                else:
                    attempts -= 1
                    await _check_repeats(member, asked, error, attempts)
            member = None

    async def call_each(
        self, method: Method, arguments: Sequence[tuple[Any, ...]], finished: Finished
    ) -> float:
        """Call a method several times, one call after the other in the same worker.

        Args:
            method: What gives one result.
            arguments: Those of each call.
            finished: Called with the outcome of each, in their order: the result, or `Failed`.

        Returns:
            How many seconds it took, without the waits for a worker and in it.

        Raises:
            ClosedError: This side closed the pool.
            WorkerDied: No worker can be started any more.

        Cancellation:
            Cancels those that are not done, as `call` does.
        """
        took_s = 0.0
        next_ = 0
        while next_ < len(arguments):
            member = await self._crew.take()
            began = time.monotonic()
            rest = arguments[next_ : next_ + member.calls_left]
            is_alone = len(rest) == self._terms.calls_per_worker == 1
            if is_alone or active_tracing() is not None:
                finished(await self._one(member, method, arguments[next_]))
                next_ += 1
                took_s += time.monotonic() - began
            else:
                done, seconds = await self._several(member, method, rest, finished)
                next_ += done
                took_s += seconds
        return took_s

    async def _one(
        self,
        member: Member,
        method: Method,
        args: tuple[Any, ...],
        *,
        attempts: int = _MOST_ATTEMPTS,
    ) -> Any:
        """The result of one call, or `Failed`."""
        try:
            return await self.call(method, args, member=member, attempts=attempts)
        except Exception as error:  # noqa: BLE001 - it is told, not raised
            return Failed(error)

    async def _several(
        self,
        member: Member,
        method: Method,
        arguments: Sequence[tuple[Any, ...]],
        finished: Finished,
    ) -> tuple[int, float]:
        """Make some calls in one worker.

        Returns:
            How many of them are done, for it may give some back, and in how many seconds.
        """
        try:
            call = await member.open(EACH, (method.name, arguments), count=len(arguments))
        except PeerCrashed:  # so none of them ran
            member.lost()
            return 0, 0.0
        except (BadArguments, FrameTooLarge):  # fewer may go, and each on its own tells why not
            half = arguments[: len(arguments) // 2]
            if len(half) > 1:
                return await self._several(member, method, half, finished)
            finished(await self._one(member, method, arguments[0]))
            return 1, 0.0
        self._calls += len(arguments)
        done, took_s = 0, 0.0
        outcomes = ResultStream[Any](EACH, functools.partial(_opened, call))
        async with rpc.closing(outcomes):
            try:
                async for together in outcomes:
                    for message in together:
                        if type(message) is Took:
                            took_s = message.seconds
                        else:
                            finished(outcome_of(message, method))
                            done += 1
            except PeerCrashed as error:
                if done < len(arguments) and not call.never_ran:
                    death = await member.death()
                    for args in arguments[done:]:
                        finished(await self._after(death, error, method, args))
                        done += 1
        self._calls -= len(arguments) - done
        return done, took_s

    async def _after(
        self, death: WorkerDied | None, error: PeerCrashed, method: Method, args: tuple[Any, ...]
    ) -> Any:
        """What comes of a call whose worker died: of another one, or `Failed`."""
        if not method.is_idempotent:
            lost = _lost(method, death, error)
            lost.__cause__ = death or error
            return Failed(lost)
        member = await self._crew.take()
        return await self._one(member, method, args, attempts=_MOST_ATTEMPTS - 1)

    async def notify(self, method: Method, args: tuple[Any, ...]) -> None:
        """Call a method whose result nobody wants."""
        missed = self._repeats.of(self.notify, method, args)
        while True:
            member = await self._crew.take()
            try:
                return await member.notify(method, args, missed=missed)
            except PeerCrashed:
                member.lost()

    def stream(self, method: Method, args: tuple[Any, ...]) -> ResultStream[Any]:
        """Call a method that gives a stream, once its first item is asked for."""
        return ResultStream(method, functools.partial(self._open_stream, method, args))

    async def _open_stream(self, method: Method, args: tuple[Any, ...]) -> OwnCall:
        _, call = await self._open(await self._crew.take(), method, args)
        return call

    async def _open(
        self, member: Member, method: Method, args: tuple[Any, ...]
    ) -> tuple[Member, OwnCall]:
        while True:
            try:
                call = await member.open(method, args)
            except PeerCrashed:  # so it did not run
                member.lost()
                member = await self._crew.take()
            else:
                self._calls += 1
                return member, call

    # Life cycle

    async def wait_open(self) -> None:
        """Wait until all workers serve.

        Raises:
            WorkerDied: One of them could not make its object.
            Others: As `aioipc.process.spawn`.
        """
        await self._crew.wait_open()

    async def aclose(self) -> None:
        """Close the pool. Idempotent.

        Calls that are open raise ClosedError, and what they called is cancelled.

        Cancellation:
            Kills the workers at once.
        """
        await self._crew.aclose()
        await self._repeats.wait_over()

    def __repr__(self) -> str:
        return f"<Pool of {self._terms.size} x {self._terms.maker}>"


def _did_not_run(member: Member, asked: Ask, error: IPCError) -> bool:
    """Whether a call that failed did not run, so that it can be made elsewhere."""
    if asked.call is None:
        if isinstance(error, PeerCrashed):
            member.lost()
            return True
        return False
    if asked.call.last is not None:
        is_refused = isinstance(asked.call.last, Raise) and asked.call.last.code == Code.QUOTA
        if is_refused:
            member.refused()
        return is_refused
    return isinstance(error, NotBegun) or asked.call.never_ran


async def _check_repeats(member: Member, asked: Ask, error: IPCError, attempts: int) -> None:
    """Whether a call that was lost may be made so many times more.

    Raises:
        IPCError: It may not, or nothing was lost: the method itself declares the error.
    """
    if asked.call is None or asked.call.last is not None or not isinstance(error, PeerCrashed):
        raise error
    death = await member.death()
    method = asked.method
    if not attempts or not method.is_idempotent or method.upload is not None:
        raise _lost(method, death, error) from (death or error)


async def _opened(call: OwnCall) -> OwnCall:
    if call.never_ran:  # so it is asked for once more
        call.result()
    return call


def _lost(method: Method, death: WorkerDied | None, error: PeerCrashed) -> PeerCrashed:
    if death is None:
        return PeerCrashed(str(error), status=error.status)
    return PeerCrashed(f"{method} may have run: {death}", status=death.status)


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
        calls_per_worker: How many calls a worker runs at once. A plain method runs where the
            worker also receives, so further calls wait in its channel until it returns; more
            than 1 suits methods that await.
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
        TypeError: The interface has methods that cannot be called remotely; or the implementation
            is no function.
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
        start=start or ("forkserver" if setup.what_needs_exec is None else "exec"),
    )
    return PoolOpening(terms, interface)


def pool_of(proxy: object) -> Pool:
    """The pool behind what `pool` gave.

    Raises:
        TypeError: It is something else.
    """
    pool = calls_of(proxy)
    if not isinstance(pool, Pool):
        raise TypeError(f"process.pool gives proxies of pools, and {proxy!r} is another one")
    return pool
