"""What a process uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["resident_bytes"]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """How much memory of a process lies in RAM: /proc/pid/statm, proc_pid_statm(5).

    0 where there is no such process any more.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
