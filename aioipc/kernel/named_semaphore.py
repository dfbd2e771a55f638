"""What stands behind the name of a POSIX semaphore: sem_overview(7)."""

from __future__ import annotations

import os
import stat
import struct

from aioipc.errors import AddressError
from aioipc.kernel.openings import NAMED_MEMORY

__all__ = ["check_semaphore"]

_SEM_T_BYTES = 4 * struct.calcsize("P")


def check_semaphore(name: str) -> None:
    """Look at what sem_open(3) maps whatever it is: too short, it kills who touches it (SIGBUS).

    Libraries make a semaphore whole before they give it its name, so none is met half made.

    Args:
        name: A name that is checked, with or without its slash.

    Raises:
        AddressError: Something else has the name.
    """
    try:
        status = os.lstat(f"{NAMED_MEMORY}/sem.{name.removeprefix('/')}")
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_size < _SEM_T_BYTES:
        raise AddressError(f"{NAMED_MEMORY} has something else than a semaphore for {name!r}")
