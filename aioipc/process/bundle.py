"""The codec of `run`: pickle that leaves large buffers out (PEP 574), as memory of their own.

What is made of them on the other side, an array of numpy for example, is that side's own: it may
be written, and what is written is copied page by page.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from aioipc.abc import Buffer, HasFileno
from aioipc.errors import from_os_error
from aioipc.kernel.memory import checked_size, create_memory, fill, keep, map_memory
from aioipc.kernel.owned import OwnedFd

__all__ = ["decode", "encode", "format", "leave_out", "name", "passes_fds", "trusted_only"]

name = "bundle"
format = None  # noqa: A001 - the contract's word
trusted_only = True
passes_fds = True

_MEMORY: Final = "aioipc-buffer"
_LARGE_BYTES: Final = 1024 * 1024
_MOST: Final = 253


def leave_out(obj: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object without its large buffers."""
    buffers: list[pickle.PickleBuffer] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        if len(buffers) == _MOST or memoryview(buffer).nbytes < _LARGE_BYTES:
            return True
        buffers.append(buffer)
        return False

    return pickle.dumps(obj, 5, buffer_callback=stays), buffers


@dataclass(frozen=True, slots=True)
class Kept:
    """An object whose large buffers lie in memory of their own already.

    Attributes:
        data: The pickle.
        files: The memory.
    """

    data: bytes
    files: list[OwnedFd]


@contextlib.asynccontextmanager
async def kept(obj: Any) -> AsyncIterator[Kept]:
    """An object to be sent inside; its buffers are copied piece by piece, others run in between.

    Raises:
        ResourceExhausted: There is no memory for them.

    Cancellation:
        Undoes.
    """
    data, buffers = leave_out(obj)
    with contextlib.ExitStack() as files:
        copies = [files.enter_context(await _keep(buffer.raw())) for buffer in buffers]
        yield Kept(data, copies)


async def _keep(data: memoryview) -> OwnedFd:
    with contextlib.ExitStack() as undo:
        try:
            memory = undo.enter_context(create_memory(data.nbytes, _MEMORY, allocated=False))
            for _ in fill(memory, data):
                await asyncio.sleep(0)
        except OSError as error:
            raise from_os_error(error, f"copy {data.nbytes:,} bytes for a worker") from error
        undo.pop_all()
    return memory


def encode(obj: Any, fds: list[HasFileno] | None = None, /) -> bytes:
    """Return the pickle; its large buffers go into memory, whose descriptors ``fds`` takes."""
    if fds is None:
        return pickle.dumps(obj, 5)
    if isinstance(obj, Kept):
        fds += obj.files
        return obj.data
    data, buffers = leave_out(obj)
    fds += [keep(buffer.raw(), _MEMORY) for buffer in buffers]
    return data


def decode(buffer: Buffer, take: Callable[[int], list[int]] | None = None, /) -> Any:
    """Return the object."""
    files = [OwnedFd(fd) for fd in take(_MOST)] if take is not None else []
    buffers = [_map(file) for file in files]
    return pickle.loads(buffer, buffers=buffers)  # noqa: S301 - the peer is this process's own


def _map(file: OwnedFd) -> memoryview:
    with file:
        return map_memory(file, checked_size(file), private=True)
