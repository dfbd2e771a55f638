"""Processes held by descriptor, which no reused pid can deceive: pidfd_open(2)."""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import signal
import stat
import struct

from aioipc.kernel.owned import OwnedFd
from aioipc.native._os import queue_signal

__all__ = [
    "Child",
    "describe",
    "exit_status",
    "holder_pidfd",
    "is_alive",
    "open_pidfd",
    "send_signal",
]

_MOST_FDS = 4096
"""So many descriptors of another process are looked at: some milliseconds."""
_PIDFD_INFO = struct.Struct("QQ44si")  # struct pidfd_info: mask, cgroup, eleven ids, status
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 0xC000FF0B | _PIDFD_INFO.size << 16  # _IOWR(0xFF, 11, struct pidfd_info)


def open_pidfd(pid: int) -> int:
    """Open a descriptor of a process, readable once the process has ended.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return os.pidfd_open(pid)


def holder_pidfd(pid: int, file: str) -> int | None:
    """Open a pidfd of a process that can write to a pipe or a socket: proc_pid_fd(5).

    For what a peer says of itself, where the kernel does not know who it is.

    Args:
        pid: The process.
        file: What /proc calls the pipe or the socket, as `aioipc.kernel.descriptors.file_name`.

    Returns:
        The pidfd, which belongs to the caller and is close-on-exec. None where the process has
        ended, may not be looked at, or has no such descriptor.
    """
    try:
        pidfd = os.pidfd_open(pid) if pid > 0 else -1
    except (OSError, OverflowError):
        return None
    # It is alive afterwards: so the number was its own meanwhile.
    if pidfd >= 0 and _writes_to(pid, file) and is_alive(pidfd):
        return pidfd
    if pidfd >= 0:
        os.close(pidfd)
    return None


def _writes_to(pid: int, file: str) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_is_writing(entry, file) for entry in itertools.islice(entries, _MOST_FDS))
    except OSError:
        return False


def _is_writing(entry: os.DirEntry[str], file: str) -> bool:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
        return bool(mode & stat.S_IWUSR) and os.readlink(entry.path) == file
    except OSError:  # it was closed meanwhile
        return False


def exit_status(pidfd: int, *, reap: bool = True) -> int | None:
    """Say how a process ended: waitid(2), ``P_PIDFD``.

    Args:
        pidfd: The process.
        reap: Whether to reap a child of ours that has ended. Else whoever started it still can.

    Returns:
        The exit code, or minus the number of the signal that killed it. None while it runs,
        and where the kernel does not tell: a process that is not our child can be asked about
        from Linux 6.15 on, once its parent has reaped it.
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT))
    except ChildProcessError:
        return _reaped_status(pidfd)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def describe(status: int) -> str:
    """How a process ended, in words that follow its name."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def is_alive(pidfd: int) -> bool:
    """Say whether the process still runs. A zombie does not; any process can be asked about."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return not poller.poll(0)


def send_signal(pidfd: int, number: int, value: int | None = None) -> bool:
    """Send a signal, with a number or without: pidfd_send_signal(2).

    Returns:
        Whether the process was still there to receive it.

    Raises:
        PermissionError: The process belongs to somebody else.
        BlockingIOError: It has no room for another real-time signal, or another with a number.
    """
    try:
        if value is None:
            signal.pidfd_send_signal(pidfd, number)
        else:
            queue_signal(pidfd, number, value)
    except ProcessLookupError:
        return False
    return True


def _reaped_status(pidfd: int) -> int | None:
    """Ask for the status that the kernel keeps with the pidfd: ioctl_pidfd(2)."""
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0, b"", 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:  # ENOTTY before Linux 6.13, ESRCH as long as there is none to tell
        return None
    mask, _, _, status = _PIDFD_INFO.unpack(info)
    return os.waitstatus_to_exitcode(status) if mask & _PIDFD_INFO_EXIT else None


class Child(OwnedFd):
    """A child process of ours and its pidfd, which is readable once the child has ended."""

    __slots__ = ("_status", "pid")

    def __init__(self, pid: int, pidfd: int) -> None:
        super().__init__(pidfd)
        self.pid = pid
        self._status: int | None = None

    @property
    def pidfd(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    def status(self) -> int | None:
        """Say how the child ended, None while it runs. The first answer reaps it and stays."""
        if self._status is None and self._fd >= 0:
            self._status = exit_status(self._fd)
        return self._status

    def send_signal(self, number: int) -> bool:
        """Send a signal; False if the child has ended."""
        return self._fd >= 0 and send_signal(self._fd, number)

    def has_ended(self) -> bool:
        """Whether it has ended. It is not reaped by this."""
        return self._status is not None or self._fd < 0 or not is_alive(self._fd)

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process group that `spawn` made for the child: kill(2).

        And to the child itself, where it has joined another group: setpgid(2). As long as the
        child is not reaped, the number of the group cannot be another one's.

        Returns:
            Whether somebody was there to receive it.

        Raises:
            PermissionError: They all belong to somebody else.
        """
        if self._status is not None or self._fd < 0:
            return False
        try:
            os.killpg(self.pid, number)
            is_there = True
        except ProcessLookupError:
            is_there = False
        # It may be about to leave. Only SIGKILL is the same for who gets it twice.
        if number == signal.SIGKILL or not self._is_in_its_group():
            is_there = self.send_signal(number) or is_there
        return is_there

    def _is_in_its_group(self) -> bool:
        try:
            return os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return False

    def close(self) -> None:
        """Let go of the child, which may go on running; `spawn` reaps it some time later."""
        if self._fd >= 0 and self.status() is None and is_alive(self._fd):
            _left_running.append(self.pid)
        super().close()

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} pidfd={self._fd}>"


_left_running: list[int] = []


def reap_left_running() -> None:
    """Reap what was let go of and has ended since. A pid stays ours until it is reaped."""
    _left_running[:] = [pid for pid in _left_running if not _reap(pid)]


def _reap(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
