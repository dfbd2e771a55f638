"""A subscriber's place in the broadcast ring of its publisher, as the subscriber sees it."""

from __future__ import annotations

import contextlib
from typing import Final

from aioipc.errors import HandshakeError, from_os_error
from aioipc.kernel.memory import what_is_wrong
from aioipc.kernel.owned import OwnedFd, abandon_in_child
from aioipc.native._broadcast import HEAD_BYTES, PAGE_BYTES, BroadcastReader
from aioipc.native._memory import Mapping
from aioipc.wire.pubsub import Away, Ring

__all__ = ["FDS", "Place"]

FDS: Final = 2
"""Descriptors that come with an invitation: of the ring, and of the page."""


class Place:
    """Takes messages out of the ring, and knows when to take none.

    Args:
        invitation: What the publisher said.
        numbers: The descriptors that came with it, which are closed.

    Raises:
        HandshakeError: They are not what they ought to be.
        ResourceExhausted: The memory cannot be mapped.
    """

    def __init__(self, invitation: Ring, numbers: list[int]) -> None:
        with contextlib.ExitStack() as undo:
            fds = [undo.enter_context(OwnedFd(number)) for number in numbers]
            if len(fds) != FDS:
                raise HandshakeError(f"a ring comes with {FDS} descriptors, not {len(fds)}")
            size = HEAD_BYTES + invitation.capacity
            try:
                memory = _map(fds[0], size, writable=False)
                page = _map(fds[1], PAGE_BYTES, writable=True)
                self._reader: BroadcastReader | None = BroadcastReader(
                    memory, page, invitation.words, invitation.slot, invitation.start
                )
            except OSError as error:
                raise from_os_error(error, f"map a ring of {size:,} bytes") from error
            except ValueError as error:
                raise HandshakeError(f"the publisher offers a bad ring: {error}") from None
        self._known = 0  # messages that come by the channel, and came by the ring before
        abandon_in_child(self)

    @property
    def reader(self) -> BroadcastReader | None:
        """The ring; None once it was let go of."""
        return self._reader

    def take(self) -> bytes | None:
        """The next message; None if there is none in the ring.

        Raises:
            RingCorrupted: The publisher broke the protocol.
        """
        # Only who is off the ring is overrun: what it missed comes by the channel.
        return None if self._reader is None else self._reader.take()

    def arm(self) -> bool:
        """Before sleeping: whether to sleep; else there may be a message already.

        Raises:
            RingCorrupted: The publisher broke the protocol.
        """
        return self._reader is None or self._reader.is_overrun or self._reader.arm()

    @property
    def is_on(self) -> bool:
        """Whether the last message came by the ring."""
        return self._reader is not None and self._reader.is_on

    def step_off(self, away: Away) -> None:
        """From here on messages come by the channel, some of them for the second time.

        Raises:
            RingCorrupted: The publisher broke the protocol.
        """
        if self._reader is not None:
            self._known = max(0, self._reader.taken - away.taken)
            self._reader.resume(away.position, away.sent)

    def is_known(self) -> bool:
        """Whether the message that just came by the channel had come by the ring before."""
        if self._known == 0:
            return False
        self._known -= 1
        return True

    def close(self) -> None:
        """Let go of the memory. Idempotent."""
        self._reader = None

    def abandon(self) -> None:
        """This is a forked child, which has none of the memory."""
        self.close()


def _map(fd: OwnedFd, size: int, *, writable: bool) -> Mapping:
    wrong = what_is_wrong(fd.fileno(), size, writable=writable)
    if wrong is not None:
        raise HandshakeError(f"the publisher offers bad memory: {wrong}")
    return Mapping(fd.fileno(), size, writable=writable)
