"""The file of a name that processes meet at: what each holder notes there outlives it.

Whoever uses the name has a shared lock on the file for as long (fcntl_locking(2)). The last
one to leave can lock it for itself, and then removes it, and what belongs to it, unless a note
has to stay: that of a holder who died.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import os
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from aioipc.errors import AddressError
from aioipc.kernel.directory import Directory, denied, identity_of
from aioipc.kernel.lifeline import Hold, Lifeline
from aioipc.kernel.lockfile import try_lock, unlock
from aioipc.kernel.owned import OwnedFd
from aioipc.native import _locks
from aioipc.native._locks import (
    NOTE_BYTES,
    STALE,
    Entry,
    Signature,
    is_at,
    read_note,
    write_note,
)

__all__ = ["Ledger", "Note", "State", "Tenure", "open_ledger", "remove_unused"]

_HEAD = struct.Struct("<8s16sQ")  # magic, kind, count
_MAGIC = b"aioipc\0\1"
_PRESENCE = 1 << 40
_HEADER_LOCK = _PRESENCE + 1
_START_TIME_FIELD = 19  # proc_pid_stat(5) counts from 1, and the name, field 2, may have spaces


class State(enum.IntFlag):
    """What is so, by a note. Two bits, so that one may outlive the other."""

    NONE = 0
    HELD = _locks.HELD
    """Somebody holds it; if nobody does, he died."""
    TORN = _locks.TORN
    """Somebody died holding it, and nobody has said since that all is well."""
    HELD_TORN = HELD | TORN
    """Both."""


_STATES = tuple(map(State, range(4)))


class Note(NamedTuple):
    """What one holder wrote.

    Attributes:
        state: What is so.
        pid: Whose note it is; 0 for nobody's.
        start_ticks: When that process started, in clock ticks after boot: proc_pid_stat(5).
        since_ns: Since when it holds, in nanoseconds of the machine's own CLOCK_MONOTONIC.
        number: How many notes were written here before, or another count.
    """

    state: State = State.NONE
    pid: int = 0
    start_ticks: int = 0
    since_ns: int = 0
    number: int = 0

    @property
    def since_s(self) -> float:
        """The same in seconds of ``time.monotonic``, which a time namespace may set ahead."""
        return (self.since_ns + _ourselves().ahead_ns) / 1e9


class Ledger(OwnedFd):
    """The open file. Reading and writing notes is up to who holds what they are about."""

    __slots__ = ("_directory", "_name", "_path")

    def __init__(self, fd: int, directory: Directory, name: str) -> None:
        super().__init__(fd)
        self._directory = directory
        self._name = name
        self._path = os.fsencode(name)

    def read(self, place: int) -> Note:
        """Read the note at a place; an empty one where nobody ever wrote."""
        found = read_note(self._fd, _offset(place))
        if found is None:
            return Note()
        number, start_ticks, since_ns, pid, state = found
        return Note(_STATES[state & 3], pid, start_ticks, since_ns, number)

    def note(self, place: int, state: State, *, number: int = 0) -> None:
        """Write a note of this process, as of now.

        It is one write, which a reader sees whole or not at all.
        """
        write_note(self._fd, _offset(place), number, state, _ourselves())

    def own(self, line: Lifeline, place: int, *, tears: bool) -> Tenure | None:
        """Take hold of a lifeline in the same directory, and note that.

        Args:
            line: The lifeline.
            place: Where to note it.
            tears: Whether a death tears what is held, so that also who comes after the next one
                has to know of it, until somebody says that it is repaired.

        Returns:
            None if somebody else has it.

        Raises:
            FileNotFoundError: This file has lost its name, so others note elsewhere.
            AccessDenied: What has the lifeline's name is no FIFO, or somebody else's.
            OSError: The lifeline cannot be opened or made.
        """
        entry = Entry(self._path, _offset(place), _ourselves(), tears)
        fd = line.take(entry.hold, self._fd)
        if fd is None:
            return None
        if fd == STALE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._name)
        return Tenure(fd, self, entry)

    def places(self) -> int:
        """How many places have ever been written."""
        return max(0, os.fstat(self._fd).st_size - _HEAD.size) // NOTE_BYTES

    def is_current(self) -> bool:
        """Whether the file still has its name: somebody else may have removed or renamed it."""
        return self._fd >= 0 and is_at(self._fd, self._directory.fileno(), self._path)

    def leave(
        self,
        remove_rest: Callable[[], object],
        *,
        is_to_be_kept: Callable[[], bool] | None = None,
    ) -> bool:
        """Remove the file if nobody else is here, and before it what else belongs to the name.

        Args:
            remove_rest: Does that. Whoever comes meanwhile waits until the file is gone.
            is_to_be_kept: Whether all is to stay; asked when nobody else can note anything.

        Returns:
            Whether nobody else was here.
        """
        if not try_lock(self._fd, start=_PRESENCE, length=1):
            # Of several who leave at the same time, each sees the others still there. So each
            # goes first and then looks back: the last one finds nobody.
            unlock(self._fd, start=_PRESENCE, length=1)
            if not try_lock(self._fd, start=_PRESENCE, length=1):
                return False
        if is_to_be_kept is not None and is_to_be_kept():
            return True
        ours = identity_of(os.fstat(self._fd))
        if self._directory.identity(self._name) == ours:  # else the rest is of another one
            remove_rest()
        self._directory.unlink_if(self._name, ours)
        return True


class Tenure(Hold):
    """A lifeline that is held, as the ledger has it; only closed, it is as if its holder died.

    Attributes:
        owner_died: Whether the last one who noted it died holding it.
    """

    __slots__ = ("_entry", "_ledger", "owner_died")

    def __init__(self, fd: int, ledger: Ledger, entry: Entry) -> None:
        super().__init__(fd)
        self._ledger = ledger
        self._entry = entry
        self.owner_died = entry.owner_died

    def let_go(self, *, is_consistent: bool = True) -> None:
        """Note that nobody holds it, and close it. Idempotent.

        Args:
            is_consistent: Whether the next owner need not be told of a death.
        """
        fd = self.detach()
        if fd >= 0:
            # The ledger was closed if somebody removed it: the one that took its place knows
            # nothing of this.
            self._entry.let_go(fd, self._ledger.fileno(), is_consistent)


def remove_unused(directory: Directory, name: str, remove_rest: Callable[[], object]) -> bool:
    """Remove the file of a name that nobody uses, as the last one who left would have.

    Returns:
        False if somebody uses it, or it is none of ours.

    Raises:
        FileNotFoundError: There is none.
    """
    with Ledger(directory.open(name, os.O_RDWR | os.O_NONBLOCK), directory, name) as ledger:
        status = os.fstat(ledger.fileno())
        is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if not is_ours or os.pread(ledger.fileno(), len(_MAGIC), 0) not in (_MAGIC, b""):
            return False
        return ledger.leave(remove_rest)


def open_ledger(directory: Directory, name: str, kind: str, count: int) -> Ledger:
    """Open the file of a name, or make it.

    Args:
        directory: Where names of this kind are.
        name: The file's name.
        kind: What the name is for, at most 16 ASCII letters.
        count: A number that all who use the name have to agree on.

    Raises:
        AccessDenied: The file is a symlink or no regular file, or somebody else's.
        AddressError: It is for something else, or for another count.
    """
    while True:
        with contextlib.ExitStack() as undo:
            fd = directory.open(name, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
            ledger = undo.enter_context(Ledger(fd, directory, name))
            status = os.fstat(ledger.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise denied(f"{directory.join(name)} is not a file of uid {os.geteuid()}")
            present = try_lock(ledger.fileno(), shared=True, start=_PRESENCE, length=1)
            if present and directory.identity(name) == identity_of(status):
                _agree(ledger, directory.join(name), kind, count)
                undo.pop_all()
                return ledger
        os.sched_yield()  # somebody is removing it, which takes him two system calls


@functools.cache
def _ourselves() -> Signature:
    pid = os.getpid()
    return Signature(pid, _start_ticks(pid), _clock_ahead_ns(pid))


os.register_at_fork(after_in_child=_ourselves.cache_clear)


def _start_ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as facts:
            return int(facts.read().rpartition(b")")[2].split()[_START_TIME_FIELD])
    except OSError:
        return 0


def _clock_ahead_ns(pid: int) -> int:
    """How far its CLOCK_MONOTONIC is ahead of the machine's own: time_namespaces(7)."""
    try:
        with open(f"/proc/{pid}/timens_offsets", "rb") as offsets:
            _, seconds, nanoseconds = offsets.readline().split()  # CLOCK_MONOTONIC comes first
    except (OSError, ValueError):
        return 0  # the kernel has no such namespaces
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _agree(ledger: Ledger, path: str, kind: str, count: int) -> None:
    """Write the head of the file, or compare it with what is wanted."""
    fd = ledger.fileno()
    wanted = _HEAD.pack(_MAGIC, kind.encode(), count)
    found = os.pread(fd, _HEAD.size, 0)
    while len(found) < _HEAD.size:
        if found != wanted[: len(found)]:  # a short file of somebody else, not one half written
            raise AddressError(f"{path} was not made by aioipc")
        if try_lock(fd, start=_HEADER_LOCK, length=1):
            if os.fstat(fd).st_size < _HEAD.size:
                os.pwrite(fd, wanted, 0)
            unlock(fd, start=_HEADER_LOCK, length=1)
        else:
            os.sched_yield()  # somebody is writing it just now
        found = os.pread(fd, _HEAD.size, 0)
    if found == wanted:
        return
    magic, its_kind, its_count = _HEAD.unpack(found)
    if magic != _MAGIC:
        raise AddressError(f"{path} was not made by aioipc")
    its = its_kind.rstrip(b"\0").decode(errors="replace")
    if its != kind:
        raise AddressError(f"{path} is a {its}, not a {kind}")
    raise AddressError(f"{path} was made for {its_count}, not for {count}")


def _offset(place: int) -> int:
    return _HEAD.size + place * NOTE_BYTES
