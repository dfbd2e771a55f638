"""Memory that is lent to another process for large data, and used again when it comes back.

Making memory takes several times as long as filling it: the kernel clears each page first. So
whoever sends keeps some, warm, and lends it out again and again. The other process looks at it
where it lies, and says when it does so no more.
"""

from __future__ import annotations

from typing import Final

from aioipc.errors import ProtocolError, from_os_error
from aioipc.kernel.memory import create_memory, map_memory, seal
from aioipc.kernel.owned import OwnedFd

__all__ = ["MOST_LOANS", "Lender", "Loan"]

_UNIT: Final = 1024 * 1024
MOST_LOANS: Final = 16
"""How many one side of a connection has lent out and keeps at most."""

_MOST_UNUSED: Final = 2
"""Memory may be so many times as large as what it is lent for."""


class Loan:
    """Memory that only its maker can write to.

    Attributes:
        number: What it is called when it comes back; None if it does not.
        file: Its descriptor.
        buffer: Where to write.
    """

    def __init__(self, lender: Lender | None, number: int | None, nbytes: int) -> None:
        """Make it: zeros, which others cannot write to.

        Raises:
            ResourceExhausted: There is not so much.
        """
        self.number = number
        self.was_used = True
        self._lender = lender
        try:
            self.file: OwnedFd = create_memory(nbytes, "aioipc-lent", sealed=False)
            self.buffer = map_memory(self.file, nbytes, populate=False)
            seal(self.file, against_writing=True)
        except OSError as error:
            raise from_os_error(error, f"make {nbytes:,} bytes of shared memory") from error

    @classmethod
    def once(cls, nbytes: int) -> Loan:
        """Memory that does not come back.

        Raises:
            ResourceExhausted: There is not so much.
        """
        return cls(None, None, -(-nbytes // _UNIT) * _UNIT)

    def fileno(self) -> int:
        """Its descriptor."""
        return self.file.fileno()

    def give_back(self) -> None:
        """It was not used after all. Nothing if the lender is closed."""
        if self._lender is not None and self.number is not None and self._lender.has(self):
            self._lender.came_back(self.number)


class Lender:
    """What one side of a connection lends to the other.

    Args:
        most_bytes: What it has lent out and keeps may have so many bytes together.
        always: So many are lent, however large they are.
    """

    def __init__(self, most_bytes: int, always: int = 1) -> None:
        self._most_bytes = most_bytes
        self._always = always
        self._lent: dict[int, Loan] = {}
        self._here: list[Loan] = []

    @property
    def has_some_here(self) -> bool:
        """Whether memory lies here that nobody uses."""
        return bool(self._here)

    def lend(self, nbytes: int) -> Loan | None:
        """Memory for so many bytes; None if so much is lent that some has to come back first.

        Raises:
            ResourceExhausted: There is not so much.
        """
        fitting = [loan for loan in self._here if nbytes <= len(loan.buffer)]
        best = min(reversed(fitting), key=_size, default=None)  # the last one is in the caches
        if best is not None and _size(best) <= _MOST_UNUSED * max(nbytes, _UNIT):
            self._here.remove(best)
        else:
            best = self._make(-(-nbytes // _UNIT) * _UNIT)
        if best is not None and best.number is not None:
            self._lent[best.number] = best
            best.was_used = True
        return best

    def _make(self, size: int) -> Loan | None:
        """Another one, in the place of some that lie here if there are too many."""
        while not self._has_room(size):
            if not self._here:
                return None
            del self._here[0]
        numbers = {loan.number for loan in self._all()}
        return Loan(self, next(n for n in range(1, MOST_LOANS + 1) if n not in numbers), size)

    def _has_room(self, size: int) -> bool:
        kept = self._all()
        return len(kept) < self._always or (
            len(kept) < MOST_LOANS and size + sum(map(_size, kept)) <= self._most_bytes
        )

    def _all(self) -> list[Loan]:
        return [*self._here, *self._lent.values()]

    def has(self, loan: Loan) -> bool:
        """Whether it is lent, or kept to be lent again."""
        return loan in self._all()

    def came_back(self, number: int) -> None:
        """Memory is in nobody's use.

        Raises:
            ProtocolError: It was not lent.
        """
        loan = self._lent.pop(number, None)
        if loan is None:
            raise ProtocolError(f"memory {number:,} was given back, which was not lent")
        if _size(loan) <= self._most_bytes:
            self._here.append(loan)

    def trim(self) -> None:
        """Keep only what was lent since the last time."""
        self._here = [loan for loan in self._here if loan.was_used]
        for loan in self._here:
            loan.was_used = False

    def close(self) -> None:
        """Keep nothing. What is lent lives as long as its views on the far side."""
        self._lent.clear()
        self._here.clear()


def _size(loan: Loan) -> int:
    return len(loan.buffer)
