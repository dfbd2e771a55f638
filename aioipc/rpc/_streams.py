"""Streams that belong to calls: what the near end iterates over."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from aioipc.errors import BadArguments, BusyError
from aioipc.native._calls import News
from aioipc.rpc._interface import Method
from aioipc.wire.rpc import WIDEST_WINDOW, WINDOW, Incoming

__all__ = ["Items", "ResultStream", "Upload", "closing"]

T = TypeVar("T")
_SHORT_BYTES: Final = 4096
"""Of items up to this the widest window may wait, so that sides that keep up wait for no credit."""


class Items:
    """Items that arrived and were not taken yet, and when to grant credit for others."""

    __slots__ = ("_left", "arrived")

    def __init__(self) -> None:
        self.arrived: collections.deque[Any] = collections.deque()
        """As `msgspec.Raw`, or `Enclosed` with what came along."""
        self._left = WINDOW // 2
        """Items to take before the next look at the credit."""

    def take(self, credit: int) -> tuple[Any, int]:
        """The oldest item, and how much credit to grant.

        Args:
            credit: How many more may come as it is.
        """
        item = self.arrived.popleft()
        self._left -= 1
        if self._left:
            return item, 0
        is_short = isinstance(item, msgspec.Raw) and len(item) <= _SHORT_BYTES
        window = WIDEST_WINDOW if is_short else WINDOW
        self._left = window // 2
        return item, max(0, window - credit - len(self.arrived))


class StreamCall(Protocol):
    """The call of a stream, seen from the side that made it."""

    items: Items | None
    credit: int
    never_ran: bool
    """Whether it came to nothing before the far side began it."""

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""

    def result(self) -> Any:
        """Raise how it failed, if it did."""

    def news(self) -> Awaitable[None]:
        """What to wait for, at once, until something may have happened to it."""

    def abandon(self) -> None:
        """Nobody waits for `news` any more."""

    def grant(self, items: int) -> None:
        """Let so many more items come."""

    def cancel(self) -> None:
        """Give it up. Idempotent."""

    def cancel_soon(self) -> None:
        """As `cancel`, from any thread and from within anything."""


class ResultStream(AsyncIterator[T], Generic[T]):
    """The items of a call that gives a stream: ``async for item in store.watch("a/")``.

    The call is made when the first item is asked for. Leaving the loop early leaves the method
    running on the far side until this object is gone; `aioipc.rpc.closing` and `aclose` close it
    there at once.
    """

    def __init__(self, method: Method, open_: Callable[[], Awaitable[StreamCall]]) -> None:
        self._open = open_
        self._method = method
        self._call: StreamCall | None = None
        self._is_over = False
        self._is_taken = False

    async def __anext__(self) -> T:
        """Wait for the next item.

        Raises:
            StopAsyncIteration: The method is done.
            BusyError: Another task is waiting for an item.
            RPCError: The call failed; further kinds as for any call.

        Cancellation:
            Safe: the next call gets the item. While the first one is being made, it gives the
            call up.
        """
        if self._is_over:
            raise StopAsyncIteration
        if self._is_taken:
            raise BusyError(f"another task is receiving from this stream of {self._method}")
        self._is_taken = True
        try:
            call = self._call
            if call is None:
                call = self._call = await self._open()
            items = call.items
            assert items is not None, "it is the call of a stream"
            while not items.arrived:
                if call.never_ran and self._method.upload is None:
                    call = self._call = await self._open()  # another connection may take it
                    items = call.items
                    assert items is not None, "as above"
                    continue
                if call.is_done:
                    self._is_over = True
                    call.result()
                    raise StopAsyncIteration
                try:
                    await call.news()
                except BaseException:
                    call.abandon()
                    raise
            item, granted = items.take(call.credit)
            if granted and not call.is_done:
                call.grant(granted)
            value: T = self._method.decode_result(item)
            return value
        finally:
            self._is_taken = False

    async def aclose(self) -> None:
        """Give the rest of the stream up; the method is closed on the far side. Idempotent.

        Raises:
            BusyError: Another task is waiting for an item. Nothing changed.
        """
        if self._is_taken:
            raise BusyError(f"another task is receiving from this stream of {self._method}")
        self._is_over = True
        if self._call is not None:
            self._call.cancel()

    def __del__(self) -> None:
        if self._call is not None and not self._is_over and not self._call.is_done:
            # Whoever collects this may be another thread, or in the middle of anything.
            self._call.cancel_soon()


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Leave a stream of results for good: ``async with rpc.closing(store.watch()) as changes``.

    On leaving, the method is closed on the far side.
    """
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


class Upload(AsyncIterator[Any]):
    """The stream that a caller passes as an argument, where the method runs.

    Args:
        call: The call that it belongs to.
        method: Its declaration.
        grant: Lets so many more items come.
    """

    def __init__(self, call: Incoming, method: Method, grant: Callable[[int], None]) -> None:
        self._call = call
        self._method = method
        self._grant = grant
        self.items = Items()
        self.error: BaseException | None = None
        self.refused: BadArguments | None = None
        self._waiter: News | None = None

    async def __anext__(self) -> Any:
        """Wait for the next item.

        Raises:
            StopAsyncIteration: The caller sent all of them.
            BadArguments: The item is not of the declared type.
            BusyError: Another task is waiting for an item.
            ClosedError: The method has ended before the stream.
            RemoteCancelled: The caller has given the call up.
            PeerCrashed: The caller is gone.

        Cancellation:
            Safe: the next call gets the item.
        """
        if self._waiter is not None:
            raise BusyError(f"another task is receiving from this stream of {self._method}")
        while not self.items.arrived:
            if self.error is not None:
                raise self.error.with_traceback(None)
            if not self._call.is_uploading:
                raise StopAsyncIteration
            self._waiter = News(asyncio.get_running_loop())
            try:
                await self._waiter
            finally:
                self._waiter = None
        item, granted = self.items.take(self._call.credit)
        if granted and self._call.is_uploading:
            self._grant(granted)
        try:
            return self._method.decode_item(item)
        except BadArguments as error:
            self.refused = error
            raise

    def arrive(self, item: Any) -> None:
        """Take in an item."""
        self.items.arrived.append(item)
        self.wake()

    def cut(self, error: BaseException) -> None:
        """Say why no more items come, unless all of them have come."""
        is_cut = self._call.is_uploading or self._call.is_cancelled
        if is_cut and self.error is None:
            self.error = error
        self.wake()

    def wake(self) -> None:
        """There is news: an item, the end, or an error."""
        if self._waiter is not None:
            self._waiter.wake()
