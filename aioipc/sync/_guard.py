"""What is held, by whom: guards, and the objects that hand them out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from aioipc.errors import AddressError, ClosedError, ForkError, IPCError, from_os_error
from aioipc.kernel.ledger import Note
from aioipc.kernel.owned import abandon_in_child
from aioipc.kernel.statistics import Kind, Tally
from aioipc.sync._turns import Turns

__all__ = ["Enterable", "Guard", "Guarded", "Holder", "Holding", "explained", "kernel_errors"]

_NO_FILE_NAME = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds something.

    Attributes:
        pid: The process.
        since: Since when, on the clock of ``time.monotonic``, in seconds.
    """

    pid: int
    since: float

    @classmethod
    def of(cls, note: Note) -> Holder:
        """Who wrote a note."""
        return cls(note.pid, note.since_s)

    @property
    def held_s(self) -> float:
        """For how long, in seconds."""
        return time.monotonic() - self.since


class _Hold(Protocol):
    def let_go(self, *, is_consistent: bool) -> None: ...

    def close(self) -> None: ...


class Holding:
    """What a guard stands for where nobody is told of a death: a subclass says how it is closed."""

    __slots__ = ()

    def close(self) -> None:
        """Give it back."""
        raise NotImplementedError

    def let_go(self, *, is_consistent: bool) -> None:
        """The same."""
        self.close()


class Guard:
    """A lock or a permit that the calling task holds.

    Attributes:
        owner_died: Whether somebody died holding it, and nobody has called `mark_consistent`
            since: what it guards may be torn.
        slot: Which one of several permits it is, from 0.
        is_held: Whether it is held still.
        owner: The task that holds it, or the number of the thread where no loop runs. None in a
            forked child of its process.
    """

    __slots__ = ("_consistent", "_forget", "_hold", "is_held", "owner", "owner_died", "slot")

    def __init__(
        self,
        forget: Callable[[Guard], None],
        hold: _Hold,
        *,
        slot: int = 0,
        owner_died: bool = False,
    ) -> None:
        self._forget = forget
        self._hold = hold
        self.owner: object = caller()
        self._consistent = not owner_died
        self.is_held = True
        self.owner_died = owner_died
        self.slot = slot

    def mark_consistent(self) -> None:
        """Say that what it guards is repaired; else the next owner is told of the death too.

        Raises:
            RuntimeError: It was released already.
            ForkError: The parent of this process holds it.
        """
        self._check()
        self._consistent = True

    def release(self) -> None:
        """Let go of it. What an ended task held, anybody may release.

        Raises:
            RuntimeError: It was released already, or another task or thread holds it.
            ForkError: The parent of this process holds it.
        """
        self._check()
        if not self.is_left and self.owner != caller():
            raise RuntimeError("another task or thread holds this")
        self.end()

    @property
    def is_left(self) -> bool:
        """Whether the task that took it has ended, as `asyncio.wait_for` has one do in 3.11."""
        return isinstance(self.owner, asyncio.Task) and self.owner.done()

    def end(self) -> None:
        """Do it, for who knows that it may be done."""
        self.is_held = False
        try:  # others first: they wait
            self._hold.let_go(is_consistent=self._consistent)
        except OSError as error:
            raise explained(error, "release this") from error
        finally:
            self._forget(self)

    def drop(self) -> None:
        """Let go of it without a word, as if the process had died."""
        self.is_held = False
        with contextlib.suppress(ClosedError):  # somebody removed what it was a permit of
            self._hold.close()

    def abandon(self) -> None:
        """Be the parent's, in a forked child. Who forked has the same number there as a thread."""
        self.is_held = False
        self.owner = None

    def _check(self) -> None:
        if self.owner is None:
            raise ForkError("the parent of this process holds this")
        if not self.is_held:
            raise RuntimeError("this was released already")

    def __repr__(self) -> str:
        state = "held" if self.is_held else "released"
        return f"<Guard {state} slot={self.slot} owner_died={self.owner_died}>"


class Guarded:
    """An object of which tasks hold something, by guards. All threads and loops may use it.

    Args:
        what: How messages call it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._tally = Tally(Kind.LOCK, what)
        self._turns = Turns(self._tally)
        self._held: dict[object, list[Guard]] = {}
        self._unusable: IPCError | None = None
        abandon_in_child(self)

    def close(self) -> None:
        """Give back what is held. Idempotent."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Forget what the parent holds and who waits there, in a forked child."""
        self._turns.forget()
        self._tally.abandon()
        held, self._held = self._held, {}
        for guards in held.values():
            for guard in guards:
                guard.abandon()

    def _check(self) -> None:
        """Raise what makes it unusable."""
        if self._unusable is not None:
            raise type(self._unusable)(str(self._unusable))

    def _keep(self, guard: Guard) -> Guard:
        self._held.setdefault(guard.owner, []).append(guard)
        self._tally.add(acquired=1, held=1, owners_died=guard.owner_died)
        return guard

    def _forget(self, guard: Guard) -> None:
        guards = self._held[guard.owner]
        guards.remove(guard)
        if not guards:
            del self._held[guard.owner]
        self._tally.add(held=-1)

    def _mine(self) -> Guard | None:
        guards = self._held.get(caller()) if self._held else None
        return guards[-1] if guards else None

    def _left(self) -> Guard | None:
        """What a task that has ended took last, if one did."""
        return next((held[-1] for held in list(self._held.values()) if held[-1].is_left), None)

    def _refuse_again(self) -> None:
        if self._held and caller() in self._held:
            raise RuntimeError(f"this task holds {self._what} already, and would wait for itself")

    def _drop_all(self) -> None:
        held, self._held = self._held, {}
        for guards in held.values():
            for guard in guards:
                guard.drop()
        self._tally.close()

    def _release(self) -> None:
        self._check()
        guard = self._mine() or self._left()
        if guard is None:
            raise RuntimeError(f"this task holds nothing of {self._what}")
        guard.end()

    def __del__(self) -> None:
        if getattr(self, "_held", None):
            try:
                text = f"{self._what} was dropped while held"
                warnings.warn(text, ResourceWarning, 2, self)
            finally:  # a warning may be an error
                self.close()


class Enterable(Guarded):
    """One that is entered with ``async with``."""

    async def acquire(self) -> Guard:
        """Wait, and take it."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what the calling task took last; else of what a task took that has ended.

        Raises:
            RuntimeError: This task holds nothing of it. Nothing changed.
            ClosedError: It was closed, and so released.
            ForkError: It belongs to the parent of this process.
        """
        self._release()

    def __aenter__(self) -> Coroutine[Any, Any, Guard]:
        return self.acquire()  # no coroutine of its own: each one is gone through at a wake-up

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._unusable is None:  # else nothing is held any more
            self._release()


def caller() -> object:
    """Who calls: the running task, else the thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident() if task is None else task


def explained(error: OSError, doing: str) -> OSError | IPCError:
    """What `aioipc.errors` has for what the system said; a missing file stays one."""
    if isinstance(error, IPCError | FileNotFoundError):
        return error
    if error.errno in _NO_FILE_NAME:
        return AddressError(f"{doing}: {error.strerror}")
    return from_os_error(error, doing)


class kernel_errors:  # noqa: N801 - it is a statement
    """Raise what `explained` says."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and (better := explained(error, self._doing)) is not error:
            raise better from error
