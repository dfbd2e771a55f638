"""Descriptor: an open file as an argument or a result of a call."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from aioipc.abc import HasFileno
from aioipc.errors import from_os_error
from aioipc.kernel.owned import OwnedFd, duplicate

__all__ = ["Descriptor"]


class Descriptor:
    """An open file that travels with a call: a socket, a pipe, whatever has a descriptor.

    A parameter or a result declared as one takes it. Each side has a descriptor of its own for
    the same open file, and an object of its own that owns it: what one side closes stays open
    on the other. It is closed by `close`, by leaving ``with``, and when the last reference is
    gone; so what a method does not keep is closed when it is done.

    Args:
        file: A number, or an object with a ``fileno()``, which is duplicated (fcntl(2),
            ``F_DUPFD_CLOEXEC``): it stays the caller's, who may close it at once.

    Raises:
        ValueError: It was closed.
        ResourceExhausted: This process may have no more descriptors.
    """

    def __init__(self, file: int | HasFileno) -> None:
        try:
            self._fd = duplicate(file)
        except OSError as error:
            if (file if isinstance(file, int) else file.fileno()) < 0:
                raise ValueError(f"{file!r} is closed") from None
            raise from_os_error(error, f"duplicate {file!r}") from error

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over a descriptor, which belongs to this object from now on."""
        made = cls.__new__(cls)
        made._fd = OwnedFd(fd)
        return made

    def fileno(self) -> int:
        """Its number, -1 once it is closed or was given away."""
        return self._fd.fileno()

    def detach(self) -> int:
        """Give the descriptor away: the caller closes it.

        Raises:
            ValueError: It is closed.
        """
        self._check_open()
        return self._fd.detach()

    def close(self) -> None:
        """Close it. Idempotent."""
        self._fd.close()

    def passed(self) -> tuple[HasFileno, None]:
        """What travels in its place: see `aioipc.abc.Passable`.

        Raises:
            ValueError: It is closed.
        """
        self._check_open()
        return self, None

    @classmethod
    def from_passed(cls, fd: int, facts: Any) -> Self:  # noqa: ARG003 - there are none
        """Make what `passed` was, on the other side."""
        return cls.from_fd(fd)

    def _check_open(self) -> None:
        if self.fileno() < 0:
            raise ValueError("this descriptor is closed, or was given away")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Descriptor fd={self.fileno()}>"
