"""A barrier that breaks for all when a party dies at it.

A generation is one use of the barrier. It ends by one write of one word, which says how the last
ones ended, so all who were there read the same. Who writes it has hold of the bell, and rings by
letting go; who finds it held listens to it and looks again. Each party has a seat, a lifeline, in
one of two rows, which generations take in turn, so that late leavers and early comers never meet.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from aioipc.errors import BrokenBarrierError, BusyError
from aioipc.kernel.ledger import Note, State
from aioipc.kernel.lifeline import Hold, Lifeline, Watch, listen_and_watch
from aioipc.limits import check_count
from aioipc.sync._guard import Holder, kernel_errors
from aioipc.sync._named import Named, Place

__all__ = ["Barrier"]

_MOST_PARTIES = 512
_WORD = 0
_FIRST_SEAT = 1
_BELL = 0
_PATIENCE_S = 0.05
_REMEMBERED = 16


class _Word(NamedTuple):
    """What the ledger says of all generations.

    Attributes:
        generation: The number of the one of now.
        broken: A bit for each of the last ones that broke, the one of now first.
    """

    generation: int
    broken: int

    @classmethod
    def read(cls, place: Place) -> _Word:
        return cls(*divmod(place.ledger.read(_WORD).number, 1 << _REMEMBERED))

    def write(self, place: Place) -> None:
        place.ledger.note(_WORD, State.NONE, number=self.generation << _REMEMBERED | self.broken)

    def broke(self, generation: int) -> bool:
        """Whether that one broke; nobody knows any more that one long ago did not."""
        ago = self.generation - generation
        return not 0 <= ago < _REMEMBERED or bool(self.broken >> ago & 1)

    def breaking(self) -> _Word:
        return self._replace(broken=self.broken | 1)

    def next(self) -> _Word:
        return _Word(self.generation + 1, (self.broken << 1) % (1 << _REMEMBERED))


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

    kind = "barrier"

    def __init__(self, name: str | os.PathLike[str], parties: int) -> None:
        parties = check_count("parties", parties, 1, _MOST_PARTIES)
        seats = [f"{row}.{seat}" for row in range(2) for seat in range(parties)]
        super().__init__(name, parties, ["bell", *seats])

    @property
    def parties(self) -> int:
        """How many have to come."""
        return self._count

    def broken(self) -> bool:
        """Whether it is broken."""
        word = _Word.read(self._open())
        return word.broke(word.generation)

    def n_waiting(self) -> int:
        """How many wait at it now: the death of each of them breaks it."""
        return len(self.waiting())

    def waiting(self) -> list[Holder]:
        """Who waits at it now and since when, one entry for each party. Nobody holds a barrier."""
        with kernel_errors(f"look at {self._what}"):
            now = self._round(self._open())
            notes = [now.note_at(seat) for seat in range(self._count) if now.is_there(seat)]
            return [Holder.of(note) for note in notes if note is not None]

    def reset(self) -> None:
        """Make it whole again. Who waits now gets `BrokenBarrierError`.

        Raises:
            BusyError: A process that is just deciding whether all have come does not go on, for
                50 ms: it is stopped, mostly. Nothing changed.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        with kernel_errors(f"reset {self._what}"):
            place = self._open()
            while (decision := place.lines[_BELL].try_hold()) is None:
                if time.monotonic() > deadline_s:
                    raise BusyError(f"{self._what}: a process that decides does not go on")
                os.sched_yield()
            with decision:
                _Word.read(place).breaking().next().write(place)

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
        with seat, kernel_errors(f"wait for {self._what}"):
            while not seat.is_over():
                with seat.watch() as watch:
                    if seat.is_over():  # whoever left while the watch began
                        break
                    await turn.lookout.ready(watch.fileno())
                    self._check()
        return seat.number

    def _sit_down(self) -> _Seat | None:
        """Take a seat and tell the others; None if more have come than there are seats."""
        with kernel_errors(f"wait for {self._what}"):
            while True:
                current = self._round(self._open())
                if current.has_ended():
                    continue
                seat = current.sit_down()
                if seat is not None or not current.is_over():
                    return seat

    def _seats_of_now(self, place: Place) -> Watch:
        return listen_and_watch(place.lines[_BELL], lambda: self._round(place).row)

    def _round(self, place: Place) -> _Round:
        return _Round(place, self._count, _Word.read(place).generation, self._what)


