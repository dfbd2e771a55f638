"""The page on which this process counts, for other programs of its user to read.

It is memory without a name: whoever may look into the process (proc_pid_fd(5)) finds its
descriptor there, and nothing of it outlives the process, however that ends. A file would lie on a
disk where there is no /run/user, and who writes to the mapping of such a file waits for the disk
now and then. docs/statistics.md has the layout.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
import time
from typing import Final

from aioipc.kernel.memory import create_memory
from aioipc.kernel.owned import OwnedFd
from aioipc.native._memory import Mapping
from aioipc.native._statistics import HEADER_BYTES, ROW_BYTES, Page, Row

__all__ = ["LINK", "WORDS", "Kind", "Tally", "Waiting", "open_row"]

log = logging.getLogger("aioipc.kernel.statistics")

_NAME: Final = "aioipc-statistics"
LINK: Final = f"/memfd:{_NAME} (deleted)"
"""What the link of its descriptor says: memfd_create(2)."""

_ROWS: Final = 16_384  # as many as a listener has connections; untouched ones take no memory


class Kind(enum.IntEnum):
    """What a row is about."""

    CHANNEL = 1
    LOCK = 2
    QUEUE = 3
    STREAM = 4
    KERNEL_QUEUE = 5


WORDS: Final = {
    Kind.CHANNEL: (
        *("messages_sent", "bytes_sent", "messages_received", "bytes_received"),
        *("read_calls", "write_calls", "send_waits", "receive_waits", "polls", "poll_hits"),
        *("bells_rung", "bells_saved", "lost_wakeups", "", "senders_waiting"),
    ),
    Kind.LOCK: (
        *("acquired", "waits", "waited_ns", "owners_died"),
        *("", "", "", "", "", "", "", "", "", "", "held", "waiting"),
    ),
    Kind.QUEUE: (
        *("accepted", "given", "redelivered", "done", "failed", "lost", "expired"),
        *("dead_dropped", "", "", "", "", "", "", "ready", "leased", "dead", "waiting"),
    ),
    Kind.STREAM: (
        *("", "bytes_sent", "", "bytes_received", "", ""),
        *("send_waits", "receive_waits", "polls", "poll_hits", "", "", "", "", "senders_waiting"),
    ),
    Kind.KERNEL_QUEUE: (
        *("put", "waits", "waited_ns", "got"),
        *("", "", "", "", "", "", "", "", "", "", "", "waiting"),
    ),
}
"""What the words of a row are called; those without a name are spare."""

_WORDS: Final = {
    kind: {name: word for word, name in enumerate(names) if name} for kind, names in WORDS.items()
}


class _Own:
    """The page of this process, if it has one: it lives as long as the process."""

    def __init__(self) -> None:
        self.is_wanted = os.environ.get("AIOIPC_STATISTICS", "1") != "0"
        self.page: Page | None = None
        self._memory: OwnedFd | None = None
        self._making = threading.Lock()

    def make(self) -> Page | None:
        if not self.is_wanted:
            return None
        with self._making:
            if self.page is None:
                try:
                    self.page = self._made()
                except OSError as error:  # what was to be counted matters more; the next one tries
                    log.debug("no statistics: %s", error)
            return self.page

    def _made(self) -> Page:
        size = HEADER_BYTES + _ROWS * ROW_BYTES
        memory = create_memory(size, _NAME, allocated=False)
        # A forked child that closes or prints its copies of the parent's objects reads it.
        mapping = Mapping(memory.fileno(), size, populate=False, inherited=True)
        page = Page(memoryview(mapping))
        self._memory = memory
        return page


_own = _Own()


def open_row(kind: Kind, name: str, peer: int = 0) -> Row | None:
    """Begin to count something on the page of this process, which is made if need be.

    Args:
        kind: What it is.
        name: For people to recognise it.
        peer: The process at the other end; 0 where there is none, or nobody knows.

    Returns:
        The row; None with ``AIOIPC_STATISTICS=0``, or where there is no room or no memory.
    """
    page = _own.page or _own.make()
    return None if page is None else page.open(kind, name.encode(errors="replace"), peer)


class Tally:
    """What is counted of one thing, from the first count until it is closed.

    Args:
        kind: What it is.
        name: For people to recognise it.
        peer: The process at the other end; 0 where there is none, or nobody knows.
    """

    __slots__ = ("_is_closed", "_kind", "_name", "_peer", "_row", "_words")

    def __init__(self, kind: Kind, name: str, peer: int = 0) -> None:
        self._kind = kind
        self._name = name
        self._peer = peer
        self._words = _WORDS[kind]
        self._row: Row | None = None
        self._is_closed = False

    def add(self, **numbers: int) -> None:
        """Add to some of the numbers in `WORDS`."""
        row = self.row()
        if row is not None:
            for name, number in numbers.items():
                row.add(self._words[name], number)

    def put(self, name: str, number: int) -> None:
        """Say what one of the numbers in `WORDS` is now."""
        row = self.row()
        if row is not None:
            row.put(self._words[name], number)

    def row(self) -> Row | None:
        """Where it is counted, from now on; None where nothing is."""
        return self._row or self._open()

    def waiting(self) -> Waiting:
        """``with tally.waiting():`` counts a wait, and how long it takes."""
        return Waiting(self)

    def close(self) -> None:
        """Count nothing any more. Idempotent."""
        self._is_closed = True
        if self._row is not None:
            self._row.close()

    def abandon(self) -> None:
        """Begin anew, in a forked child."""
        self._row = None
        self._is_closed = False

    def _open(self) -> Row | None:
        if not self._is_closed:
            self._row = open_row(self._kind, self._name, self._peer)
            self._is_closed = self._row is None  # it is tried once
        return self._row


class Waiting:
    """One wait of somebody."""

    __slots__ = ("_began_ns", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> None:
        self._began_ns = time.monotonic_ns()
        self._tally.add(waits=1, waiting=1)

    def __exit__(self, *details: object) -> None:
        self._tally.add(waiting=-1, waited_ns=time.monotonic_ns() - self._began_ns)


def _forget() -> None:
    """Begin anew in a forked child: what is counted on the parent's page is the parent's."""
    global _own  # noqa: PLW0603 - there is one per process
    _own = _Own()


os.register_at_fork(after_in_child=_forget)
