"""Locks on regions of any file: fcntl_locking(2), ``F_OFD_SETLK``."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from aioipc.errors import AddressError
from aioipc.kernel.directory import Identity, denied, identity_of
from aioipc.kernel.lockfile import find_lock, try_lock, unlock
from aioipc.kernel.owned import OwnedFd
from aioipc.native._os import filesystem_type

__all__ = [
    "InTheWay",
    "Region",
    "RegionHolder",
    "is_region_locked",
    "region_holders",
    "try_region",
]

_MAY_NOT_WRITE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

# statfs(2). On these, locks go to a server, or nowhere, and the wait for it blocks.
_NETWORKS = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x517B: "SMB",
    0x00C36400: "Ceph",
    0x01021997: "9P",
    0x5346414F: "AFS",
}


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A lock of somebody else.

    Attributes:
        file: The file it is on.
        start: Its first byte.
        length: Its number of bytes, 0 for all there can be.
        shared: Whether others may have locks of that kind there too.
    """

    file: Identity
    start: int
    length: int
    shared: bool


@dataclass(frozen=True, slots=True, order=True)
class RegionHolder:
    """A process that has a lock on a region of a file.

    Attributes:
        pid: The process. Several share one lock if they inherited the descriptor.
        start: First byte of what it has locked.
        length: Number of bytes, 0 for all there can be.
        shared: Whether others may have it locked in the same way.
    """

    pid: int
    start: int
    length: int
    shared: bool

    def meets(self, start: int, length: int) -> bool:
        """Whether it has any byte of a region."""
        ends_before = self.length and self.start + self.length <= start
        begins_behind = length and self.start >= start + length
        return not (ends_before or begins_behind)


class Region(OwnedFd):
    """A locked region, until `close` or until the process dies.

    Attributes:
        file: The file it is on.
    """

    __slots__ = ("file",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.file = identity_of(os.fstat(self._fd))

    def close(self) -> None:
        """Release it, also the copy that a child just forked has. Idempotent."""
        if self._fd >= 0:
            unlock(self._fd)
        super().close()


def try_region(
    path: str, *, start: int, length: int, shared: bool, network: bool
) -> Region | InTheWay | None:
    """Lock a region of the file that is at a path now; it is made (mode 0600) if need be.

    Returns:
        The region; or whose lock excludes it; or None if that has just gone.

    Raises:
        AccessDenied: It is no regular file.
        AddressError: It is on a network and ``network`` is false.
        OSError: It cannot be opened.
    """
    while True:
        region = Region(_open(path, shared))
        try:
            _check(region, path, network)
            found: Region | InTheWay | None = region
            if not try_lock(region.fileno(), shared=shared, start=start, length=length):
                found = _find(region, start, length, shared)
            elif region.file != _identity_at(path):
                continue  # somebody removed or replaced the file while this took the lock
            if found is region:
                region = None  # type: ignore[assignment]
            return found
        finally:
            if region is not None:
                region.close()


def is_region_locked(path: str, *, start: int, length: int, shared: bool) -> bool:
    """Whether somebody has a lock that excludes one; a file that is not there has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with OwnedFd(fd) as file:
        return find_lock(file.fileno(), shared=shared, start=start, length=length) is not None


def region_holders(path: str, *, start: int, length: int) -> list[RegionHolder]:
    """Find whose locks there are in a region.

    The kernel tells no process of a lock that belongs to an open file description, but for each
    descriptor the locks of its description: proc_pid_fdinfo(5). So this finds locks of processes
    whose descriptors this user may see.
    """
    file = _identity_at(path)
    found: set[RegionHolder] = set()
    for name in os.listdir("/proc") if file is not None else ():
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                found.update(_locks_of(int(name), file))
    return sorted(each for each in found if each.meets(start, length))


def _locks_of(pid: int, file: Identity | None) -> Iterator[RegionHolder]:
    """The locks that a process has on a file, through any of its descriptors."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if identity_of(os.stat(f"/proc/{pid}/fd/{number}")) == file:
                with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as facts:
                    yield from filter(None, (_lock_in(line, pid) for line in facts))


def _lock_in(line: str, pid: int) -> RegionHolder | None:
    """What a line like ``lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:2146702 10 EOF`` says."""
    match line.split():
        case ["lock:", _, "OFDLCK" | "POSIX", _, mode, _, _, first, last]:
            start = int(first)
            length = 0 if last == "EOF" else int(last) + 1 - start
            return RegionHolder(pid, start, length, shared=mode == "READ")
    return None


def _open(path: str, shared: bool) -> int:
    flags = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if not shared or error.errno not in _MAY_NOT_WRITE:
            raise
    return os.open(path, flags | os.O_RDONLY)


def _check(region: Region, path: str, network: bool) -> None:
    if not stat.S_ISREG(os.fstat(region.fileno()).st_mode):
        raise denied(f"{path} is no regular file")
    if network:
        return
    kind = _NETWORKS.get(filesystem_type(region.fileno()) & 0xFFFFFFFF)
    if kind is not None:
        raise AddressError(
            f"{path} is on {kind}, where locks may block or be lost; say network=True"
        )


def _find(region: Region, start: int, length: int, shared: bool) -> InTheWay | None:
    found = find_lock(region.fileno(), shared=shared, start=start, length=length)
    return None if found is None else InTheWay(region.file, *found)


def _identity_at(path: str) -> Identity | None:
    try:
        return identity_of(os.stat(path))
    except FileNotFoundError:
        return None
