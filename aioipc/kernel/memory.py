"""Anonymous memory that processes pass to each other: memfd_create(2).

It has a fixed size, allocated up front, and seals that keep it so: a file that shrank under a
mapping would kill whoever touches it (SIGBUS). Who receives one checks all of that.
"""

from __future__ import annotations

import fcntl
import os
import stat

from aioipc.kernel.owned import OwnedFd
from aioipc.native._os import filesystem_type

__all__ = ["create_memory", "keep", "retrieve", "what_is_wrong"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_WRITE_SEALS = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE, which fcntl has from 3.12 on
_TMPFS_MAGIC = 0x01021994  # statfs(2); hugetlbfs has another, and other rules


def create_memory(size: int, name: str = "aioipc") -> OwnedFd:
    """Make zeroed memory of a fixed size.

    Args:
        size: In bytes.
        name: For /proc/PID/maps, for people to read.

    Raises:
        OSError: There is not so much (ENOSPC, ENOMEM), or no descriptor for it.
    """
    memory = OwnedFd(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(memory.fileno(), size)
        os.posix_fallocate(memory.fileno(), 0, size)
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        memory.close()
        raise
    return memory


def keep(data: bytes, name: str = "aioipc") -> OwnedFd:
    """Make memory that holds ``data``, for another process to `retrieve`."""
    memory = create_memory(len(data), name)
    rest = memoryview(data)
    while rest:
        rest = rest[os.pwrite(memory.fileno(), rest, len(data) - len(rest)) :]
    return memory


def retrieve(fd: int) -> bytes:
    """Read what `keep` wrote, and close the descriptor."""
    with OwnedFd(fd) as memory:
        data = bytearray(os.fstat(memory.fileno()).st_size)
        rest = memoryview(data)
        while rest:
            rest = rest[os.preadv(memory.fileno(), [rest], len(data) - len(rest)) :]
    return bytes(data)


def what_is_wrong(fd: int, size: int) -> str | None:
    """Say why a descriptor that somebody sent is not memory as `create_memory` makes it.

    Args:
        fd: The descriptor.
        size: What it must have, in bytes.

    Returns:
        The reason, None if it is good.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "it is no file in memory"
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return "it cannot be sealed"
    if filesystem_type(fd) != _TMPFS_MAGIC:
        return "it is made of huge pages or on another file system"
    if seals & _SEALS != _SEALS:
        return f"its seals are {seals:#x}, and {_SEALS:#x} are due"
    is_writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if not is_writable or seals & _WRITE_SEALS:
        return "it cannot be written"
    if status.st_size != size:
        return f"it has {status.st_size:,} bytes, not {size:,}"
    if status.st_blocks * 512 < size:
        return "it is not allocated"
    return None
