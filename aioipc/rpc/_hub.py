"""What the two sides of a connection need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Protocol, TypeVar

from aioipc.abc import HasFileno
from aioipc.channel import Channel
from aioipc.native._calls import Ask, News
from aioipc.rpc._parcels import Parcels
from aioipc.rpc._session import Session
from aioipc.wire.rpc import Message

__all__ = ["Hub"]

T = TypeVar("T")


class Hub(Protocol):
    """One connection, as the calling and the called side see it."""

    @property
    def channel(self) -> Channel[Message]: ...
    @property
    def context(self) -> Context: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def session(self) -> Session[Any, Any]: ...

    parcels: Parcels
    ending: BaseException | None
    """Why no other call can be made; None while they can."""

    def proxy(self, interface: Callable[..., T]) -> T:
        """An object whose methods are those of ``interface`` and run on the far side."""

    is_read: bool
    """Whether a task reads for everybody."""
    on_freed: Callable[[], None] | None
    """Told when a call of this side is no longer open."""
    on_finished: Callable[[], None] | None
    """Told when a call of the peer's is over, on the straight way."""
    is_closing: bool
    """Whether other calls of the peer are refused."""
    peer_is_closing: bool
    """Whether the peer takes no other call of this side's."""
    late: int
    """How many messages that the peer causes wait for room."""

    def ask(self, method: Any, args: tuple[Any, ...]) -> Ask:
        """Call a method of the peer's and wait for its result."""

    def recall(self, first: int) -> int:
        """Take back the calls from a number on that the peer has not begun: `CallCore.recall`."""

    def lead(self, call: Any) -> Awaitable[None]:
        """Read for everybody until there is news for a call. Only where nobody else does."""

    def follow(self) -> None:
        """One more waits for news that `wake` tells because of what another task reads."""

    def forget(self, news: News) -> None:
        """Nobody waits for such news any more, whether or not they came."""

    def wake(self, news: News | None) -> bool:
        """Let who waits for such news look again; whether somebody does."""

    def read_on(self) -> None:
        """Let a new task read."""

    def tell(self, message: Message) -> None:
        """Send a message of a few bytes: now if there is room, else as soon as there is."""

    async def send_late(self, message: Message, *, fds: Sequence[HasFileno] = ()) -> None:
        """Send a message that the peer causes and that there is no room for now."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as the connection lives, at most."""

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
