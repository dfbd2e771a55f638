"""One call for each of many items, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from aioipc.errors import BusyError
from aioipc.process.pool import pool_of

__all__ = ["Results", "imap", "imap_unordered", "map"]

A = TypeVar("A")
R = TypeVar("R")

_CALLS_AHEAD: Final = 2
"""Calls per place in a pool: while one runs, the next one is in line."""


class _Failed:
    """What stands in place of a result."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Results(AsyncIterator[R], Generic[R]):
    """The results of one call for each item: ``async with`` it, then ``async for`` over it.

    Made by `imap` and `imap_unordered`. At most ``lookahead`` items are ahead of the results
    that were taken, so neither a long list nor a slow reader fills the memory.
    """

    def __init__(
        self,
        function: Callable[[Any], Awaitable[R]],
        items: Iterable[Any],
        *,
        lookahead: int,
        ordered: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._function = function
        self._items: Iterator[Any] = iter(items)
        self._lookahead = lookahead
        self._ordered = ordered
        self._progress = progress
        self._begun = self._taken = self._finished = 0
        self._outcomes: dict[int, R | _Failed] = {}
        self._order: collections.deque[int] = collections.deque()
        self._is_over = False
        self._is_entered = False
        self._news: asyncio.Future[None] | None = None
        self._room: collections.deque[asyncio.Future[None]] = collections.deque()
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
        if self._room:
            _wake(self._room.popleft())
        outcome = self._outcomes.pop(number)
        if isinstance(outcome, _Failed):
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
        """Make one call after the other."""
        try:
            while await self._has_room():
                number, self._begun = self._begun, self._begun + 1
                try:
                    item = next(self._items)
                except StopIteration:
                    self._begun -= 1
                    return
                except Exception as error:  # noqa: BLE001 - who takes the results raises it
                    self._finish(number, _Failed(error))
                    return
                await self._call(number, item)
        finally:
            self._runners.discard(_this_task())
            _wake(self._news)

    async def _call(self, number: int, item: Any) -> None:
        try:
            outcome: R | _Failed = await self._function(item)
        except BaseException as error:
            self._finish(number, _Failed(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._finish(number, outcome)

    async def _has_room(self) -> bool:
        """Wait until another item may be taken; False if none is to be taken any more."""
        while not self._is_over and self._begun - self._taken >= self._lookahead:
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room
        return not self._is_over

    def _finish(self, number: int, outcome: R | _Failed) -> None:
        self._outcomes[number] = outcome
        self._order.append(number)
        _wake(self._news)
        if not isinstance(outcome, _Failed):
            self._finished += 1
            if self._progress is not None:
                self._progress(self._finished)

    # Life cycle

    async def __aenter__(self) -> Self:
        self._is_entered = True
        for _ in range(self._lookahead):
            self._runners.add(asyncio.get_running_loop().create_task(self._run()))
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
        lookahead: How many items are ahead of the results that were taken; by default twice as
            many as the pool runs at once.
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
        lookahead: The same.
        progress: The same.

    Raises:
        Exception: What the first call that failed, in the order of the items, raised. The
            others are cancelled.

    Cancellation:
        Cancels the calls that are open.
    """
    async with imap(function, items, lookahead=lookahead, progress=progress) as results:
        return [result async for result in results]


def _results(
    function: Callable[[A], Awaitable[R]],
    items: Iterable[A],
    lookahead: int | None,
    *,
    ordered: bool,
    progress: Callable[[int], object] | None,
) -> Results[R]:
    if lookahead is None:
        lookahead = _CALLS_AHEAD * _capacity(function)
    if lookahead < 1:
        raise ValueError(f"lookahead must be at least 1, not {lookahead:,}")
    return Results(function, items, lookahead=lookahead, ordered=ordered, progress=progress)


def _capacity(function: object) -> int:
    try:
        return pool_of(getattr(function, "__self__", None)).capacity
    except TypeError:
        raise ValueError(f"{function!r} is no method of a pool, so say lookahead=") from None
