"""Shared memory with a name: POSIX memory, files and System V memory behind one face."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any, Protocol

import posix_ipc

from aioipc.address import Address, check_posix_name
from aioipc.errors import AddressError
from aioipc.kernel.directory import denied
from aioipc.kernel.memory import check_available, map_memory
from aioipc.kernel.openings import NAMED_MEMORY
from aioipc.kernel.owned import OwnedFd

__all__ = ["Mapped", "NamedMemory", "named_memory"]

Mapped = tuple[OwnedFd, memoryview]
"""The descriptor, which System V memory has not, and the bytes."""

_SYSV = "sysv:"
_NO_FILE = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})
_NO_PATH = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR})
_FILE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class NamedMemory(Protocol):
    """A name that memory of this user may have."""

    def create(self, size: int) -> Mapped:
        """Make zeroed memory, all of it allocated, mode 0600.

        Raises:
            OSError: There is not so much, or something has that name (EADDRINUSE).
            AddressError: It cannot be a name.
        """

    def open(self, *, writable: bool) -> Mapped:
        """Map memory that somebody made.

        Raises:
            OSError: There is none, or it belongs to somebody else.
            AddressError: It cannot be a name, or what has it is no memory.
        """

    def unlink(self) -> None:
        """Remove the name; who has the memory keeps it. Idempotent."""


def named_memory(name: str | Path) -> NamedMemory:
    """What a name stands for: a ``Path`` is a file, ``sysv:KEY`` a key, the rest is POSIX."""
    if isinstance(name, Path):
        return _File(name)
    if not isinstance(name, str):
        raise TypeError(f"the name of shared memory is a str or a Path, not {type(name).__name__}")
    return _SysvKey(name) if name.startswith(_SYSV) else _PosixName(name)


class _WithDescriptor:
    """Memory that is opened like a file."""

    def create(self, size: int) -> Mapped:
        file = self._make(size)
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return file, map_memory(file, size)
        except BaseException:
            file.close()
            self.unlink()
            raise

    def open(self, *, writable: bool) -> Mapped:
        try:
            file = self._find(writable=writable)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise self._no_file() from None
            raise
        try:
            status = os.fstat(file.fileno())
            self._check(status)
            return file, map_memory(file, status.st_size, writable=writable, populate=False)
        except BaseException:
            file.close()
            raise

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._no_file()
        if status.st_size == 0:
            raise AddressError(f"shared memory {str(self)!r} is empty")

    def _no_file(self) -> AddressError:
        return AddressError(f"shared memory {str(self)!r} is no regular file")

    def _make(self, size: int) -> OwnedFd:
        raise NotImplementedError

    def _find(self, *, writable: bool) -> OwnedFd:
        raise NotImplementedError

    def unlink(self) -> None:
        raise NotImplementedError


class _PosixName(_WithDescriptor):
    """As programs in other languages open it: shm_overview(7)."""

    def __init__(self, name: str) -> None:
        self._name = check_posix_name(name)

    def __str__(self) -> str:
        return self._name

    def _make(self, size: int) -> OwnedFd:
        check_available(size)
        return self._open(posix_ipc.O_CREX)

    def _find(self, *, writable: bool) -> OwnedFd:
        # Anybody may put a FIFO there, and opening that would block.
        return self._open(os.O_NONBLOCK, read_only=not writable)

    def _check(self, status: os.stat_result) -> None:
        super()._check(status)
        # In that directory anybody may come first, and cut short later what we have mapped.
        if status.st_uid not in {os.geteuid(), 0}:
            raise denied(_foreign(self._name, status.st_uid))

    def _open(self, flags: int, *, read_only: bool = False) -> OwnedFd:
        try:
            found = posix_ipc.SharedMemory(self._name, flags, mode=0o600, read_only=read_only)
        except posix_ipc.ExistentialError:
            exists = flags == posix_ipc.O_CREX
            raise _system_error(errno.EADDRINUSE if exists else errno.ENOENT) from None
        except posix_ipc.PermissionsError:
            raise _system_error(errno.EACCES) from None
        except ValueError as error:
            raise AddressError(f"shared memory {self._name!r}: {error}") from None
        return OwnedFd(found.fd)

    def unlink(self) -> None:
        # Not by posix_ipc, which takes fewer names here than it makes.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{NAMED_MEMORY}/{self._name.removeprefix('/')}")


class _File(_WithDescriptor):
    """A file whose pages processes share: mmap(2)."""

    def __init__(self, path: Path) -> None:
        if "\0" in str(path):
            raise AddressError(f"{str(path)!r} names no file")
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def _make(self, size: int) -> OwnedFd:
        del size  # a disk says by itself when it is full
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE_FLAGS
        try:
            return self._open(flags)
        except FileExistsError:
            raise _system_error(errno.EADDRINUSE) from None
        except FileNotFoundError:
            raise AddressError(f"there is no directory for {str(self)!r}") from None

    def _find(self, *, writable: bool) -> OwnedFd:
        return self._open((os.O_RDWR if writable else os.O_RDONLY) | _FILE_FLAGS)

    def _open(self, flags: int) -> OwnedFd:
        try:
            return OwnedFd(os.open(self._path, flags, 0o600))
        except OSError as error:
            if error.errno in _NO_PATH:
                raise AddressError(f"shared memory {str(self)!r}: {error.strerror}") from None
            raise

    def unlink(self) -> None:
        self._path.unlink(missing_ok=True)


class _SysvKey:
    """System V memory, which stays mapped as long as a view is left: shmget(2), shmop(2)."""

    def __init__(self, name: str) -> None:
        key = Address.parse(name).key
        if key is None:
            raise AddressError(f"{name!r} has no key")
        self._name = name
        self._key = key
        self._library = _sysv_ipc()

    def create(self, size: int) -> Mapped:
        library = self._library
        try:
            memory = library.SharedMemory(self._key, library.IPC_CREX, 0o600, size, b"\0")
        except library.ExistentialError:
            raise _system_error(errno.EADDRINUSE) from None
        except (MemoryError, ValueError, OverflowError):  # its names for ENOMEM, ENOSPC and EINVAL
            raise _system_error(errno.ENOMEM) from None
        return OwnedFd(-1), memoryview(memory)

    def open(self, *, writable: bool) -> Mapped:
        memory = self._find()
        if not {memory.uid, memory.cuid} <= {os.geteuid(), 0}:
            raise denied(_foreign(self._name, memory.uid))
        if writable:
            return OwnedFd(-1), memoryview(memory)
        memory.detach()
        memory.attach(None, self._library.SHM_RDONLY)
        return OwnedFd(-1), memoryview(memory).toreadonly()

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._find().remove()

    def _find(self) -> Any:
        try:
            return self._library.SharedMemory(self._key)
        except self._library.ExistentialError:
            raise _system_error(errno.ENOENT) from None
        except self._library.PermissionsError:
            raise denied(f"{self._name}: uid {os.geteuid()} may not use it") from None


def _foreign(name: str, uid: int) -> str:
    return f"{name} belongs to uid {uid}, not to {os.geteuid()} or root"


def _system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _sysv_ipc() -> Any:
    try:
        import sysv_ipc  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise AddressError(
            "System V memory needs sysv_ipc; install it with: pip install 'aioipc[sysv]'"
        ) from None
    return sysv_ipc
