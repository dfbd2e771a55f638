"""The codec of `run`: pickle that leaves large buffers out (PEP 574), as memory of their own.

What is made of them on the other side, an array of numpy for example, is that side's own: it may
be written, and what is written is copied page by page.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final

from aioipc.abc import Buffer, HasFileno
from aioipc.kernel.memory import checked_size, keep, map_memory
from aioipc.kernel.owned import OwnedFd

__all__ = ["decode", "encode", "format", "leave_out", "name", "passes_fds", "trusted_only"]

name = "bundle"
format = None  # noqa: A001 - the contract's word
trusted_only = True
passes_fds = True

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


def encode(obj: Any, fds: list[HasFileno] | None = None, /) -> bytes:
    """Return the pickle; its large buffers go into memory, whose descriptors ``fds`` takes."""
    if fds is None:
        return pickle.dumps(obj, 5)
    data, buffers = leave_out(obj)
    fds += [keep(buffer.raw(), "aioipc-buffer") for buffer in buffers]
    return data


def decode(buffer: Buffer, take: Callable[[int], list[int]] | None = None, /) -> Any:
    """Return the object."""
    files = [OwnedFd(fd) for fd in take(_MOST)] if take is not None else []
    buffers = [_map(file) for file in files]
    return pickle.loads(buffer, buffers=buffers)  # noqa: S301 - the peer is this process's own


def _map(file: OwnedFd) -> memoryview:
    with file:
        return map_memory(file, checked_size(file), private=True)
