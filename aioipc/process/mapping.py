"""One call for each of many items, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from aioipc.errors import BusyError
from aioipc.limits import check_count
from aioipc.process.batch import Failed, Pace
from aioipc.process.pool import Finished, Pool, pool_of
from aioipc.rpc.parts import Method, Shape

__all__ = ["Results", "imap", "imap_unordered", "map"]

A = TypeVar("A")
R = TypeVar("R")

_CALLS_AHEAD: Final = 2
"""Calls per place in a pool: while one runs, the next one is in line."""


class _Calls(Protocol):
    """How calls are made."""

    runners: int
    """How many tasks make calls."""

    @property
    def at_once(self) -> int:
        """How many calls one of them makes together."""

    @property
    def lookahead(self) -> int:
        """How many items may be ahead of the results that were taken."""

    async def make(self, items: Sequence[Any], finished: Finished) -> None:
        """Call for each item, and say in their order what came of each."""


class _OneByOne:
    """Calls of any function."""

    at_once: Final = 1

    def __init__(self, function: Callable[[Any], Awaitable[Any]], lookahead: int) -> None:
        self._function = function
        self.lookahead: Final = lookahead
        self.runners = lookahead

    async def make(self, items: Sequence[Any], finished: Finished) -> None:
        (item,) = items
        try:
            outcome = await self._function(item)
        except Exception as error:  # noqa: BLE001 - who takes the results raises it
            outcome = Failed(error)
        finished(outcome)


class _InPool:
    """Calls of a method of a pool: as many together as take a moment."""

    def __init__(self, pool: Pool, method: Method, lookahead: int | None) -> None:
        self._pool = pool
        self._method = method
        self._most = lookahead
        self.runners = pool.capacity + pool.size  # so that each worker has one to go on with
        self._messages = _CALLS_AHEAD * pool.size
        self._pace = Pace()
        if lookahead is not None:
            self.runners = min(self.runners, lookahead)
            self._pace = Pace(lookahead // self.runners)

    @property
    def at_once(self) -> int:
        return self._pace.size

    @property
    def lookahead(self) -> int:
        return self._most or max(self.runners, self._messages * self._pace.size)

    async def make(self, items: Sequence[Any], finished: Finished) -> None:
        bind = self._method.bind
        took_s = await self._pool.call_each(
            self._method, [bind((item,), {}) for item in items], finished
        )
        self._pace.took(len(items), took_s)


class Results(AsyncIterator[R], Generic[R]):
    """The results of one call for each item: ``async with`` it, then ``async for`` over it.

    Made by `imap` and `imap_unordered`. At most ``lookahead`` items are ahead of the results
    that were taken, so neither a long list nor a slow reader fills the memory.
    """

    def __init__(
        self,
        calls: _Calls,
        items: Iterable[Any],
        *,
        ordered: bool,
        progress: Callable[[int], object] | None,
        keeps_all: bool = False,
    ) -> None:
        self._calls = calls
        self._keeps_all = keeps_all
        self._items: Iterator[Any] = iter(items)
        self._ordered = ordered
        self._progress = progress
        self._begun = self._taken = self._finished = 0
        self._outcomes: dict[int, R | Failed] = {}
        self._order: collections.deque[int] = collections.deque()
        self._is_over = False
        self._is_entered = False
        self._news: asyncio.Future[None] | None = None
        self._room_waiters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._runners: set[asyncio.Task[None]] = set()

    # Taking

    async def __anext__(self) -> R:
        """Wait for the next result.

        Raises:
            StopAsyncIteration: That was the last one.
            BusyError: Another task is waiting for a result.
            RuntimeError: It was not entered with ``async with``.
            Exception: What the function raised, or the items did.

        Cancellation:
            Safe: the next call gets the result.
        """
        if not self._is_entered:
            raise RuntimeError("enter it first: async with imap(...) as results")
        if self._news is not None:
            raise BusyError("another task is receiving from these results")
        while (number := self._next()) is None:
            if self._is_over or not self._runners:
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        self._taken += 1
        if self._room_waiters:
            _wake(self._room_waiters.popleft())
        outcome = self._outcomes.pop(number)
        if isinstance(outcome, Failed):
            self._is_over = True
            raise outcome.error
        return outcome

    def _next(self) -> int | None:
        """The number of the item whose outcome is the next one, if that is there."""
        if self._is_over:
            return None
        if self._ordered:
            return self._taken if self._taken in self._outcomes else None
        return self._order.popleft() if self._order else None

    # Calling

    async def _run(self) -> None:
        """Make calls, some together and then the next ones."""
        try:
            while self._room() > 0 or await self._has_room():
                first = self._begun
                items = self._next_items()
                if not items:
                    return
                await self._make(first, items)
        finally:
            self._runners.discard(_this_task())
            _wake(self._news)

    def _next_items(self) -> list[Any]:
        """Take as many items as are to be called together, or as there are left."""
        items: list[Any] = []
        try:
            for _ in range(min(self._room(), self._calls.at_once)):
                items.append(next(self._items))  # noqa: PERF401 - those before a failure count
        except StopIteration:
            self._items = iter(())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - who takes the results raises it
            self._items = iter(())
            self._finish(self._begun + len(items), Failed(error))
            self._begun += 1
        self._begun += len(items)
        return items

    async def _make(self, first: int, items: list[Any]) -> None:
        number = first

        def finished(outcome: Any) -> None:
            nonlocal number
            self._finish(number, outcome)
            number += 1

        try:
            await self._calls.make(items, finished)
        except BaseException as error:
            while number < first + len(items):
                finished(Failed(error))
            if not isinstance(error, Exception):
                raise

    async def _has_room(self) -> bool:
        """Wait until another item may be taken; False if none is to be taken any more."""
        while not self._is_over and self._room() <= 0:
            room = asyncio.get_running_loop().create_future()
            self._room_waiters.append(room)
            await room
        return not self._is_over

    def _room(self) -> int:
        """How many more items may be taken, 0 or less if none; none at all once it is over."""
        if self._is_over:
            return 0
        if self._keeps_all:
            return self._calls.at_once
        return self._calls.lookahead - (self._begun - self._taken)

    def _finish(self, number: int, outcome: R | Failed) -> None:
        self._outcomes[number] = outcome
        if not self._ordered:
            self._order.append(number)
        _wake(self._news)
        if not isinstance(outcome, Failed):
            self._finished += 1
            if self._progress is not None:
                self._progress(self._finished)

    # Life cycle

    async def __aenter__(self) -> Self:
        self._is_entered = True
        for _ in range(self._calls.runners):
            runner = asyncio.get_running_loop().create_task(self._run())
            if not runner.done():  # eager tasks may be
                self._runners.add(runner)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the calls that are open. Idempotent.

        Cancellation:
            They are cancelled nevertheless.
        """
        self._is_over = True
        for runner in self._runners:
            runner.cancel()
        if self._runners:
            await asyncio.wait(self._runners)
        _wake(self._news)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "runners are tasks"
    return task


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def imap(
    function: Callable[[A], Awaitable[R]],
    items: Iterable[A],
    *,
    lookahead: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Results[R]:
    """Call a method for each item: ``async with process.imap(model.predict, items) as results``.

    The results come in the order of the items. Leaving cancels the calls that are still open.

    Args:
        function: A method of what `aioipc.process.pool` gave; or any other function to be
            awaited, if ``lookahead`` is given.
        items: Its argument in each call. They are taken as they are needed.
        lookahead: How many items are ahead of the results that were taken; by default as many as
            the pool runs at once and another one for each worker, and more where calls are over
            in less than 2 ms: then some wait in each worker behind the one that runs.
        progress: Called with the number of calls that have succeeded, after each.

    Raises:
        ValueError: ``lookahead`` is missing, or less than 1.
    """
    return _results(function, items, lookahead, ordered=True, progress=progress)


def imap_unordered(
    function: Callable[[A], Awaitable[R]],
    items: Iterable[A],
    *,
    lookahead: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Results[R]:
    """The same as `imap`, but each result comes as soon as it is there."""
    return _results(function, items, lookahead, ordered=False, progress=progress)


async def map(  # noqa: A001 - it is the word for it, in process.map
    function: Callable[[A], Awaitable[R]],
    items: Iterable[A],
    *,
    lookahead: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[R]:
    """Call a method for each item, and return all results in the order of the items.

    Args:
        function: As for `imap`; so are the others.
        items: The same.
        lookahead: How many calls are open at once; by default as for `imap`.
        progress: The same.

    Raises:
        Exception: What the first call that failed, in the order of the items, raised. The
            others are cancelled.

    Cancellation:
        Cancels the calls that are open.
    """
    made = _results(function, items, lookahead, ordered=True, progress=progress, keeps_all=True)
    async with made as results:
        return [result async for result in results]


def _results(
    function: Callable[[A], Awaitable[R]],
    items: Iterable[A],
    lookahead: int | None,
    *,
    ordered: bool,
    progress: Callable[[int], object] | None,
    keeps_all: bool = False,
) -> Results[R]:
    if lookahead is not None:
        lookahead = check_count("lookahead", lookahead, 1)
    calls = _calls(function, lookahead)
    return Results(calls, items, ordered=ordered, progress=progress, keeps_all=keeps_all)


def _calls(function: Callable[[Any], Awaitable[Any]], lookahead: int | None) -> _Calls:
    try:
        pool = pool_of(getattr(function, "__self__", None))
    except TypeError:
        if lookahead is None:
            raise ValueError(f"{function!r} is no method of a pool, so say lookahead=") from None
        return _OneByOne(function, lookahead)
    method = pool.method(function.__name__)
    if method.shape is Shape.CALL and method.is_plain and not method.packs:
        return _InPool(pool, method, lookahead)
    return _OneByOne(function, lookahead or _CALLS_AHEAD * pool.capacity)
