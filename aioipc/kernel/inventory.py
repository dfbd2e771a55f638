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
from aioipc.kernel.region import InTheWay
from aioipc.kernel.region_line import REGION_LINES, find_region_lines
from aioipc.kernel.rendezvous import remove_dead
from aioipc.kernel.runtime_dir import open_runtime_dir

__all__ = ["Item", "list_items", "remove_item"]

_SERVED = {"socket": "endpoint unix", "shm": "endpoint shm", "mailbox": "mailbox"}
_FILE_LOCK = "file lock"
_BELL = "bell"  # this lifeline is listened to, and held by nobody
_NAMED_MEMORY = "/dev/shm"  # noqa: S108 - where shm_open(3) puts what it makes


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that processes share by its name.

    Attributes:
        kind: ``"endpoint unix"``, ``"lock"``, ``"value"``, ``"memory"`` and so on.
        name: Its name; for a file lock the file, as far as it can be known, and the bytes.
        path: Its file; for a file lock the FIFO that others wait at.
        owners: The processes that serve or hold it, by their pids.
        waiters: Those that wait for it.
        users: All that have it open, those included.
    """

    kind: str
    name: str
    path: str
    owners: tuple[int, ...] = ()
    waiters: tuple[int, ...] = ()
    users: tuple[int, ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether somebody has it open."""
        return bool(self.users)

    @property
    def is_removable(self) -> bool:
        """Whether it is of a kind that is of no use without users, and whose users say so."""
        return self.kind != "memory"


@dataclass(frozen=True, slots=True)
class _Opening:
    pid: int
    writes: bool
    link: str = ""
    """Where proc_pid_fd(5) tells its path."""


_Openings = dict[Identity, list[_Opening]]


def list_items() -> list[Item]:
    """Everything in the runtime directory, and this user's memory with a name: shm_overview(7).

    Raises:
        AccessDenied: The runtime directory is not to be trusted.
    """
    openings = _all_openings()
    items = [*_served(openings), *_synchronised(openings), *_file_locks(openings)]
    items += _memory(openings)
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


def _served(openings: _Openings) -> Iterator[Item]:
    for folder, kind in _SERVED.items():
        for directory, name in _names(folder):
            guard = directory.identity(f".{name}.guard")
            owners = _pids(openings.get(guard, [])) if guard is not None else ()
            yield Item(kind, name, directory.join(name), owners, (), owners)


def _synchronised(openings: _Openings) -> Iterator[Item]:
    kinds: list[tuple[str, tuple[str, ...]]] = [("value", ("value",))]
    with contextlib.suppress(FileNotFoundError), open_runtime_dir("sync", create=False) as sync:
        kinds += [(kind, ("sync", kind)) for kind in sync.names() if kind != REGION_LINES[-1]]
    for kind, way in kinds:
        for directory, name in _names(*way):
            yield _synchronised_item(kind, directory, name, openings)


def _synchronised_item(kind: str, directory: Directory, name: str, openings: _Openings) -> Item:
    users = _found(openings, directory, name)
    owners: list[_Opening] = []
    waiters: list[_Opening] = []
    for part in _parts_of(directory, name):
        found = _found(openings, directory, part)
        users += found
        if not _is_fifo(directory, part):
            continue
        waiters += [each for each in found if not each.writes]
        if not part.endswith(f"~{_BELL}"):
            owners += [each for each in found if each.writes]
    return Item(kind, name, directory.join(name), _pids(owners), _pids(waiters), _pids(users))


def _file_locks(openings: _Openings) -> Iterator[Item]:
    with (
        contextlib.suppress(FileNotFoundError),
        open_runtime_dir(*REGION_LINES, create=False) as directory,
    ):
        for line, region in find_region_lines(directory):
            if not _is_fifo(directory, line.name):
                continue
            name = f"{_path_of(region.file, openings)}{_bytes_of(region)}"
            users = _found(openings, directory, line.name)
            owners = _pids([each for each in users if each.writes])
            waiters = _pids([each for each in users if not each.writes])
            path = directory.join(line.name)
            yield Item(_FILE_LOCK, name, path, owners, waiters, _pids(users))


def _path_of(file: Identity, openings: _Openings) -> str:
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


def _memory(openings: _Openings) -> Iterator[Item]:
    with contextlib.suppress(FileNotFoundError), os.scandir(_NAMED_MEMORY) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                users = _pids(openings.get(identity_of(status), []))
                yield Item("memory", f"/{entry.name}", entry.path, (), (), users)


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


def _found(openings: _Openings, directory: Directory, name: str) -> list[_Opening]:
    identity = directory.identity(name)
    return [] if identity is None else list(openings.get(identity, []))


def _pids(openings: list[_Opening]) -> tuple[int, ...]:
    return tuple(sorted({opening.pid for opening in openings}))


def _all_openings() -> _Openings:
    """Who has which file open or mapped, of the processes that this user may look into."""
    openings: _Openings = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                _add_openings(openings, int(name))
    return openings


def _add_openings(openings: _Openings, pid: int) -> None:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{pid}/fd/{number}")
            if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                # The permissions of the link are the access mode: proc_pid_fd(5).
                link = f"/proc/{pid}/fd/{number}"
                opening = _Opening(pid, bool(os.lstat(link).st_mode & stat.S_IWUSR), link)
                openings.setdefault(identity_of(status), []).append(opening)
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if _NAMED_MEMORY in line:
                fields = line.split()
                major, minor = (int(part, 16) for part in fields[3].split(":"))
                identity = (os.makedev(major, minor), int(fields[4]))
                openings.setdefault(identity, []).append(_Opening(pid, writes="w" in fields[1]))
