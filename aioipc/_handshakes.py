"""Byte transports that shake hands before anybody uses them: TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aioipc._doorkeeper import Doorkeeper
from aioipc.abc import ByteTransport
from aioipc.errors import IPCError
from aioipc.limits import Limits

__all__ = ["Handshakes"]

log = logging.getLogger("aioipc.stream")


class Handshakes:
    """Lets each transport through once it is ready, and closes those that take too long.

    In callbacks, without a task per peer.

    Args:
        limits: How long a handshake may take, and how many go on at once.
        done: Called with each transport that is ready.
        left: Called when there is room again: one was given up, or was ready when all were taken.
    """

    def __init__(
        self,
        limits: Limits,
        done: Callable[[ByteTransport], object],
        left: Callable[[], object],
    ) -> None:
        self._limits = limits
        self._done = done
        self._left = left
        self._deadlines: dict[ByteTransport, asyncio.TimerHandle] = {}

    @property
    def has_room(self) -> bool:
        """Whether another one may begin."""
        return len(self._deadlines) < self._limits.max_handshakes

    def begin(self, transport: ByteTransport) -> None:
        """Take a transport; one that shakes no hands is ready."""
        if not hasattr(transport, "try_handshake"):
            self._done(transport)
            return
        loop = asyncio.get_running_loop()
        seconds = self._limits.handshake_s
        self._deadlines[transport] = loop.call_later(seconds, self._late, transport)
        # Not at once: whoever failed would have the next one begin, one within the other.
        transport.on_readable(lambda: self._go_on(transport))

    def _go_on(self, transport: ByteTransport) -> None:
        if transport not in self._deadlines:
            return
        try:
            ready = transport.try_handshake()  # type: ignore[attr-defined]
        except IPCError as error:
            self._give_up(transport, f"a handshake failed: {error}")
            return
        if ready:
            was_full = not self.has_room
            self._deadlines.pop(transport).cancel()
            self._done(transport)
            if was_full:
                self._left()
            return
        waits_for_room = getattr(transport, "is_writing", False)
        again = transport.on_writable if waits_for_room else transport.on_readable
        again(lambda: self._go_on(transport))

    def make_room(self, door: Doorkeeper, accept: Callable[[], object]) -> None:
        """Every place is taken, and somebody waits."""
        overdue = door.overdue(self._deadlines, accept)
        if overdue is not None:
            transport, silent_s = overdue
            self._too_late(transport, f"no handshake within {silent_s:.2g} s, and others wait")

    def _late(self, transport: ByteTransport) -> None:
        self._too_late(transport, f"no handshake within {self._limits.handshake_s:g} s")

    def _too_late(self, transport: ByteTransport, reason: str) -> None:
        self._go_on(transport)  # it may have come while this loop was busy
        if transport in self._deadlines:
            self._give_up(transport, reason)

    def _give_up(self, transport: ByteTransport, reason: str) -> None:
        log.warning("%s: %s", transport.address, reason)
        self._deadlines.pop(transport).cancel()
        transport.close()
        self._left()

    def close(self) -> None:
        """Give up those that are not ready. Idempotent."""
        while self._deadlines:
            transport, deadline = self._deadlines.popitem()
            deadline.cancel()
            transport.close()