class _Round:
    """One generation, and who has come to it."""

    __slots__ = ("_first_note", "_generation", "_place", "_what", "bell", "row")

    def __init__(self, place: Place, parties: int, generation: int, what: str) -> None:
        seats_before = generation % 2 * parties
        self._place = place
        self._generation = generation
        self._first_note = _FIRST_SEAT + seats_before
        self._what = what
        self.bell = place.lines[_BELL]
        self.row = place.lines[1 + seats_before : 1 + seats_before + parties]

    def sit_down(self) -> _Seat | None:
        """Take a seat; None if there is none, or this is over."""
        for number, line in enumerate(self.row):
            # Nobody sits down where somebody died: that he came is to be seen.
            if self.note_at(number) is None and (hold := line.try_hold()) is not None:
                with contextlib.ExitStack() as undo:
                    undo.enter_context(hold)
                    # Rung also by the death of this process, so that nobody misses that it came.
                    with self.bell.pull():
                        if self._is_open(_Word.read(self._place)) and self.note_at(number) is None:
                            hold.take_seat()  # what `is_there` looks at
                            self._note(number)
                            undo.pop_all()
                            return _Seat(self, number, hold)
        return None

    def has_ended(self) -> bool:
        """Whether all had come when somebody looked last.

        Raises:
            BrokenBarrierError: It broke, or somebody called `Barrier.reset`.
        """
        word = _Word.read(self._place)
        if word.broke(self._generation):
            reason = "a party died or gave up, or it was reset"
            raise BrokenBarrierError(f"{self._what} is broken: {reason}")
        return word.generation != self._generation

    def is_over(self) -> bool:
        """Whether all have come; the last one says so.

        Raises:
            BrokenBarrierError: Somebody died, gave up or called `Barrier.reset`.
        """
        if self.has_ended():
            return True
        if self._outcome() is None:
            return False
        decision = self.bell.try_hold()
        if decision is None:  # somebody else decides, and rings when he has
            return False
        with decision:
            word = _Word.read(self._place)
            if self._is_open(word) and (outcome := self._outcome()) is not None:
                outcome(word).write(self._place)
        return self.has_ended()

    def give_up(self) -> None:
        """Break it, if not all have come, and if that can be decided now."""
        with contextlib.suppress(OSError):
            if (decision := self.bell.try_hold()) is not None:
                with decision:
                    word = _Word.read(self._place)
                    if self._is_open(word):
                        word.breaking().write(self._place)

    def note_at(self, seat: int) -> Note | None:
        """What the one noted who came to this seat, dead or alive."""
        note = self._place.ledger.read(self._first_note + seat)
        is_of_now = note.state is State.HELD and note.number == self._generation
        return note if is_of_now else None

    def is_there(self, seat: int) -> bool:
        """Whether he is there who noted that he came; others only hold a seat to look."""
        return self.row[seat].is_taken(0)

    def _note(self, seat: int) -> None:
        self._place.ledger.note(self._first_note + seat, State.HELD, number=self._generation)

    def _is_open(self, word: _Word) -> bool:
        return word.generation == self._generation and not word.broke(self._generation)

    def _outcome(self) -> Callable[[_Word], _Word] | None:
        """What becomes of the word: all are there, or somebody died; None for neither."""
        # Who comes sits down, then notes it, and nobody takes a note back. So the notes are read
        # before the seats: each noted seat was taken then.
        seats = range(len(self.row))
        noted = [self.note_at(seat) is not None for seat in seats]
        there = [noted[seat] and self.is_there(seat) for seat in seats]
        if all(there):
            return _Word.next
        return None if noted == there else _Word.breaking


class _Seat:
    """One party at the barrier, which breaks if an error ends the wait before all have come."""

    __slots__ = ("_hold", "_round", "number")

    def __init__(self, at: _Round, number: int, hold: Hold) -> None:
        self._round = at
        self._hold = hold
        self.number = number

    def is_over(self) -> bool:
        """As `_Round.is_over`."""
        return self._round.is_over()

    def watch(self) -> Watch:
        """Watch what ends the wait: the bell, or somebody who leaves."""
        return listen_and_watch(self._round.bell, self._others)

    def _others(self) -> list[Lifeline]:
        others = (line for seat, line in enumerate(self._round.row) if seat != self.number)
        return [line for line in others if line.is_held()]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            if kind is not None and not issubclass(kind, BrokenBarrierError):
                self._round.give_up()
        finally:
            # If it is open still, it is as if this process had died: whoever hears this decides.
            self._hold.close()
