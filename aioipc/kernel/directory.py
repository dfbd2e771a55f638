"""An open directory whose owner and mode were checked, and what is done below it.

Everything goes through the descriptor (openat(2) and friends), so that nobody can exchange
the directory between the check and the use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from aioipc.errors import AccessDenied
from aioipc.kernel.owned import OwnedFd

__all__ = [
    "Directory",
    "Identity",
    "check_owner",
    "denied",
    "identity_of",
    "open_private",
    "open_trusted",
]

Identity = tuple[int, int]
"""Device and inode number: what tells one existing file from every other."""

_Check = Callable[[os.stat_result, str], None]
_OPEN_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Directory(OwnedFd):
    """A checked directory, held open."""

    __slots__ = ("path",)

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self.path = path

    def join(self, name: str) -> str:
        """The full path of a name, for messages."""
        return os.path.join(self.path, name)

    def through_proc(self, name: str) -> str:
        """A path to a name through our descriptor: proc_pid_fd(5).

        For system calls without a directory argument; at most 30 bytes longer than the name,
        so it also fits where ``sun_path`` leaves only 107 (unix(7)).
        """
        return f"/proc/self/fd/{self.fileno()}/{name}"

    def stat(self, name: str) -> os.stat_result | None:
        """Look at a name without following a symlink; None if there is nothing."""
        try:
            return os.stat(name, dir_fd=self.fileno(), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file, close-on-exec, never through a symlink.

        Raises:
            AccessDenied: The name is a symlink.
        """
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.fileno())
        except OSError as error:
            raise self.explained(error, name) from None

    def explained(self, error: OSError, name: str) -> OSError:
        """What to raise in the place of what open(2) said about a name, with ``O_NOFOLLOW``."""
        if error.errno == errno.ELOOP:
            return denied(f"{self.join(name)} is a symlink")
        return error

    def is_current(self) -> bool:
        """Whether it is open and still has a name."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink > 0

    def names(self) -> list[str]:
        """What is there, in no order."""
        return os.listdir(self.through_proc("."))

    def unlink(self, name: str) -> None:
        """Remove a name if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fileno())

    def identity(self, name: str) -> Identity | None:
        """Say which file a name stands for; None if there is nothing."""
        found = self.stat(name)
        return None if found is None else identity_of(found)

    def unlink_if(self, name: str, identity: Identity) -> None:
        """Remove a name if it still stands for this file."""
        if self.identity(name) == identity:
            self.unlink(name)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what has the new name."""
        os.rename(old, new, src_dir_fd=self.fileno(), dst_dir_fd=self.fileno())

    def private(self, name: str, *, create: bool) -> Directory:
        """Open a subdirectory that is ours alone.

        Raises:
            AccessDenied: It is a symlink, or others own it or may enter it.
        """
        return open_private(name, create=create, below=self)

    def __repr__(self) -> str:
        return f"<Directory {self.path!r} fd={self._fd}>"


def open_private(path: str, *, create: bool, below: Directory | None = None) -> Directory:
    """Open a directory that belongs to this user and that nobody else may enter.

    Args:
        path: The directory; a name where ``below`` is given.
        create: Whether to make it (mode 0700) if it does not exist. Its parent must exist.
        below: The directory that a relative ``path`` starts from.

    Raises:
        AccessDenied: It is a symlink or no directory, or others own it or may enter it.
        FileNotFoundError: It does not exist.
    """
    start = None if below is None else below.fileno()
    full = path if below is None else below.join(path)
    while True:
        try:
            fd = os.open(path, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=start)
        except NotADirectoryError:  # what O_DIRECTORY | O_NOFOLLOW says of a symlink, too
            raise denied(f"{full} is not a directory") from None
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700, dir_fd=start)
        else:
            return _checked(fd, full, _check_private)


def open_trusted(path: str, *, any_owner: bool = False) -> Directory:
    """Open a directory in which nobody untrusted can exchange a file of ours.

    Args:
        path: The directory. Symlinks on the way are followed: what counts is where they end.
        any_owner: Whether it may belong to another user.

    Raises:
        AccessDenied: Somebody other than this user and root owns it, or others may write to
            it and its sticky bit is not set (inode(7)).
        FileNotFoundError: It does not exist.
    """
    fd = os.open(path, _OPEN_FLAGS)
    return _checked(fd, path, _check_writers if any_owner else _check_trusted)


def identity_of(status: os.stat_result) -> Identity:
    """The identity in what stat(2) said."""
    return status.st_dev, status.st_ino


def check_owner(status: os.stat_result, path: str) -> None:
    """Refuse what belongs neither to this user nor to root.

    Raises:
        AccessDenied: It does not.
    """
    if status.st_uid not in (os.geteuid(), 0):
        raise denied(f"{path} belongs to uid {status.st_uid}, not to {os.geteuid()} or root")


def denied(message: str) -> AccessDenied:
    """An `AccessDenied` with its errno."""
    return AccessDenied(errno.EACCES, message)


def _checked(fd: int, path: str, check: _Check) -> Directory:
    directory = Directory(fd, path)
    try:
        check(os.fstat(directory.fileno()), path)
    except BaseException:
        directory.close()
        raise
    return directory


def _check_private(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid():
        raise denied(f"{path} belongs to uid {status.st_uid}, not to {os.geteuid()}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise denied(f"{path} has mode {mode:04o}, which lets others in; it must be 0700")


def _check_trusted(status: os.stat_result, path: str) -> None:
    check_owner(status, path)
    _check_writers(status, path)


def _check_writers(status: os.stat_result, path: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise denied(f"{path} has mode {mode:04o}: others may replace what is in it")
