"""Semaphores: one by name whose permits outlive their holders, and one for children."""

from __future__ import annotations

import os
import random

from aioipc.errors import ClosedError, ForkError, WouldBlock
from aioipc.kernel.eventfd import PermitCounter
from aioipc.kernel.lifeline import Watch, watch_all
from aioipc.kernel.owned import outlive
from aioipc.limits import check_count
from aioipc.sync._guard import Enterable, Guard, Holder, Holding, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["AnonymousSemaphore", "Semaphore"]

_MOST_PERMITS = 512  # who waits has a descriptor for each, and mostly 1,024 at all: getrlimit(2)
_MOST_IN_EVENTFD = 2**32 - 1  # at the start: eventfd(2)


class Semaphore(Named, Enterable):
    """A number of permits, which come back when their holders die.

    Each permit is a slot of its own: ``guard.slot`` is a number from 0 to ``permits - 1`` that
    nobody else has meanwhile, so it can stand for a resource. ``guard.owner_died`` says that
    the last one who had this slot died with it.

    Args:
        name: A name in the runtime directory, or a path (with a slash).
        permits: How many there are, 1 to 512. All who use the name have to say the same.

    Raises:
        AddressError: It cannot be a name.
        ValueError: ``permits`` is out of range.
    """

    kind = "semaphore"

    def __init__(self, name: str | os.PathLike[str], permits: int) -> None:
        permits = check_count("permits", permits, 1, _MOST_PERMITS)
        super().__init__(name, permits, [str(slot) for slot in range(permits)])
        self._first = random.randrange(permits)  # noqa: S311 - spreads processes over the slots

    @property
    def permits(self) -> int:
        """How many there are, held ones included."""
        return self._count

    async def acquire(self) -> Guard:
        """Wait for a permit and take it. A task may hold several.

        Raises:
            AccessDenied: The directory, or what has the name, is not to be trusted.
            AddressError: The name stands for something else, or for another number of permits.
            ResourceExhausted: There are no descriptors left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: no permit was taken.
        """
        return await self._take(self._attempt, _holders)

    def acquire_nowait(self) -> Guard:
        """Take a permit if one is free. A thread needs no loop for this.

        Raises:
            WouldBlock: All are held.
        """
        guard = self._attempt()
        if guard is None:
            raise WouldBlock(f"all {self._count} permits of {self._what} are held")
        return guard

    def locked(self) -> bool:
        """Whether all permits are held."""
        with kernel_errors(f"look at {self._what}"):
            return all(line.is_held() for line in self._open().lines)

    def holders(self) -> list[Holder]:
        """Who holds permits, one entry for each permit."""
        with kernel_errors(f"look at {self._what}"):
            place = self._open()
            held = [slot for slot, line in enumerate(place.lines) if line.is_held()]
            return [Holder.of(place.ledger.read(slot)) for slot in held]

    def _attempt(self) -> Guard | None:
        first = self._first
        for slot in (*range(first, self._count), *range(first)):
            if (guard := self._attempt_slot(slot)) is not None:
                self._first = slot
                return guard
        return None

    def _attempt_slot(self, slot: int) -> Guard | None:
        tenure = self._own(slot, slot, tears=False)
        if tenure is None:
            return None
        return self._keep(Guard(self._forget, tenure, slot=slot, owner_died=tenure.owner_died))


class AnonymousSemaphore(Enterable):
    """Permits in an eventfd(2), shared with the children that inherit its descriptor.

    It has no name, and nothing of it remains. It does not recover from crashes: the permit of
    a holder who is killed is lost; where that matters, take `Semaphore`. Who has the descriptor
    can make it block for all, so it is for processes that trust each other.

    ``subprocess.Popen(..., pass_fds=[semaphore.fileno()])``, and in the child
    ``AnonymousSemaphore.from_fd(number)``. A child made by fork(2) alone inherits nothing.

    Args:
        permits: How many there are at the start.

    Raises:
        ValueError: ``permits`` is negative, or over 4,294,967,295.
        ResourceExhausted: There are no descriptors left.
    """

    def __init__(self, permits: int) -> None:
        permits = check_count("permits", permits, 0, _MOST_IN_EVENTFD)
        with kernel_errors("make a semaphore"):
            self._adopt(PermitCounter.create(permits))

    @classmethod
    def from_fd(cls, fd: int) -> AnonymousSemaphore:
        """Take over an inherited descriptor, which then belongs to the result.

        Raises:
            ValueError: It is not open, no eventfd, or one of which all permits are taken at a time.
        """
        semaphore = cls.__new__(cls)
        semaphore._adopt(PermitCounter.adopt(fd))
        return semaphore

    def fileno(self) -> int:
        """The descriptor for children, -1 once it is closed."""
        return self._counter.fileno()

    async def acquire(self) -> Guard:
        """Wait for a permit and take it. A task may hold several.

        Raises:
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: no permit was taken.
        """
        return await self._turns.here().take(self._attempt, self._counter)

    def acquire_nowait(self) -> Guard:
        """Take a permit if one is free.

        Raises:
            WouldBlock: All are held.
        """
        guard = self._attempt()
        if guard is None:
            raise WouldBlock("all permits are held")
        return guard

    def close(self) -> None:
        """Give back what is held, and close this process's descriptor. Idempotent."""
        if self._unusable is None:
            self._unusable = ClosedError(f"{self._what} was closed")
            self._drop_all()
            self._turns.close()
            self._counter.close()

    def abandon(self) -> None:
        """Belong to the parent, in a forked child."""
        super().abandon()
        self._unusable = ForkError(f"{self._what} belongs to the parent; pass it by pass_fds")

    def _adopt(self, counter: PermitCounter) -> None:
        super().__init__("an anonymous semaphore")
        self._counter = counter
        outlive(self, counter)

    def _attempt(self) -> Guard | None:
        self._check()
        if not self._counter.try_take():
            return None
        return self._keep(Guard(self._forget, _Permit(self._counter)))


def _holders(place: Place) -> Watch:
    return watch_all(place.lines)


class _Permit(Holding):
    """One of the counter's, to be given back once."""

    __slots__ = ("_counter",)

    def __init__(self, counter: PermitCounter) -> None:
        self._counter = counter

    def close(self) -> None:
        self._counter.give()
