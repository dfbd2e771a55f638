"""What there is in the runtime directory, who uses it, and removing what nobody does.

Who has a file open stands in /proc (proc_pid_fd(5)), for processes of this user. That is for
people to read. Whether something is removed is decided by the locks alone which its users hold,
under the same rules as when the next user of the name finds what a dead one left.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from aioipc.kernel.directory import Directory, Identity, identity_of
from aioipc.kernel.ledger import remove_unused
from aioipc.kernel.lifeline import Lifeline
from aioipc.kernel.openings import (
    NAMED_MEMORY,
    Opening,
    Openings,
    all_openings,
    pids_of,
    system_v_identity,
)
from aioipc.kernel.region import InTheWay
from aioipc.kernel.region_line import REGION_LINES, find_region_lines
from aioipc.kernel.rendezvous import remove_dead
from aioipc.kernel.runtime_dir import open_runtime_dir

__all__ = ["Item", "list_items", "remove_item"]

_SERVED = {"socket": "endpoint unix", "shm": "endpoint shm", "mailbox": "mailbox"}
_MAY_STAY = ("memory", "POSIX", "sysv")
_FILE_LOCK = "file lock"
_BELL = "bell"  # this lifeline is listened to, and held by nobody
_NAMED_SEMAPHORE = "sem."  # what sem_open(3) puts before the name
_QUEUES = "/dev/mqueue"  # if it is mounted: mq_overview(7)
_SYSTEM_V = {"shm": ("memory", "shmid"), "msg": ("queue", "msqid"), "sem": ("semaphore", "semid")}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that processes share by its name.

    Attributes:
        kind: ``"endpoint unix"``, ``"lock"``, ``"value"``, ``"memory"`` and so on.
        name: Its name; for a file lock the file, as far as it can be known, and the bytes.
        path: Its file; for a file lock the FIFO that others wait at.
        owners: The processes that serve or hold it, by their pids.
        waiters: Those that wait for it.
        users: All that have it open, those included; None where the kernel does not tell.
    """

    kind: str
    name: str
    path: str
    owners: tuple[int, ...] = ()
    waiters: tuple[int, ...] = ()
    users: tuple[int, ...] | None = ()

    @property
    def is_used(self) -> bool | None:
        """Whether somebody has it open; None where nobody can tell."""
        return None if self.users is None else bool(self.users)

    @property
    def is_removable(self) -> bool:
        """Whether it is of a kind that is of no use without users, and whose users say so."""
        return self.kind.partition(" ")[0] not in _MAY_STAY


def list_items() -> list[Item]:
    """Everything in the runtime directory, and what else this user has by names and keys.

    That is memory, queues and semaphores of POSIX and of System V: shm_overview(7), sysvipc(7).

    Raises:
        AccessDenied: The runtime directory is not to be trusted.
    """
    openings = all_openings()
    items = [*_served(openings), *_synchronised(openings), *_file_locks(openings)]
    items += [*_posix(openings), *_system_v(openings)]
    return sorted(items, key=lambda item: (item.kind, item.name))


def remove_item(item: Item) -> bool:
    """Remove what belongs to nobody.

    Returns:
        False if somebody uses it, since whenever, or it is gone already.

    Raises:
        OSError: The system said no.
    """
    if not item.is_removable:
        return False
    with _open_parent(item) as directory:
        if item.kind == _FILE_LOCK:
            return Lifeline(directory, os.path.basename(item.path), make=False).remove_unused()
        if item.kind in _SERVED.values():
            return directory.stat(item.name) is not None and remove_dead(directory, item.name)

        def remove_rest() -> None:
            for name in _parts_of(directory, item.name):
                directory.unlink(name)

        try:
            return remove_unused(directory, item.name, remove_rest)
        except FileNotFoundError:
            return False


def _open_parent(item: Item) -> Directory:
    """The directory of the runtime directory that an item is in."""
    ways: dict[str, tuple[str, ...]] = {kind: (folder,) for folder, kind in _SERVED.items()}
    ways |= {"value": ("value",), _FILE_LOCK: REGION_LINES}
    return open_runtime_dir(*ways.get(item.kind, ("sync", item.kind)), create=False)


def _served(openings: Openings) -> Iterator[Item]:
    for folder, kind in _SERVED.items():
        for directory, name in _names(folder):
            guard = directory.identity(f".{name}.guard")
            owners = pids_of(openings.get(guard, [])) if guard is not None else ()
            yield Item(kind, name, directory.join(name), owners, (), owners)


