"""SharedMemory: a fixed number of bytes that several processes look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from aioipc.abc import HasFileno
from aioipc.errors import AccessDenied, AddressError, ProtocolError, from_os_error
from aioipc.kernel.memory import checked_size, create_memory, map_memory, seal
from aioipc.kernel.named_memory import Mapped, named_memory
from aioipc.kernel.owned import Closing, OwnedFd, duplicate
from aioipc.limits import check_count

__all__ = ["SharedMemory"]

_MOST_BYTES = 2**63 - 1  # of a file: ftruncate(2)


class SharedMemory(Closing):
    """A fixed number of bytes in memory, shared with every process that has its descriptor or name.

    Make one with `create`, `open` or `from_fd`. It has a ``fileno()``, so
    ``channel.send(obj, fds=[memory])`` passes it on.

    All of it is allocated when it is made: a machine without so much memory says so then, and
    nothing is killed by touching it later. Views of `buffer` keep the memory mapped for as long
    as they live, whatever is closed meanwhile.
    """

    def __init__(self, file: OwnedFd, name: str | Path | None, buffer: memoryview) -> None:
        self._file = file
        self._name = name
        self._buffer = buffer

    @classmethod
    def create(
        cls, size: int, name: str | Path | None = None, *, read_only_elsewhere: bool = False
    ) -> Self:
        """Make zeroed memory.

        Args:
            size: In bytes, for ever.
            name: As for shm_open(3), for example ``"/frames"``: any process of this user can
                then open it, and it stays until `unlink`. ``"sysv:0x1234"`` is System V memory
                with that key (shmget(2)): it needs the extra ``sysv``, and has no descriptor to
                pass on. A ``Path`` is a file, in which the bytes stay when everybody has gone.
                Without a name it is anonymous (memfd_create(2)): it is passed on as a
                descriptor, and is gone when the last process that has it is, however that ended.
            read_only_elsewhere: Whether only this object may write; anonymous memory only.

        Raises:
            ResourceExhausted: There is not so much memory, or something has that name.
            AccessDenied: The kernel does not allow it.
            AddressError: It cannot be a name, or there is no directory for the file.
            ValueError: The size is impossible, or a name and ``read_only_elsewhere`` are given.
        """
        size = check_count("size", size, 1, _MOST_BYTES)
        if name is not None and read_only_elsewhere:
            raise ValueError("memory with a name can be written by whoever may open it")
        try:
            if name is None:
                file, buffer = _anonymous(size, read_only_elsewhere=read_only_elsewhere)
            else:
                file, buffer = named_memory(name).create(size)
        except OSError as error:
            what = "shared memory" if name is None else f"shared memory {str(name)!r}"
            raise from_os_error(error, f"make {size:,} bytes of {what}") from error
        return cls(file, name, buffer)

    @classmethod
    def open(cls, name: str | Path, *, writable: bool = False) -> Self:
        """Open memory that another process made, also one in another language (shm_open(3)).

        Whoever may write to memory with a name may also cut it short, and then touching it kills
        a process (SIGBUS): share it with programs that you trust.

        Args:
            name: Its name; a ``Path`` is a file.
            writable: Whether to write to it.

        Raises:
            AddressError: There is none, it is empty, no regular file, or cannot be a name.
            AccessDenied: It belongs to somebody else.
        """
        try:
            file, buffer = named_memory(name).open(writable=writable)
        except FileNotFoundError:
            raise AddressError(f"there is no shared memory {str(name)!r}") from None
        except AccessDenied:  # it says whose it is
            raise
        except OSError as error:
            raise from_os_error(error, f"open shared memory {str(name)!r}") from error
        return cls(file, name, buffer)

    @classmethod
    def from_fd(cls, fd: int, *, writable: bool = False) -> Self:
        """Take over the descriptor of anonymous memory that came from `Channel.take_fds`.

        It is checked before it is touched: memory, with the size that it will always have.

        Args:
            fd: The descriptor, which belongs to this object from now on, also if this raises.
            writable: Whether to write to it.

        Raises:
            ProtocolError: It is something else.
            AccessDenied: It cannot be written, and ``writable`` is given.
            ResourceExhausted: There is no room to map it.
        """
        file = OwnedFd(fd)
        try:
            size = checked_size(file)
        except OSError as error:
            file.close()
            raise from_os_error(error, f"take over descriptor {fd}") from error
        except ProtocolError:
            file.close()
            raise
        return cls._mapped(file, None, size, writable=writable)

    def open_writable(self) -> Self:
        """Map the same memory once more, to write to it.

        Raises:
            AccessDenied: Its maker allows nobody else to write.
            ValueError: It was closed.
            ResourceExhausted: There is no descriptor or no room left.
        """
        if self._buffer.nbytes == 0:
            raise ValueError("this shared memory was closed")
        if self._name is not None and self._file.fileno() < 0:  # it never had a descriptor
            return self.open(self._name, writable=True)
        try:
            file = duplicate(self._file)
        except OSError as error:
            raise from_os_error(error, "open shared memory for writing") from error
        return self._mapped(file, self._name, self.size, writable=True)

    @classmethod
    def _mapped(cls, file: OwnedFd, name: str | Path | None, size: int, *, writable: bool) -> Self:
        try:
            return cls(file, name, map_memory(file, size, writable=writable, populate=False))
        except PermissionError as error:
            file.close()
            raise AccessDenied(error.errno, "this shared memory can only be read here") from error
        except OSError as error:
            file.close()
            raise from_os_error(error, f"map {size:,} bytes of shared memory") from error

    @property
    def name(self) -> str | Path | None:
        """Its name, None if it is anonymous."""
        return self._name

    @property
    def size(self) -> int:
        """In bytes."""
        return self._buffer.nbytes

    @property
    def writable(self) -> bool:
        """Whether this process may write through `buffer`."""
        return not self._buffer.readonly

    @property
    def buffer(self) -> memoryview:
        """The bytes. Nobody keeps two processes from writing at a time: see `aioipc.sync`."""
        return self._buffer

    def fileno(self) -> int:
        """The descriptor, -1 once it is closed."""
        return self._file.fileno()

    def passed(self) -> tuple[HasFileno, None] | None:
        """What travels in its place: see `aioipc.abc.Passable`. None if it has a name."""
        return (self, None) if self._name is None and self.fileno() >= 0 else None

    @classmethod
    def from_passed(cls, fd: int, facts: Any) -> Self:  # noqa: ARG003 - there are none
        """Make what `passed` was, on the other side: to be read only, until `open_writable`."""
        return cls.from_fd(fd)

    def unlink(self) -> None:
        """Remove the name; who has the memory keeps it. Idempotent.

        Raises:
            ValueError: It has none.
            AccessDenied: It belongs to somebody else.
        """
        if self._name is None:
            raise ValueError("anonymous memory has no name to remove")
        try:
            named_memory(self._name).unlink()
        except OSError as error:
            raise from_os_error(error, f"remove shared memory {str(self._name)!r}") from error

    def close(self) -> None:
        """Close the descriptor. Idempotent.

        The memory stays mapped as long as a view of it is left; its name stays, too.
        """
        self._file.close()
        self._buffer = memoryview(b"")

    def __repr__(self) -> str:
        return f"<SharedMemory {self._name or 'anonymous'} {self.size:,} bytes>"


def _anonymous(size: int, *, read_only_elsewhere: bool) -> Mapped:
    file = create_memory(size, sealed=False)
    try:
        buffer = map_memory(file, size)  # before the seal, which is against mappings to come
        seal(file, against_writing=read_only_elsewhere)
    except BaseException:
        file.close()
        raise
    return file, buffer
