"""A lock for many readers or one writer, in which neither side starves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable

from aioipc.errors import WouldBlock
from aioipc.kernel.ledger import State, Tenure
from aioipc.kernel.lifeline import Hold, Lifeline
from aioipc.kernel.owned import OwnedFd
from aioipc.sync._guard import Guard, Holder, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["RWLock"]

_GATE, _MAIN, _ROPE = 0, 1, 2
_WRITER = 0
_FIRST_READER = 1


class RWLock(Named):
    """A lock that any number of readers or one writer holds.

    ``async with lock.reading():`` and ``async with lock.writing() as guard:``. Who comes while
    a writer waits waits behind him, whether he wants to read or to write: everybody passes a
    gate, which a waiting writer keeps shut. Locks of the dead are released;
    ``guard.owner_died`` says that a writer died, until a writer calls ``mark_consistent()``.

    It excludes tasks, threads, loops and processes alike; those of one loop get it in the order
    in which they asked. Waiting costs no thread and no timer.

    Args:
        name: A name in the runtime directory, or a path (with a slash).

    Raises:
        AddressError: It cannot be a name.
    """

    # Readers wait for a writer alone, so he holds a rope of his own besides: the main lifeline
    # is silent again as soon as another reader has it, maybe before this one has looked.

    kind = "rwlock"

    def __init__(self, name: str | os.PathLike[str]) -> None:
        super().__init__(name, 1, ["gate", "main", "rope"])

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Guard]:
        """Hold it as one of its readers: `acquire_reading` and `release`."""
        guard = await self.acquire_reading()
        try:
            yield guard
        finally:
            self._leave(guard)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Guard]:
        """Hold it as its only writer: `acquire_writing` and `release`."""
        guard = await self.acquire_writing()
        try:
            yield guard
        finally:
            self._leave(guard)

    async def acquire_reading(self) -> Guard:
        """Wait until there is no writer, and become a reader.

        Raises:
            RuntimeError: The calling task holds it already, and might wait for itself.
            AccessDenied: The directory, or what has the name, is not to be trusted.
            AddressError: The name stands for something else.
            ResourceExhausted: There are no descriptors left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: it was not taken.
        """
        return await self._acquire(self._attempt_reading, _ROPE, shared=True)

    async def acquire_writing(self) -> Guard:
        """Wait until nobody holds it, and become the writer; raises as `acquire_reading`.

        Cancellation:
            Safe: it was not taken.
        """
        return await self._acquire(self._attempt_writing, _MAIN, shared=False)

    def acquire_reading_nowait(self) -> Guard:
        """Become a reader at once.

        Raises:
            WouldBlock: There is a writer, or one waits.
        """
        return self._acquire_nowait(self._attempt_reading, shared=True)

    def acquire_writing_nowait(self) -> Guard:
        """Become the writer at once.

        Raises:
            WouldBlock: Somebody holds it, or waits for it.
        """
        return self._acquire_nowait(self._attempt_writing, shared=False)

    def release(self) -> None:
        """Let go of it, as a reader or as the writer.

        Raises:
            RuntimeError: This task does not hold it. Nothing changed.
        """
        self._release()

    def locked(self) -> bool:
        """Whether anybody holds it."""
        with kernel_errors(f"look at {self._what}"):
            return self._open().lines[_MAIN].is_held()

    def holders(self) -> list[Holder]:
        """Who holds it: one writer, or the readers."""
        with kernel_errors(f"look at {self._what}"):
            place = self._open()
            main, ledger = place.lines[_MAIN], place.ledger
            if main.is_held(shared=True):
                return [Holder.of(ledger.read(_WRITER))]
            readers = range(max(0, ledger.places() - _FIRST_READER))
            taken = [seat for seat in readers if main.is_taken(seat)]
            return [Holder.of(ledger.read(_FIRST_READER + seat)) for seat in taken]

    async def _acquire(
        self, attempt: Callable[[], Guard | None], line: int, *, shared: bool
    ) -> Guard:
        self._refuse_again()
        turn = self._turns.here()
        async with turn.line:
            gate = await self._wait_until(
                turn, lambda: self._attempt_gate(shared), lambda place: place.lines[_GATE].watch()
            )
            with gate:
                return await self._wait_until(
                    turn, attempt, lambda place: place.lines[line].watch()
                )

    def _acquire_nowait(self, attempt: Callable[[], Guard | None], *, shared: bool) -> Guard:
        self._refuse_again()
        gate = self._attempt_gate(shared)
        if gate is not None:
            with gate:
                if (guard := attempt()) is not None:
                    return guard
        raise WouldBlock(f"{self._what} is held or waited for")

    def _attempt_gate(self, shared: bool) -> Hold | None:
        return self._try_hold(self._open().lines[_GATE], shared)

    def _try_hold(self, line: Lifeline, shared: bool) -> Hold | None:
        with kernel_errors(f"take {self._what}"):
            return line.try_hold(shared=shared)

    def _attempt_reading(self) -> Guard | None:
        hold = self._try_hold(self._open().lines[_MAIN], True)
        if hold is None:
            return None
        try:
            with kernel_errors(f"take {self._what}"):
                ledger = self._open().ledger
                seat = hold.take_seat()
                ledger.note(_FIRST_READER + seat, State.HELD)
                died = ledger.read(_WRITER).state is not State.NONE
        except BaseException:
            hold.close()
            raise
        return self._keep(Guard(self._forget, hold, slot=seat, owner_died=died))

    def _attempt_writing(self) -> Guard | None:
        with contextlib.ExitStack() as undo:
            with kernel_errors(f"take {self._what}"):
                rope = undo.enter_context(self._open().lines[_ROPE].pull())
            tenure = self._own(_MAIN, _WRITER, tears=True)
            if tenure is None:
                return None
            undo.pop_all()
        return self._keep(Guard(self._forget, _Writing(tenure, rope), owner_died=tenure.owner_died))

    def _leave(self, guard: Guard) -> None:
        if self._unusable is None:  # else nothing is held any more
            guard.release()

    def _is_to_be_kept(self, place: Place) -> bool:
        return place.ledger.read(_WRITER).state is not State.NONE


class _Writing:
    """What the writer has: the lock, and the rope that tells readers when it is free."""

    __slots__ = ("_rope", "_tenure")

    def __init__(self, tenure: Tenure, rope: OwnedFd) -> None:
        self._tenure = tenure
        self._rope = rope

    def let_go(self, *, is_consistent: bool) -> None:
        """Release it first: who is told finds it free."""
        with self._rope:
            self._tenure.let_go(is_consistent=is_consistent)

    def close(self) -> None:
        """Let go of both without a word."""
        with self._rope:
            self._tenure.close()
