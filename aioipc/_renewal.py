"""One connection after the other, for clients that outlive their server."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Generic, Protocol, TypeVar

from aioipc.channel import Channel
from aioipc.errors import (
    AccessDenied,
    ClosedError,
    CodecMismatch,
    ConnectError,
    EndOfStream,
    PeerCrashed,
    VersionMismatch,
)

__all__ = ["REFUSALS", "Renewable", "Renewal", "was_met"]

log = logging.getLogger("aioipc.reconnect")

_is_renewing: ContextVar[bool] = ContextVar("aioipc_renewing", default=False)

REFUSALS: Final = (AccessDenied, CodecMismatch, VersionMismatch)
"""How a peer ends a connection that it will not have: the next one would be no better."""

_PASSING: Final = (ConnectError, EndOfStream, PeerCrashed)
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


def was_met(channel: Channel[Any]) -> bool:
    """Whether the far side may have taken anything of what was sent: before that it says HELLO.

    What was said on this machine arrives, whatever becomes of who said it.
    """
    greeted: bool = channel.port.greeted
    return greeted or channel.peer is None


class Renewable(Protocol):
    """What can end, and be made anew."""

    @property
    def ending(self) -> BaseException | None:
        """Why it is of no more use; None while it is."""

    @property
    def peer_is_closing(self) -> bool:
        """Whether the far side takes nothing else over it, but ends what is begun."""

    @property
    def was_answered(self) -> bool:
        """Whether the far side ever said anything over it."""

    async def wait_idle(self) -> None:
        """Wait until nothing that was begun over it is left, or it has ended."""

    async def aclose(self) -> None:
        """Close it. Idempotent."""


R = TypeVar("R", bound=Renewable)


class Renewal(Generic[R]):
    """Keeps one connection, and makes another when it has ended and somebody needs it.

    One whose far side is closing is kept beside the next one until it is idle.

    Args:
        open_: Makes a connection.
        first: The first one.

    Raises:
        ImportError: stamina, which spreads the attempts, is not installed.
    """

    def __init__(self, open_: Callable[[], Awaitable[R]], first: R) -> None:
        # An extra: who does not reconnect does not need it.
        import stamina  # noqa: PLC0415

        # It warns of every attempt, and not of what.
        logging.getLogger("stamina").addFilter(_is_not_ours)
        self._attempts = functools.partial(
            stamina.retry_context,
            on=_PASSING,
            attempts=None,
            timeout=None,
            wait_initial=_FIRST_PAUSE_S,
            wait_max=_LONGEST_PAUSE_S,
            wait_jitter=_FIRST_PAUSE_S,
        )
        self._open = open_
        self._lock = asyncio.Lock()
        self._trying: asyncio.Timeout | None = None
        self._is_closed = False
        self._pause_s = 0.0
        self._retired: dict[R, asyncio.Task[None]] = {}
        self.current = first
        """The present connection, or the last one."""

    async def get(self) -> R:
        """The present connection, or another one once there is one.

        Raises:
            ClosedError: This side closed it.

        Cancellation:
            Safe: somebody else makes the connection.
        """
        if self._is_usable():
            return self.current
        async with self._lock:
            self.check_open()
            if not self._is_usable():
                await self._retire(self.current)
                self.check_open()
                await self._renew()
        return self.current

    def _is_usable(self) -> bool:
        return self.current.ending is None and not self.current.peer_is_closing

    async def _retire(self, connection: R) -> None:
        if connection.ending is not None:
            await connection.aclose()
        elif connection not in self._retired:
            task = asyncio.get_running_loop().create_task(_see_off(connection))
            self._retired[connection] = task
            task.add_done_callback(lambda _: self._retired.pop(connection))

    async def _renew(self) -> None:
        token = _is_renewing.set(True)
        try:
            async with asyncio.timeout(None) as self._trying:
                await self._pause()
                async for attempt in self._attempts():
                    with attempt:
                        self.current = await self._try(attempt.num)
        except TimeoutError:
            self.check_open()
            raise
        finally:
            self._trying = None
            _is_renewing.reset(token)

    async def _try(self, number: int) -> R:
        token = _is_renewing.set(False)  # what a connection runs inherits this
        try:
            return await self._open()
        except _PASSING as error:
            if number == 1:
                log.info("trying again until somebody is there: %s", error)
            raise
        finally:
            _is_renewing.reset(token)

    async def _pause(self) -> None:
        """Wait, each time longer, while servers accept connections and drop them unanswered."""
        if self.current.was_answered:
            self._pause_s = 0.0
            return
        await asyncio.sleep(self._pause_s + random.uniform(0, _FIRST_PAUSE_S))  # noqa: S311
        self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    async def aclose(self) -> None:
        """Close the connection for good; who waits for another gets ClosedError. Idempotent."""
        if self._trying is not None and not self._is_closed:
            self._trying.reschedule(0)
        self._is_closed = True
        async with self._lock:
            await self.current.aclose()
        for task in self._retired.values():
            task.cancel()
        if self._retired:
            await asyncio.wait(self._retired.values())

    def check_open(self) -> None:
        """Refuse to go on where this side has closed it.

        Raises:
            ClosedError: It has.
        """
        if self._is_closed:
            raise ClosedError("this side closed the connection") from None


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _is_renewing.get()


async def _see_off(connection: Renewable) -> None:
    try:
        await connection.wait_idle()
    finally:
        await connection.aclose()
