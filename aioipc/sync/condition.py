"""A condition whose notifications reach somebody who lives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import anyio

from aioipc.kernel.ledger import State
from aioipc.kernel.lifeline import Hold, Lifeline, Watch, listen_and_watch
from aioipc.sync._guard import Guard, kernel_errors
from aioipc.sync._named import Place
from aioipc.sync.lock import Lock

__all__ = ["Condition"]

_BELL = 1
_ISSUED, _GRANTED = 1, 2


class Condition(Lock):
    """A lock, and a queue of those who wait for what it guards to change.

    ``async with condition:`` takes the lock; inside, ``await condition.wait()`` gives it up
    until somebody calls ``notify()``, and takes it again. Waiters are notified in the order in
    which they began to wait, over all processes. One who dies before he has woken up passes
    the notification on, and so does one who is cancelled. Waiting costs no thread and no timer.

    Args:
        name: A name in the runtime directory, or a path (with a slash).

    Raises:
        AddressError: It cannot be a name.
    """

    # A waiter has a ticket: a lifeline with a number. Those up to the number granted are
    # notified. All of that changes under the lock only.

    kind = "condition"

    def __init__(self, name: str | os.PathLike[str]) -> None:
        super().__init__(name)
        self._parts = ["line", "bell"]

    def notify(self, count: int = 1) -> None:
        """Wake so many waiters, those who have waited longest.

        Raises:
            RuntimeError: The calling task does not hold the lock.
        """
        self._must_hold("notify")
        with kernel_errors(f"notify {self._what}"):
            _grant(self._open(), count)

    def notify_all(self) -> None:
        """Wake all waiters.

        Raises:
            RuntimeError: The calling task does not hold the lock.
        """
        self._must_hold("notify")
        with kernel_errors(f"notify {self._what}"):
            place = self._open()
            _grant(place, len(_tickets(place)))

    async def wait(self) -> Guard:
        """Give up the lock until notified, and take it again.

        Returns:
            The guard of the lock that is held again; its ``owner_died`` says whether somebody
            died holding it meanwhile.

        Raises:
            RuntimeError: The calling task does not hold the lock.
            ClosedError: It was closed.

        Cancellation:
            Takes the lock again before it ends; a notification goes to the next waiter.
        """
        self._must_hold("wait for")
        with kernel_errors(f"wait for {self._what}"):
            number, ticket = _draw_ticket(self._open())
        with ticket:
            self.release()
            return await self._return(number)

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate()`` is true, asked at once and after each notification.

        Cancellation:
            As `wait`.
        """
        while not predicate():
            await self.wait()

    async def _return(self, number: int) -> Guard:
        """Wait for the notification, and come back with the lock whatever happens."""
        try:
            await self._until_granted(number)
        except BaseException:
            await self._take_back()
            self._return_ticket(number, unused=True)
            raise
        guard, cancelled = await self._take_back()
        self._return_ticket(number, unused=cancelled is not None)
        if cancelled is not None:
            raise cancelled
        return guard

    def _return_ticket(self, number: int, *, unused: bool) -> None:
        with kernel_errors(f"wait for {self._what}"):
            place = self._open()
            if unused and number <= _granted(place):
                _grant(place, 1)  # before the ticket goes: if this process dies, others find it
            place.line(_part(number)).remove()

    async def _until_granted(self, number: int) -> None:
        turn = self._turns.here()
        while True:
            seen = await self._wait_until(turn, lambda: self._look(number), _in_the_way)
            if seen == number:
                return
            # Somebody died after he was notified. His ticket goes under the lock, so that what
            # he had is passed on once.
            async with self:
                with kernel_errors(f"wait for {self._what}"):
                    _pass_on(self._open())

    def _look(self, number: int) -> int | None:
        """Return this waiter's number if it is notified, or that of a dead man who was."""
        place = self._open()
        granted = _granted(place)
        if number <= granted:
            return number
        for dead in _tickets(place):
            if dead <= granted and _is_dead(place, dead):
                return dead
        return None

    async def _take_back(self) -> tuple[Guard, asyncio.CancelledError | None]:
        guard: Guard | None = None
        cancelled: asyncio.CancelledError | None = None
        # anyio's scopes cancel in every turn of the loop, and each time this goes to the end of the
        # line: so it would never be its turn as long as others come.
        with anyio.CancelScope(shield=True):
            while guard is None:
                try:
                    guard = await self.acquire()
                except asyncio.CancelledError as error:
                    cancelled = error
        assert guard is not None
        return guard, cancelled

    def _must_hold(self, doing: str) -> None:
        self._check()
        if self._mine() is None:
            raise RuntimeError(f"to {doing} {self._what}, a task has to hold its lock")


def _part(number: int) -> str:
    return f"{number:016x}"


def _tickets(place: Place) -> list[int]:
    """The tickets of all who wait, and of those who died waiting, oldest first."""
    return sorted(int(part, 16) for part in place.parts() if len(part) == 16)


def _granted(place: Place) -> int:
    return place.ledger.read(_GRANTED).number


def _is_dead(place: Place, ticket: int) -> bool:
    return not place.line(_part(ticket)).is_held()


def _draw_ticket(place: Place) -> tuple[int, Hold]:
    number = place.ledger.read(_ISSUED).number
    while True:
        number += 1
        place.ledger.note(_ISSUED, State.NONE, number=number)
        ticket = place.line(_part(number)).try_hold()
        if ticket is not None:  # else somebody removed the count, and old tickets are about
            return number, ticket


def _grant(place: Place, count: int) -> None:
    """Notify those who have waited longest, and bury the dead among them."""
    granted = _granted(place)
    with place.lines[_BELL].pull():  # rings also if this process dies in between
        for ticket in _tickets(place):
            if ticket <= granted:
                continue
            if count <= 0:
                break
            if _is_dead(place, ticket):
                place.line(_part(ticket)).remove()
                continue
            count -= 1
            granted = ticket
        place.ledger.note(_GRANTED, State.NONE, number=granted)


def _pass_on(place: Place) -> None:
    """Give what dead men were notified of to those who live."""
    granted = _granted(place)
    dead = [each for each in _tickets(place) if each <= granted and _is_dead(place, each)]
    if dead:
        _grant(place, len(dead))
    for ticket in dead:  # not before: who is killed here leaves them to the next one
        place.line(_part(ticket)).remove()


def _in_the_way(place: Place) -> Watch:
    """What a waiter watches: the bell, and those who are notified and have not come back."""
    return listen_and_watch(place.lines[_BELL], lambda: _notified(place))


def _notified(place: Place) -> list[Lifeline]:
    granted = _granted(place)
    notified = [each for each in _tickets(place) if each <= granted]
    return [place.line(_part(each), make=False) for each in notified]
