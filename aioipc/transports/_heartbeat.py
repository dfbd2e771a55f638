"""Finding out that a peer on the network has fallen silent.

A Unix socket tells at once when the process at its other end is gone. A machine that lost its
power, a cable that was cut or a process that was stopped tell nothing, so both sides see to it
that something travels now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from aioipc.errors import IPCError, PeerCrashed
from aioipc.kernel.tcp import Quiet, cut_off, read_quiet
from aioipc.limits import Limits

__all__ = ["Heartbeat"]

_OPEN_WINDOW_BYTES = 16 * 1024
"""A peer that could not say anything because nobody here reads has sent more than this."""
_LEAST_S = 0.001


class _Port(Protocol):
    def beat(self) -> None: ...
    def fell_silent(self, error: IPCError) -> None: ...


class Heartbeat:
    """Sends a PING when nothing else was sent for a while, and gives up a peer that is silent.

    The kernel keeps the times, so traffic costs nothing more, and a loop that was busy for long
    does not take that for the silence of the peer.

    Args:
        fd: The TCP socket.
        address: For messages.
        limits: How often to send, and how long a silence may be.
        port: What to send with, and what to tell.
    """

    def __init__(self, fd: int, address: str, limits: Limits, port: _Port) -> None:
        self._port = port
        self._fd = fd
        self._address = address
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._again_in(limits.heartbeat_s)

    def _again_in(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(max(delay_s, _LEAST_S), self._look)

    def _look(self) -> None:
        quiet = read_quiet(self._fd)
        limits = self._limits
        if self._is_silent(quiet):
            self._timer = None
            self._give_up(quiet)
            return
        until_beat_s = limits.heartbeat_s - quiet.sent_s
        if until_beat_s <= 0:
            self._port.beat()
            until_beat_s = limits.heartbeat_s
        until_silent_s = limits.silence_s - quiet.received_s
        if until_silent_s <= 0:  # undecided
            until_silent_s = limits.heartbeat_s
        self._again_in(min(until_beat_s, until_silent_s))

    def _is_silent(self, quiet: Quiet) -> bool:
        return (
            quiet.received_s >= self._limits.silence_s
            and not quiet.finished
            and quiet.unread_bytes < _OPEN_WINDOW_BYTES
        )

    def _give_up(self, quiet: Quiet) -> None:
        self._port.fell_silent(
            PeerCrashed(
                f"{self._address}: the peer has been silent for {quiet.received_s:.3g} s, "
                f"{self._limits.silence_s:g} s are the limit"
            )
        )
        with contextlib.suppress(OSError):
            cut_off(self._fd)  # so that who waits finds what came before, and then the end

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
