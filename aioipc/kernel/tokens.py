"""The pipe of tokens through which GNU make and its children share jobs: pipe(7).

See "Job Slots" in the manual of GNU make. One byte is one token. The ends that make and its
children inherit stay as they are, blocking; ours are opened anew, so that they never block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import termios
from typing import Self

from aioipc.kernel.descriptors import adopt
from aioipc.kernel.directory import check_owner, denied
from aioipc.kernel.owned import OwnedFd, owned_pipe

__all__ = ["TokenPipe"]

_TOKEN = b"+"


class TokenPipe:
    """Tokens to take and to give back.

    Attributes:
        ends: What children inherit, reading and writing end; none if the pipe has a path.
        path: Where the FIFO is, None for a pipe without a name.
    """

    def __init__(
        self, reader: OwnedFd, writer: OwnedFd, *, ends: tuple[OwnedFd, ...] = (), path: str = ""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._made = False
        self.ends = ends
        self.path = path or None

    @classmethod
    def create(cls, tokens: int) -> Self:
        """Make a pipe with so many tokens."""
        with contextlib.ExitStack() as undo:
            ends = owned_pipe()
            for end in ends:
                undo.enter_context(end)
            pipe = cls(*_opened(undo, ends[0].fileno(), ends[1].fileno()), ends=ends)
            pipe._fill(tokens)
            undo.pop_all()
        return pipe

    @classmethod
    def create_fifo(cls, path: str, tokens: int) -> Self:
        """Make a FIFO (mode 0600) with so many tokens, which goes when the pipe is closed.

        Raises:
            FileExistsError: Something is there.
        """
        os.mkfifo(path, 0o600)
        try:
            pipe = cls.open_fifo(path)
            pipe._fill(tokens)
        except BaseException:
            os.unlink(path)
            raise
        pipe._made = True
        return pipe

    @classmethod
    def open_fifo(cls, path: str) -> Self:
        """Open a FIFO that somebody made.

        Raises:
            AccessDenied: It is no FIFO, or neither ours nor root's.
            FileNotFoundError: It is not there.
        """
        with contextlib.ExitStack() as undo:
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            line = undo.enter_context(OwnedFd(os.open(path, flags)))
            status = os.fstat(line.fileno())
            check_owner(status, path)
            if not stat.S_ISFIFO(status.st_mode):
                raise denied(f"{path} is no FIFO")
            undo.pop_all()
        return cls(line, line, path=path)

    @classmethod
    def inherit(cls, read_fd: int, write_fd: int) -> Self:
        """Use descriptors that were inherited; they stay open and as they are.

        Raises:
            OSError: One of them is not open (EBADF).
        """
        with contextlib.ExitStack() as undo:
            pipe = cls(*_opened(undo, read_fd, write_fd))
            undo.pop_all()
        return pipe

    def fileno(self) -> int:
        """Readable while there is a token; -1 once it is closed."""
        return self._reader.fileno()

    def try_take(self) -> bytes | None:
        """Take a token, if there is one."""
        try:
            return os.read(self._reader.fileno(), 1) or None
        except BlockingIOError:
            return None

    def give(self, token: bytes) -> None:
        """Put a token back."""
        os.write(self._writer.fileno(), token)

    def count(self) -> int:
        """How many tokens nobody has now: ioctl_tty(2), ``FIONREAD``."""
        answer = fcntl.ioctl(self._reader.fileno(), termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])

    def close(self) -> None:
        """Close it, and remove a FIFO that was made for it. Idempotent."""
        if self._made and self.path is not None:
            self._made = False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        for end in (self._reader, self._writer, *self.ends):
            end.close()

    def abandon(self) -> None:
        """Leave a FIFO to the parent, in a forked child."""
        self._made = False

    def _fill(self, tokens: int) -> None:
        if tokens:
            self.give(_TOKEN * tokens)


def _opened(undo: contextlib.ExitStack, *fds: int) -> list[OwnedFd]:
    return [undo.enter_context(adopt(fd, keep=True)) for fd in fds]
