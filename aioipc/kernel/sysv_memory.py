"""System V shared memory: shmget(2), shmop(2). It has no descriptor, and stays until removed."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from aioipc.address import Address
from aioipc.errors import AddressError
from aioipc.kernel.directory import denied

__all__ = ["create_sysv", "is_sysv", "open_sysv", "remove_sysv"]


def is_sysv(name: str) -> bool:
    """Whether a name is ``sysv:KEY``."""
    return name.startswith("sysv:")


def create_sysv(name: str, size: int) -> memoryview:
    """Make zeroed memory for this user.

    Raises:
        OSError: There is not so much, or something has that key (EADDRINUSE).
        AddressError: It is no key; or sysv_ipc, an extra, is not installed.
    """
    library = _library()
    try:
        memory = library.SharedMemory(_key(name), library.IPC_CREX, 0o600, size, b"\0")
        return memoryview(memory)
    except library.ExistentialError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    except (MemoryError, ValueError, OverflowError):  # what it makes of ENOMEM, ENOSPC and EINVAL
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def open_sysv(name: str, *, writable: bool) -> memoryview:
    """Attach memory that somebody made, for as long as a view of it is left.

    Raises:
        FileNotFoundError: There is none.
        AccessDenied: It belongs to somebody else.
        AddressError: It is no key; or sysv_ipc, an extra, is not installed.
    """
    library = _library()
    memory = _open(library, name)
    if not {memory.uid, memory.cuid} <= {os.geteuid(), 0}:
        raise denied(f"{name} belongs to uid {memory.uid}, not to {os.geteuid()} or root")
    if writable:
        return memoryview(memory)
    memory.detach()
    memory.attach(None, library.SHM_RDONLY)
    return memoryview(memory).toreadonly()


def remove_sysv(name: str) -> None:
    """Remove a key; who has the memory keeps it. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        _open(_library(), name).remove()


def _open(library: Any, name: str) -> Any:
    try:
        return library.SharedMemory(_key(name))
    except library.ExistentialError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except library.PermissionsError:
        raise denied(f"{name}: uid {os.geteuid()} may not use it") from None


def _key(name: str) -> int:
    key = Address.parse(name).key
    if key is None:
        raise AddressError(f"{name!r} has no key")
    return key


def _library() -> Any:
    try:
        import sysv_ipc  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise AddressError(
            "System V memory needs sysv_ipc; install it with: pip install 'aioipc[sysv]'"
        ) from None
    return sysv_ipc
