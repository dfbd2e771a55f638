"""What a process inherits besides descriptors, for those that are not begun by exec."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Surroundings", "identity"]

_UMASK = re.compile(r"^Umask:\s*([0-7]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What may have changed since a fork server was started.

    Attributes:
        environ: The environment: environ(7).
        cpus: Those that it may use: sched_setaffinity(2).
        umask: The mode bits that it gives to no file; None where the kernel does not tell.
    """

    environ: Mapping[str, str]
    cpus: frozenset[int]
    umask: int | None

    @classmethod
    def here(cls) -> Self:
        """Those of this process."""
        return cls(dict(os.environ), frozenset(os.sched_getaffinity(0)), _umask())

    def enter(self) -> None:
        """Make them those of this process."""
        if dict(os.environ) != self.environ:
            os.environ.clear()
            os.environ.update(self.environ)
        if os.sched_getaffinity(0) != self.cpus:
            os.sched_setaffinity(0, self.cpus)
        if self.umask is not None:
            os.umask(self.umask)


def identity() -> object:
    """In whose name this process acts: credentials(7). What it has forked before has another."""
    return os.getresuid(), os.getresgid(), os.getgroups()


def _umask() -> int | None:
    # umask(2) would have to change it, for all threads, to tell.
    found = _UMASK.search(Path("/proc/self/status").read_text())
    return int(found[1], 8) if found else None
