"""The journal of a served queue: what was accepted and is not done, in an SQLite file.

Batches are written by a thread of the journal's own, one transaction each, so that the loop never
waits for a disk. In WAL mode a transaction is in the file system when it returns, and survives the
death of the process; with ``fsync`` it is on the disk, and survives that of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from aioipc.errors import ResourceExhausted
from aioipc.queues._broker import Death, Job, State

__all__ = ["Journal", "journal_path"]

_VERSION: Final = 2
_APPLICATION: Final = 0x61696F71  # "aioq": how file(1) and we know such a file

_NO_ROOM: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""A full disk, a full file, and a file at the limit of the process: setrlimit(2)."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL,
    priority INTEGER NOT NULL,
    expires_s REAL,
    attempts INTEGER NOT NULL,
    state TEXT NOT NULL,
    death TEXT,
    reason TEXT NOT NULL,
    spared INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_ALL = "SELECT id, body, priority, expires_s, attempts, state, death, reason, spared FROM jobs"
_KEEP = """
INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    expires_s = excluded.expires_s, attempts = excluded.attempts, state = excluded.state,
    death = excluded.death, reason = excluded.reason, spared = excluded.spared
"""


def journal_path(name: str | os.PathLike[str]) -> str:
    """Where a journal is, from the root on.

    To SQLite an empty name and ``:memory:`` are files that nobody finds again. Behind a slash the
    second one is a name like others.

    Raises:
        ValueError: The name is empty.
    """
    known = os.fsdecode(name)
    if not known:
        raise ValueError("a journal needs a name, and this one is empty")
    return os.path.abspath(known)


class Journal:
    """One open file, which belongs to one server.

    Args:
        path: Where it is, as `journal_path` says; it is made if it is not there (mode 0600).
        fsync: Whether a batch is on the disk when it counts as written.
    """

    def __init__(self, path: str, *, fsync: bool = False) -> None:
        self.path = path
        self._fsync = fsync
        self._thread = ThreadPoolExecutor(1, "aioipc-journal")
        self._file: sqlite3.Connection | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self) -> tuple[list[Job], int]:
        """Open the file and return the jobs that are in it, and the last number that was given.

        Raises:
            ResourceExhausted: Another server has it open, there is no room, or it is not a journal,
                a damaged one, or that of a newer version. Then it was not changed.

        Cancellation:
            Undoes: the file is closed.
        """
        try:
            found: tuple[list[Job], int] = await self._run(self._open)
        except BaseException:
            await self.aclose()
            raise
        return found

    async def write(self, jobs: Iterable[Job]) -> None:
        """Remember jobs as they are at this moment, and forget those that are gone.

        Raises:
            ResourceExhausted: It cannot be written; nothing of it was. With ENOSPC there was no
                room, and there may be later.

        Cancellation:
            Abandons the wait; it is written all the same.
        """
        kept = [_row(job) for job in jobs if job.state is not State.GONE]
        gone = [(job.id,) for job in jobs if job.state is State.GONE]
        await self._run(self._write, kept, gone)

    async def aclose(self) -> None:
        """Write everything back and close the file. Idempotent.

        Cancellation:
            Abandons the wait; it is closed all the same.
        """
        if self._closing is None:  # an opening that was cancelled may be in the thread still
            self._closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)
        with contextlib.suppress(sqlite3.Error, OSError):
            await asyncio.shield(self._closing)

    async def _run(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *arguments)
        except (sqlite3.Error, OSError) as error:
            number = getattr(error, "errno", None) or getattr(error, "sqlite_errorcode", 0)
            if number in _NO_ROOM:
                number = errno.ENOSPC
            raise ResourceExhausted(number, f"the journal {self.path}: {error}") from error

    # In the thread

    def _open(self) -> tuple[list[Job], int]:
        Path(self.path).touch(0o600)
        self._file = file = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
        file.isolation_level = None
        file.execute("PRAGMA locking_mode = EXCLUSIVE")  # one server at a time
        self._check(file)  # before anything is written, be it the mode
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
        file.execute("BEGIN IMMEDIATE")
        if _ask(file, "PRAGMA user_version") == 1:
            file.execute("ALTER TABLE jobs ADD COLUMN spared INTEGER NOT NULL DEFAULT 0")
        file.execute(f"PRAGMA application_id = {_APPLICATION}")
        file.execute(f"PRAGMA user_version = {_VERSION}")
        for statement in _SCHEMA.split(";"):
            file.execute(statement)
        try:
            found = self._read(file)
        except (TypeError, ValueError) as error:
            raise sqlite3.DatabaseError(f"it is damaged: {error}") from error
        file.execute("COMMIT")
        return found

    def _check(self, file: sqlite3.Connection) -> None:
        """Refuse what is not a journal of ours, or not whole."""
        application = _ask(file, "PRAGMA application_id")
        tables = _ask(file, "SELECT count(*) FROM sqlite_master")
        if application != _APPLICATION and (application or tables):
            raise sqlite3.DatabaseError("this is another program's file")
        version = _ask(file, "PRAGMA user_version")
        if tables and not 1 <= version <= _VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, not {_VERSION}")
        state = _ask(file, "PRAGMA quick_check(1)")
        if state != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {state}")

    def _read(self, file: sqlite3.Connection) -> tuple[list[Job], int]:
        same_boot = self._note_boot(file)
        jobs = [_job(row, same_boot=same_boot) for row in file.execute(_ALL)]
        last = file.execute("SELECT value FROM facts WHERE name = 'last'").fetchone()
        return jobs, 0 if last is None else int(last[0])

    def _note_boot(self, file: sqlite3.Connection) -> bool:
        """Whether times in the file are of the clock that runs now: it starts with the machine."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        known = file.execute("SELECT value FROM facts WHERE name = 'boot'").fetchone()
        file.execute("INSERT OR REPLACE INTO facts VALUES ('boot', ?)", (boot,))
        return known is not None and known[0] == boot

    def _write(self, kept: list[tuple[Any, ...]], gone: list[tuple[int]]) -> None:
        assert self._file is not None, "opened before"
        file = self._file
        file.execute("BEGIN IMMEDIATE")
        try:
            file.executemany(_KEEP, kept)
            file.executemany("DELETE FROM jobs WHERE id = ?", gone)
            last = max(row[0] for row in (*kept, *gone))
            file.execute(
                "INSERT INTO facts VALUES ('last', ?) ON CONFLICT (name) DO UPDATE "
                "SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))",
                (last,),
            )
            file.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                file.execute("ROLLBACK")
            raise

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _ask(file: sqlite3.Connection, question: str) -> Any:
    """The one value that answers a question."""
    return file.execute(question).fetchone()[0]


def _row(job: Job) -> tuple[Any, ...]:
    return (
        job.id,
        job.body,
        job.priority,
        job.expires_s,
        job.attempts,
        job.state.value,
        job.death,
        job.reason,
        job.spared,
    )


def _job(row: tuple[Any, ...], *, same_boot: bool) -> Job:
    number, body, priority, expires_s, attempts, state, death, reason, spared = row
    if expires_s is not None and not same_boot:
        expires_s = time.monotonic()  # how long the machine was off, nobody knows: it is over
    return Job(
        number,
        body,
        priority,
        expires_s,
        attempts,
        State(state),
        death=None if death is None else Death(death),
        reason=reason,
        spared=spared,
    )