def _synchronised(openings: Openings) -> Iterator[Item]:
    kinds: list[tuple[str, tuple[str, ...]]] = [("value", ("value",))]
    with contextlib.suppress(FileNotFoundError), open_runtime_dir("sync", create=False) as sync:
        kinds += [(kind, ("sync", kind)) for kind in sync.names() if kind != REGION_LINES[-1]]
    for kind, way in kinds:
        for directory, name in _names(*way):
            yield _synchronised_item(kind, directory, name, openings)


def _synchronised_item(kind: str, directory: Directory, name: str, openings: Openings) -> Item:
    users = _found(openings, directory, name)
    owners: list[Opening] = []
    waiters: list[Opening] = []
    for part in _parts_of(directory, name):
        found = _found(openings, directory, part)
        users += found
        if not _is_fifo(directory, part):
            continue
        waiters += [each for each in found if not each.writes]
        if not part.endswith(f"~{_BELL}"):
            owners += [each for each in found if each.writes]
    return Item(kind, name, directory.join(name), pids_of(owners), pids_of(waiters), pids_of(users))


def _file_locks(openings: Openings) -> Iterator[Item]:
    with (
        contextlib.suppress(FileNotFoundError),
        open_runtime_dir(*REGION_LINES, create=False) as directory,
    ):
        for line, region in find_region_lines(directory):
            if not _is_fifo(directory, line.name):
                continue
            name = f"{_path_of(region.file, openings)}{_bytes_of(region)}"
            users = _found(openings, directory, line.name)
            owners = pids_of([each for each in users if each.writes])
            waiters = pids_of([each for each in users if not each.writes])
            path = directory.join(line.name)
            yield Item(_FILE_LOCK, name, path, owners, waiters, pids_of(users))


def _path_of(file: Identity, openings: Openings) -> str:
    """The path by which somebody has a file open; nothing else leads from a file to its path."""
    for opening in openings.get(file, []):
        with contextlib.suppress(OSError):
            return os.readlink(opening.link)
    device, inode = file
    return f"inode {inode} of device {os.major(device)}:{os.minor(device)}"


def _bytes_of(region: InTheWay) -> str:
    end = region.start + region.length if region.length else ""
    stretch = f"[{region.start}:{end}]" if region.start or region.length else ""
    return f"{stretch} shared" if region.shared else stretch


def _posix(openings: Openings) -> Iterator[Item]:
    for folder in (NAMED_MEMORY, _QUEUES):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    users = pids_of(openings.get(identity_of(status), []))
                    kind, name = _posix_kind(folder, entry.name)
                    yield Item(kind, f"/{name}", entry.path, (), (), users)


def _posix_kind(folder: str, name: str) -> tuple[str, str]:
    if folder == _QUEUES:
        return "POSIX queue", name
    if name.startswith(_NAMED_SEMAPHORE):
        return "POSIX semaphore", name.removeprefix(_NAMED_SEMAPHORE)
    return "memory", name


def _system_v(openings: Openings) -> Iterator[Item]:
    """What the kernel lists: proc_sysvipc(5). Of memory alone it tells who uses it."""
    for table, (kind, column) in _SYSTEM_V.items():
        path = f"/proc/sysvipc/{table}"
        with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as lines:
            head = next(lines).split()
            for row in (dict(zip(head, line.split(), strict=True)) for line in lines):
                if int(row["uid"]) == os.geteuid():
                    key, number = int(row["key"]) & 0xFFFFFFFF, int(row[column])
                    name = f"sysv:0x{key:x}" if key else f"id {number}"
                    found = openings.get(system_v_identity(number), [])
                    users = pids_of(found) if table == "shm" else None
                    yield Item(f"sysv {kind}", name, path, (), (), users)


def _names(*way: str) -> Iterator[tuple[Directory, str]]:
    """The names in a directory of the runtime directory."""
    try:
        directory = open_runtime_dir(*way, create=False)
    except FileNotFoundError:
        return
    with directory:
        for name in directory.names():
            if not name.startswith("."):
                yield directory, name


def _parts_of(directory: Directory, name: str) -> list[str]:
    """The files beside that of a name that belong to it."""
    return [each for each in directory.names() if each.startswith(f".{name}~")]


def _is_fifo(directory: Directory, name: str) -> bool:
    status = directory.stat(name)
    return status is not None and stat.S_ISFIFO(status.st_mode)


def _found(openings: Openings, directory: Directory, name: str) -> list[Opening]:
    identity = directory.identity(name)
    return [] if identity is None else list(openings.get(identity, []))
