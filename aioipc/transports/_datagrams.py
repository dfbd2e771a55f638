"""What the transports over datagram sockets share: one datagram is one message.

A datagram is what the codec wrote and has nothing around it, so programs that know nothing of
aioipc take part.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from aioipc.abc import Buffer, Capability, Losses, PeerCredentials, Sender
from aioipc.errors import AddressError, ClosedError, FrameTooLarge
from aioipc.kernel.owned import abandon_in_child
from aioipc.transports._readiness import Readiness

__all__ = ["DatagramTransport"]

log = logging.getLogger("aioipc.transports.datagrams")

_FIRST_BACKOFF_S = 0.001
_LONGEST_BACKOFF_S = 0.050
_WARN_EVERY_S = 1.0
_MOST_DROPPED = 64
"""How many datagrams are dropped in a row before the loop turns."""

_Callback = Callable[[], object]


class DatagramTransport(Readiness):
    """A MessageTransport over one socket: inherit from this for each family of sockets.

    Args:
        sock: Non-blocking. It is connected, or bound to receive from many, or sends to ``target``.
        address: What it was opened as, resolved.
        capabilities: What it can do.
        max_send_bytes: The longest datagram to send.
        max_receive_bytes: The longest to receive; a longer one is dropped and counted.
        close: Releases the socket and its name.
        target: Where it sends, unless it is connected.
        is_bound: Whether it receives from many, and so cannot send.

    Attributes:
        sender: Who sent the message received last.
        losses: What befell the others.
    """

    ancillary_bytes = 0
    room_is_told = True
    """Whether poll(2) waits until there is room for a datagram."""

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        *,
        capabilities: Capability,
        max_send_bytes: int,
        max_receive_bytes: int,
        close: Callable[[], object],
        target: Any = None,
        is_bound: bool = False,
    ) -> None:
        super().__init__()
        self.socket = sock
        self.address = address
        self.capabilities = capabilities
        self.peer: PeerCredentials | None = None
        self.sender: Sender | None = None
        self.losses = Losses()
        self.max_send_bytes = max_send_bytes
        self.max_receive_bytes = max_receive_bytes
        self._close = close
        self._target = target
        self._is_bound = is_bound
        self._room = memoryview(b"")
        self._backoff: asyncio.TimerHandle | None = None
        self._backoff_s = 0.0
        self._is_short_of_memory = False
        self._warned_s = -_WARN_EVERY_S
        abandon_in_child(self)

    def fileno(self) -> int:
        return self.socket.fileno()

    # What a family of sockets has to say

    def sent_by(self, where: Any, ancillary: list[tuple[int, int, bytes]]) -> Sender | None:
        """Say who sent a datagram; None if it is not allowed to."""
        raise NotImplementedError

    def explain(self, error: OSError) -> BaseException | None:
        """Say what a send or receive raises; None if the error concerns one datagram alone."""
        raise NotImplementedError

    # Receiving

    def try_receive(self) -> bytes | None:
        self._check_open()
        if self._target is not None:
            raise ClosedError(f"{self.address}: this channel only sends")
        if not self._room:
            self._room = memoryview(bytearray(self.max_receive_bytes))
        for _ in range(_MOST_DROPPED):
            message = self._receive_one()
            if message is not _DROPPED:
                return message  # type: ignore[return-value]
        return None  # there may be more, and the loop says so

    def _receive_one(self) -> object:
        flags = socket.MSG_TRUNC | socket.MSG_CMSG_CLOEXEC
        try:
            count, ancillary, found, where = self.socket.recvmsg_into(
                [self._room], self.ancillary_bytes, flags
            )
        except BlockingIOError:
            return None
        except OSError as error:
            self._failed(error)
            return _DROPPED
        if found & socket.MSG_TRUNC:
            self._count("truncated")
            return _DROPPED
        sender = self.sent_by(where, ancillary)
        if sender is None:
            self._count("refused")
            return _DROPPED
        self.sender = sender
        return bytes(self._room[:count])

    # Sending

    def try_send(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        self._check_open()
        if self._is_bound:
            raise AddressError(
                f"{self.address} receives from many; channel.to(sender) sends to one of them"
            )
        if fds:
            raise AddressError(f"{self.address} carries no descriptors")
        message = b"".join(parts)
        if len(message) > self.max_send_bytes:
            raise FrameTooLarge(len(message), self.max_send_bytes)
        # An error may concern an earlier datagram, and then this one did not leave.
        accepted = self._sent(message)
        if accepted is None:
            accepted = self._sent(message)
        if accepted is False:
            return False
        self._backoff_s = 0.0
        self._is_short_of_memory = False
        return True  # or it is lost, as datagrams may be

    def _sent(self, message: bytes) -> bool | None:
        """Send: whether there was room, None if the network said that something got lost."""
        try:
            self._send(message)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise FrameTooLarge(len(message), self.max_send_bytes) from error
            if error.errno == errno.ENOBUFS:
                self._is_short_of_memory = True
                return False
            self._failed(error)
            return None
        return True

    def _send(self, message: bytes) -> None:
        if self._target is None:
            self.socket.send(message, socket.MSG_NOSIGNAL)
        else:
            self.socket.sendto(message, socket.MSG_NOSIGNAL, self._target)

    def on_writable(self, callback: _Callback | None, /) -> None:
        if callback is None or (self.room_is_told and not self._is_short_of_memory):
            self._stop_backoff()
            super().on_writable(callback)
            return
        super().on_writable(None)
        self.watch.unwatch_writing()
        self._stop_backoff()
        self._backoff_s = min(max(2 * self._backoff_s, _FIRST_BACKOFF_S), _LONGEST_BACKOFF_S)
        self._backoff = asyncio.get_running_loop().call_later(self._backoff_s, callback)

    def _stop_backoff(self) -> None:
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None

    # What goes wrong

    def _failed(self, error: OSError) -> None:
        """Count what concerns one datagram, and raise what concerns the socket."""
        explained = self.explain(error)
        if explained is not None:
            raise explained from error
        self._count("unreachable")
        self._warn(error)

    def _count(self, what: str) -> None:
        self.losses = dataclasses.replace(self.losses, **{what: getattr(self.losses, what) + 1})

    def _warn(self, error: OSError) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_s >= _WARN_EVERY_S:
            self._warned_s = now_s
            reason = os.strerror(error.errno or 0)
            log.warning("%s: a datagram reached nobody: %s", self.address, reason)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this side closed {self.address}")

    # The end

    def close_write(self) -> None:
        """There is no connection whose end could be told."""

    def close(self) -> None:
        if self._end_watch():
            self._stop_backoff()
            self._close()

    def abandon(self) -> None:
        """Leave the loop to the parent process, in a forked child."""
        self.watch.abandon()


_DROPPED = object()
