"""SharedArray: a numpy array whose elements lie in memory that processes share."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from aioipc.abc import HasFileno
from aioipc.codecs.layout import Layout, Order, np
from aioipc.errors import ProtocolError
from aioipc.kernel.owned import OwnedFd
from aioipc.memory.shared import SharedMemory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    _Base = np.ndarray[Any, np.dtype[Any]]
else:
    _Base = np.ndarray

__all__ = ["SharedArray"]

_Shape = SupportsIndex | tuple[SupportsIndex, ...]


class SharedArray(_Base):
    """A numpy array in shared memory.

    Make one with `create`. A channel with ``codec="arrays"`` passes it on by its descriptor,
    over ``unix:`` and ``shm:``, at the same cost whatever its size; over others its elements are
    copied. It is an array like any other; what is computed from it, and copies, are in ordinary
    memory. The memory stays mapped as long as any view of it lives, whatever is closed meanwhile.

    Attributes:
        memory: The `SharedMemory` that all of it lies in; None for a view of a part.
    """

    memory: SharedMemory | None

    def __new__(
        cls,
        memory: SharedMemory,
        shape: _Shape,
        dtype: DTypeLike = float,
        *,
        order: Order = "C",
    ) -> Self:
        """Look at memory as an array, which can be written where the memory can.

        Args:
            memory: Any kind of it.
            shape: As for `numpy.ndarray`.
            dtype: Likewise, but no Python objects.
            order: ``"C"``, the last index moves fastest, or ``"F"``, the first.

        Raises:
            ValueError: The array is larger than the memory, or an extent is negative.
            TypeError: It would hold Python objects.
        """
        needed = _nbytes(shape, dtype)
        if needed > memory.size:
            raise ValueError(f"an array of {needed:,} bytes is over the {memory.size:,} there are")
        array = super().__new__(cls, shape, dtype, memory.buffer, order=order)
        array.memory = memory
        return array

    @classmethod
    def create(
        cls,
        shape: _Shape,
        dtype: DTypeLike = float,
        *,
        order: Order = "C",
        read_only_elsewhere: bool = False,
    ) -> Self:
        """Make an array of zeros in anonymous shared memory.

        Args:
            shape: As for `numpy.zeros`.
            dtype: Likewise, but no Python objects.
            order: Likewise.
            read_only_elsewhere: Whether only this object may write, which the kernel sees to.

        Raises:
            ResourceExhausted: There is not so much memory.
            ValueError: An extent is negative.
            TypeError: It would hold Python objects.
        """
        size = max(1, _nbytes(shape, dtype))
        memory = SharedMemory.create(size, read_only_elsewhere=read_only_elsewhere)
        return cls(memory, shape, dtype, order=order)

    @classmethod
    def from_fd(
        cls,
        fd: int,
        shape: _Shape,
        dtype: DTypeLike,
        *,
        order: Order = "C",
        writable: bool = False,
    ) -> Self:
        """Take over the descriptor of an array's memory; the codec does this for what it receives.

        Args:
            fd: The descriptor, which belongs to this object from now on, also if this raises.
            shape: As at the other side.
            dtype: Likewise.
            order: Likewise.
            writable: Whether to write to it.

        Raises:
            ProtocolError: It is something else, or too small.
            AccessDenied: It cannot be written, and ``writable`` is given.
        """
        memory = SharedMemory.from_fd(fd, writable=writable)
        try:
            return cls(memory, shape, dtype, order=order)
        except (ValueError, TypeError) as error:
            memory.close()
            raise ProtocolError(f"descriptor {fd} is no such array: {error}") from None

    def open_writable(self) -> Self:
        """Map the memory of an array that was received once more, to write to it.

        Raises:
            AccessDenied: Its maker allows nobody else to write.
            ValueError: This is a view of a part of an array, or it was closed.
        """
        if self.memory is None or self.memory.fileno() < 0:
            raise ValueError("a view of a part of a shared array, or a closed one, has no memory")
        order: Order = "C" if self.flags.c_contiguous else "F"
        return type(self)(self.memory.open_writable(), self.shape, self.dtype, order=order)

    def passed(self) -> tuple[HasFileno, Any] | None:
        """What travels in its place: its memory, and its layout. See `aioipc.abc.Passable`.

        None if that is not to be had: it is a part of an array, has a name, or was closed.
        """
        if self.memory is None or (passed := self.memory.passed()) is None:
            return None
        return passed[0], Layout.of(self).described()

    @classmethod
    def from_passed(cls, fd: int, facts: Any) -> Self:
        """Make what `passed` was, on the other side: to be read only, until `open_writable`."""
        with OwnedFd(fd) as file:
            layout = Layout.parse(*facts)
            return cls.from_fd(file.detach(), layout.shape, layout.dtype, order=layout.order)

    def close(self) -> None:
        """Close the descriptor. Idempotent; this array and its views go on."""
        if self.memory is not None:
            self.memory.close()

    def __array_finalize__(self, obj: object) -> None:
        # Views, copies and results come here; only `__new__` knows of memory that is all theirs.
        self.memory = None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # What numpy computes lies in ordinary memory, and says so by its type.
        if array is self:  # `array += 1`
            return array
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return part.view(np.ndarray) if isinstance(part, SharedArray) else part


def _nbytes(shape: _Shape, dtype: DTypeLike) -> int:
    """How many bytes an array has.

    Raises:
        TypeError: Its elements are pointers, which mean nothing elsewhere, or this is no shape.
        ValueError: An extent is negative.
    """
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind!r} cannot be shared: it refers to this process")
    extents = shape if isinstance(shape, tuple | list) else (shape,)
    if any(operator.index(extent) < 0 for extent in extents):
        raise ValueError(f"an array has no extent below 0: {shape!r}")
    return math.prod(map(operator.index, extents)) * kind.itemsize
