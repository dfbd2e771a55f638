"""What is mapped of the memory that connections lend each other."""

from __future__ import annotations

import gc

__all__ = ["lent_memory"]


def lent_memory(pid: int | str = "self") -> int:
    """How many pieces of lent memory a process has mapped."""
    gc.collect()  # what a test before this one left behind in the frames of its exceptions
    with open(f"/proc/{pid}/maps") as maps:
        return sum("memfd:aioipc-lent" in line for line in maps)
