"""The statistics of other processes, read from the pages on which they count.

Who owns a page may write anything to it at any time, so what it says is checked, and one that
says nonsense is passed over. Its memory cannot shrink: else reading it could kill the reader.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aioipc.kernel.memory import map_memory, size_of, what_may_change
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.statistics import LINK, WORDS, Kind
from aioipc.native._statistics import CLOSED, HEADER_BYTES, MAGIC, MAJOR, ROW_BYTES, read_rows

__all__ = ["Counted", "Reading", "read_pages"]

_HEADER: Final = struct.Struct("=8sHHIIIIIQQ")
_MOST_BYTES: Final = 8 * 1024 * 1024

_ROWS_CLOSED: Final = 13


@dataclass(frozen=True, slots=True)
class Counted:
    """One row: what a process counted of one thing.

    Attributes:
        serial: Tells it from all others of its process, earlier and later ones.
        kind: What it is.
        name: Its address or name; empty for the sum of those that were closed.
        peer: The process at the other end; 0 where there is none, or nobody knows.
        opened_ns: Since when it counts, on the clock of ``time.monotonic_ns``.
        closed: How many closed ones this is the sum of; 0 for one that is open.
        is_sum: Whether it is a sum.
        counts: The numbers, by their names in `WORDS`.
    """

    serial: int
    kind: Kind
    name: str
    peer: int
    opened_ns: int
    closed: int
    is_sum: bool
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """The page of one process, at one moment.

    Attributes:
        pid: The process.
        command: Its command line.
        opened_ns: Since when it counts, on the clock of ``time.monotonic_ns``.
        refused: How much there was no row for.
        rows: Its rows, in the order of their opening.
    """

    pid: int
    command: str
    opened_ns: int
    refused: int
    rows: tuple[Counted, ...]


def read_pages(pids: Iterable[int] | None = None) -> list[Reading]:
    """Read the pages of processes of this user.

    Args:
        pids: Of which processes; None for all, but not this one.

    Returns:
        Those that have a page, in the order of their pids.
    """
    numbers = _all_pids() if pids is None else pids
    readings = (_read_process(pid) for pid in sorted(set(numbers)))
    return [reading for reading in readings if reading is not None]


def _all_pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            yield int(name)


def _read_process(pid: int) -> Reading | None:
    with contextlib.suppress(OSError):  # it has ended, or may not be looked into
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return None
        for memory in _open_pages(pid):
            with memory:
                reading = _read_page(pid, memory)
            if reading is not None:
                return reading
    return None


def _open_pages(pid: int) -> Iterator[OwnedFd]:
    """Its descriptors that look like a page: proc_pid_fd(5)."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(OSError):  # closed since
            if os.readlink(path) == LINK:
                # It may be something else by now; to open a FIFO must not wait for a writer.
                yield OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _read_page(pid: int, memory: OwnedFd) -> Reading | None:
    size = 0 if what_may_change(memory.fileno()) else size_of(memory)
    if not HEADER_BYTES + ROW_BYTES <= size <= _MOST_BYTES:
        return None
    with map_memory(memory, size, writable=False, populate=False) as page:
        magic, major, _, owner, first, row_bytes, _, used, opened_ns, refused = _HEADER.unpack_from(
            page
        )
        # A child that was forked has the parent's descriptor, unless it knew what to close.
        if magic != MAGIC or major != MAJOR or owner not in _numbers_of(pid):
            return None
        if row_bytes != ROW_BYTES or first % 8 or not HEADER_BYTES <= first <= size:
            return None
        rows = read_rows(page, first, used)
    counted = (_counted(row) for row in sorted(rows))
    return Reading(
        pid,
        _command_of(pid),
        opened_ns,
        refused,
        tuple(row for row in counted if row is not None),
    )


def _counted(row: tuple[int, int, int, int, bytes, tuple[int, ...]]) -> Counted | None:
    """What a row says; None for a kind that a later version has added."""
    serial, number, peer, opened_ns, label, words = row
    try:
        kind = Kind(number % CLOSED)
    except ValueError:
        return None
    is_sum = number >= CLOSED
    counts = {name: n for name, n in zip(WORDS[kind], words, strict=False) if name}
    name = label.rstrip(b"\0").decode(errors="replace")
    closed = words[_ROWS_CLOSED] if is_sum else 0
    return Counted(serial, kind, name, peer, opened_ns, closed, is_sum, counts)


def _numbers_of(pid: int) -> set[int]:
    """The pids of a process, here and in the namespaces below: proc_pid_status(5), ``NSpid``."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return {int(number) for number in line.split()[1:]}
    return {pid}


def _command_of(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
