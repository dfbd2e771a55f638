"""FIFOs opened safely and without waiting: fifo(7).

What stands at the path is first opened with ``O_PATH``, which neither waits nor disturbs
anybody, and checked; then that very file is opened through /proc/self/fd, so that nobody can
exchange it in between. A writer without a reader (ENXIO) watches for one: inotify(7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from functools import cache

from aioipc.errors import AddressError, ConnectError, ResourceExhausted
from aioipc.kernel.directory import (
    Directory,
    check_owner,
    denied,
    identity_of,
    open_trusted,
)
from aioipc.kernel.inotify import Inotify, Mask
from aioipc.kernel.lockfile import try_lock, unlock
from aioipc.kernel.owned import Closing, OwnedFd, above_stdio, outlive

__all__ = ["FifoReader", "PendingWriter", "keeps_pages_whole", "open_reader", "open_writer"]

_A_FIFO_CAME = Mask.CREATE | Mask.MOVED_TO


def open_reader(path: str) -> FifoReader:
    """Open the reading end of a FIFO, which is made (mode 0600) if it is not there.

    Raises:
        AccessDenied: The directory, or what is at the path, is not to be trusted.
        ResourceExhausted: Another process of ours reads it (errno EADDRINUSE).
        FileNotFoundError: The directory does not exist.
        AddressError: The path names no file.
    """
    while True:
        reader = _try_open_reader(path)
        if reader is not None:
            return reader


def open_writer(path: str, *, single: bool = False) -> int | None:
    """Open the writing end of a FIFO: non-blocking, close-on-exec, at least 3.

    Args:
        path: Where the FIFO is.
        single: Whether to be the only writer. The FIFO is locked by flock(2), which writers
            that know nothing of aioipc do not heed.

    Returns:
        The descriptor, which belongs to the caller, or None if there is no FIFO or nobody has
        it open for reading; `PendingWriter` waits for that.

    Raises:
        AccessDenied: The directory, or what is at the path, is not to be trusted.
        ConnectError: Another writer has the FIFO for itself, or this one was to.
        FileNotFoundError: The directory does not exist.
        AddressError: The path names no file.
    """
    directory, name = _locate(path)
    with directory:
        fifo = _find(directory, name)
    if fifo is None:
        return None
    with fifo:
        return fifo.open_writing(single=single)


@cache
def keeps_pages_whole() -> bool:
    """Whether a write of several times ``PIPE_BUF`` that finds too little room ends with one.

    pipe(7) promises nothing about writes of more than ``PIPE_BUF``. Linux fills a page of the
    pipe for each page of theirs, and takes as many as are free: fs/pipe.c. Not every kernel
    that passes for Linux does (gVisor), so it is tried out, once.
    """
    size = select.PIPE_BUF
    try:
        reader, writer = map(OwnedFd, os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with reader, writer:
            room = fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, 4 * size)
            os.write(writer.fileno(), b"not a page")
            written = os.write(writer.fileno(), bytes(2 * room))
    except OSError:  # no descriptors left, or no more pages for pipes: pipe(7)
        return False
    return 0 < written < room and written % size == 0


class FifoReader(OwnedFd):
    """The reading end of a FIFO. It outlives its writers, because it is one of them.

    Attributes:
        path: Where the FIFO is.
    """

    __slots__ = ("_directory", "_name", "_remove", "_writer", "path")

    def __init__(
        self, fd: int, writer: OwnedFd, directory: Directory, name: str, *, remove: bool
    ) -> None:
        super().__init__(fd)
        self.path = directory.join(name)
        self._writer = writer
        self._directory = directory
        self._name = name
        self._remove = remove
        outlive(self, writer, directory)

    def close(self) -> None:
        """Close the FIFO, and remove it if it was made for this reader. Idempotent."""
        if self._fd >= 0 and self._remove:
            self._directory.unlink_if(self._name, identity_of(os.fstat(self._fd)))
        if self._writer.fileno() >= 0:
            unlock(self._writer.fileno())
        super().close()
        self._writer.close()
        self._directory.close()


class PendingWriter(Closing):
    """A writing end that waits for its reader. Readable when it is worth trying again."""

    __slots__ = ("_directory", "_fifo", "_name", "_news", "_single")

    def __init__(self, path: str, *, single: bool = False) -> None:
        """Start to watch; the arguments and errors are those of `open_writer`."""
        with contextlib.ExitStack() as undo:
            self._directory, self._name = _locate(path)
            undo.enter_context(self._directory)
            self._news = undo.enter_context(Inotify())
            self._news.watch(self._directory.through_proc("."), _A_FIFO_CAME)
            undo.pop_all()
        self._fifo: _Fifo | None = None
        self._single = single

    def fileno(self) -> int:
        """The descriptor to wait for, -1 once it is closed."""
        return self._news.fileno()

    def try_open(self) -> int | None:
        """Open the writing end: as `open_writer`."""
        self._news.take()
        self._look()
        return None if self._fifo is None else self._fifo.open_writing(single=self._single)

    def close(self) -> None:
        """Stop waiting. Idempotent."""
        self._news.close()
        self._directory.close()
        self._forget()

    def _look(self) -> None:
        """See what is at the path, and watch it.

        Only a file not seen before is opened: before Linux 6.10 even ``O_PATH`` is reported as
        an opening, and this would wake itself for ever.
        """
        if self._fifo is not None:
            if self._directory.identity(self._name) == self._fifo.identity:
                return
            self._forget()
        self._fifo = _find(self._directory, self._name)
        if self._fifo is not None:
            self._news.watch(self._fifo.through_proc, Mask.OPEN)

    def _forget(self) -> None:
        if self._fifo is not None:
            self._fifo.close()
            self._fifo = None


class _Fifo(OwnedFd):
    """A FIFO that is neither read nor written yet (``O_PATH``), and was checked."""

    __slots__ = ("identity", "path")

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self.path = path
        self.identity = identity_of(os.fstat(self._fd))

    @property
    def through_proc(self) -> str:
        return f"/proc/self/fd/{self.fileno()}"

    def check(self) -> None:
        status = os.fstat(self.fileno())
        if not stat.S_ISFIFO(status.st_mode):
            what = "a symlink" if stat.S_ISLNK(status.st_mode) else "no FIFO"
            raise denied(f"{self.path} is {what}")
        check_owner(status, self.path)

    def open(self, access: int) -> int:
        return os.open(self.through_proc, access | os.O_NONBLOCK | os.O_CLOEXEC)

    def open_writing(self, *, single: bool) -> int | None:
        try:
            fd = above_stdio(self.open(os.O_WRONLY))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody reads: open(2)
                return None
            raise
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if single else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            other = "has other writers" if single else "has a writer that wants to be alone"
            raise ConnectError(f"{self.path} {other}") from None
        return fd


def _try_open_reader(path: str) -> FifoReader | None:
    """Become the reader; None if the last one removed the FIFO meanwhile."""
    with contextlib.ExitStack() as undo:
        directory, name = _locate(path)
        undo.enter_context(directory)
        made = _make(directory, name)
        fifo = _find(directory, name)
        if fifo is None:
            return None
        with fifo:
            reader = undo.enter_context(OwnedFd(fifo.open(os.O_RDONLY)))
            writer = undo.enter_context(OwnedFd(fifo.open(os.O_WRONLY)))
        if not try_lock(writer.fileno()):
            raise ResourceExhausted(errno.EADDRINUSE, f"{fifo.path} has a reader already")
        if directory.identity(name) != fifo.identity:
            return None
        undo.pop_all()
    return FifoReader(reader.detach(), writer, directory, name, remove=made)


def _make(directory: Directory, name: str) -> bool:
    try:
        os.mkfifo(name, 0o600, dir_fd=directory.fileno())
    except FileExistsError:
        return False
    return True


def _find(directory: Directory, name: str) -> _Fifo | None:
    try:
        fd = directory.open(name, os.O_PATH)
    except FileNotFoundError:
        return None
    fifo = _Fifo(fd, directory.join(name))
    try:
        fifo.check()
    except BaseException:
        fifo.close()
        raise
    return fifo


def _locate(path: str) -> tuple[Directory, str]:
    parent, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise AddressError(f"{path!r} names no file")
    return open_trusted(parent or "."), name
