"""Whom the kernel ended for want of memory."""

from __future__ import annotations

from pathlib import Path

__all__ = ["oom_kills"]


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started.

    It counts those of every cgroup: ``oom_kill`` in /proc/vmstat, proc_vmstat(5). 0 where it
    does not say.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0
