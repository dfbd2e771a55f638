"""When a listener accepts again, and who gives way: for channels and for byte streams alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from aioipc.errors import IPCError

__all__ = ["Doorkeeper"]

P = TypeVar("P")
_Accept = Callable[[], object]

_RETRY_S = 0.25
_LEAST_PATIENCE = 0.05
"""What part of its time for a handshake a peer has in any case, however many wait behind it."""
_WARN_EVERY_S = 1.0


class Doorkeeper:
    """Has a listener accept again later, and says who gives way to those who wait.

    It knows nothing of the listener, which would else outlive its last user.

    Args:
        address: Where peers come.
        handshake_s: How long each may take for its handshake.
        log: Where warnings go.
    """

    def __init__(self, address: str, *, handshake_s: float, log: logging.Logger) -> None:
        self._address = address
        self._handshake_s = handshake_s
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._warned_s = -_WARN_EVERY_S

    def pause(self, error: IPCError, accept: _Accept) -> None:
        """No descriptors, or a firewall: whoever is there waits in the backlog for better times."""
        now_s = self._loop.time()
        if now_s - self._warned_s >= _WARN_EVERY_S:
            self._warned_s = now_s
            self._log.warning("%s: cannot accept for now: %s", self._address, error)
        self.accept_later(_RETRY_S, accept)

    def overdue(
        self, greeting: Mapping[P, asyncio.TimerHandle], accept: _Accept
    ) -> tuple[P, float] | None:
        """Every place is taken, and somebody waits: who is silent for longest gives way.

        Else so many silent peers would keep everybody out for as long as a handshake may take.

        Args:
            greeting: Those who shake hands, the oldest first, and when the time of each is over.
            accept: Called later, if nobody gives way yet.

        Returns:
            Who gives way, and after how many seconds; None for nobody yet.
        """
        peer, deadline = next(iter(greeting.items()))
        silent_s = self._loop.time() - deadline.when() + self._handshake_s
        patience_s = _LEAST_PATIENCE * self._handshake_s
        if silent_s < patience_s:
            self.accept_later(patience_s - silent_s, accept)
            return None
        return peer, silent_s

    def accept_later(self, delay_s: float, accept: _Accept) -> None:
        """Call ``accept`` after so many seconds, or when it is to be called already."""
        if self._retry is None:
            self._retry = self._loop.call_later(delay_s, self._accept_again, accept)

    def _accept_again(self, accept: _Accept) -> None:
        self._retry = None
        accept()

    def close(self) -> None:
        """Call nobody any more. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
