"""Memory that is lent to the far side for large arrays, and used again when it comes back.

Making memory takes several times as long as filling it: the kernel clears each page first. So a
connection keeps some, warm, and lends it out with one array at a time. Its receiver looks at the
array where it lies, and says when the last view of it is gone.
"""

from __future__ import annotations

import itertools
from typing import Final

from aioipc.errors import ProtocolError, from_os_error
from aioipc.kernel.memory import create_memory, map_memory, seal
from aioipc.kernel.owned import OwnedFd

__all__ = ["Lender", "Loan"]

_UNIT: Final = 1024 * 1024
_MOST_KEPT_BYTES: Final = 256 * 1024 * 1024
_MOST_KEPT: Final = 16
"""What one side of a connection has lent out and keeps at most; what goes beyond is used once."""

_MOST_UNUSED: Final = 2
"""Memory may be so many times as large as the array that it is lent for."""


class Loan:
    """Memory for one array.

    Attributes:
        number: What it is called when it comes back; None if it does not.
        buffer: Where to write.
    """

    def __init__(self, lender: Lender, number: int | None, nbytes: int) -> None:
        """Make it: zeros, which others cannot write to.

        Raises:
            ResourceExhausted: There is not so much.
        """
        self.number = number
        self._lender = lender
        try:
            self._file: OwnedFd = create_memory(nbytes, "aioipc-lent", sealed=False)
            self.buffer = map_memory(self._file, nbytes, populate=False)
            seal(self._file, against_writing=True)
        except OSError as error:
            raise from_os_error(error, f"make {nbytes:,} bytes of shared memory") from error

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    def give_back(self) -> None:
        """It was not used after all."""
        if self.number is not None:
            self._lender.came_back(self.number)


class Lender:
    """What one side of a connection lends to the other."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lent: dict[int, Loan] = {}
        self._here: list[Loan] = []

    def lend(self, nbytes: int) -> Loan:
        """Memory for so many bytes.

        Raises:
            ResourceExhausted: There is not so much.
        """
        fitting = [loan for loan in self._here if nbytes <= len(loan.buffer)]
        best = min(fitting, key=_size, default=None)
        if best is not None and _size(best) <= _MOST_UNUSED * max(nbytes, _UNIT):
            self._here.remove(best)
        else:
            best = self._make(-(-nbytes // _UNIT) * _UNIT)
        if best.number is not None:
            self._lent[best.number] = best
        return best

    def _make(self, size: int) -> Loan:
        """Another one, in the place of some that lie here if there are too many."""
        while self._here and not self._has_room(size):
            del self._here[0]
        return Loan(self, next(self._numbers) if self._has_room(size) else None, size)

    def _has_room(self, size: int) -> bool:
        kept = [*self._here, *self._lent.values()]
        return len(kept) < _MOST_KEPT and size + sum(map(_size, kept)) <= _MOST_KEPT_BYTES

    def came_back(self, number: int) -> None:
        """Memory is in nobody's use.

        Raises:
            ProtocolError: It was not lent.
        """
        loan = self._lent.pop(number, None)
        if loan is None:
            raise ProtocolError(f"memory {number:,} was given back, which was not lent")
        self._here.append(loan)

    def close(self) -> None:
        """Keep nothing. What is lent lives as long as its views on the far side."""
        self._lent.clear()
        self._here.clear()


def _size(loan: Loan) -> int:
    return len(loan.buffer)
