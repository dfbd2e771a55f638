"""Less of something than a process wants."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process: getrlimit(2)."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def open_fds() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def memory_in_use() -> int:
    """The bytes that ``RLIMIT_AS`` counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Have 16 MiB left, in a process that has done little.

    In another one malloc(3) may have room for much more, of what was freed before.
    """
    with limited(resource.RLIMIT_AS, memory_in_use() + 2**24):
        yield
