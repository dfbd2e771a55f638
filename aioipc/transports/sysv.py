"""``sysv:`` System V message queues, by key: msgget(2).

As with ``mq:`` there are no connections, and a message is what the codec wrote. ``connect`` sends
with type 1; ``listen`` receives every type. The kernel gives no descriptor for such a queue, so a
thread looks at it while somebody waits (`aioipc.loop.pump`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from aioipc.abc import Allow, Buffer, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.errors import IPCError
from aioipc.kernel.credentials import refuse_allow
from aioipc.kernel.sysv_queue import SysvQueue, open_or_make_sysv_queue, open_sysv_queue
from aioipc.limits import Limits
from aioipc.loop.pump import Watched, pump
from aioipc.transports._single import SingleAcceptor

__all__ = ["CAPABILITIES", "SysvTransport", "connect", "listen"]

CAPABILITIES = Capability.MESSAGE | Capability.BACKPRESSURE

_Callback = Callable[[], object]
_PLAIN_TYPE = 1
_REMOVED = -1
_TRY_EVERY_S = 0.02


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> SysvTransport:
    """Open a queue to send to.

    Raises:
        ConnectError: There is no such queue.
        AccessDenied: Another user owns it.
        AddressError: sysv_ipc, an extra, is not installed.
    """
    refuse_allow(address, allow)
    assert address.key is not None
    return SysvTransport(open_sysv_queue(address.key), str(address))


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """Open a queue to receive from; it is made if it is not there, and then removed at the end.

    Raises:
        AccessDenied: Another user owns it.
        ResourceExhausted: The system has no room for another queue.
        AddressError: sysv_ipc, an extra, is not installed.
    """
    refuse_allow(address, allow)
    assert address.key is not None
    queue = open_or_make_sysv_queue(address.key)
    return SingleAcceptor(SysvTransport(queue, str(address), remove=queue.made))


class SysvTransport:
    """A MessageTransport over a queue.

    Args:
        queue: What to send to and receive from.
        address: What it was opened as.
        remove: Whether to remove the queue at the end.

    Attributes:
        calls: What sends and receives.
    """

    def __init__(self, queue: SysvQueue, address: str, *, remove: bool = False) -> None:
        self.queue = queue
        self.calls = queue.calls
        self.address = address
        self.peer: PeerCredentials | None = None
        self.capabilities = CAPABILITIES
        self.poll_source: int | None = None
        self._remove = remove
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: Watched | None = None
        self._writing: Watched | None = None
        self._arrivals = _Change()
        self._departures = _Change()

    @property
    def mode(self) -> int:
        """Who may use the queue."""
        return self.queue.mode

    def opened(self) -> SysvQueue:
        """The queue.

        Raises:
            ClosedError: This side closed it.
            ForkError: It belongs to the parent process.
        """
        self.queue.check_open()
        return self.queue

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to a loop, before anything is waited for.

        Raises:
            RuntimeError: It belongs to another.
        """
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this object belongs to another event loop")

    def try_receive(self) -> bytes | None:
        found = self.calls.try_receive()
        return None if found is None else found[0]

    def try_send(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        return self.calls.try_send(b"".join(parts), _PLAIN_TYPE)

    def try_flush(self) -> bool:
        return True

    def on_readable(self, callback: _Callback | None, /) -> None:
        self._reading = self._watch(self._reading, self._may_have_come, callback)

    def on_writable(self, callback: _Callback | None, /) -> None:
        self._writing = self._watch(self._writing, self._may_have_gone, callback)

    def take_fds(self) -> list[int]:
        return []

    def close_write(self) -> None:
        """A queue outlives its senders: there is no end to tell."""

    def unlink(self) -> None:
        """Remove the queue from the system. Idempotent."""
        self.opened().remove()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.on_readable(None)
        self.on_writable(None)
        if self._remove and not self.queue.is_abandoned:
            self.queue.remove()
        self.queue.close()

    def _watch(
        self, old: Watched | None, is_ready: Callable[[], bool], callback: _Callback | None
    ) -> Watched | None:
        if old is not None:
            pump().forget(old)
        if callback is None or self._closed:
            return None
        self.bind(asyncio.get_running_loop())
        watched = Watched(is_ready, callback)
        pump().watch(watched)
        return watched

    # What the thread asks

    def _may_have_come(self) -> bool:
        messages = self._messages()
        return messages != 0 and self._arrivals.is_worth_a_try(messages, self.calls.received)

    def _may_have_gone(self) -> bool:
        return self._departures.is_worth_a_try(self._messages(), self.calls.sent)

    def _messages(self) -> int:
        try:
            return self.queue.messages
        except IPCError:  # it was removed: whoever waits is to find out
            return _REMOVED


class _Change:
    """Whether to try again: there may be messages, but of another type; or room, but too little."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._tried_s = 0.0

    def is_worth_a_try(self, messages: int, successes: int) -> bool:
        """Whether anything has changed since the last try, or that was long ago.

        Args:
            messages: How many are in the queue.
            successes: How many tries were good so far.
        """
        now_s = time.monotonic()
        if self._seen == (messages, successes) and now_s - self._tried_s < _TRY_EVERY_S:
            return False
        self._seen, self._tried_s = (messages, successes), now_s
        return True
