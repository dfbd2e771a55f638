"""System V semaphores, for programs that use semop(2)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from aioipc.errors import AccessDenied, AddressError, ClosedError, from_os_error
from aioipc.kernel.sysv import change_semaphore
from aioipc.limits import check_count
from aioipc.sync._pumped import PumpedSemaphore

try:
    import sysv_ipc
except ImportError:  # an optional extra
    sysv_ipc = None

__all__ = ["SysVSemaphore"]

T = TypeVar("T")

_MOST_PERMITS = 32_767  # SEMVMX: semctl(2)
_REMOVED = frozenset({errno.EIDRM, errno.EINVAL})


class SysVSemaphore(PumpedSemaphore):
    """A semaphore of sysvipc(7), the first one of its set, shared with other languages.

    Every operation says ``SEM_UNDO`` (semop(2)), so the permits of a holder who is killed come
    back. It stays until it is removed. While a task waits, one thread per object waits for it in
    the kernel. Needs sysv_ipc: ``pip install aioipc[sysv]``.

    Args:
        key: As for semget(2); None for a new private one, whose ``key`` tells nothing.
        permits: Make it with so many permits if it is not there; None to open one that is.

    Raises:
        AddressError: There is no such semaphore, or it cannot be a key.
        AccessDenied: It belongs to somebody else.
        ValueError: ``permits`` is negative, or over 32,767.
        ModuleNotFoundError: sysv_ipc is not installed.
    """

    def __init__(self, key: int | None, permits: int | None = None) -> None:
        if sysv_ipc is None:
            raise ModuleNotFoundError("System V semaphores need: pip install aioipc[sysv]")
        if permits is not None:
            permits = check_count("permits", permits, 0, _MOST_PERMITS)
        if key is not None:
            _check_key(key)
        name = "private" if key is None else f"{key:#x}"
        super().__init__(f"System V semaphore {name}", self._take, self._put)
        self._semaphore = self._told(lambda: _open(key, permits))

    @property
    def key(self) -> int:
        """The key."""
        return int(self._semaphore.key)

    @property
    def id(self) -> int:
        """The identifier of the set: semget(2)."""
        return int(self._semaphore.id)

    @property
    def value(self) -> int:
        """How many permits are free: semctl(2), ``GETVAL``."""
        self._check()
        return self._told(lambda: int(self._semaphore.value))

    def remove(self) -> None:
        """Remove the set; all who wait for it, anywhere, get `ClosedError`: semctl(2)."""
        self._told(self._semaphore.remove)

    def _take(self, seconds: float) -> bool:
        return self._change(-1, seconds)

    def _put(self) -> None:
        self._change(1, 0)

    def _change(self, by: int, seconds: float) -> bool:
        # Not by sysv_ipc, whose wheels know no limit of time.
        try:
            return change_semaphore(self.id, by, limit_s=seconds)
        except OSError as error:
            if error.errno in _REMOVED:
                raise ClosedError(f"{self._what} was removed") from None
            raise from_os_error(error, f"change {self._what}") from error

    def _told(self, call: Callable[[], T]) -> T:
        """Call, with the exceptions of `aioipc.errors`."""
        try:
            return call()
        except sysv_ipc.ExistentialError:
            if hasattr(self, "_semaphore"):
                raise ClosedError(f"{self._what} was removed") from None
            raise AddressError(f"there is no {self._what}") from None
        except sysv_ipc.PermissionsError:
            raise AccessDenied(f"{self._what} belongs to somebody else") from None


def _check_key(key: object) -> None:
    if not isinstance(key, int) or isinstance(key, bool):
        raise TypeError(f"a key is an int, not {type(key).__name__}")
    # Others are cut to 32 bits without a word, and 0 is IPC_PRIVATE: a new set each time, which
    # nobody finds again. ftok(3) may be negative.
    if key == 0 or not -(2**31) <= key < 2**32:
        raise AddressError(f"a key is a number of 32 bits that is not 0, not {key:,}")


def _open(key: int | None, permits: int | None) -> Any:
    if key is None:
        return sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, 0o600, initial_value=permits or 0)
    if permits is None:
        return sysv_ipc.Semaphore(key)
    try:
        return sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, 0o600, initial_value=permits)
    except sysv_ipc.ExistentialError:
        return sysv_ipc.Semaphore(key)
