"""POSIX named semaphores, for programs that use sem_open(3)."""

from __future__ import annotations

import posix_ipc

from aioipc.address import check_posix_name
from aioipc.errors import AccessDenied, AddressError, ClosedError, from_os_error
from aioipc.kernel.named_semaphore import check_semaphore
from aioipc.limits import check_count
from aioipc.sync._pumped import PumpedSemaphore

__all__ = ["PosixSemaphore"]

_MOST_PERMITS: int = posix_ipc.SEMAPHORE_VALUE_MAX
_MOST_NAME_BYTES = 251  # sem_overview(7)


class PosixSemaphore(PumpedSemaphore):
    """A semaphore of sem_overview(7), shared with programs in other languages.

    It does not recover from crashes: the permit of a holder who is killed is lost; where that
    matters, take `Semaphore`. It stays until it is unlinked. While a task waits, one thread per
    object waits for it in the kernel.

    Args:
        name: As for sem_open(3), for example ``"/jobs"``.
        permits: Make it with so many permits if it is not there; None to open one that is.

    Raises:
        AddressError: There is no such semaphore, something else has the name, or it cannot be one.
        AccessDenied: It belongs to somebody else.
        ValueError: ``permits`` is negative, or over 2,147,483,647.
    """

    def __init__(self, name: str, permits: int | None = None) -> None:
        if permits is not None:
            permits = check_count("permits", permits, 0, _MOST_PERMITS)
        self.name = check_posix_name(name, part="semaphore name", most_bytes=_MOST_NAME_BYTES)
        check_semaphore(name)
        try:
            if permits is None:
                self._semaphore = posix_ipc.Semaphore(name)
            else:
                self._semaphore = posix_ipc.Semaphore(
                    name, posix_ipc.O_CREAT, 0o600, initial_value=permits
                )
        except posix_ipc.ExistentialError:
            raise AddressError(f"there is no semaphore {name!r}") from None
        except posix_ipc.PermissionsError:
            raise AccessDenied(f"semaphore {name!r} belongs to somebody else") from None
        except OSError as error:
            raise from_os_error(error, f"open semaphore {name!r}") from error
        # Never closed by hand: the pump's thread may be in the middle of a call.
        super().__init__(f"POSIX semaphore {name!r}", self._take, self._semaphore.release)

    @property
    def value(self) -> int:
        """How many permits are free: sem_getvalue(3)."""
        self._check()
        return int(self._semaphore.value)

    def unlink(self) -> None:
        """Remove the name; who has it open keeps it: sem_unlink(3)."""
        try:
            self._semaphore.unlink()
        except posix_ipc.ExistentialError:
            raise ClosedError(f"{self._what} was removed already") from None

    def _take(self, seconds: float) -> bool:
        # sem_timedwait(3) counts by the realtime clock. If that jumps, one slice of the pump
        # ends early, or the thread stays a while after nobody waits; no waiter notices.
        try:
            self._semaphore.acquire(seconds)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True
