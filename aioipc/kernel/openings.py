"""Who has which file open or mapped: proc_pid_fd(5), proc_pid_maps(5)."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from aioipc.kernel.directory import Identity, identity_of

__all__ = [
    "NAMED_MEMORY",
    "Opening",
    "Openings",
    "all_openings",
    "pids_of",
    "system_v_identity",
]

NAMED_MEMORY = "/dev/shm"  # noqa: S108 - where shm_open(3) puts what it makes
_SYSTEM_V_MEMORY = "/SYSV"


@dataclass(frozen=True, slots=True)
class Opening:
    """One descriptor or mapping of a file.

    Attributes:
        pid: Whose it is.
        writes: Whether he may write.
        link: Where the kernel tells the path; empty for a mapping.
    """

    pid: int
    writes: bool
    link: str = ""


Openings = dict[Identity, list[Opening]]


def all_openings() -> Openings:
    """Look at all processes that this user may look into, except this one."""
    openings: Openings = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                _add_descriptors(openings, int(name))
                _add_mappings(openings, int(name))
    return openings


def pids_of(openings: list[Opening]) -> tuple[int, ...]:
    """The processes, each once."""
    return tuple(sorted({opening.pid for opening in openings}))


def system_v_identity(number: int) -> Identity:
    """What stands for a segment of System V memory, whose device nobody else tells."""
    return -1, number


def _add_descriptors(openings: Openings, pid: int) -> None:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            link = f"/proc/{pid}/fd/{number}"
            status = os.stat(link)
            if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                # The permissions of the link are the access mode.
                opening = Opening(pid, bool(os.lstat(link).st_mode & stat.S_IWUSR), link)
                openings.setdefault(identity_of(status), []).append(opening)


def _add_mappings(openings: Openings, pid: int) -> None:
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if NAMED_MEMORY in line or _SYSTEM_V_MEMORY in line:
                _, mode, _, device, inode, path = line.split(maxsplit=5)
                identity = os.makedev(*(int(part, 16) for part in device.split(":"))), int(inode)
                if path.startswith(_SYSTEM_V_MEMORY):
                    identity = system_v_identity(int(inode))
                openings.setdefault(identity, []).append(Opening(pid, writes="w" in mode))
