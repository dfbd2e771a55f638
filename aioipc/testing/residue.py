"""What a test may leave behind: nothing.

A `Snapshot` is taken before each test and compared with the state after it, when the
test's event loop is closed already. Everything is read from the kernel, so nothing that
a library forgot to count escapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

from aioipc.kernel.statistics import LINK

__all__ = ["NAME_LEFT", "Snapshot", "residue", "tasks_left"]

NAME_LEFT = "name in the runtime directory:"

_SHM = Path("/dev/shm")  # noqa: S108 - it is only listed
_TURNS = 10
_LAST_BREATH_S = 2.0
_OTHER_RUN_S = 5.0
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Snapshot:
    """What this process holds at one moment."""

    fds: dict[int, str] = field(default_factory=lambda: dict(_open_fds()))
    children: dict[int, str] = field(default_factory=lambda: dict(_children()))
    threads: frozenset[threading.Thread] = field(
        default_factory=lambda: frozenset(threading.enumerate())
    )
    shared: frozenset[str] = field(default_factory=lambda: frozenset(os.listdir(_SHM)))


def residue(before: Snapshot, runtime_dir: Path) -> list[str]:
    """Say what is there now and was not there before, one line each.

    Objects that only wait for the garbage collector are not residue of their own: the
    collector runs before anything is reported, and an object that it has to close warns,
    which fails the test as well.
    """
    if found := list(_differences(before, runtime_dir)):
        gc.collect()
        _let_threads_end(before)
        _let_other_runs_clean_up(before)
        found = list(_differences(before, runtime_dir))
    return found


def tasks_left(runner: asyncio.Runner) -> list[str]:
    """Say which tasks and readers are left on a loop that is about to be closed.

    A task that ends within a few turns by itself, like the close of an async generator that
    the collector found, is not left.
    """
    loop = runner.get_loop()
    if asyncio.all_tasks(loop):
        runner.run(_turns())
    found = [f"task {task!r}" for task in asyncio.all_tasks(loop)]
    selector = getattr(loop, "_selector", None)  # uvloop does not tell
    if selector is not None:
        own = {loop._ssock.fileno()}  # type: ignore[attr-defined]
        found += [f"reader or writer of fd {fd}" for fd in selector.get_map() if fd not in own]
    return found


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _differences(before: Snapshot, runtime_dir: Path) -> Iterator[str]:
    now = Snapshot()
    yield from _changed_fds(before.fds, now.fds)
    for pid in now.children.keys() - before.children.keys():
        yield f"child process {pid}: {now.children[pid]}"
    for thread in now.threads - before.threads:
        yield f"thread {thread.name}"
    for memory in _new_memory(before):
        yield f"shared memory {memory}"
    for path in sorted(runtime_dir.rglob("*")):
        if not path.is_dir():
            yield f"{NAME_LEFT} {path.relative_to(runtime_dir)}"


def _new_memory(before: Snapshot) -> list[str]:
    """Other programs on this machine use the directory too, maybe another run of the same tests."""
    names = (name for name in set(os.listdir(_SHM)) - before.shared if "aioipc" in name)
    return [path for name in names if not _is_used_elsewhere(path := f"{_SHM / name}")]


def _changed_fds(before: Mapping[int, str], now: Mapping[int, str]) -> Iterator[str]:
    for fd, target in now.items():
        if before.get(fd) != target:
            yield f"fd {fd} -> {target}"
    for fd in before.keys() - now.keys():
        yield f"fd {fd} -> {before[fd]} was closed, and was not the test's to close"


def _open_fds() -> Iterator[tuple[int, str]]:
    tracker = getattr(resource_tracker._resource_tracker, "_fd", None)
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is in the list and gone already.
        with contextlib.suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{name}")
            # The tracker and the page of statistics live as long as the process.
            if int(name) != tracker and link != LINK:
                yield int(name), link


def _children() -> Iterator[tuple[int, str]]:
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread may end while we look
            for pid in map(int, path.read_text().split()):
                if pid != tracker:
                    yield pid, _command(pid)


def _command(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "gone"
    return command.replace(b"\0", b" ").decode(errors="replace").strip() or "ended, not reaped"


def _is_used_elsewhere(path: str) -> bool:
    """Whether a process that does not descend from this one has a file open or mapped."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return any(_uses(pid, path) and not _descends_from_us(pid) for pid in pids)


def _uses(pid: int, path: str) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
        if path in Path(f"/proc/{pid}/maps").read_text(errors="replace"):
            return True
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{number}") == path:
                    return True
    return False


def _descends_from_us(pid: int) -> bool:
    while pid not in (0, os.getpid()):
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return False
        pid = int(status.rpartition(b")")[2].split()[1])  # its parent: proc_pid_stat(5)
    return pid != 0


def _let_threads_end(before: Snapshot) -> None:
    """Wait for threads that are on their way out, like one that waited for a child."""
    for thread in set(threading.enumerate()) - before.threads:
        thread.join(_LAST_BREATH_S)


def _let_other_runs_clean_up(before: Snapshot) -> None:
    """Wait for names that another run may remove, after it killed those who had them open."""
    deadline = time.monotonic() + _OTHER_RUN_S
    while _new_memory(before) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
