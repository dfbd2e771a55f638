"""What semaphores that only block have in common: try at once, else wait for the pump."""

from __future__ import annotations

from collections.abc import Callable

from aioipc.errors import ClosedError, ForkError, IPCError, WouldBlock
from aioipc.sync._guard import Enterable, Guard, Holding
from aioipc.sync._pump import Pump

__all__ = ["PumpedSemaphore"]


class PumpedSemaphore(Enterable):
    """A semaphore whose kernel object nobody can poll.

    Args:
        what: How messages call it.
        take: Blocks for at most so many seconds, 0 to try; returns whether it took a permit.
        give: Puts a permit back.
    """

    def __init__(self, what: str, take: Callable[[float], bool], give: Callable[[], None]) -> None:
        super().__init__(what)
        self._try = take
        self._give = give
        self._pump = Pump(take, self._give_quietly, f"aioipc {what}")

    async def acquire(self) -> Guard:
        """Wait for a permit and take it. A task may hold several.

        Raises:
            ClosedError: It was closed, or removed by somebody.
            AccessDenied: It may not be changed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: no permit was taken.
        """
        guard = None if self._pump.is_waited_for() else self._attempt()
        if guard is None:
            with self._tally.waiting():
                await self._pump.wait()
            if self._unusable is not None:  # it was closed in the same moment
                self._give_quietly()
                self._check()
            guard = self._keep(self._guard())
        return guard

    def acquire_nowait(self) -> Guard:
        """Take a permit if one is free.

        Raises:
            WouldBlock: All are held.
        """
        guard = self._attempt()
        if guard is None:
            raise WouldBlock(f"all permits of {self._what} are held")
        return guard

    def close(self) -> None:
        """Give back what is held, and end all waits with `ClosedError`. Idempotent."""
        if self._unusable is None:
            self._unusable = ClosedError(f"{self._what} was closed")
            self._drop_all()
            self._pump.fail(self._unusable)

    def abandon(self) -> None:
        """Belong to the parent, in a forked child."""
        super().abandon()
        self._pump.forget()
        self._unusable = ForkError(f"{self._what} belongs to the parent; make one in the child")

    def _attempt(self) -> Guard | None:
        self._check()
        return self._keep(self._guard()) if self._try(0) else None

    def _guard(self) -> Guard:
        return Guard(self._forget, _Permit(self._give))

    def _give_quietly(self) -> None:
        try:
            self._give()
        except IPCError:  # it was removed meanwhile, and its permits with it
            return


class _Permit(Holding):
    __slots__ = ("_give",)

    def __init__(self, give: Callable[[], None]) -> None:
        self._give = give

    def close(self) -> None:
        self._give()
