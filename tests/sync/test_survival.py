"""The table of docs/sync.md: what is left when a holder is killed. Each row is an experiment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import WouldBlock, sync
from tests.children import Peers
from tests.programs import program

PAGE = Path(__file__).parents[2] / "docs" / "sync.md"

POSIX_NAME = f"/aioipc-survival-{os.getpid()}"
SYSV_KEY = 0x41500000 | os.getpid() & 0xFFFF

SUBJECTS: dict[str, str] = {
    "Lock": "sync.Lock('x')",
    "Condition": "sync.Condition('x')",
    "RWLock": "sync.RWLock('x')",
    "Semaphore": "sync.Semaphore('x', 1)",
    "FileLock": "sync.FileLock(os.environ['AIOIPC_RUNTIME_DIR'] + '/file')",
    "AnonymousSemaphore": "sync.AnonymousSemaphore.from_fd(int(sys.argv[1]))",
    "PosixSemaphore": f"sync.PosixSemaphore({POSIX_NAME!r}, 1)",
    "SysVSemaphore": f"sync.SysVSemaphore({SYSV_KEY}, 1)",
    "JobServer": "sync.JobServer.from_environment({'MAKEFLAGS': sys.argv[1]})",
}

HOLDS = """
from aioipc import sync
subject = {subject}
acquire = getattr(subject, "acquire_writing", None) or subject.acquire
guards = [await acquire() for _ in range({count})]
say("held")
await asyncio.sleep(3600)
"""


async def survive(name: str, peers: Peers) -> tuple[str, str]:
    """Kill a holder, and say whether it is free and whether the next one is told."""
    with contextlib.ExitStack() as stack:
        subject, arguments, fds = await open_subject(name, stack)
        count = 2 if name == "JobServer" else 1  # its own slot, and the only token
        code = HOLDS.format(subject=SUBJECTS[name], count=count)
        holder = program(peers, code, *arguments, pass_fds=fds)
        assert await holder.next_line() == "held"
        holder.kill()
        acquire = getattr(subject, "acquire_writing_nowait", None) or subject.acquire_nowait
        if name == "JobServer":
            acquire()
        try:
            guard = acquire()
        except WouldBlock:
            return "lost", "no"
        told = guard.owner_died
        guard.mark_consistent()
        guard.release()
        return "free", "yes" if told else "no"


async def open_subject(
    name: str, stack: contextlib.ExitStack
) -> tuple[Any, list[object], tuple[int, ...]]:
    if name == "AnonymousSemaphore":
        anonymous = sync.AnonymousSemaphore(1)
        stack.callback(anonymous.close)
        return anonymous, [anonymous.fileno()], (anonymous.fileno(),)
    if name == "JobServer":
        server = sync.JobServer(2)
        stack.callback(server.close)
        return server, [server.auth], server.fds
    subject = eval(SUBJECTS[name])
    if name in ("PosixSemaphore", "SysVSemaphore"):
        remove: Callable[[], None] = getattr(subject, "unlink", None) or subject.remove
        stack.callback(remove)
    stack.callback(subject.close)
    if name == "FileLock":
        stack.callback(os.unlink, subject.path)
    return subject, [], ()


def rows() -> dict[str, tuple[str, str]]:
    """What the page says: primitive, what becomes of it, whether the next one is told."""
    found = re.findall(r"^\| `(\w+)` \| (free|lost) \| (yes|no) \|", PAGE.read_text(), re.MULTILINE)
    return {name: (left, told) for name, left, told in found}


@pytest.mark.leaves_names
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.asyncio
async def test_the_table_is_what_happens(name: str, peers: Peers) -> None:
    async with asyncio.timeout(20):
        assert rows()[name] == await survive(name, peers)


def test_every_primitive_is_in_the_table() -> None:
    others = {"Barrier", "Event", "Guard", "Holder", "RegionHolder"}  # nobody holds these
    assert set(rows()) == set(SUBJECTS) == set(sync.__all__) - others
