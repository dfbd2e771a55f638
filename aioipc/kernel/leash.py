"""Children that do not outlive their parent, whatever they do about signals.

A pipe, of which the parent holds the end for writing and the child the other one, to which
nothing is ever written. When the parent ends, the kernel closes its end, and that is an event
for which it can send a signal to a whole process group by itself: F_SETOWN and F_SETSIG in
fcntl(2). The child needs to know nothing about it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

from aioipc.kernel.owned import OwnedFd, owned_pipe
from aioipc.kernel.spawn import Child
from aioipc.native._os import set_parent_death_signal

__all__ = ["Leash", "die_with_parent", "tie_to"]


class Leash(OwnedFd):
    """The parent's end: when it is closed, all of the child's process group is killed.

    Attributes:
        child_end: The end to hand down to the child. `hold` closes it.
    """

    __slots__ = ("child_end",)

    def __init__(self) -> None:
        """Make the pipe.

        Raises:
            OSError: There are no descriptors left.
        """
        self.child_end, writer = owned_pipe()
        super().__init__(writer.detach())

    def hold(self, child: Child) -> None:
        """Tie a child to it, which leads its process group and has inherited the other end.

        A child whose parent is killed between its start and this is not tied.
        """
        try:
            _tie(self.child_end.fileno(), child.pid)
        finally:
            self.child_end.close()

    def close(self) -> None:
        """Close both ends. Idempotent."""
        self.child_end.close()
        super().close()


def tie_to(fd: int) -> None:
    """In a child that leads its group: be killed with the group when a `Leash` is closed.

    Args:
        fd: The child's end. If the other one was closed before, the child is killed at once.
    """
    _tie(fd, os.getpid())
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if poller.poll(0):
        os.killpg(0, signal.SIGKILL)


def _tie(fd: int, group: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETOWN, -group)
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def die_with_parent(parent: int) -> None:
    """In a child: be killed when the thread that started it ends: PR_SET_PDEATHSIG(2const).

    Args:
        parent: The pid of the parent, which may have died before this was called; then the
            child is killed at once.
    """
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
