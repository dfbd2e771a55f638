"""A flag that processes set, clear and wait for."""

from __future__ import annotations

import os

from aioipc.kernel.ledger import Ledger, State
from aioipc.kernel.lifeline import Watch
from aioipc.sync._guard import Holder, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["Event"]

_SET, _CLEARED = 0, 1


class Event(Named):
    """A flag as `asyncio.Event` is one, between processes.

    It stays as it is, whoever dies: a set flag also outlives the last process that uses it.
    Who waits when it is set goes on, even if it is cleared right afterwards. Waiting costs no
    thread and no timer.

    Args:
        name: A name in the runtime directory, or a path (with a slash).

    Raises:
        AddressError: It cannot be a name.
    """

    # Two counts, each written by its own verb, need no lock: the flag is set as long as the
    # last setting has a higher number than the last clearing.

    kind = "event"

    def __init__(self, name: str | os.PathLike[str]) -> None:
        super().__init__(name, 1, ["bell"])

    def is_set(self) -> bool:
        """Whether it is set."""
        return _is_set(self._open())

    def set_by(self) -> Holder | None:
        """Who set it, dead or alive, and when; None if it is not set. Nobody holds an event."""
        place = self._open()
        return Holder.of(place.ledger.read(_SET)) if _is_set(place) else None

    def set(self) -> None:
        """Set it, and let everybody go who waits.

        Raises:
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.
        """
        with kernel_errors(f"set {self._what}"):
            place = self._open()
            # The bell rings when the rope is let go: also by the death of this process.
            with place.lines[0].pull():
                _set(place.ledger)
                while not _is_set(place):  # this was late, and took back what others had noted
                    _set(place.ledger)

    def clear(self) -> None:
        """Clear it; who waits from now on waits for the next `set`."""
        with kernel_errors(f"clear {self._what}"):
            place = self._open()
            while _is_set(place):
                place.ledger.note(_CLEARED, State.HELD, number=place.ledger.read(_SET).number)

    async def wait(self) -> None:
        """Wait until it is set.

        Raises:
            AccessDenied: The directory, or what has the name, is not to be trusted.
            AddressError: The name stands for something else.
            ResourceExhausted: There are no descriptors left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Abandons the wait.
        """
        start = self._open().ledger.read(_SET).number

        def look() -> bool | None:
            place = self._open()
            return True if _is_set(place) or place.ledger.read(_SET).number > start else None

        await self._wait_until(self._turns.here(), look, _bell)

    def _is_to_be_kept(self, place: Place) -> bool:
        return _is_set(place)


def _bell(place: Place) -> Watch:
    return place.lines[0].listen()


def _set(ledger: Ledger) -> None:
    number = max(ledger.read(each).number for each in (_SET, _CLEARED)) + 1
    ledger.note(_SET, State.HELD, number=number)


def _is_set(place: Place) -> bool:
    return place.ledger.read(_SET).number > place.ledger.read(_CLEARED).number
