"""Files whose pages processes share: mmap(2)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from aioipc.errors import AddressError
from aioipc.kernel.owned import OwnedFd

__all__ = ["create_named", "open_named", "unlink_named"]

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def create_named(path: Path, size: int) -> OwnedFd:
    """Make a file of zeros for this user, all of it allocated: posix_fallocate(3), mode 0600.

    Raises:
        OSError: The disk has not so much room, or something has that name (EADDRINUSE).
    """
    try:
        file = OwnedFd(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600))
    except FileExistsError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except BaseException:
        file.close()
        unlink_named(path)
        raise
    return file


def open_named(path: Path, *, writable: bool) -> OwnedFd:
    """Open a file.

    Raises:
        OSError: There is none, or it belongs to somebody else.
        AddressError: It is a directory, a FIFO or a device, or a symbolic link to something.
    """
    mode = os.O_RDWR if writable else os.O_RDONLY
    try:
        file = OwnedFd(os.open(path, mode | _FLAGS))
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise AddressError(f"shared memory {path}: it is no regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AddressError(f"shared memory {path}: it is no regular file")
    return file


def unlink_named(path: Path) -> None:
    """Remove a file: unlink(2). Idempotent."""
    path.unlink(missing_ok=True)
