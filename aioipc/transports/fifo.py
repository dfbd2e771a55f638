"""``fifo:`` one reader, many writers, by a path in the file system: fifo(7).

There are no connections: ``connect`` gives the sending end, ``listen`` the receiving one,
which outlives its writers. Each write holds whole records and at most ``PIPE_BUF`` bytes, so
the kernel never mixes those of different writers, nor tears one when its writer is killed; or,
where the kernel keeps pages whole, several pages of whole records.
"""

from __future__ import annotations

import asyncio
import contextlib
import select

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.kernel.credentials import refuse_allow
from aioipc.kernel.fifo import (
    PendingWriter,
    keeps_pages_whole,
    open_reader,
    open_writer,
)
from aioipc.limits import Limits
from aioipc.loop.fd import FdWatch
from aioipc.loop.waiting import wait_readable
from aioipc.native._fd import FdStream
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._stream import descriptor_stream

__all__ = ["ATOMIC_BYTES", "CAPABILITIES", "connect", "listen"]

CAPABILITIES = Capability.STREAM | Capability.BACKPRESSURE
ATOMIC_BYTES = select.PIPE_BUF
"""The longest write that the kernel keeps whole among many writers: pipe(7)."""

_LOOK_EVERY_S = 0.05


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> FdStream:
    """Open the sending end, waiting for the reader.

    Raises:
        AccessDenied: What is at the path is not to be trusted.
        ConnectError: ``?single`` was asked for and there is another writer.
    """
    refuse_allow(address, allow)
    assert address.path is not None
    single = "single" in address.options
    fd = open_writer(address.path, single=single)
    if fd is None:
        fd = await _wait_for_reader(address.path, single=single)
    stream = descriptor_stream(-1, fd, address=str(address), capabilities=CAPABILITIES)
    stream.shared = True
    stream.atomic_bytes = ATOMIC_BYTES
    stream.alone = single
    stream.pads = keeps_pages_whole()
    return stream


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """Open the receiving end; the FIFO is made if it is not there.

    Raises:
        AccessDenied: What is at the path is not to be trusted.
        ResourceExhausted: Another process of ours reads it.
    """
    refuse_allow(address, allow)
    assert address.path is not None
    reader = open_reader(address.path)
    fd = reader.fileno()
    stream = descriptor_stream(
        fd, -1, address=str(address), capabilities=CAPABILITIES, owners={fd: reader}
    )
    stream.shared = True
    stream.pads = True
    return SingleAcceptor(stream)


async def _wait_for_reader(path: str, *, single: bool) -> int:
    # A foreign reader that opens a FIFO blocking is held inside open(2) until there is a writer,
    # and inotify(7) tells of an opening when it is done; hence a look now and then.
    with PendingWriter(path, single=single) as pending:
        watch = FdWatch()
        try:
            while True:
                fd = pending.try_open()
                if fd is not None:
                    return fd
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await wait_readable(_Watched(pending.fileno(), watch))
        finally:
            watch.close()


class _Watched:
    """A bare descriptor that can be waited for."""

    def __init__(self, fd: int, watch: FdWatch) -> None:
        self._fd = fd
        self._watch = watch

    def on_readable(self, callback: object, /) -> None:
        self._watch.unwatch_reading()
        if callback is not None:
            self._watch.watch_reading(self._fd, callback)  # type: ignore[arg-type]
