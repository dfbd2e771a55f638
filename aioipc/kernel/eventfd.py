"""Counters that wake: eventfd(2)."""

from __future__ import annotations

import os

from aioipc.kernel.owned import OwnedFd

__all__ = ["create_eventfd", "is_eventfd"]


def create_eventfd(count: int = 0) -> OwnedFd:
    """Make a non-blocking counter, readable while it is not zero."""
    return OwnedFd(os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


def is_eventfd(fd: int) -> bool:
    """Whether a descriptor that somebody sent is one: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}") as facts:
        return any(line.startswith("eventfd-count:") for line in facts)
