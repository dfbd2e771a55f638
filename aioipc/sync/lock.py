"""A lock that the death of its owner opens, and that says so."""

from __future__ import annotations

import os

from aioipc.errors import WouldBlock
from aioipc.kernel.ledger import State
from aioipc.kernel.lifeline import Watch
from aioipc.sync._guard import Enterable, Guard, Holder, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["Lock"]

_LINE = 0
_NOTE = 0


class Lock(Named, Enterable):
    """A lock that one task of one process holds: fcntl_locking(2), ``F_OFD_SETLK``.

    ``async with Lock("cache") as guard:`` takes it. Who dies holding it, however he dies,
    releases it; the next owner finds ``guard.owner_died``, repairs what the lock guards and
    calls ``guard.mark_consistent()``. If he does not, the one after him is told as well.

    It excludes tasks, threads, loops and processes alike. Tasks of one loop get it in the order
    in which they asked; between loops and processes there is no order. Waiting costs no thread
    and no timer.

    Args:
        name: A name in the runtime directory, or a path (with a slash).

    Raises:
        AddressError: It cannot be a name.
    """

    kind = "lock"

    def __init__(self, name: str | os.PathLike[str]) -> None:
        super().__init__(name, 1, ["line"])

    async def acquire(self) -> Guard:
        """Wait for the lock and take it.

        Raises:
            RuntimeError: The calling task holds it already, and would wait for itself.
            AccessDenied: The directory, or what has the name, is not to be trusted.
            AddressError: The name stands for something else.
            ResourceExhausted: There are no descriptors left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: it was not taken.
        """
        self._refuse_again()
        return await self._take(self._attempt, _owner)

    def acquire_nowait(self) -> Guard:
        """Take the lock if it is free. A thread needs no loop for this.

        Raises:
            WouldBlock: Somebody holds it.
        """
        self._refuse_again()
        guard = self._attempt()
        if guard is None:
            raise WouldBlock(f"{self._what} is held")
        return guard

    def locked(self) -> bool:
        """Whether somebody holds it."""
        with kernel_errors(f"look at {self._what}"):
            return self._open().lines[_LINE].is_held()

    def holders(self) -> list[Holder]:
        """Who holds it: at most one."""
        return [Holder.of(self._open().ledger.read(_NOTE))] if self.locked() else []

    def _attempt(self) -> Guard | None:
        tenure = self._own(_LINE, _NOTE, tears=True)
        if tenure is None:
            return None
        return self._keep(Guard(self._forget, tenure, owner_died=tenure.owner_died))

    def _is_to_be_kept(self, place: Place) -> bool:
        return place.ledger.read(_NOTE).state is not State.NONE


def _owner(place: Place) -> Watch:
    # Nobody else: another lifeline of a `Condition`, which mostly nobody holds, is always readable.
    return place.lines[_LINE].watch()
