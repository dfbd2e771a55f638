"""What the kernel's byte streams allow: system calls in C, where both sides spin."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers._limit import Limit
from benchmarks.peers._program import Program

PROGRAM = Program("descriptor_limit")


class DescriptorLimit(Limit):
    """One kind of descriptor."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind} limit (C)", PROGRAM, kind)

    def words(self, folder: Path) -> tuple[str, ...]:
        """Where a FIFO may be."""
        return (f"path={folder}/fifo",)


CONTENDERS = [DescriptorLimit(kind) for kind in ("unix", "pipe", "fifo")]
