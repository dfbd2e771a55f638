"""``pipe:`` a pair of anonymous pipes, one for each direction: pipe(7)."""

from __future__ import annotations

import os

from aioipc.kernel.owned import above_stdio
from aioipc.native._fd import FdStream
from aioipc.transports._stream import STREAM, descriptor_stream

__all__ = ["CAPABILITIES", "pair"]

CAPABILITIES = STREAM


def pair() -> tuple[FdStream, FdStream]:
    """Two ends, each of which reads from one pipe and writes to the other."""
    left_read, right_write = _pipe()
    right_read, left_write = _pipe()
    left = descriptor_stream(left_read, left_write, address="pipe:", capabilities=CAPABILITIES)
    right = descriptor_stream(right_read, right_write, address="pipe:", capabilities=CAPABILITIES)
    return left, right


def _pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    return above_stdio(read_fd), above_stdio(write_fd)
