"""Less of something than a process wants."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

LONGER_THAN_THE_HEAP = 2**27
"""Bytes for which malloc(3) has no room, whatever was freed before: it asks the kernel for them."""


@contextlib.contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process: getrlimit(2)."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def memory_in_use() -> int:
    """The bytes that ``RLIMIT_AS`` counts, without garbage, which would make room at any time."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
