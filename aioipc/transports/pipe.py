"""``pipe:`` a pair of anonymous pipes, one for each direction: pipe(7)."""

from __future__ import annotations

import os

from aioipc.kernel.descriptors import file_name
from aioipc.kernel.owned import owned_pipe
from aioipc.limits import Limits
from aioipc.native._fd import FdStream
from aioipc.transports._stream import STREAM, descriptor_stream

__all__ = ["CAPABILITIES", "pair"]

CAPABILITIES = STREAM


def pair(*, limits: Limits) -> tuple[FdStream, FdStream]:
    """Two ends, each of which reads from one pipe and writes to the other."""
    ends = (*owned_pipe(os.O_NONBLOCK), *owned_pipe(os.O_NONBLOCK))
    left_read, right_write, right_read, left_write = (end.detach() for end in ends)
    left = descriptor_stream(left_read, left_write, address="pipe:", capabilities=CAPABILITIES)
    right = descriptor_stream(right_read, right_write, address="pipe:", capabilities=CAPABILITIES)
    left.counterpart = file_name(left_read)
    right.counterpart = file_name(right_read)
    return left, right
