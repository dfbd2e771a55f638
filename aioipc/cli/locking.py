"""``aioipc lock``: run a command while holding a lock."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from aioipc.cli.problems import SIGNALLED, tell
from aioipc.sync.lock import Lock

__all__ = ["Locking", "run_locked"]

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


@dataclass(frozen=True)
class Locking:
    """What was asked for.

    Attributes:
        name: The lock.
        command: The program and its arguments.
        timeout_s: How long to wait for the lock; None for ever.
        conflict_status: The exit status if it was not to be had.
    """

    name: str
    command: tuple[str, ...]
    timeout_s: float | None
    conflict_status: int


async def run_locked(wanted: Locking) -> int:
    """Take the lock, run the command, return its exit status.

    Cancellation:
        Ends the command with SIGTERM and waits for its end; then the lock is released.
    """
    lock = Lock(wanted.name)
    with contextlib.closing(lock):
        try:
            async with asyncio.timeout(wanted.timeout_s):
                guard = await lock.acquire()
        except TimeoutError:
            tell(f"lock {wanted.name}: {_held_by(lock)}")
            return wanted.conflict_status
        if guard.owner_died:
            tell(f"lock {wanted.name}: the previous owner died holding it")
            guard.mark_consistent()
        try:
            return await _run(wanted.command)
        finally:
            guard.release()


def _held_by(lock: Lock) -> str:
    pids = [str(holder.pid) for holder in lock.holders()]
    return f"held by process {pids[0]}" if pids else "somebody else was faster"


async def _run(command: tuple[str, ...]) -> int:
    try:
        child = await asyncio.create_subprocess_exec(*command)
    except FileNotFoundError:
        tell(f"{command[0]}: no such program")
        return _NOT_FOUND
    except PermissionError:
        tell(f"{command[0]}: permission denied")
        return _NOT_EXECUTABLE
    try:
        status = await child.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()
        raise
    return status if status >= 0 else SIGNALLED - status
