"""A name that processes meet at: its files, and how one waits there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

from aioipc.address import check_name
from aioipc.errors import AddressError, ClosedError, ForkError
from aioipc.kernel.directory import Directory, open_trusted
from aioipc.kernel.ledger import Ledger, Tenure, open_ledger
from aioipc.kernel.lifeline import Lifeline, Watch
from aioipc.kernel.runtime_dir import open_runtime_dir
from aioipc.sync._guard import Guarded, explained, kernel_errors
from aioipc.sync._turns import Turn

__all__ = ["Named", "Place"]

T = TypeVar("T")


class Place:
    """The files of one name, open: the ledger, and lifelines by the parts of their names."""

    __slots__ = ("_name", "directory", "ledger", "lines")

    def __init__(self, directory: Directory, name: str, ledger: Ledger, parts: list[str]) -> None:
        self._name = name
        self.directory = directory
        self.ledger = ledger
        self.lines = [self.line(part) for part in parts]

    def line(self, part: str, *, make: bool = True) -> Lifeline:
        """One lifeline; if not ``make``, one that may be gone."""
        return Lifeline(self.directory, f".{self._name}~{part}", make=make)

    def parts(self) -> list[str]:
        """The parts of all lifelines that are there, in no order."""
        prefix = f".{self._name}~"
        names = self.directory.names()
        parts = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [part for part in parts if "~" not in part]

    def close(self, *, is_to_be_kept: Callable[[], bool]) -> None:
        """Leave; the last one turns off the light, unless something has to be kept."""
        try:
            if self.ledger.is_current():
                self.ledger.leave(self._remove_lines, is_to_be_kept=is_to_be_kept)
        finally:
            self.ledger.close()
            self.directory.close()

    def _remove_lines(self) -> None:
        for part in self.parts():
            self.line(part).remove()


class Named(Guarded):
    """An object that processes share by its name, or by a path.

    Its files are opened at its first use. In a forked child it raises `ForkError` if the
    parent had used it by then.
    """

    kind: ClassVar[str]

    def __init__(self, name: str | os.PathLike[str], count: int, parts: list[str]) -> None:
        self.name = os.fsdecode(name)
        if "/" not in self.name:
            check_name(self.name)
        elif os.path.basename(self.name) in ("", ".", "..") or "\0" in self.name:
            raise AddressError(f"{self.name!r} names no file")
        super().__init__(f"{self.kind} {self.name!r}")
        self._count = count
        self._parts = parts
        self._place: Place | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Let go of everything, and end the waits of this object with `ClosedError`. Idempotent.

        What is held is given back as if this process had died. The last process to close
        removes the files, unless something is noted there that the next one has to know.
        """
        if self._unusable is None:
            self._unusable = ClosedError(f"{self._what} was closed")
            self._end()

    def abandon(self) -> None:
        """Belong to the parent, in a forked child that inherits it in use."""
        super().abandon()
        self._opening = threading.Lock()
        if self._place is not None:
            self._place = None
            self._unusable = ForkError(f"{self._what} belongs to the parent; make one in the child")

    def _is_to_be_kept(self, place: Place) -> bool:
        """Whether something is noted that the next user has to know."""
        return False

    def _open(self) -> Place:
        """The files; they are opened if need be, and anew if somebody removed them."""
        self._check()
        place = self._place
        if place is not None and place.ledger.is_current():
            return place
        with self._opening:
            old = self._place
            if old is None or not old.ledger.is_current():
                with kernel_errors(f"open {self._what}"):
                    self._place = self._opened()
                if old is not None:
                    old.close(is_to_be_kept=lambda: True)
            assert self._place is not None
            return self._place

    def _opened(self) -> Place:
        if "/" in self.name:
            name = os.path.basename(self.name)
            directory = open_trusted(os.path.dirname(self.name) or "/")
        else:
            name = self.name
            directory = open_runtime_dir("sync", self.kind)
        try:
            ledger = open_ledger(directory, name, self.kind, self._count)
        except BaseException:
            directory.close()
            raise
        return Place(directory, name, ledger, self._parts)

    def _own(self, line: int, note: int, *, tears: bool) -> Tenure | None:
        """Take hold of one of the lifelines, and note it: `Ledger.own`."""
        place = self._place or self._open()
        try:
            return place.ledger.own(place.lines[line], note, tears=tears)
        except FileNotFoundError:  # somebody removed the files
            place = self._open()
        except OSError as error:
            raise explained(error, f"take {self._what}") from error
        with kernel_errors(f"take {self._what}"):
            return place.ledger.own(place.lines[line], note, tears=tears)

    async def _take(self, attempt: Callable[[], T | None], watch: Callable[[Place], Watch]) -> T:
        """Stand in line, then take something as soon as whom ``watch`` watches lets go."""
        turn = self._turns.here()
        async with turn.line:
            return await self._wait_until(turn, attempt, watch)

    async def _wait_until(
        self,
        turn: Turn,
        attempt: Callable[[], T | None],
        watch: Callable[[Place], Watch],
    ) -> T:
        """Try until it works, and in between wait for whom ``watch`` watches."""
        if (taken := attempt()) is not None:
            return taken
        with self._tally.waiting():
            while taken is None:
                with self._watch(watch) as watching:
                    taken = attempt()  # who was in the way may be gone already
                    if taken is None:
                        await turn.lookout.ready(watching.fileno())
                        taken = attempt()
        return taken

    def _watch(self, watch: Callable[[Place], Watch]) -> Watch:
        with kernel_errors(f"wait for {self._what}"):
            return watch(self._open())

    def _end(self) -> None:
        self._drop_all()
        place, self._place = self._place, None
        if place is not None:
            with contextlib.suppress(OSError):
                place.close(is_to_be_kept=lambda: self._is_to_be_kept(place))
        self._turns.close()

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_place", None) is not None:
            self._end()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"
