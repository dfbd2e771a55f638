"""Operations on System V semaphores that can be undone, and that end in time: semop(2)."""

from __future__ import annotations

import errno

from aioipc.native._os import semtimedop

__all__ = ["change_semaphore"]


def change_semaphore(set_id: int, change: int, *, limit_s: float = 0.0) -> bool:
    """Add to the first semaphore of a set; the kernel takes it back when this process ends.

    Args:
        set_id: What semget(2) said.
        change: What to add; it waits while the value would be negative.
        limit_s: How long to wait at most, in seconds.

    Returns:
        False if the value stayed too low, or a signal came.

    Raises:
        OSError: EIDRM or EINVAL, the set was removed; EACCES.
    """
    try:
        semtimedop(set_id, change, round(limit_s * 1e9))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINTR):
            return False
        raise
    return True
