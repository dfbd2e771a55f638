"""Waiting for the end of any process."""

from __future__ import annotations

from aioipc.errors import from_os_error
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.pidfd import exit_status, open_pidfd
from aioipc.loop.waiting import wait_fd

__all__ = ["wait"]


async def wait(pid: int) -> int | None:
    """Wait until a process has ended, whoever started it: pidfd_open(2).

    A child of this process is reaped by that, as by `os.waitpid`; so do not wait here for one
    that `subprocess` or `asyncio` waits for.

    Returns:
        Its exit code, or minus the number of the signal that killed it. None where the kernel
        does not tell: about other processes than children, before Linux 6.15, or as long as
        their own parent has not reaped them.

    Raises:
        ProcessLookupError: There is no such process.
        ResourceExhausted: There are no descriptors left.

    Cancellation:
        Safe: the process is not reaped.
    """
    try:
        pidfd = OwnedFd(open_pidfd(pid))
    except ProcessLookupError:
        raise
    except OSError as error:
        raise from_os_error(error, f"wait for process {pid}") from error
    with pidfd:
        status = exit_status(pidfd.fileno())
        if status is None:
            await wait_fd(pidfd.fileno())
            status = exit_status(pidfd.fileno())
    return status
