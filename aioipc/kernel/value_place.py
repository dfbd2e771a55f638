"""Where the processes of one shared value meet: a ledger, memory, and two lifelines.

The ledger says who writes, and whether he died writing. Who writes holds the lifeline `writer`;
the lifeline `bell` is pulled when there is something new and somebody sleeps.
"""

from __future__ import annotations

import contextlib
import os

from aioipc.kernel.directory import Directory
from aioipc.kernel.ledger import Ledger, Note, Tenure, open_ledger
from aioipc.kernel.lifeline import Lifeline, Watch, listen_and_watch
from aioipc.kernel.memory import map_memory
from aioipc.kernel.owned import Closing, OwnedFd
from aioipc.kernel.runtime_dir import open_runtime_dir

__all__ = ["ValuePlace", "ValueWatch", "open_value_place"]

_WRITER = 0


class ValueWatch(Closing):
    """Readable once the bell was rung, or the writer let go.

    Attributes:
        is_written: Whether there was a writer when it began.
    """

    def __init__(self, watch: Watch, is_written: bool) -> None:
        self._watch = watch
        self.is_written = is_written

    def fileno(self) -> int:
        return self._watch.fileno()

    def close(self) -> None:
        self._watch.close()


class ValuePlace:
    """The files of one name, open.

    Attributes:
        memory: What all of them have mapped.
    """

    def __init__(self, directory: Directory, name: str, ledger: Ledger, size: int) -> None:
        self._directory = directory
        self._name = name
        self._ledger = ledger
        self._bell = Lifeline(directory, f".{name}~bell")
        self._writer = Lifeline(directory, f".{name}~writer")
        self.memory = self._map(size)

    def _map(self, size: int) -> memoryview:
        with OwnedFd(self._directory.open(self._memory_name, os.O_RDWR | os.O_CREAT)) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told of here, not by SIGBUS
            return map_memory(file, size, populate=False)

    @property
    def _memory_name(self) -> str:
        return f".{self._name}~memory"

    def is_current(self) -> bool:
        """Whether the files still have their names."""
        return self._ledger.is_current()

    def note(self) -> Note:
        """Who wrote last; it says HELD until he has closed."""
        return self._ledger.read(_WRITER)

    def is_written(self) -> bool:
        """Whether there is a writer, alive."""
        return self._writer.is_held()

    def ended(self) -> Note | None:
        """What the last writer left, if there was one and there is none now."""
        while True:
            note = self.note()
            if note.number == 0 or self.is_written():
                return None
            # Who closes says so before he lets go, and who comes says so afterwards.
            if self.note() == note:
                return note

    def try_write(self) -> Tenure | None:
        """Become the one writer; None if there is one."""
        return self._ledger.own(self._writer, _WRITER, tears=False)

    def pull(self) -> OwnedFd:
        """Wake who sleeps, when this is closed, however that happens."""
        return self._bell.pull()

    def watch(self) -> ValueWatch:
        """Begin to watch the bell, and the writer's life if there is one."""
        is_written = self.is_written()
        writer = [self._writer] if is_written else []
        return ValueWatch(listen_and_watch(self._bell, lambda: writer), is_written)

    def close(self) -> None:
        """Leave; the last one removes the files."""
        try:
            if self.is_current():
                self._ledger.leave(self._remove_rest)
        finally:
            self._ledger.close()
            self._directory.close()

    def _remove_rest(self) -> None:
        for name in (self._bell.name, self._writer.name, self._memory_name):
            self._directory.unlink(name)


def open_value_place(name: str, size: int) -> ValuePlace:
    """Open the files of a name in the runtime directory, or make them.

    Args:
        name: The name, checked.
        size: Of the memory, in bytes.

    Raises:
        AccessDenied: What is there is not to be trusted.
        AddressError: The name stands for something else.
        OSError: They cannot be made.
    """
    with contextlib.ExitStack() as undo:
        directory = undo.enter_context(open_runtime_dir("value"))
        ledger = undo.enter_context(open_ledger(directory, name, "value", 1))
        place = ValuePlace(directory, name, ledger, size)
        undo.pop_all()
    return place
