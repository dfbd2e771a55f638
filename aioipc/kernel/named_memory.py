"""Shared memory with a name, as programs in other languages open it: shm_overview(7)."""

from __future__ import annotations

import contextlib
import errno
import os

import posix_ipc

from aioipc.errors import AddressError
from aioipc.kernel.memory import check_available
from aioipc.kernel.owned import OwnedFd

__all__ = ["create_named", "open_named", "unlink_named"]


def create_named(name: str, size: int) -> OwnedFd:
    """Make zeroed memory of a fixed size for this user: shm_open(3), ``O_EXCL``, mode 0600.

    Raises:
        OSError: There is not so much, or something has that name (EADDRINUSE).
        AddressError: It cannot be a name.
    """
    check_available(size)
    file = _open(name, posix_ipc.O_CREX)
    try:
        os.ftruncate(file.fileno(), size)
        os.posix_fallocate(file.fileno(), 0, size)
    except BaseException:
        file.close()
        unlink_named(name)
        raise
    return file


def open_named(name: str, *, writable: bool) -> OwnedFd:
    """Open memory that somebody made.

    Raises:
        OSError: There is none, or it belongs to somebody else.
        AddressError: It cannot be a name.
    """
    return _open(name, 0, read_only=not writable)


def unlink_named(name: str) -> None:
    """Remove a name: shm_unlink(3). Idempotent."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def _open(name: str, flags: int, *, read_only: bool = False) -> OwnedFd:
    try:
        found = posix_ipc.SharedMemory(name, flags, mode=0o600, read_only=read_only)
    except posix_ipc.ExistentialError:
        if flags:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except posix_ipc.PermissionsError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
    except ValueError as error:
        raise AddressError(f"shared memory {name!r}: {error}") from None
    return OwnedFd(found.fd)
