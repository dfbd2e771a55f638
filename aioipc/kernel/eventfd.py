"""Counters that wake: eventfd(2)."""

from __future__ import annotations

import os

from aioipc.kernel.owned import OwnedFd

__all__ = ["PermitCounter", "create_eventfd", "is_eventfd"]

_COUNT, _SEMAPHORE = "eventfd-count", "eventfd-semaphore"


class PermitCounter(OwnedFd):
    """A counter of which one is taken at a time, readable while it is not zero."""

    __slots__ = ()

    @classmethod
    def create(cls, count: int) -> PermitCounter:
        """Make one that never blocks."""
        return cls(os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE))

    @classmethod
    def adopt(cls, fd: int) -> PermitCounter:
        """Take over an inherited descriptor.

        Raises:
            ValueError: It is not open, no eventfd, or one of which all is taken at a time.
        """
        try:
            facts = _facts(fd)
        except FileNotFoundError:
            raise ValueError(f"descriptor {fd} is not open here: was it passed on?") from None
        if _COUNT not in facts:
            raise ValueError(f"descriptor {fd} is no eventfd")
        if facts.get(_SEMAPHORE) == "0":  # kernels before 6.5 do not tell
            raise ValueError(f"descriptor {fd} is an eventfd without EFD_SEMAPHORE")
        counter = cls(fd)
        os.set_inheritable(counter.fileno(), False)
        os.set_blocking(counter.fileno(), False)
        return counter

    def try_take(self) -> bool:
        """Take one, if there is one."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def give(self) -> None:
        """Put one back."""
        os.eventfd_write(self._fd, 1)


def create_eventfd(count: int = 0) -> OwnedFd:
    """Make a non-blocking counter, readable while it is not zero."""
    return OwnedFd(os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


def is_eventfd(fd: int) -> bool:
    """Whether a descriptor that somebody sent is one: proc_pid_fdinfo(5)."""
    return _COUNT in _facts(fd)


def _facts(fd: int) -> dict[str, str]:
    with open(f"/proc/self/fdinfo/{fd}") as facts:
        lines = (line.partition(":") for line in facts)
        return {name: value.strip() for name, _, value in lines}
