"""Anonymous memory that processes pass to each other: memfd_create(2).

It has a fixed size, most of it allocated up front, and seals that keep it so: a file that shrank
under a mapping would kill whoever touches it (SIGBUS). Who receives one checks all of that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from aioipc.abc import Buffer
from aioipc.errors import ProtocolError
from aioipc.kernel.owned import OwnedFd
from aioipc.native._memory import Mapping
from aioipc.native._os import filesystem_type

__all__ = [
    "check_available",
    "checked_size",
    "create_memory",
    "fill",
    "keep",
    "map_memory",
    "retrieve",
    "seal",
    "size_of",
    "what_is_wrong",
    "what_may_change",
]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE, which fcntl has from Python 3.12 on
_WRITE_SEALS = fcntl.F_SEAL_WRITE | _FUTURE_WRITE
_WORTH_A_LOOK = 64 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_TMPFS_MAGIC = 0x01021994  # statfs(2); hugetlbfs has another, and other rules


def create_memory(
    size: int, name: str = "aioipc", *, sealed: bool = True, allocated: bool = True
) -> OwnedFd:
    """Make zeroed memory of a fixed size.

    Args:
        size: In bytes.
        name: For /proc/PID/maps, for people to read.
        sealed: Whether it is sealed at once, for others to write to as well.
        allocated: Whether all of it is there from now on, and not each part once it is touched.

    Raises:
        OSError: There is not so much (ENOSPC, ENOMEM), or no descriptor for it.
    """
    check_available(size)
    memory = OwnedFd(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(memory.fileno(), size)
        if allocated:
            os.posix_fallocate(memory.fileno(), 0, size)
        if sealed:
            seal(memory)
    except BaseException:
        memory.close()
        raise
    return memory


def check_available(size: int) -> None:
    """Refuse more memory than the machine has left.

    fallocate(2) would take it page by page until the kernel kills somebody to find more.

    Raises:
        OSError: ENOMEM.
    """
    if size < _WORTH_A_LOOK:
        return
    with open("/proc/meminfo", "rb") as file:
        facts = dict(line.split(b":") for line in file)
    available = sum(int(facts[key].split()[0]) for key in (b"MemAvailable", b"SwapFree")) * 1024
    if size > available:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def seal(memory: OwnedFd, *, against_writing: bool = False) -> None:
    """Let memory keep its size for ever.

    Args:
        memory: What `create_memory` made.
        against_writing: Whether it can be mapped for reading only from now on.
    """
    seals = _SEALS | _FUTURE_WRITE if against_writing else _SEALS
    fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, seals)


def map_memory(
    memory: OwnedFd,
    size: int,
    *,
    writable: bool = True,
    populate: bool = True,
    private: bool = False,
) -> memoryview:
    """Map the first ``size`` bytes, for as long as a view of them is left.

    Args:
        memory: The file.
        size: In bytes; it must be that long already.
        writable: Whether to write to it.
        populate: Whether to map the pages now, which takes a time that grows with the size.
        private: Whether what is written stays here; then it can be written in any case.

    Raises:
        OSError: The kernel refused; EPERM or EACCES where it can only be read.
    """
    return memoryview(
        Mapping(memory.fileno(), size, writable=writable, populate=populate, private=private)
    )


def size_of(memory: OwnedFd) -> int:
    """How many bytes a file has."""
    return os.fstat(memory.fileno()).st_size


def keep(data: Buffer, name: str = "aioipc") -> OwnedFd:
    """Make memory that holds ``data``, for another process to `retrieve`."""
    memory = create_memory(len(data), name, allocated=False)
    for _ in fill(memory, data):
        pass
    return memory


def fill(memory: OwnedFd, data: Buffer) -> Iterator[None]:
    """Write ``data`` to memory of its size, a piece per step, which takes less than 1 ms."""
    rest = memoryview(data)
    while rest:
        piece = rest[:_PIECE_BYTES]
        rest = rest[os.pwrite(memory.fileno(), piece, len(data) - len(rest)) :]
        yield


def retrieve(fd: int) -> bytes:
    """Read what `keep` wrote, and close the descriptor."""
    with OwnedFd(fd) as memory:
        data = bytearray(os.fstat(memory.fileno()).st_size)
        rest = memoryview(data)
        while rest:
            rest = rest[os.preadv(memory.fileno(), [rest], len(data) - len(rest)) :]
    return bytes(data)


def checked_size(memory: OwnedFd) -> int:
    """How many bytes there are in memory that somebody sent, to be read.

    Raises:
        ProtocolError: It is no such memory as `create_memory` makes.
        OSError: The kernel does not say.
    """
    size = size_of(memory)
    wrong = what_is_wrong(memory.fileno(), size, writable=False)
    if wrong is not None or size == 0:
        raise ProtocolError(
            f"descriptor {memory.fileno()} is no shared memory: {wrong or 'it is empty'}"
        )
    return size


def what_is_wrong(fd: int, size: int, *, writable: bool = True) -> str | None:
    """Say why a descriptor that somebody sent is not memory as `create_memory` makes it.

    Args:
        fd: The descriptor.
        size: What it must have, in bytes.
        writable: Whether it must be possible to write to it.

    Returns:
        The reason, None if it is good.
    """
    if (wrong := what_may_change(fd)) is not None:
        return wrong
    status = os.fstat(fd)
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    is_writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if writable and (not is_writable or seals & _WRITE_SEALS):
        return "it cannot be written"
    if status.st_size != size:
        return f"it has {status.st_size:,} bytes, not {size:,}"
    if status.st_blocks * 512 < size:
        return "it is not allocated"
    return None


def what_may_change(fd: int) -> str | None:
    """Say why a file might shrink under a mapping of it; None if it cannot."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return "it is no file in memory"
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return "it cannot be sealed"
    if filesystem_type(fd) != _TMPFS_MAGIC:
        return "it is made of huge pages or on another file system"
    if seals & _SEALS != _SEALS:
        return f"its seals are {seals:#x}, and {_SEALS:#x} are due"
    return None
