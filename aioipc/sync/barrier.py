"""A barrier that breaks for all when a party dies at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from aioipc.errors import BrokenBarrierError
from aioipc.kernel.ledger import State
from aioipc.kernel.lifeline import Hold, Lifeline, Watch, listen_and_watch
from aioipc.sync._guard import Holder, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["Barrier"]

_MOST_PARTIES = 512
_GENERATION, _BROKEN = 0, 1
_FIRST_SEAT = 2
_BELL = 0


class Barrier(Named):
    """A point at which a number of parties wait for each other, again and again.

    If a party dies at the barrier or gives up (is cancelled), it breaks: all who wait and all
    who come get `BrokenBarrierError`, until somebody calls `reset`. A party is a call of
    `wait`, in whatever task, thread or process. Waiting costs no thread and no timer.

    Args:
        name: A name in the runtime directory, or a path (with a slash).
        parties: How many there are, 1 to 512. All who use the name have to say the same.

    Raises:
        AddressError: It cannot be a name.
        ValueError: ``parties`` is out of range.
    """

    # A generation is one use of the barrier. Each party has a seat, a lifeline, in one of two
    # rows, which generations take in turn, so that late leavers and early comers never meet.

    kind = "barrier"

    def __init__(self, name: str | os.PathLike[str], parties: int) -> None:
        if not 1 <= parties <= _MOST_PARTIES:
            raise ValueError(f"a barrier has 1 to {_MOST_PARTIES} parties, not {parties}")
        seats = [f"{row}.{seat}" for row in range(2) for seat in range(parties)]
        super().__init__(name, parties, ["bell", *seats])

    @property
    def parties(self) -> int:
        """How many have to come."""
        return self._count

    def broken(self) -> bool:
        """Whether it is broken."""
        place = self._open()
        return _is_broken(place, _generation(place))

    def n_waiting(self) -> int:
        """How many wait at it now: the death of each of them breaks it."""
        return len(self.waiting())

    def waiting(self) -> list[Holder]:
        """Who waits at it now and since when, one entry for each party. Nobody holds a barrier."""
        with kernel_errors(f"look at {self._what}"):
            place = self._open()
            generation = _generation(place)
            seats = [
                seat
                for seat, line in enumerate(self._row(place, generation))
                if line.is_held() and _is_noted(place, self._count, seat, generation)
            ]
            notes = (place.ledger.read(_note_of(self._count, seat, generation)) for seat in seats)
            return [Holder.of(note) for note in notes]

    def reset(self) -> None:
        """Make it whole again. Who waits now gets `BrokenBarrierError`."""
        with kernel_errors(f"reset {self._what}"):
            place = self._open()
            with place.lines[_BELL].pull():
                generation = _generation(place)
                _break(place, generation)
                _write_generation(place, generation + 1)

    async def wait(self) -> int:
        """Wait until all parties have come.

        Returns:
            A number from 0 to ``parties - 1`` that no other party of this round has.

        Raises:
            BrokenBarrierError: A party died or gave up, or somebody called `reset`.
            AccessDenied: The directory, or what has the name, is not to be trusted.
            AddressError: The name stands for something else, or for other parties.
            ResourceExhausted: There are no descriptors left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Breaks the barrier for the others, unless all had come already.
        """
        turn = self._turns.here()
        seat = await self._wait_until(turn, self._sit_down, self._seats_of_now)
        with seat, seat.giving_up():
            while not seat.is_over():
                with kernel_errors(f"wait for {self._what}"):
                    watch = seat.watch()
                with watch:
                    if seat.is_over():  # whoever left while the watch began
                        break
                    await turn.lookout.ready(watch.fileno())
                    self._check()
        return seat.number

    def _sit_down(self) -> _Seat | None:
        """Take a seat and tell the others; None if more have come than there are seats."""
        with kernel_errors(f"wait for {self._what}"):
            place = self._open()
            generation = _generation(place)
            _refuse_broken(place, generation, self._what)
            # Rung also by the death of this process, so that nobody misses that it was here.
            with place.lines[_BELL].pull():
                for number, line in enumerate(row := self._row(place, generation)):
                    hold = line.try_hold()
                    if hold is None:
                        continue
                    if _generation(place) != generation:  # the last one came just now
                        hold.close()
                        return self._sit_down()
                    return _Seat(place, row, number, hold, generation=generation, what=self._what)
        return None

    def _row(self, place: Place, generation: int) -> list[Lifeline]:
        first = 1 + self._count * (generation % 2)
        return place.lines[first : first + self._count]

    def _seats_of_now(self, place: Place) -> Watch:
        return listen_and_watch(place.lines[_BELL], lambda: self._row(place, _generation(place)))


class _Seat:
    """One party at the barrier."""

    __slots__ = ("_generation", "_hold", "_place", "_row", "_what", "number")

    def __init__(
        self,
        place: Place,
        row: list[Lifeline],
        number: int,
        hold: Hold,
        *,
        generation: int,
        what: str,
    ) -> None:
        self._place = place
        self._row = row
        self._generation = generation
        self._hold = hold
        self._what = what
        self.number = number
        if self._is_noted(number):  # who sat here died, and nobody was there to see it
            _break(place, generation)
        self._note(State.HELD)

    def is_over(self) -> bool:
        """Whether all have come; the last one says so.

        Raises:
            BrokenBarrierError: Somebody died, gave up or called `Barrier.reset`.
        """
        place, generation = self._place, self._generation
        _refuse_broken(place, generation, self._what)
        if _generation(place) != generation:
            return True
        # Who comes sits down, then notes it; who leaves takes the note back first. So the notes
        # are read before the seats: each noted seat was taken then.
        seats = range(len(self._row))
        noted = [self._is_noted(seat) for seat in seats]
        there = [noted[seat] and self._row[seat].is_held() for seat in seats]
        if all(there):
            with place.lines[_BELL].pull():
                _write_generation(place, generation + 1)
            return True
        if noted != there:  # dead men, unless all had come meanwhile, or somebody gave up
            if _generation(place) != generation:
                return self.is_over()
            self._break()
            _refuse_broken(place, generation, self._what)
        return False

    def watch(self) -> Watch:
        """Watch what ends the wait: the bell, or somebody who leaves."""
        return listen_and_watch(self._place.lines[_BELL], self._others)

    def _others(self) -> list[Lifeline]:
        others = (line for seat, line in enumerate(self._row) if seat != self.number)
        return [line for line in others if line.is_held()]

    @contextlib.contextmanager
    def giving_up(self) -> Iterator[None]:
        """Break the barrier if something ends the wait before all have come."""
        try:
            yield
        except BrokenBarrierError:
            raise
        except BaseException:
            if _generation(self._place) == self._generation:
                self._break()
            raise

    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: object) -> None:
        try:
            self._note(State.NONE)
        finally:
            self._hold.close()

    def _break(self) -> None:
        _break(self._place, self._generation)
        with contextlib.suppress(OSError):  # the end of this seat, which follows, is heard, too
            self._place.lines[_BELL].pull().close()

    def _is_noted(self, seat: int) -> bool:
        return _is_noted(self._place, len(self._row), seat, self._generation)

    def _note(self, state: State) -> None:
        where = _note_of(len(self._row), self.number, self._generation)
        self._place.ledger.note(where, state, number=self._generation)


def _note_of(parties: int, seat: int, generation: int) -> int:
    """Where the ledger has the note of a seat; the rows of seats take turns."""
    return _FIRST_SEAT + (generation % 2) * parties + seat


def _is_noted(place: Place, parties: int, seat: int, generation: int) -> bool:
    """Whether somebody wrote that he came to this seat, and has not left."""
    note = place.ledger.read(_note_of(parties, seat, generation))
    return note.state is State.HELD and note.number == generation


def _generation(place: Place) -> int:
    return place.ledger.read(_GENERATION).number


def _write_generation(place: Place, generation: int) -> None:
    place.ledger.note(_GENERATION, State.NONE, number=generation)


def _break(place: Place, generation: int) -> None:
    # One more than the generation, for 0 is what was never written.
    place.ledger.note(_BROKEN, State.NONE, number=generation + 1)


def _is_broken(place: Place, generation: int) -> bool:
    return place.ledger.read(_BROKEN).number == generation + 1


def _refuse_broken(place: Place, generation: int, what: str) -> None:
    if _is_broken(place, generation):
        raise BrokenBarrierError(f"{what} is broken: a party died or gave up, or it was reset")
